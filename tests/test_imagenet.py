"""ImageNet and its shifts in small folders of their layouts, and the lists that open_clip and timm ship."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from featcache import datasets, open_clip_lists
from featcache.errors import DataError, UnknownNameError
from tests.layouts import load, put

WNIDS = ("n01440764", "n01443537", "n01484850")
NAMES = ("tench", "goldfish", "great white shark")


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three of ImageNet's classes in its layout, wnids made in another order than sorted."""
    folder = tmp_path / "imagenet" / "images"
    for wnid in reversed(WNIDS):
        put(folder / "train" / wnid, *(f"{wnid}_{number}.JPEG" for number in (10, 2, 1)))
        put(folder / "val" / wnid, f"ILSVRC2012_val_{WNIDS.index(wnid):08d}.JPEG")
    return tmp_path


def test_imagenet(imagenet: Path) -> None:
    put(imagenet / "imagenet" / "images", "train/README.txt", f"train/{WNIDS[0]}/.hidden.JPEG", "train/.cache/1.JPEG")
    manifest = load("imagenet", imagenet)
    assert manifest.classes == NAMES
    assert manifest.ids == manifest.class_ids == WNIDS
    assert list(manifest.splits) == ["train", "test"]
    assert manifest.splits["train"].path == tuple(
        f"images/train/{wnid}/{wnid}_{number}.JPEG" for wnid in WNIDS for number in (1, 10, 2)
    )
    assert manifest.splits["train"].label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert manifest.splits["test"].path[2] == f"images/val/{WNIDS[2]}/ILSVRC2012_val_00000002.JPEG"
    assert manifest.splits["test"].label.tolist() == [0, 1, 2]
    assert manifest.template == "a photo of a {}."
    assert manifest.source == "images/train/ and images/val/, class names of open_clip"


def test_imagenet_images_are_read_from_links(imagenet: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (imagenet / "imagenet" / "images" / "train").rename(elsewhere)
    (imagenet / "imagenet" / "images" / "train").symlink_to(elsewhere)
    Image.new("RGB", (3, 2), (200, 10, 20)).save(elsewhere / WNIDS[0] / "n01440764_1.JPEG", "JPEG")
    manifest = load("imagenet", imagenet)
    image, _ = manifest.reader.read(manifest.splits["train"].path[0])
    assert image.size == (3, 2)


def test_classnames_file_wins(imagenet: Path) -> None:
    before = load("imagenet", imagenet)
    (imagenet / "imagenet" / "classnames.txt").write_text(f"{WNIDS[0]} a  tench\n\n{WNIDS[2]} gold_fish\r\n")
    manifest = load("imagenet", imagenet)
    assert manifest.classes == ("a tench", "goldfish", "gold fish")  # the second is open_clip's: the file lacks it
    assert manifest.source == "images/train/ and images/val/, class names of imagenet/classnames.txt"
    assert manifest.digest == before.digest


def test_own_classes_are_named_by_the_file(imagenet: Path) -> None:
    for split in ("train", "val"):
        put(imagenet / "imagenet" / "images" / split, "n99999999/x.JPEG")
    with pytest.raises(
        DataError, match=r"1 class folders of imagenet have no class name: n99999999; .*classnames\.txt"
    ):
        load("imagenet", imagenet)
    (imagenet / "imagenet" / "classnames.txt").write_text("n99999999 unicorn\n")
    assert load("imagenet", imagenet).classes == (*NAMES, "unicorn")


def test_repeated_names_are_told_apart_by_id(tmp_path: Path) -> None:
    names = open_clip_lists.imagenet_classes()
    twice = [wnid for wnid, name in names.items() if list(names.values()).count(name) > 1]
    for wnid in twice:
        put(tmp_path / "imagenet" / "images", f"train/{wnid}/1.JPEG", f"val/{wnid}/2.JPEG")
    manifest = load("imagenet", tmp_path)
    assert len(set(manifest.classes)) < len(manifest.classes) == len(set(manifest.ids)) == len(twice)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{WNIDS[0]}\n".encode(), r"line 1 must be a WordNet id, a blank and a class name; found 'n01440764'"),
        (f"{WNIDS[0]} a\n{WNIDS[0]} b\n".encode(), "line 2 names n01440764 a second time"),
        (b"\xff\xfe\xfa", "cannot read class names"),
    ],
)
def test_unsound_classnames(imagenet: Path, text: bytes, reason: str) -> None:
    (imagenet / "imagenet" / "classnames.txt").write_bytes(text)
    with pytest.raises(DataError, match=reason):
        load("imagenet", imagenet)


