"""Imports: sound files become stores, every unsound one is refused with the reason and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from featcache.errors import DataError, InputError
from featcache.importing import import_npz
from featcache.loading import draws_of, load_frozen, load_rows
from featcache.ops import cosine_logits
from featcache.store import Store
from featcache.store.checking import verify
from tests import synthetic

Arrays = dict[str, NDArray[Any]]


def arrays(**changes: NDArray[Any] | None) -> Arrays:
    """A sound file's arrays, 3 classes, with these changed, added or (None) left out."""
    made: Arrays = {**synthetic.arrays(classes=3, dim=4, train=5, val=2, test=3), **changes}  # type: ignore[dict-item]
    return {name: array for name, array in made.items() if array is not None}


def put(folder: Path, values: Arrays) -> Path:
    return synthetic.save(folder / "file.npz", values)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_sound_file_round_trips(home: Path, tmp_path: Path, dtype: str) -> None:
    values = synthetic.arrays()
    for split in ("train", "val", "test"):
        values[f"{split}_features"] = values[f"{split}_features"].astype(dtype)
    values |= {"class_names": np.array([f"name {n} é" for n in range(6)]), "backbone": np.array("ViT-B-32")}
    with Store(import_npz(synthetic.save(tmp_path / "f.npz", values), name="mine")) as store:
        assert (store.name, store.spec.dtype, store.norm) == ("mine", dtype, "raw")
        assert store.classes == tuple(f"name {n} é" for n in range(6))
        assert store.logit_scale == 40
        assert (store.provenance["backbone"], store.provenance["logit_scale"]) == ("ViT-B-32", "from the file")
        for split in ("train", "val", "test"):
            image = store.array(split, "image", slice(None))
            assert image[:, 0].tobytes() == np.ascontiguousarray(values[f"{split}_features"]).tobytes()
            np.testing.assert_array_equal(store.label(split), values[f"{split}_labels"])
        np.testing.assert_array_equal(store.text("default").embedding, values["text_features"])
        assert verify(store) == []


def test_val_and_text_and_scale_are_optional(home: Path, tmp_path: Path) -> None:
    file = put(tmp_path, arrays(val_features=None, val_labels=None, text_features=None, logit_scale=None))
    with Store(import_npz(file, name="bare")) as store:
        assert store.splits == ("train", "test")
        assert store.text_sets == ()
        assert store.classes == ("class 0", "class 1", "class 2")
        assert store.logit_scale == 100
        assert "assumed" in store.provenance["logit_scale"]
        assert load_frozen(store, "default", torch.device("cpu")).text.shape == (3, 0)


def test_unit_rows_are_recorded(home: Path, tmp_path: Path) -> None:
    values = arrays()
    for split in ("train", "val", "test"):
        features = values[f"{split}_features"]
        values[f"{split}_features"] = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
    with Store(import_npz(put(tmp_path, values), name="unit")) as store:
        assert store.norm == "unit"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_labels_of_any_integer_type(home: Path, tmp_path: Path, dtype: type) -> None:
    values = arrays(text_features=None)
    changed = {f"{split}_labels": values[f"{split}_labels"].astype(dtype) for split in ("train", "val", "test")}
    with Store(import_npz(put(tmp_path, values | changed), name="typed")) as store:
        assert store.label("test").tolist() == values["test_labels"].tolist()


def test_names_may_be_bytes_and_may_repeat(home: Path, tmp_path: Path) -> None:
    file = put(tmp_path, arrays(class_names=np.array([b"crane", "grün".encode(), b"crane"])))
    with Store(import_npz(file, name="cranes")) as store:
        assert store.classes == ("crane", "grün", "crane")


def test_arrays_it_does_not_know_are_passed_over(home: Path, tmp_path: Path) -> None:
    file = put(tmp_path, arrays(paths=np.array([{"not": "read"}], dtype=object)))
    assert import_npz(file, name="extra").is_file()


