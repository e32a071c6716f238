"""The data sets' own lists, read and cut as CoOp does where its split file is not there; an error for each fault."""

from __future__ import annotations

import importlib
import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from featcache.datasets import CATALOGUE, Manifest, lists
from featcache.datasets.coop import CoopLayout
from featcache.errors import DataError
from tests.layouts import FULL_SPLITS, load, put

Lists = dict[str, list[tuple[str, int, str]]]


def classes_of(manifest: Manifest, split: str) -> list[str]:
    return [manifest.classes[label] for label in manifest.splits[split].label]


def coop_cut_val(trainval: list[tuple[str, int, str]]) -> tuple[list[str], list[str]]:
    """Paths of train and val as CoOp's `split_trainval` gives them after `random.seed(1)`."""
    random.seed(1)
    tracker: dict[int, list[int]] = {}
    for position, (_, label, _) in enumerate(trainval):
        tracker.setdefault(label, []).append(position)
    train, val = [], []
    for positions in tracker.values():
        num_val = round(len(positions) * 0.2)
        random.shuffle(positions)
        for count, position in enumerate(positions):
            (val if count < num_val else train).append(trainval[position][0])
    return train, val


def coop_cut_classes(classes: list[list[str]]) -> list[list[str]]:
    """Paths of train, val and test as CoOp's `read_and_split_data` gives them after `random.seed(1)`."""
    random.seed(1)
    train, val, test = [], [], []
    for paths in classes:
        random.shuffle(paths)
        num_train, num_val = round(len(paths) * 0.5), round(len(paths) * 0.2)
        train += paths[:num_train]
        val += paths[num_train : num_train + num_val]
        test += paths[num_train + num_val :]
    return [train, val, test]


@pytest.fixture(autouse=True)
def _global_generator_is_left_alone() -> Iterable[None]:
    state = random.getstate()
    yield
    random.setstate(state)


def check_cut_val(manifest: Manifest, images: str, trainval: list[tuple[str, int, str]], test: list[str]) -> None:
    train, val = coop_cut_val(trainval)
    below = f"{images}/" if images else ""
    found = {split: list(rows.path) for split, rows in manifest.splits.items()}
    expected = {"train": train, "val": val, "test": test}
    assert found == {split: [below + path for path in paths] for split, paths in expected.items()}
    names = {below + path: name.replace("_", " ") for path, _, name in trainval}
    for split in ("train", "val"):
        assert classes_of(manifest, split) == [names[path] for path in manifest.splits[split].path]
    assert "our seed 1" in manifest.source


def put_class_folders(folder: Path, counts: dict[str, int]) -> list[list[str]]:
    """Class folders with numbered images, and their paths below `folder`, folders and images sorted."""
    paths = [[f"{name}/{number:03d}.jpg" for number in range(count)] for name, count in sorted(counts.items())]
    put(folder, *(path for own in paths for path in own))
    return paths


@pytest.mark.parametrize(
    ("name", "images", "counts", "classes"),
    [
        ("dtd", "images", {"banded": 10, "zigzagged": 7}, ("banded", "zigzagged")),
        ("food101", "images", {"pizza": 20, "apple_pie": 11}, ("apple pie", "pizza")),
        ("eurosat", "2750", {"SeaLake": 5, "AnnualCrop": 10}, ("Annual Crop Land", "Sea or Lake")),
        ("caltech101", "101_ObjectCategories", {"ant": 9, "Faces": 12}, ("face", "ant")),
    ],
)
def test_class_folders_are_cut_by_coops_rule(
    tmp_path: Path, name: str, images: str, counts: dict[str, int], classes: tuple[str, ...]
) -> None:
    folder = tmp_path / CATALOGUE[name].folder
    paths = put_class_folders(folder / images, counts)
    put(folder, f"{images}/.hidden/1.jpg", f"{images}/{min(counts)}/.2.jpg", f"{images}/{min(counts)}/Thumbs.db")
    if name == "caltech101":
        put_class_folders(folder / images, {"BACKGROUND_Google": 5, "Faces_easy": 5})
    manifest = load(name, tmp_path)
    assert manifest.classes == classes
    assert (
        manifest.source == f"the class folders of {images}/, cut 50/20/30 in each class by CoOp's rule with our seed 1"
    )
    expected = [[f"{images}/{path}" for path in cut] for cut in coop_cut_classes(paths)]
    assert [list(manifest.splits[split].path) for split in ("train", "val", "test")] == expected
    for rows in manifest.splits.values():
        assert [manifest.classes[label] for label in rows.label] == [
            classes[sorted(counts).index(path.split("/")[-2])] for path in rows.path
        ]