def test_train_and_val_must_agree(imagenet: Path) -> None:
    put(imagenet / "imagenet" / "images" / "train", "n01491361/1.JPEG", "n01494475/1.JPEG")
    put(imagenet / "imagenet" / "images" / "val", "n01496331/1.JPEG")
    with pytest.raises(
        DataError, match=r"2 are only in images/train and 1 only in images/val: n01491361, n01494475, n014"
    ):
        load("imagenet", imagenet)


def test_unsorted_val_is_explained(imagenet: Path) -> None:
    val = imagenet / "imagenet" / "images" / "val"
    for wnid in WNIDS:
        for file in (val / wnid).iterdir():
            file.rename(val / file.name)
        (val / wnid).rmdir()
    with pytest.raises(DataError, match=r"images/val has no class folders; each class's images must lie in a folder"):
        load("imagenet", imagenet)


def test_empty_class_and_missing_folders(imagenet: Path) -> None:
    for file in (imagenet / "imagenet/images/train" / WNIDS[1]).iterdir():
        file.unlink()
    with pytest.raises(DataError, match=rf"a class with no images: .*{WNIDS[1]}"):
        load("imagenet", imagenet)
    with pytest.raises(DataError, match=r"needs the folder that holds imagenet/, and none was given; --data"):
        datasets.load("imagenet", data=None)
    with pytest.raises(
        DataError, match=r"needs the folder .*imagenet-sketch, .*`featcache datasets prepare imagenet-sk"
    ):
        load("imagenet-sketch", imagenet)


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("imagenet-sketch", "imagenet-sketch/images"),
        ("imagenet-a", "imagenet-adversarial/imagenet-a"),
        ("imagenet-r", "imagenet-rendition/imagenet-r"),
    ],
)
def test_shifts(imagenet: Path, name: str, images: str) -> None:
    put(imagenet / images, "README.txt", f"{WNIDS[2]}/b.jpg", f"{WNIDS[0]}/a.JPEG")
    (imagenet / "imagenet" / "classnames.txt").write_text(f"{WNIDS[2]} big shark\n")
    manifest = load(name, imagenet)
    inner = images.split("/")[1]
    assert manifest.splits["test"].path == (f"{inner}/{WNIDS[0]}/a.JPEG", f"{inner}/{WNIDS[2]}/b.jpg")
    assert manifest.splits["test"].label.tolist() == [0, 1]
    assert list(manifest.splits) == ["test"]
    assert manifest.ids == (WNIDS[0], WNIDS[2])
    assert set(manifest.ids) < set(load("imagenet", imagenet).ids)
    assert manifest.classes == ("tench", "big shark")
    assert manifest.source == f"{inner}/, class names of imagenet/classnames.txt"
    own = imagenet / images.split("/")[0] / "classnames.txt"
    own.write_text(f"{WNIDS[0]} fish\n")
    assert load(name, imagenet).classes == ("fish", "great white shark")


def test_imagenetv2_counts_its_folders(tmp_path: Path) -> None:
    images = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    put(images, "10/a.jpeg", "2/b.jpeg", "0/d.jpeg", "0/c.jpeg")
    manifest = load("imagenetv2", tmp_path)
    ids = list(open_clip_lists.imagenet_classes())
    assert manifest.ids == (ids[0], ids[2], ids[10])
    assert manifest.classes == ("tench", "great white shark", "brambling")
    paths = [path.removeprefix(f"{images.name}/") for path in manifest.splits["test"].path]
    assert paths == ["0/c.jpeg", "0/d.jpeg", "2/b.jpeg", "10/a.jpeg"]
    assert manifest.splits["test"].label.tolist() == [0, 0, 1, 2]
    assert manifest.source == f"{images.name}/, class names of open_clip"
    (tmp_path / "imagenetv2" / "classnames.txt").write_text(f"{ids[10]} finch\n")
    assert load("imagenetv2", tmp_path).classes[2] == "finch"
    put(images, "1000/a.jpeg", "n01440764/a.jpeg")
    with pytest.raises(DataError, match="no number from 0 to 999: 1000, n01440764"):
        load("imagenetv2", tmp_path)