X, Y = np.ones((15, 4), dtype=np.float32), np.arange(15) % 3
FAULTS: dict[str, tuple[Arrays | dict[str, None], str]] = {
    "no test": ({"test_features": None}, "lacks test_features; it holds:"),
    "no labels": ({"train_labels": None}, "lacks train_labels"),
    "half a val": ({"val_labels": None}, "lacks val_labels"),
    "other half of a val": ({"val_features": None}, "lacks val_features"),
    "train 1-D": ({"train_features": X[:, 0]}, r"must be \(rows, width\); found \(15,\)"),
    "train 3-D": ({"train_features": X[None]}, "train_features must be"),
    "train empty": ({"train_features": X[:0], "train_labels": Y[:0]}, "train_features must be"),
    "no width": ({"train_features": X[:, :0]}, "train_features must be"),
    "other width": ({"test_features": X[:9, :3]}, r"test_features must be floats \(1 row or more, 4\); found float32"),
    "test empty": ({"test_features": X[:0], "test_labels": Y[:0]}, "1 row or more"),
    "integers": ({"train_features": X.astype(np.int64)}, "must be floats"),
    "complex": ({"train_features": X.astype(np.complex64)}, "must be floats"),
    "labels short": ({"train_labels": Y[:14]}, r"train_labels must be 15 integers; found int64 \(14,\)"),
    "labels 2-D": ({"train_labels": Y[:, None]}, "must be 15 integers"),
    "labels float": ({"train_labels": Y.astype(np.float32)}, "must be 15 integers"),
    "labels bool": ({"train_labels": Y.astype(bool)}, "must be 15 integers"),
    "labels text": ({"train_labels": Y.astype(str)}, "must be 15 integers"),
    "label -1": ({"train_labels": Y - 1}, "run from -1 to 1, but there are 3 classes"),
    "label 3": ({"test_labels": np.arange(9) % 4}, "test_labels run from 0 to 3"),
    "label without end": ({"train_labels": Y + 2**40, "text_features": None}, "cannot fill that many classes"),
    "class without row": ({"train_labels": Y % 2}, "1 of 3 classes have no training row, class 2 first"),
    "NaN": ({"val_features": np.full((6, 4), np.nan, np.float16)}, "val_features holds NaN.*first in row 0"),
    "infinity": ({"train_features": np.where(np.arange(15)[:, None] == 7, np.inf, X)}, "first in row 7"),
    "beyond float32": ({"train_features": np.full((15, 4), 1e300)}, "what float32 cannot hold"),
    "text shape": ({"text_features": X[:4]}, r"text_features must be|run from 0|no training row"),
    "text width": (
        {"text_features": X[:3, :3]},
        r"text_features must be finite floats \(3, 4\); found float32 \(3, 3\)",
    ),
    "text scalar": ({"text_features": np.float32(1)}, "classes"),  # type: ignore[dict-item]
    "text NaN": ({"text_features": np.full((3, 4), np.nan)}, "text_features must be finite"),
    "text zero": ({"text_features": np.zeros((3, 4))}, "row of zeros"),
    "names short": ({"class_names": np.array(["a", "b"])}, "there are 2 classes"),
    "names long": ({"class_names": np.array(list("abcd"))}, "class 3 first"),
    "names numbers": ({"class_names": np.arange(3)}, "class_names must be strings"),
    "names pickled": ({"class_names": np.array(["a", "b", None])}, "cannot be read as an .npz of plain arrays"),
    "names not Unicode": ({"class_names": np.array(["a", "b", "\ud800"])}, "not valid Unicode"),
    "names not UTF-8": ({"class_names": np.array([b"a", b"b", b"\xff"])}, "not valid Unicode"),
    "backbone number": ({"backbone": np.float32(3)}, "backbone must be strings"),  # type: ignore[dict-item]
    "scale 0": ({"logit_scale": np.array(0.0)}, "logit_scale must be one positive number"),
    "scale NaN": ({"logit_scale": np.array(np.nan)}, "logit_scale must be"),
    "scale twice": ({"logit_scale": np.array([1.0, 2.0])}, "logit_scale must be"),
    "scale text": ({"logit_scale": np.array("100")}, "logit_scale must be"),
    "pickled features": ({"train_features": X.astype(object)}, "cannot be read as an .npz of plain arrays"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unsound_file_is_refused_and_leaves_nothing(home: Path, tmp_path: Path, fault: str) -> None:
    changes, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        import_npz(put(tmp_path, arrays(**changes)), name="bad")
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_damaged_file_is_refused(home: Path, tmp_path: Path) -> None:
    good = put(tmp_path, arrays()).read_bytes()
    bad = tmp_path / "bad.npz"
    damaged = [good[: int(share * len(good))] for share in (0, 0.1, 0.5, 0.9, 0.999)]
    start = good.index(b"\x93NUMPY") + 128  # inside the first array's data: the zip's checksum tells
    damaged.append(good[:start] + bytes([good[start] ^ 1]) + good[start + 1 :])
    method = good.rindex(b"PK\x01\x02") + 10  # a compression method that does not exist
    damaged.append(good[:method] + b"\x63" + good[method + 1 :])
    for data in damaged:
        bad.write_bytes(data)
        with pytest.raises(DataError, match=r"bad\.npz cannot be read"):
            import_npz(bad, name="bad")


def test_what_is_no_npz_is_refused(home: Path, tmp_path: Path) -> None:
    text, single = tmp_path / "a.npz", tmp_path / "b.npy"
    text.write_text("train_features")
    np.save(single, X)
    for file, message in ((text, "cannot be read"), (tmp_path, "cannot be read"), (tmp_path / "none", "no file")):
        with pytest.raises(DataError, match=message):
            import_npz(file, name="bad")
    with pytest.raises(DataError, match=r"lacks train_features.*no named arrays"):
        import_npz(single, name="bad")
    with pytest.raises(InputError, match="cannot name a store"):
        import_npz(put(tmp_path, arrays()), name="../bad")


def test_a_name_clash_makes_another_file(home: Path, tmp_path: Path) -> None:
    first = import_npz(put(tmp_path, arrays()), name="same")
    before = first.read_bytes()
    second = import_npz(put(tmp_path, arrays(logit_scale=np.array(7.0))), name="same")
    assert second.name.startswith("same-")
    assert first.read_bytes() == before
    assert import_npz(put(tmp_path, arrays()), name="same") == first


@pytest.mark.parametrize(("rows", "draws"), [(3, [(3, 1)]), (16, [(16, 1)]), (20, [(16, 1), (16, 2), (16, 3)])])
def test_at_most_16_rows_a_class_are_one_draw(
    home: Path, tmp_path: Path, rows: int, draws: list[tuple[int, int]]
) -> None:
    file = synthetic.save(tmp_path / "f.npz", synthetic.arrays(classes=3, train=rows))
    with Store(import_npz(file, name="few")) as store:
        assert [(draw.shots, draw.shot_seed) for draw in draws_of(store, None, None)] == draws
        assert len(draws_of(store, rows, None)) == 1
        assert len(draws_of(store, 2, None)) == 3


@pytest.mark.parametrize(("name", "accuracy"), [("caltech70_vitb32", 0.900), ("imagenet_4shot_vitb32", 0.6105)])
def test_zero_shot_on_genuine_features(home: Path, real_data: Path, name: str, accuracy: float) -> None:
    with Store(import_npz(real_data / "features" / f"{name}.npz", name=name)) as store:
        assert store.norm == "unit"
        frozen = load_frozen(store, "default", torch.device("cpu"))
        rows = load_rows(store, "test", torch.device("cpu"))
        right = cosine_logits(rows.image, frozen.text, frozen.logit_scale).argmax(dim=1) == rows.label
        assert right.float().mean().item() == pytest.approx(accuracy, abs=1e-3)
        assert len(draws_of(store, None, None)) == 1


def test_genuine_features_without_text(home: Path, real_data: Path) -> None:
    with Store(import_npz(real_data / "features" / "dtd_rn50_no_text.npz", name="dtd")) as store:
        assert store.text_sets == ()
        assert len(store.classes) == 47
