"""The user's own data: folders, tables and Hugging Face data sets become manifests, or one message says why not."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featcache import datasets
from featcache.datasets import FileReader, Manifest
from featcache.errors import DataError
from featcache.views import decode

Rows = list[tuple[str, ...]]


def image_bytes(value: int, size: tuple[int, int] = (6, 4), kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def rotated_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return image_bytes(3, (30, 20), "JPEG", exif=exif)


def put(file: Path, data: bytes | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(image_bytes(len(file.name)) if data is None else data)


def paths(manifest: Manifest) -> dict[str, list[str]]:
    return {name: list(split.path) for name, split in manifest.splits.items()}


def labels(manifest: Manifest) -> dict[str, list[int]]:
    return {name: split.label.tolist() for name, split in manifest.splits.items()}


def content(manifest: Manifest) -> object:
    """All that a data set is, apart from its name and its source."""
    return manifest.classes, paths(manifest), labels(manifest)


# --- folders


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_the_val_folder_has_four_names(tmp_path: Path, name: str) -> None:
    for path in ("train/a/1.png", "train/b/2.png", "test/a/3.png", f"{name}/b/4.png"):
        put(tmp_path / path)
    manifest = datasets.load(f"folder:{tmp_path}", data=None)
    assert paths(manifest)["val"] == [f"{name}/b/4.png"]
    assert list(manifest.splits) == ["train", "val", "test"]
    assert manifest.source == f"the folders train/, {name}/, test/"


def test_two_val_folders_are_a_choice(tmp_path: Path) -> None:
    for path in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "val/b/4.png", "dev/b/5.png"):
        put(tmp_path / path)
    with pytest.raises(DataError, match="the folders val and dev, and each could be val"):
        datasets.load(f"folder:{tmp_path}", data=None)


def test_a_folder_with_test_alone_is_to_evaluate_on(tmp_path: Path) -> None:
    for path in ("test/a/1.png", "test/b/2.png"):
        put(tmp_path / path)
    manifest = datasets.load(f"folder:{tmp_path}", data=None)
    assert paths(manifest) == {"test": ["test/a/1.png", "test/b/2.png"]}
    assert manifest.classes == ("a", "b")


def test_a_home_folder_that_is_not_there(tmp_path: Path) -> None:
    for kind in ("folder", "csv", "hf"):
        with pytest.raises(DataError, match=r"cannot find the home folder in '~no-such-user/x'"):
            datasets.load(f"{kind}:~no-such-user/x", data=None)


def test_the_users_own_images_are_turned_upright_and_coops_are_not(tmp_path: Path) -> None:
    put(tmp_path / "a" / "1.jpg", rotated_jpeg())
    for path in ("a/2.jpg", "b/1.jpg", "b/2.jpg"):
        put(tmp_path / path)
    (tmp_path / "all.csv").write_text("path,label\na/1.jpg,a\na/2.jpg,a\nb/1.jpg,b\nb/2.jpg,b\n")
    for name in (f"folder:{tmp_path}", f"csv:{tmp_path / 'all.csv'}"):
        reader = datasets.load(name, data=None).reader
        assert reader.upright
        assert reader.read("a/1.jpg")[0].size == (20, 30)
    assert FileReader(tmp_path).read("a/1.jpg")[0].size == (30, 20)
    assert not FileReader(tmp_path).upright
    assert not datasets.load("shapes", data=None).reader.upright


# --- tables

GIVEN: Rows = [
    ("path", "label", "split"),
    ("b/2.png", "b", "train"),
    ("a/1.png", "a", "train"),
    ("a/2.png", "a", "val"),
    ("a/3.png", "a", "test"),
    ("b/3.png", "b", "test"),
]


def put_table(root: Path, rows: Rows, name: str = "own.csv", delimiter: str = ",") -> str:
    """csv:FILE of a table with these rows, whose images lie beside it where the path can be a file's."""
    at = rows[0].index("path") if "path" in rows[0] else 0
    for row in rows[1:]:
        if len(row) > at and row[at] and ".." not in row[at] and not row[at].startswith("/"):
            put(root / row[at])
    (root / name).write_text("".join(delimiter.join(row) + "\n" for row in rows), encoding="utf-8")
    return f"csv:{root / name}"