def test_imagenetv2_of_all_classes_has_coops_labels(tmp_path: Path) -> None:
    images = tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    put(images, *(f"{label}/x.jpeg" for label in range(1000)))
    manifest = load("imagenetv2", tmp_path)
    assert manifest.splits["test"].label.tolist() == list(range(1000))
    assert [path.split("/")[1] for path in manifest.splits["test"].path] == [str(label) for label in range(1000)]
    assert manifest.ids == tuple(open_clip_lists.imagenet_classes())


# --- open_clip's lists


def test_imagenet_classes_are_open_clips_and_timms() -> None:
    metadata = importlib.import_module("open_clip.zero_shot_metadata")
    timm_data = importlib.import_module("timm.data")
    classes = open_clip_lists.imagenet_classes()
    assert list(classes.values()) == list(metadata.IMAGENET_CLASSNAMES)
    assert list(classes) == list(timm_data.ImageNetInfo("imagenet-1k").label_names())
    assert list(classes) == sorted(classes)
    assert len(classes) == 1000
    classes.clear()
    assert len(open_clip_lists.imagenet_classes()) == 1000


def test_imagenet_templates_are_open_clips() -> None:
    metadata = importlib.import_module("open_clip.zero_shot_metadata")
    for kind, functions in (
        ("openai-80", metadata.OPENAI_IMAGENET_TEMPLATES),
        ("simple-7", metadata.SIMPLE_IMAGENET_TEMPLATES),
    ):
        templates = open_clip_lists.imagenet_templates(kind)
        assert len(templates) == int(kind.split("-")[1])
        assert [template.format("tench") for template in templates] == [function("tench") for function in functions]
        assert all(template.count("{}") == 1 for template in templates)
    with pytest.raises(UnknownNameError, match=r"unknown template set 'openai'.*openai-80, simple-7"):
        open_clip_lists.imagenet_templates("openai")


def test_the_seven_templates_are_the_papers() -> None:
    assert open_clip_lists.imagenet_templates("simple-7") == (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    )


def test_nothing_heavy_is_imported_for_the_lists_and_the_catalogue(imagenet: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from featcache import datasets, open_clip_lists\n"
        "datasets.load('imagenet', data=Path(sys.argv[1])); open_clip_lists.imagenet_templates('openai-80')\n"
        "print(sorted({'torch', 'open_clip', 'timm', 'scipy', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(imagenet)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


Fault = Callable[[Path], None]


def _hide_metadata(site: Path) -> None:
    (site / "open_clip").mkdir()
    (site / "open_clip" / "__init__.py").write_text("")


def _fewer_names(site: Path) -> None:
    _hide_metadata(site)
    (site / "open_clip" / "zero_shot_metadata.py").write_text("IMAGENET_CLASSNAMES = ('tench', 'goldfish')\n")


def _hide_ids(site: Path) -> None:
    (site / "timm").mkdir()
    (site / "timm" / "__init__.py").write_text("")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (_hide_metadata, "open_clip is installed without .*zero_shot_metadata.py; reinstall open_clip_torch"),
        (_hide_ids, "timm is installed without .*imagenet_synsets.txt; reinstall timm"),
        (_fewer_names, "open_clip names 2 ImageNet classes, but timm lists 1000 ids"),
    ],
)
def test_unusable_installations(tmp_path: Path, fault: Fault, reason: str) -> None:
    fault(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from featcache import open_clip_lists\n"
        "from featcache.errors import DataError\n"
        "try: open_clip_lists.imagenet_classes()\n"
        "except DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert re.search(reason, done.stdout)