@pytest.mark.parametrize(("name", "split"), FULL_SPLITS.items())
def test_the_rule_has_the_sizes_of_coops_own_cut(real_data: Path, tmp_path: Path, name: str, split: str) -> None:
    entry = CATALOGUE[name]
    assert isinstance(entry, CoopLayout)
    file = real_data / "images" / entry.folder / f"split_zhou_{split}.full.json"
    content: Lists = json.loads(file.read_bytes())
    classes: dict[int, lists.ClassImages] = {}
    for path, label, class_name in (item for items in content.values() for item in items):
        classes.setdefault(label, lists.ClassImages(label, class_name, [])).paths.append(path)
    cut = lists.cut_classes(classes.values())
    for split_name, items in content.items():
        assert Counter(label for _, label, _ in cut[split_name]) == Counter(label for _, label, _ in items)
    for own in classes.values():  # names and order, from four images of each class
        put(tmp_path / entry.folder / entry.images, *own.paths[:4])
    names = tuple(classes[label].name.replace("_", " ") for label in range(len(classes)))
    assert load(name, tmp_path).classes == names


def test_split_file_wins_over_the_lists(tmp_path: Path) -> None:
    put_class_folders(tmp_path / "dtd" / "images", {"a": 5, "b": 5})
    listed = {
        split: [[f"{c}/00{i}.jpg", n, c] for n, c in enumerate("ab")] for i, split in enumerate(("train", "test"))
    }
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(listed))
    manifest = load("dtd", tmp_path)
    assert manifest.source == "split_zhou_DescribableTextures.json"
    assert manifest.splits["train"].path == ("images/a/000.jpg", "images/b/000.jpg")


def test_class_too_small_to_cut(tmp_path: Path) -> None:
    put_class_folders(tmp_path / "dtd" / "images", {"a": 5, "b": 3})
    with pytest.raises(DataError, match=r"class 1 \(b\) has 3 images; it takes 4"):
        load("dtd", tmp_path)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """oxford_pets/ with two breeds, 6 images each to train on and 2 to test on."""
    folder = tmp_path / "oxford_pets"
    (folder / "annotations").mkdir(parents=True)
    for file, numbers in {"trainval": range(6), "test": range(6, 8)}.items():
        lines = [f"{breed}_{n} {label} 1 1" for label, breed in ((1, "Abyssinian"), (2, "great_dane")) for n in numbers]
        (folder / "annotations" / f"{file}.txt").write_text("\n".join(lines) + "\n")
        put(folder / "images", *(f"{line.split()[0]}.jpg" for line in lines))
    return tmp_path


def test_oxford_pets(pets: Path) -> None:
    manifest = load("oxford_pets", pets)
    trainval = [
        (f"{breed}_{n}.jpg", label, breed.lower())
        for label, breed in enumerate(("Abyssinian", "great_dane"))
        for n in range(6)
    ]
    assert manifest.classes == ("abyssinian", "great dane")
    test = [f"{breed}_{n}.jpg" for breed in ("Abyssinian", "great_dane") for n in (6, 7)]
    check_cut_val(manifest, "images", trainval, test)
    assert manifest.source.startswith(
        "annotations/trainval.txt and test.txt, val cut from trainval by CoOp's rule (20 %"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Abyssinian_0 1 1", r"trainval\.txt, line 13: expected image, class, species and breed"),
        ("Abyssinian_9 0 1 1", "line 13: expected image, class"),
        ("Abyssinian_9 one 1 1", "line 13: expected image, class"),
        ("Bengal_9 1 1 1", "class 0 is called '(bengal|abyssinian)', but '(bengal|abyssinian)'"),
        ("Abyssinian_7 1 1 1", r"lists images/Abyssinian_7\.jpg twice: in train and in test"),
        ("Abyssinian_1 1 1 1", r"lists images/Abyssinian_1\.jpg twice: in train and in (train|val)"),
        ("Abyssinian_99 1 1 1", r"1 of 17 images are listed in .* but not found under .*: images/Abyssinian_99\.jpg"),
        ("../x/Abyssinian_9 1 1 1", r"leaves the image folder"),
        ("Bengal_9 4 1 1", r"class 3 \(bengal\) has 1 images for train and val; it takes 3"),
    ],
)
def test_unsound_pets(pets: Path, line: str, reason: str) -> None:
    file = pets / "oxford_pets" / "annotations" / "trainval.txt"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=reason):
        load("oxford_pets", pets)