def test_a_table_with_its_own_splits(tmp_path: Path) -> None:
    manifest = datasets.load(put_table(tmp_path, GIVEN), data=None)
    assert (manifest.name, manifest.slug, manifest.classes) == ("csv:own", "csv-own", ("a", "b"))
    assert manifest.source == "the split column of own.csv"
    assert paths(manifest) == {
        "train": ["b/2.png", "a/1.png"],  # rows keep their order
        "val": ["a/2.png"],
        "test": ["a/3.png", "b/3.png"],
    }
    assert labels(manifest) == {"train": [1, 0], "val": [0], "test": [0, 1]}
    assert manifest.reader.read("b/2.png")[0].size == (6, 4)


def test_a_table_may_be_written_in_many_ways(tmp_path: Path) -> None:
    plain = datasets.load(put_table(tmp_path, GIVEN), data=None)
    shuffled = [(split.title(), "extra", f" {label} ", f"./{path}") for path, label, split in GIVEN[1:]]
    odd = [(" Split ", "note", "LABEL", "path"), *shuffled]
    forms = {
        "tabs.tsv": "\n".join("\t".join(row) for row in odd),
        "tabs.csv": "\r\n".join("\t".join(row) for row in odd),
        "bom.csv": "\ufeff" + "\n\n".join(",".join(f'"{field}"' for field in row) for row in GIVEN),
    }
    for name, text in forms.items():
        (tmp_path / name).write_bytes(text.encode())
        manifest = datasets.load(f"csv:{tmp_path / name}", data=None)
        assert content(manifest) == content(plain), name


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev"])
def test_val_has_four_names_in_tables(tmp_path: Path, name: str) -> None:
    rows = [*GIVEN[:3], ("a/2.png", "a", name), *GIVEN[4:]]
    assert paths(datasets.load(put_table(tmp_path, rows), data=None))["val"] == ["a/2.png"]


def test_a_table_without_splits_is_split_as_the_folder_it_lists(tmp_path: Path) -> None:
    rows: Rows = [("label", "path")]
    for label, count in {"newt": 2, "big_dog": 5, "cat": 10}.items():
        rows += [(label, f"{label}/{number:02d}.png") for number in reversed(range(count))]
    table = datasets.load(put_table(tmp_path, rows), data=None)
    folder = datasets.load(f"folder:{tmp_path}", data=None)
    assert content(table) == content(folder)
    assert table.source == "own.csv, split by seed 1: 60/20/20"
    assert {name: len(split.path) for name, split in table.splits.items()} == {"train": 10, "val": 3, "test": 4}


def test_integer_labels_are_ordered_as_numbers_and_may_get_names(tmp_path: Path) -> None:
    rows = [("path", "label", "split")]
    rows += [(f"{split}{label}.png", label, split) for label in ("10", "2", "-1") for split in ("train", "test")]
    name = put_table(tmp_path, rows)
    manifest = datasets.load(name, data=None)
    assert manifest.classes == ("-1", "2", "10")
    assert labels(manifest)["train"] == [2, 1, 0]
    (tmp_path / "names.txt").write_text("none\ntwo\nten\n")
    named = datasets.load(name, data=None, classnames=tmp_path / "names.txt")
    assert (named.classes, named.digest) == (("none", "two", "ten"), manifest.digest)
    words = [rows[0], *((path, "x" if label == "-1" else label, split) for path, label, split in rows[1:])]
    assert datasets.load(put_table(tmp_path, words), data=None).classes == ("10", "2", "x")


def test_a_table_of_test_rows_is_to_evaluate_on(tmp_path: Path) -> None:
    rows = [GIVEN[0], *((path, label, "test") for path, label, _ in GIVEN[1:])]
    assert list(datasets.load(put_table(tmp_path, rows), data=None).splits) == ["test"]


def replaced(position: int, *row: str) -> Rows:
    return [*GIVEN[:position], row, *GIVEN[position + 1 :]]


