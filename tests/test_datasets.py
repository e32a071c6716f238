"""Manifests: real CoOp folders, folders made here, the bundled shapes; and one clear error for each fault."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache import datasets
from featcache.datasets import Manifest
from featcache.errors import ConfigError, DataError, UnknownNameError

Items = dict[str, list[list[object]]]


def put_image(file: Path, value: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4), (value, 10, 20)).save(file)


@pytest.fixture
def class_folder(tmp_path: Path) -> Path:
    """pets/: 10 cats, 5 big dogs, 2 newts."""
    root = tmp_path / "pets"
    for name, count in {"cat": 10, "big_dog": 5, "newt": 2}.items():
        for number in range(count):
            put_image(root / name / f"{number:02d}.png", number)
    return root


def items() -> Items:
    """The content of a sound split file: 3 classes, 2 images each in every split."""
    return {
        split: [[f"c{label}/{split}{number}.jpg", label, f"name_{label}"] for label in range(3) for number in range(2)]
        for split in ("train", "val", "test")
    }


def put_coop(root: Path, content: object) -> Path:
    """A data root that holds `dtd` with this split file, and the images it lists where it lists any."""
    folder = root / "dtd"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "split_zhou_DescribableTextures.json").write_text(json.dumps(content))
    if isinstance(content, dict):
        for path, _, _ in (item for split in content.values() for item in split):
            put_image(folder / "images" / path)
    return root


# --- the catalogue


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean caltech101.*folder:PATH.*shapes-sketch"):
        datasets.load("caltech-101", data=None)
    assert datasets.known() == sorted(datasets.CATALOGUE)


@pytest.mark.parametrize(
    ("name", "counts", "first", "template"),
    [
        ("caltech101", (100, 1967, 400, 1649), "101_ObjectCategories/Faces/image_0030.jpg", "a photo of a {}."),
        ("dtd", (10, 200, 40, 200), "images/banded/banded_0010.jpg", "{} texture."),
        (
            "eurosat",
            (10, 400, 100, 500),
            "2750/AnnualCrop/AnnualCrop_canvas000.png",
            "a centered satellite photo of {}.",
        ),
    ],
)
def test_real_folders(real_data: Path, name: str, counts: tuple[int, ...], first: str, template: str) -> None:
    manifest = datasets.load(name, data=real_data / "images")
    assert (len(manifest.classes), *(len(split.path) for split in manifest.splits.values())) == counts
    assert list(manifest.splits) == ["train", "val", "test"]
    assert manifest.splits["train"].path[0] == first
    assert manifest.template == template
    assert manifest.source.startswith("split_zhou_")
    assert not any("_" in class_name for class_name in manifest.classes)
    image, info = manifest.reader.read(first)
    data = manifest.reader.read_bytes(first)
    assert image.mode == "RGB"
    assert info == (len(data), int.from_bytes(hashlib.sha256(data).digest()[:8], "big"))


def test_eurosat_has_coops_class_names(real_data: Path) -> None:
    classes = datasets.load("eurosat", data=real_data / "images").classes
    assert (classes[0], classes[3], classes[9]) == ("Annual Crop Land", "Highway or Road", "Sea or Lake")


def test_shapes() -> None:
    manifest = datasets.load("shapes", data=None)
    assert list(manifest.splits) == ["train", "val", "test"]
    for split in manifest.splits.values():
        assert set(split.label.tolist()) == set(range(len(manifest.classes)))
    path = manifest.splits["test"].path[-1]
    image, info = manifest.reader.read(path)
    assert manifest.reader.read_bytes(path) == np.asarray(image).tobytes()
    assert info.size_bytes == image.width * image.height * 3
    with pytest.raises(DataError, match="no-such"):
        manifest.reader.read("no-such")


def test_shifted_shapes_share_classes_and_have_only_test() -> None:
    manifests = [datasets.load(name, data=None) for name in ("shapes", "shapes-sketch", "shapes-noise")]
    assert len({(manifest.classes, manifest.template) for manifest in manifests}) == 1
    assert [list(manifest.splits) for manifest in manifests[1:]] == [["test"], ["test"]]
    assert len({manifest.digest for manifest in manifests}) == 3


def read_in_worker(manifest: Manifest, path: str, answers: multiprocessing.Queue[object]) -> None:
    image, info = manifest.reader.read(path)
    answers.put((image.size, info, manifest.digest, "torch" in sys.modules))


@pytest.mark.parametrize("name", ["shapes", "folder"])
def test_manifests_travel_to_spawned_processes(name: str, class_folder: Path) -> None:
    manifest = datasets.load(f"folder:{class_folder}" if name == "folder" else name, data=None)
    path = manifest.splits["train"].path[0]
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    worker = context.Process(target=read_in_worker, args=(manifest, path, answers))
    worker.start()
    image, info = manifest.reader.read(path)
    assert answers.get(timeout=60) == (image.size, info, manifest.digest, False)
    worker.join()


# --- templates and class names


def test_overrides(class_folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("large_dog\nhouse  cat\ncrested newt\n")
    manifest = datasets.load(f"folder:{class_folder}", data=None, template="art of {}.", classnames=names)
    assert manifest.classes == ("large dog", "house cat", "crested newt")
    assert manifest.template == "art of {}."
    assert manifest.digest == datasets.load(f"folder:{class_folder}", data=None).digest


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{0}", "{} {name}", ""])
def test_unusable_templates(class_folder: Path, template: str) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        datasets.load(f"folder:{class_folder}", data=None, template=template)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"dog\ncat\n", "has 2 lines, but .* 3 classes"),
        (b"dog\n\nnewt\n", "class 1 .* empty name"),
        (b"a_b\na b\nc\n", "both called 'a b'"),
        (b"\xff\xfe\xfa", "cannot read class names"),
    ],
)
def test_unusable_class_names(class_folder: Path, tmp_path: Path, text: bytes, reason: str) -> None:
    names = tmp_path / "names.txt"
    names.write_bytes(text)
    with pytest.raises(DataError, match=reason):
        datasets.load(f"folder:{class_folder}", data=None, classnames=names)


def test_missing_class_names(class_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read class names from .*none\.txt"):
        datasets.load(f"folder:{class_folder}", data=None, classnames=tmp_path / "none.txt")


# --- CoOp's layout


def test_coop_layout(tmp_path: Path) -> None:
    manifest = datasets.load("dtd", data=put_coop(tmp_path, items()))
    assert manifest.classes == ("name 0", "name 1", "name 2")
    assert manifest.splits["val"].path[:2] == ("images/c0/val0.jpg", "images/c0/val1.jpg")
    assert manifest.splits["val"].label.tolist() == [0, 0, 1, 1, 2, 2]
    assert manifest.splits["val"].label.dtype == np.int64
    assert manifest.source == "split_zhou_DescribableTextures.json"
    assert (manifest.name, manifest.slug) == ("dtd", "dtd")


def test_val_may_be_absent_or_empty(tmp_path: Path) -> None:
    without = items()
    del without["val"]
    absent = datasets.load("dtd", data=put_coop(tmp_path, without))
    empty = datasets.load("dtd", data=put_coop(tmp_path, {**without, "val": []}))
    assert list(absent.splits) == list(empty.splits) == ["train", "test"]
    assert absent.digest == empty.digest


def test_images_may_lie_in_the_data_sets_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "stanford_cars"
    listed = {split: [[f"cars_{split}/{n}.jpg", n, f"car {n}"] for n in range(2)] for split in ("train", "test")}
    for path, _, _ in listed["train"] + listed["test"]:
        put_image(folder / str(path))
    (folder / "split_zhou_StanfordCars.json").write_text(json.dumps(listed))
    assert datasets.load("stanford_cars", data=tmp_path).splits["train"].path[0] == "cars_train/0.jpg"


def change(where: str, position: int, item: object) -> Callable[[Items], None]:
    def apply(content: Items) -> None:
        content[where][position] = item  # type: ignore[call-overload]

    return apply


def rename_key(content: Items) -> None:
    content["trian"] = content.pop("train")


def drop_train_of_last_class(content: Items) -> None:
    content["train"] = content["train"][:-2]


def leave_a_gap(content: Items) -> None:
    for split in content.values():
        for item in split:
            item[1] = 5 if item[1] == 2 else item[1]


FAULTS: dict[str, tuple[Callable[[Items], object], str]] = {
    "missing split": (rename_key, "train, test and perhaps val; found .*trian"),
    "empty test": (lambda content: content["test"].clear(), "test must be a list with at least one"),
    "split is no list": (lambda content: content.update(test={"a": 1}), "test must be a list"),
    "two fields": (change("val", 1, ["c0/x.jpg", 0]), r"val entry 1 must be \[path, class index, class name\]"),
    "label as text": (change("val", 1, ["c0/x.jpg", "0", "name_0"]), "val entry 1 must be"),
    "label as truth": (change("val", 1, ["c0/x.jpg", False, "name_0"]), "val entry 1 must be"),
    "negative label": (change("test", 0, ["c0/x.jpg", -1, "name_0"]), "test entry 0 must be"),
    "path up": (change("train", 0, ["../x.jpg", 0, "name_0"]), "train entry 0 leaves the image folder"),
    "absolute path": (change("train", 0, ["/etc/x.jpg", 0, "name_0"]), "leaves the image folder"),
    "path up, Windows": (change("train", 0, ["a\\..\\..\\x.jpg", 0, "name_0"]), "leaves the image folder"),
    "drive": (change("train", 0, ["C:\\x.jpg", 0, "name_0"]), "leaves the image folder"),
    "no path": (change("train", 0, ["", 0, "name_0"]), "leaves the image folder"),
    "two names for a class": (change("val", 1, ["c0/val1.jpg", 0, "other"]), "class 0 is called 'name_0', but 'other'"),
    "one name for two classes": (
        lambda content: [item.__setitem__(2, "same name") for split in content.values() for item in split],
        "classes 0 and 1 of dtd are both called 'same name'",
    ),
    "gap": (leave_a_gap, "without a gap, but 2 is not used while 5"),
    "huge label": (change("test", 0, ["c0/x.jpg", 10**30, "far"]), "without a gap, but 3 is not used"),
    "class without train": (drop_train_of_last_class, r"1 classes have no train image: 2 \(name_2\)"),
    "leak": (change("test", 0, ["c0/train0.jpg", 0, "name_0"]), "c0/train0.jpg twice: in train and in test"),
    "twice, spelt in two ways": (change("train", 1, ["./c0//train0.jpg", 0, "name_0"]), "twice: in train and in train"),
    "surrogate": (change("val", 0, ["c0/\ud800.jpg", 0, "name_0"]), "not valid Unicode"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_unsound_split_files(tmp_path: Path, fault: str) -> None:
    put_coop(tmp_path, items())
    content = items()
    apply, reason = FAULTS[fault]
    apply(content)
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=reason):
        datasets.load("dtd", data=tmp_path)


@pytest.mark.parametrize("text", ["", "[1, 2", "[]", "3", '"x"', "\x00"])
def test_split_files_that_are_no_object(tmp_path: Path, text: str) -> None:
    put_coop(tmp_path, items())
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(text)
    with pytest.raises(DataError, match=r"split_zhou_DescribableTextures\.json"):
        datasets.load("dtd", data=tmp_path)


def test_listed_but_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    put_coop(tmp_path, items())
    for file in sorted((tmp_path / "dtd" / "images" / "c1").iterdir()):
        file.unlink()
    (tmp_path / "dtd" / "images" / "c2" / "test0.jpg").unlink()
    with pytest.raises(DataError, match=r"7 of 18 images .* not found under .*dtd: images/c1/test0\.jpg, .*, \.\.;"):
        datasets.load("dtd", data=tmp_path)


def test_missing_folders_say_which_and_how_to_set_the_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs the folder that holds dtd/.*--data ROOT or FEATCACHE_DATA"):
        datasets.load("dtd", data=None)
    with pytest.raises(DataError, match=rf"{tmp_path}/dtd, which is not there; --data"):
        datasets.load("dtd", data=tmp_path)
    (tmp_path / "dtd").mkdir()
    with pytest.raises(DataError, match=r"dtd/images, which is not there"):
        datasets.load("dtd", data=tmp_path)
    (tmp_path / "dtd" / "images").mkdir()
    with pytest.raises(DataError, match=r"split_zhou_DescribableTextures\.json is not there"):
        datasets.load("dtd", data=tmp_path)


def test_images_that_vanish_or_do_not_decode_are_named(tmp_path: Path) -> None:
    manifest = datasets.load("dtd", data=put_coop(tmp_path, items()))
    path = manifest.splits["train"].path[0]
    file = tmp_path / "dtd" / path
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"images/c0/train0\.jpg under .* does not decode: "):
        manifest.reader.read(path)
    file.unlink()
    with pytest.raises(DataError, match=r"images/c0/train0\.jpg is listed .* not found under"):
        manifest.reader.read(path)


# --- folders of class directories


def test_folder_is_split_by_class(class_folder: Path) -> None:
    for hidden in (".DS_Store", ".cache/a.png", "cat/.hidden.png", "cat/notes.txt", "readme.png"):
        (class_folder / hidden).parent.mkdir(exist_ok=True)
        (class_folder / hidden).write_bytes(b"")
    manifest = datasets.load(f"folder:{class_folder}", data=None)
    assert (manifest.name, manifest.slug) == ("folder:pets", "folder-pets")
    assert manifest.classes == ("big dog", "cat", "newt")
    assert manifest.source == "class folders, split by seed 1: 60/20/20"
    counts = {name: np.bincount(split.label).tolist() for name, split in manifest.splits.items()}
    assert counts == {"train": [3, 6, 1], "val": [1, 2], "test": [1, 2, 1]}
    paths = [path for split in manifest.splits.values() for path in split.path]
    assert len(paths) == len(set(paths)) == 17
    for split in manifest.splits.values():
        assert list(split.path) == sorted(split.path)


def test_folder_split_is_golden_and_moves_only_the_class_that_changes(class_folder: Path) -> None:
    before = datasets.load(f"folder:{class_folder}", data=None)
    cats = {name: [path for path in split.path if path.startswith("cat/")] for name, split in before.splits.items()}
    assert cats["test"] == ["cat/02.png", "cat/09.png"]
    put_image(class_folder / "big_dog" / "99.png")
    after = datasets.load(f"folder:{class_folder}", data=None)
    assert before.digest != after.digest
    for name, split in after.splits.items():
        assert [path for path in split.path if path.startswith("cat/")] == cats[name]


def test_folder_with_its_own_splits(tmp_path: Path) -> None:
    for path in ("train/a/1.JPG", "train/b_c/2.png", "test/a/3.webp", "val/b_c/4.gif", "extra/x.png"):
        put_image(tmp_path / path)
    manifest = datasets.load(f"folder:{tmp_path}", data=None)
    assert manifest.classes == ("a", "b c")
    assert manifest.source == "the folders train/, val/, test/"
    assert {name: split.path for name, split in manifest.splits.items()} == {
        "train": ("train/a/1.JPG", "train/b_c/2.png"),
        "val": ("val/b_c/4.gif",),
        "test": ("test/a/3.webp",),
    }
    assert manifest.splits["val"].label.tolist() == [1]


def test_classes_may_be_called_train_and_test(tmp_path: Path) -> None:
    for path in ("train/1.png", "train/2.png", "test/1.png", "test/2.png"):
        put_image(tmp_path / path)
    assert datasets.load(f"folder:{tmp_path}", data=None).classes == ("test", "train")


def test_folder_faults(class_folder: Path, tmp_path: Path) -> None:
    def load() -> Manifest:
        return datasets.load(f"folder:{class_folder}", data=None)

    with pytest.raises(DataError, match="no folder at"):
        datasets.load(f"folder:{tmp_path / 'none'}", data=None)
    with pytest.raises(DataError, match="no folder at ''"):
        datasets.load("folder:", data=None)
    with pytest.raises(DataError, match=r"has no class folder, and \d+ images that lie in none"):
        datasets.load(f"folder:{class_folder / 'cat'}", data=None)
    (class_folder / "axolotl").mkdir()
    with pytest.raises(DataError, match=r"a class with no images: .*axolotl"):
        load()
    put_image(class_folder / "axolotl" / "1.png")
    with pytest.raises(DataError, match=r"class axolotl has 1 image \(axolotl/1\.png\)"):
        load()
    put_image(class_folder / "axolotl" / "inner" / "1.png")
    with pytest.raises(DataError, match=r"axolotl holds folders \(inner"):
        load()
    put_image(class_folder / "axolotl" / "inner" / "2.png")
    with pytest.raises(DataError, match="has 1 class folder, inner, and 1 images that lie in none"):
        datasets.load(f"folder:{class_folder / 'axolotl'}", data=None)


def test_names_that_only_capitals_tell_apart(tmp_path: Path) -> None:
    for path in ("Big_Dog/1.png", "Big_Dog/2.png", "big dog/1.png", "big dog/2.png"):
        put_image(tmp_path / path)
    with pytest.raises(
        DataError, match=r"are both called 'big dog' in prompts, .* give other names: --classnames FILE"
    ):
        datasets.load(f"folder:{tmp_path}", data=None)


def test_a_path_without_its_kind_is_told_how_it_is_written(class_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown data set .*write folder:{class_folder}$"):
        datasets.load(str(class_folder), data=None)
    table = tmp_path / "images.csv"
    table.write_text("path,label\n")
    with pytest.raises(UnknownNameError, match=rf"write csv:{table}$"):
        datasets.load(str(table), data=None)


def test_class_that_train_lacks(tmp_path: Path) -> None:
    for path in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/z/4.png"):
        put_image(tmp_path / path)
    with pytest.raises(DataError, match="test has classes that train/ lacks: z"):
        datasets.load(f"folder:{tmp_path}", data=None)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's file systems hold names that are not UTF-8")
def test_file_names_that_are_not_utf8(class_folder: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    Path(os.fsdecode(os.fsencode(class_folder / "cat") + b"/\xff.png")).write_bytes(file.getvalue())
    with pytest.raises(DataError, match="not valid Unicode"):
        datasets.load(f"folder:{class_folder}", data=None)


# --- digests


def test_digest_changes_with_split_path_and_class_alone(tmp_path: Path) -> None:
    def digest(content: Items, root: str = "a") -> str:
        return datasets.load("dtd", data=put_coop(tmp_path / root, content)).digest

    base = items()
    renamed = {split: [[path, label, f"other {label}"] for path, label, _ in listed] for split, listed in base.items()}
    moved = items()
    moved["val"].append(moved["test"].pop())
    relabelled = items()
    relabelled["test"][0][1:] = [1, "name_1"]
    reordered = items()
    reordered["train"].reverse()
    reordered["train"].sort(key=lambda item: str(item[2]))
    assert digest(base) == digest(items(), root="b") == digest(renamed)
    assert digest(base) == digest({"test": base["test"], "val": base["val"], "train": base["train"]})
    assert len({digest(content) for content in (base, moved, relabelled, reordered)}) == 4