def test_neither_split_file_nor_lists(pets: Path) -> None:
    (pets / "oxford_pets" / "annotations" / "test.txt").unlink()
    with pytest.raises(
        DataError, match=r"split_zhou_OxfordPets\.json is not there, .*annotations/test\.txt is not there"
    ):
        load("oxford_pets", pets)
    (pets / "oxford_pets" / "annotations" / "test.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"test\.txt is empty"):
        load("oxford_pets", pets)
    (pets / "oxford_pets" / "annotations" / "test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"test\.txt cannot be read"):
        load("oxford_pets", pets)


def test_oxford_flowers(tmp_path: Path) -> None:
    io_of_scipy = pytest.importorskip("scipy.io")
    folder = tmp_path / "oxford_flowers"
    labels = np.array([[2] * 10 + [1] * 6 + [2] * 3], dtype=np.uint8)  # as published: classes are not in order
    put(folder / "jpg", *(f"image_{number:05d}.jpg" for number in range(1, 20)))
    io_of_scipy.savemat(folder / "imagelabels.mat", {"labels": labels})
    (folder / "cat_to_name.json").write_text(json.dumps({"2": "tiger lily", "1": "moon orchid"}))
    manifest = load("oxford_flowers", tmp_path)
    assert manifest.classes == ("moon orchid", "tiger lily")
    second = [*range(1, 11), *range(17, 20)]
    cut = coop_cut_classes([[f"jpg/image_{n:05d}.jpg" for n in own] for own in (second, range(11, 17))])
    assert [list(manifest.splits[split].path) for split in ("train", "val", "test")] == cut
    assert manifest.splits["train"].label.tolist() == [1] * 6 + [0] * 3
    assert manifest.source.startswith("imagelabels.mat and cat_to_name.json, cut 50/20/30")
    for text, reason in {
        '{"2": "lily"}': "class 1, which .*cat_to_name.json does not name",
        '["a"]': "must be an object",
        "{": "cannot be read as JSON",
        '{"1": "lily", "2": "lily"}': "classes 0 and 1 of oxford_flowers are both called 'lily'",
    }.items():
        (folder / "cat_to_name.json").write_text(text)
        with pytest.raises(DataError, match=reason):
            load("oxford_flowers", tmp_path)
    (folder / "cat_to_name.json").unlink()
    with pytest.raises(DataError, match=r"cat_to_name\.json is not there"):
        load("oxford_flowers", tmp_path)


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")


def put_cars(folder: Path) -> list[tuple[str, int, str]]:
    """The devkit's MATLAB files in the structure of the published ones; what CoOp makes of the train file."""
    io_of_scipy = pytest.importorskip("scipy.io")
    kind = [(field, object) for field in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    files = {"cars_train": "devkit/cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}
    for images, file in files.items():
        records = [(1, 2, 3, 4, np.uint8(2 - n % 2), f"{n:05d}.jpg") for n in range(1, 15)]
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        io_of_scipy.savemat(folder / file, {"annotations": np.array([records], dtype=kind)})
        put(folder / images, *(record[-1] for record in records))
    io_of_scipy.savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([CARS], dtype=object)})
    names = ("2000 AM General Hummer SUV", "2012 Acura RL Sedan")
    return [(f"cars_train/{n:05d}.jpg", 1 - n % 2, names[1 - n % 2]) for n in range(1, 15)]


def test_stanford_cars(tmp_path: Path) -> None:
    folder = tmp_path / "stanford_cars"
    trainval = put_cars(folder)
    manifest = load("stanford_cars", tmp_path)
    assert manifest.classes == ("2000 AM General Hummer SUV", "2012 Acura RL Sedan")
    check_cut_val(manifest, "", trainval, [f"cars_test/{n:05d}.jpg" for n in range(1, 15)])
    assert manifest.source.startswith("devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat, val cut")


def test_unsound_matlab_files(tmp_path: Path) -> None:
    folder = tmp_path / "stanford_cars"
    put_cars(folder)
    io_of_scipy = importlib.import_module("scipy.io")
    meta, train = folder / "devkit/cars_meta.mat", folder / "devkit/cars_train_annos.mat"
    io_of_scipy.savemat(meta, {"class_names": np.array([CARS[:1]], dtype=object)})
    with pytest.raises(DataError, match=r"gives 00002\.jpg the class 2, but cars_meta\.mat names 1"):
        load("stanford_cars", tmp_path)
    io_of_scipy.savemat(meta, {"class_names": np.array([CARS], dtype=object)})
    io_of_scipy.savemat(train, {"annotations": np.array([[("a.jpg",)]], dtype=[("fname", object)])})
    with pytest.raises(DataError, match="each annotation needs fname and class"):
        load("stanford_cars", tmp_path)
    io_of_scipy.savemat(train, {"others": 1})
    with pytest.raises(DataError, match="no row annotations in it"):
        load("stanford_cars", tmp_path)
    for damaged in (b"", b"MATLAB 5.0", b"\x00" * 400, train.read_bytes()[:150]):
        train.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cars_train_annos\.mat is not"):
            load("stanford_cars", tmp_path)
    train.unlink()
    with pytest.raises(DataError, match=r"cars_train_annos\.mat is not there"):
        load("stanford_cars", tmp_path)


def test_without_scipy_the_message_says_what_to_install(tmp_path: Path) -> None:
    put_cars(tmp_path / "stanford_cars")
    program = (
        "import sys; sys.modules['scipy'] = sys.modules['scipy.io'] = None\n"  # what Python itself takes for: not there
        "from pathlib import Path; from featcache import datasets\n"
        "try: datasets.load('stanford_cars', data=Path(sys.argv[1]))\n"
        "except datasets.DataError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "needs scipy: pip install scipy" in done.stdout


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    lists = tmp_path / "ucf101" / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 YoYo\r\n")
    lines = [f"{action}/v_{action}_g{n:02d}_c01.avi" for action in ("ApplyEyeMakeup", "YoYo") for n in range(8)]
    label = {"ApplyEyeMakeup": 1, "YoYo": 2}
    train = [f"{line} {label[line.split('/')[0]]}" for line in lines if "g00" not in line]
    (lists / "trainlist01.txt").write_text("\n".join(train))
    (lists / "testlist01.txt").write_text("\n".join(line for line in lines if "g00" in line))
    for line in lines:
        action, video = line.split("/")
        renamed = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "YoYo": "Yo_Yo"}[action]
        put(tmp_path / "ucf101" / "UCF-101-midframes", f"{renamed}/{video.replace('.avi', '.jpg')}")
    return tmp_path


def test_ucf101(ucf: Path) -> None:
    manifest = load("ucf101", ucf)
    trainval = [
        (f"{name}/v_{name.replace('_', '')}_g{n:02d}_c01.jpg", label, name)
        for label, name in enumerate(("Apply_Eye_Makeup", "Yo_Yo"))
        for n in range(1, 8)
    ]
    assert manifest.classes == ("Apply Eye Makeup", "Yo Yo")
    test = [f"{name}/v_{name.replace('_', '')}_g00_c01.jpg" for name in ("Apply_Eye_Makeup", "Yo_Yo")]
    check_cut_val(manifest, "UCF-101-midframes", trainval, test)
    assert manifest.source.startswith("ucfTrainTestlist/trainlist01.txt and testlist01.txt, val cut")


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("testlist01.txt", "Golf/v_Golf_g00_c01.avi", r"testlist01\.txt, line 3: unknown class 'Golf'; .* 2 classes"),
        ("testlist01.txt", "nonsense", "unknown class 'nonsense'"),
        ("classInd.txt", "3 YoYo", r"classInd\.txt lists the class 'YoYo' twice"),
        ("classInd.txt", "4 Golf", r"classInd\.txt, line 3: expected 3 and an action; found '4 Golf'"),
        ("classInd.txt", "3 Golf swing", "expected 3 and an action"),
    ],
)
def test_unsound_ucf101(ucf: Path, file: str, line: str, reason: str) -> None:
    target = ucf / "ucf101" / "ucfTrainTestlist" / file
    target.write_text(target.read_text().strip() + f"\n{line}\n")
    with pytest.raises(DataError, match=reason):
        load("ucf101", ucf)