TABLE_FAULTS: dict[str, tuple[Rows, str]] = {
    "no header": (GIVEN[1:], r"begins with b/2\.png, b, train; the first line names the columns, path and label"),
    "no label column": ([row[::2] for row in GIVEN], "begins with path, split; the first line names"),
    "a column twice": ([(*row, row[1]) for row in GIVEN], "path, label, split, label; .* each once"),
    "no rows": (GIVEN[:1], "own.csv lists no image"),
    "one class": ([GIVEN[0], *((path, "a", split) for path, _, split in GIVEN[1:])], r"has 1 labels \(a\)"),
    "a field too few": (replaced(2, "a/1.png", "a"), "own.csv line 3 has 2 fields, but the header has 3"),
    "a field too many": (replaced(2, "a/1.png", "a", "b", "train"), "line 3 has 4 fields"),
    "empty label": (replaced(4, "a/3.png", " ", "test"), "line 5 has an empty label"),
    "empty path": (replaced(4, "", "a", "test"), "line 5: path '' does not lie below the table's folder"),
    "path up": (
        replaced(4, "x/../../3.png", "a", "test"),
        "does not lie below the table's folder.* put the table into",
    ),
    "absolute path": (replaced(4, "/etc/3.png", "a", "test"), "path '/etc/3.png' does not lie below"),
    "drive": (replaced(4, "C:\\3.png", "a", "test"), "does not lie below"),
    "unknown split": (replaced(4, "a/3.png", "a", "eval"), "line 5: unknown split 'eval'; known: train, val, valid"),
    "empty split": (replaced(4, "a/3.png", "a", ""), "line 5: unknown split ''"),
    "leak": (replaced(4, "./a//1.png", "a", "test"), r"lists 1 images twice: a/1\.png \(lines 3 and 5\)"),
    "class without train": (replaced(1, "b/2.png", "b", "val"), "1 classes have no train image: b"),
    "no test": ([row for row in GIVEN if row[2] != "test"], "no row with split test; mark some, or leave out"),
    "val without train": ([row for row in GIVEN if row[2] != "train"], "split val but none with split train"),
    "two spellings of a number": (
        [GIVEN[0], *((path, {"a": "1", "b": "01"}[label], split) for path, label, split in GIVEN[1:])],
        "'01' and '1' are one number",
    ),
    "names alike in prompts": (
        [GIVEN[0], *((path, {"a": "big_dog", "b": "big dog"}[label], split) for path, label, split in GIVEN[1:])],
        "both called 'big dog' in prompts",
    ),
    "one image in a class, no splits": (
        [("path", "label"), ("a/1.png", "a"), ("a/2.png", "a"), ("b/1.png", "b")],
        r"class b has 1 image \(b/1\.png\)",
    ),
    "an open quote": (replaced(4, 'a/3.png"', '"a', "test"), "is no table row .* mind the quotes"),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_unsound_tables(tmp_path: Path, fault: str) -> None:
    rows, reason = TABLE_FAULTS[fault]
    name = put_table(tmp_path, rows)
    with pytest.raises(DataError, match=reason):
        datasets.load(name, data=None)


def test_absent_images_are_counted_and_named(tmp_path: Path) -> None:
    name = put_table(tmp_path, GIVEN)
    for path in ("a/1.png", "a/3.png", "b/2.png", "b/3.png"):
        (tmp_path / path).unlink()
    (tmp_path / "b" / "3.png").mkdir()  # a folder is no image
    with pytest.raises(DataError, match=r"4 of 5 images are listed in .*own\.csv but not found under .*, \.\.;"):
        datasets.load(name, data=None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with nothing; the first line"),
        (b"path,label\na.png,caf\xe9\n", "is not UTF-8"),
        ("path,label\na.png,a\n".encode("utf-16"), "is not UTF-8"),
        (b"path,label\na\x00.png,a\n", "holds NUL bytes"),
        (b"path;label\na.png;a\n", "begins with path;label"),
        (b"path,label\n" + b"a" * 200_000 + b",a\n", "line 2 is no table row .*field larger"),
    ],
)
def test_files_that_are_no_table(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        datasets.load(f"csv:{tmp_path / 'own.csv'}", data=None)


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no table at '.*none\.csv': csv:FILE takes a table"):
        datasets.load(f"csv:{tmp_path / 'none.csv'}", data=None)
    with pytest.raises(DataError, match="cannot read the table"):
        datasets.load(f"csv:{tmp_path}", data=None)


# --- Hugging Face

CLASSES = ["ant", "bee_fly", "unused", "wasp"]
LABELS = [3, 0, 1, 3, 0, 1, 3, 0, 1, 0]


@pytest.fixture(scope="module")
def hf() -> ModuleType:
    return pytest.importorskip("datasets")


def table(hf: ModuleType, classes: list[int], *, first: int = 0, **columns: object) -> Any:
    """A data set with an image and a class a row, the images made from the numbers after `first`."""
    images = [{"bytes": image_bytes(first + row), "path": None} for row in range(len(classes))]
    features = hf.Features(image=hf.Image(), label=hf.ClassLabel(names=CLASSES))
    return hf.Dataset.from_dict({"image": images, "label": classes}, features=features)


def save(hf: ModuleType, folder: Path, **splits: Any) -> str:
    """hf:PATH of these splits, saved."""
    hf.DatasetDict(splits).save_to_disk(str(folder))
    return f"hf:{folder}"


def test_hub_data_set_with_all_splits(hf: ModuleType, tmp_path: Path) -> None:
    splits = {
        "test": table(hf, LABELS[:5], first=200),
        "validation": table(hf, LABELS[:3], first=100),
        "train": table(hf, LABELS),
        "extra": table(hf, LABELS[:2], first=300),
    }
    manifest = datasets.load(save(hf, tmp_path / "insects", **splits), data=None)
    assert (manifest.name, manifest.slug) == ("hf:insects", "hf-insects")
    assert manifest.classes == ("ant", "bee fly", "wasp")  # the name that no image has is gone
    assert manifest.source == (
        "test, validation, train of hf:insects, as they are; labels from column label; left out: extra"
    )
    assert list(manifest.splits) == ["train", "val", "test"]
    assert labels(manifest)["train"] == [2, 0, 1, 2, 0, 1, 2, 0, 1, 0]
    for ours, theirs, first in (("train", "train", 0), ("val", "validation", 100), ("test", "test", 200)):
        for row, path in enumerate(manifest.splits[ours].path):
            split, state, number = path.split("/")
            assert (split, len(state), number) == (theirs, 16, f"{row:08d}")
            data = manifest.reader.read_bytes(path)
            image, info = manifest.reader.read(path)
            assert data == image_bytes(first + row)
            assert info.size_bytes == len(data)
            np.testing.assert_array_equal(np.array(image), np.array(decode(data)))


def test_what_is_missing_of_the_splits_is_cut(hf: ModuleType, tmp_path: Path) -> None:
    train, other, hidden = table(hf, LABELS * 2), table(hf, LABELS[:6], first=100), table(hf, [-1] * 4, first=200)

    def load(folder: str, **splits: Any) -> Manifest:
        return datasets.load(save(hf, tmp_path / folder, **splits), data=None)

    given = load("given", train=train, test=other)
    assert {name: len(split.path) for name, split in given.splits.items()} == {"train": 20, "test": 6}
    whole = load("whole", full=train, test=hidden)
    assert whole.source == "full of hf:whole, split by seed 1: 60/20/20; labels from column label; left out: test"
    assert {name: np.bincount(split.label).tolist() for name, split in whole.splits.items()} == {
        "train": [4, 4, 4],
        "val": [2, 1, 1],
        "test": [2, 1, 1],
    }
    cut = load("cut", train=train, validation=other, test=hidden)
    assert cut.source.startswith("train, validation of hf:cut, test is 20% of train by seed 1;")
    assert {name: len(split.path) for name, split in cut.splits.items()} == {"train": 16, "val": 6, "test": 4}
    assert len({path for listed in paths(cut).values() for path in listed}) == 26
    for name, listed in paths(cut).items():
        originals = {"train": LABELS * 2, "validation": LABELS[:6]}
        expected = [(0, 1, None, 2)[originals[path.split("/")[0]][int(path[-8:])]] for path in listed]
        assert labels(cut)[name] == expected
    assert list(load("shift", test=other).splits) == ["test"]
    single = tmp_path / "single"
    train.save_to_disk(str(single))
    assert list(datasets.load(f"hf:{single}", data=None).splits) == ["train", "val", "test"]


def test_the_digest_changes_with_the_images(hf: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "same"

    def digest(first: int, train: Any = None) -> str:
        train = table(hf, LABELS, first=first) if train is None else train
        return datasets.load(save(hf, folder, train=train, test=table(hf, LABELS, first=50)), data=None).digest

    before = digest(0)
    assert before == digest(0)
    assert before != digest(1000)
    # Where images are read from files, the library's fingerprint hangs on the files' names alone.
    for row in range(len(LABELS)):
        put(tmp_path / f"{row}.png", image_bytes(row))
    names = [str(tmp_path / f"{row}.png") for row in range(len(LABELS))]
    features = hf.Features(image=hf.Image(), label=hf.ClassLabel(names=CLASSES))

    def from_files() -> Any:
        return hf.Dataset.from_dict({"image": names, "label": LABELS}, features=features)

    before, fingerprint = digest(0, from_files()), from_files()._fingerprint
    put(tmp_path / "3.png", image_bytes(3, size=(9, 9)))
    assert from_files()._fingerprint == fingerprint
    assert before != digest(0, from_files())


def test_a_saved_folder_that_changes_is_read_anew(hf: ModuleType, tmp_path: Path) -> None:
    for first in (0, 500):
        name = save(hf, tmp_path / "same", train=table(hf, LABELS, first=first), test=table(hf, LABELS, first=50))
        manifest = datasets.load(name, data=None)
        assert manifest.reader.read_bytes(manifest.splits["train"].path[4]) == image_bytes(first + 4)


def test_images_kept_as_files_and_rows_without_one(hf: ModuleType, tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", rotated_jpeg())
    put(tmp_path / "bad.jpg", rotated_jpeg()[:300])
    images = [str(tmp_path / "a.jpg"), str(tmp_path / "bad.jpg"), None, str(tmp_path / "a.jpg")]
    features = hf.Features(image=hf.Image(), label=hf.ClassLabel(names=CLASSES))
    dataset = hf.Dataset.from_dict({"image": images, "label": [0, 0, 1, 1]}, features=features)
    dataset = dataset.cast_column("image", hf.Image(decode=False))
    hf.DatasetDict(train=dataset, test=dataset).save_to_disk(str(tmp_path / "saved"))
    manifest = datasets.load(f"hf:{tmp_path / 'saved'}", data=None)
    rotated, bad, empty, _ = manifest.splits["train"].path
    assert manifest.reader.upright
    assert manifest.reader.read(rotated)[0].size == (20, 30)
    with pytest.raises(DataError, match=r"image train/\w+/00000001 of hf:saved does not decode: "):
        manifest.reader.read(bad)
    with pytest.raises(DataError, match=r"00000002 of hf:saved is empty"):
        manifest.reader.read(empty)
    for path in ("train/x/99", "other/x/0", "train/x/y", "train"):
        with pytest.raises(DataError, match=f"image {path} is not in hf:saved"):
            manifest.reader.read(path)


def read_in_worker(manifest: Manifest, path: str, answers: multiprocessing.Queue[object]) -> None:
    image, info = manifest.reader.read(path)
    answers.put((image.size, info, manifest.digest, "datasets" in sys.modules))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of any fork beside threads
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_hub_reader_travels_to_processes_without_the_data(hf: ModuleType, tmp_path: Path, method: str) -> None:
    big = table(hf, LABELS * 20)
    manifest = datasets.load(save(hf, tmp_path / "insects", train=big, test=table(hf, LABELS)), data=None)
    path = manifest.splits["train"].path[7]
    image, info = manifest.reader.read(path)  # opened here before the others start
    assert len(ForkingPickler.dumps(manifest.reader)) < 1000 < big.data.nbytes
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    worker = context.Process(target=read_in_worker, args=(manifest, path, answers))
    worker.start()
    assert answers.get(timeout=60) == (image.size, info, manifest.digest, method == "fork")
    worker.join()


def with_columns(hf: ModuleType, **features: Any) -> Any:
    """A data set with these columns beside one of images."""
    values: dict[str, list[Any]] = {"image": [image_bytes(row) for row in range(4)]}
    for name, feature in features.items():
        if isinstance(feature, hf.Image):
            values[name] = values["image"]
        elif isinstance(feature, hf.ClassLabel) or feature.dtype == "int64":
            values[name] = [0, 1, 1, 0]
        else:
            values[name] = ["10", "9", "9", "10"] if feature.dtype == "string" else [0.5] * 4
    wrapped = {name: [{"bytes": v} if isinstance(v, bytes) else v for v in column] for name, column in values.items()}
    return hf.Dataset.from_dict(wrapped, features=hf.Features(image=hf.Image(), **features))


def test_which_column_holds_the_label(hf: ModuleType, tmp_path: Path) -> None:
    text, number, share = hf.Value("string"), hf.Value("int64"), hf.Value("float32")
    two, other = hf.ClassLabel(names=["x", "y"]), hf.ClassLabel(names=["p", "q"])

    def classes(folder: str, **features: Any) -> tuple[str, ...]:
        dataset = with_columns(hf, **features)
        return datasets.load(save(hf, tmp_path / folder, train=dataset, test=dataset), data=None).classes

    assert classes("only", kind=two, label=text) == ("x", "y")
    assert classes("fine", coarse_label=two, fine_label=other) == ("p", "q")
    assert classes("text", label=text) == ("9", "10")
    assert classes("number", labels=number, other=number) == ("0", "1")
    for folder, features, reason in (
        ("open", {"one": two, "two": other}, r"leaves open .* it has image \(Image\), one \(ClassLabel\), two"),
        ("none", {"caption": text}, r"leaves open which column holds the label: .* caption \(Value\)"),
        ("share", {"label": share}, "column label holds no class of an image"),
        ("images", {"label": two, "mask": hf.Image()}, "has 2 columns of type Image, and it takes exactly one"),
    ):
        with pytest.raises(DataError, match=reason):
            classes(folder, **features)


def test_hub_faults(hf: ModuleType, tmp_path: Path) -> None:
    def fault(reason: str, **splits: Any) -> None:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        name = save(hf, folder, **splits)
        with pytest.raises(DataError, match=reason):
            datasets.load(name, data=None)

    sound = table(hf, LABELS)
    fault("2 of 4 rows of test have no label", train=sound, test=table(hf, [0, -1, 1, -1]))
    fault("1 classes have no train image: wasp", train=table(hf, [0, 1, 0, 1]), test=sound)
    fault("images of 1 classes", train=table(hf, [0, 0, 0]))
    fault("could be val", train=sound, val=sound, dev=sound, test=sound)
    fault("no split train or test with labels; it has a, b", a=sound, b=sound)
    fault("no split train or test with labels", train=table(hf, [-1, -1]))
    fault("validation and test with labels but no train", validation=sound, test=sound)
    fault("cannot load hf:.*IndexError|has no rows", train=table(hf, []))  # 5.2 saves such a one, but cannot load it
    other = with_columns(hf, label=hf.ClassLabel(names=["x", "y"]))
    fault("test has other columns or class names than the rest", train=sound, test=other)
    fault("class ant has 1 image", train=table(hf, [0, 1, 1]))


def test_hub_names(hf: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("", "a/b/c", "a@b@c", "a:b:c", "a@rev:config", "a b", "https://x.org/a"):
        with pytest.raises(DataError, match=r"cannot read hf:.*; hf: takes NAME, NAME:CONFIG"):
            datasets.load(f"hf:{name}", data=None)
    with pytest.raises(DataError, match=r"no folder at '.*none': hf:PATH takes one that save_to_disk made"):
        datasets.load(f"hf:{tmp_path / 'none'}", data=None)
    (tmp_path / "own" / "insects").mkdir(parents=True)
    with pytest.raises(DataError, match=r"own/insects also lies in this folder; write hf:\./own/insects"):
        datasets.load("hf:own/insects", data=None)
    with pytest.raises(DataError, match=r"cannot load hf:\./own/insects: \w+"):
        datasets.load("hf:./own/insects", data=None)
    for splits, reason in (([], "has no rows"), (["train"], "cannot load hf:./own/insects: FileNotFoundError")):
        (tmp_path / "own" / "insects" / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        with pytest.raises(DataError, match=reason):
            datasets.load("hf:./own/insects", data=None)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # what an import finds where it is not installed
    with pytest.raises(DataError, match=r"hf: needs the package datasets .*pip install 'featcache\[data\]'"):
        datasets.load("hf:ylecun/mnist", data=None)


OFFLINE = """
import shutil, sys
from pathlib import Path
import datasets as hf
from featcache import datasets
root = Path(sys.argv[1])
copy = datasets.load(f"hf:{root / 'repository'}", data=None)
print(*(f"{name}={len(split.path)}" for name, split in copy.splits.items()), *copy.classes)
assert copy.reader.read(copy.splits["test"].path[0])[0].size == (6, 4)
# The cache of a hub's data set is made of the same files under its own name.
cache = Path(hf.config.HF_DATASETS_CACHE)
built = next(cache.glob("repository/*/*/*/dataset_info.json")).parent
there = cache / "own___insects" / "default" / "0.0.0" / "0123456789abcdef0123456789abcdef01234567"
shutil.copytree(built, there)
for file in there.glob("repository-*.arrow"):
    file.rename(there / file.name.replace("repository-", "insects-"))
cached = datasets.load("hf:own/insects", data=None)
print(cached.name, *(f"{name}={len(split.path)}" for name, split in cached.splits.items()))
assert cached.reader.read(cached.splits["test"].path[0])[0].size == (6, 4)
try:
    datasets.load("hf:own/other:small@v1", data=None)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_copies_of_hub_repositories_and_the_hubs_cache_work_offline(hf: ModuleType, tmp_path: Path) -> None:
    for split in ("train", "test"):
        file = tmp_path / "repository" / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        table(hf, LABELS).to_parquet(str(file))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment.pop("HF_DATASETS_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path)],
        env=environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "train=10 test=10 ant bee fly wasp"
    assert lines[1] == "hf:own/insects train=10 test=10"
    assert lines[2].startswith("DataError cannot load hf:own/other:small@v1: ")