def test_sun397(tmp_path: Path) -> None:
    folder = tmp_path / "sun397"
    folder.mkdir()
    classes = ("/a/abbey", "/a/apartment_building/outdoor", "/c/church/outdoor")
    (folder / "ClassName.txt").write_text("\n".join(classes))
    for file, numbers in {"Training_01": range(5), "Testing_01": range(5, 7)}.items():
        lines = [f"{name}/sun_{number}.jpg" for name in classes for number in numbers]
        (folder / f"{file}.txt").write_text("\n".join(lines))
        put(folder / "SUN397", *(line[1:] for line in lines))
    manifest = load("sun397", tmp_path)
    names = ("abbey", "outdoor apartment building", "outdoor church")
    assert manifest.classes == names
    trainval = [
        (f"{path[1:]}/sun_{number}.jpg", label, names[label])
        for label, path in enumerate(classes)
        for number in range(5)
    ]
    check_cut_val(manifest, "SUN397", trainval, [f"{path[1:]}/sun_{n}.jpg" for path in classes for n in (5, 6)])
    assert manifest.source.startswith("Training_01.txt and Testing_01.txt, val cut")
    (folder / "Testing_01.txt").write_text("/z/zoo/sun_1.jpg")
    with pytest.raises(DataError, match=r"Testing_01\.txt, line 1: unknown class 'z/zoo'"):
        load("sun397", tmp_path)


@pytest.fixture
def aircraft(tmp_path: Path) -> Path:
    folder = tmp_path / "fgvc_aircraft"
    folder.mkdir()
    (folder / "variants.txt").write_text("F/A-18\nAn-12 B\n")
    for number, split in enumerate(("train", "val", "test")):
        (folder / f"images_variant_{split}.txt").write_text(f"00{number}1 An-12 B\n00{number}2 F/A-18\n")
        put(folder / "images", f"00{number}1.jpg", f"00{number}2.jpg")
    return tmp_path


def test_fgvc_aircraft(aircraft: Path) -> None:
    manifest = load("fgvc_aircraft", aircraft)
    assert manifest.classes == ("F/A-18", "An-12 B")
    assert {split: (rows.path, rows.label.tolist()) for split, rows in manifest.splits.items()} == {
        "train": (("images/0001.jpg", "images/0002.jpg"), [1, 0]),
        "val": (("images/0011.jpg", "images/0012.jpg"), [1, 0]),
        "test": (("images/0021.jpg", "images/0022.jpg"), [1, 0]),
    }
    assert manifest.source == "images_variant_train.txt, images_variant_val.txt and images_variant_test.txt"
    assert manifest.template == "a photo of a {}, a type of aircraft."


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("images_variant_val.txt", "0011 Tu-154\n", r"images_variant_val\.txt, line 1: unknown class 'Tu-154'"),
        ("images_variant_val.txt", "0001 F/A-18\n", r"lists images/0001\.jpg twice: in train and in val"),
        ("images_variant_test.txt", "0099 F/A-18\n", r"1 of 5 images .* images/0099\.jpg"),
        ("images_variant_train.txt", "0002 F/A-18\n", r"1 classes have no train image: 1 \(An-12 B\)"),
        ("variants.txt", "F/A-18\nAn-12 B\nF/A-18\n", "lists the class 'F/A-18' twice"),
    ],
)
def test_unsound_aircraft(aircraft: Path, file: str, text: str, reason: str) -> None:
    (aircraft / "fgvc_aircraft" / file).write_text(text)
    with pytest.raises(DataError, match=reason):
        load("fgvc_aircraft", aircraft)
    (aircraft / "fgvc_aircraft" / file).unlink()
    with pytest.raises(DataError, match=rf"{re.escape(file)} is not there"):
        load("fgvc_aircraft", aircraft)
