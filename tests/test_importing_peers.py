"""Folders as peers write them become stores with the same rows; unsound and hostile ones leave nothing behind."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.datasets.folders import read_folder
from featcache.errors import ConfigError, DataError, FeatcacheError, InputError, UnknownNameError
from featcache.fewshot import draw
from featcache.importing import Stated, import_from
from featcache.loading import draws_of, load_frozen, load_rows, load_task
from featcache.ops import cosine_logits
from featcache.store import Store
from featcache.store.checking import verify
from tests import synthetic
from tests.commandline import Run

CPU = torch.device("cpu")
CLASSES, DIM, SHOTS = 3, 8, 4


def unit_rows(count: int, seed: int, dim: int = DIM) -> Tensor:
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def tip_folder(folder: Path, *, shots: int = SHOTS, val: bool = True, classes: int = CLASSES) -> Path:
    """A cache folder with the types and strides that Tip-Adapter's code leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    label = torch.arange(classes).repeat_interleave(shots)
    torch.save(unit_rows(len(label), 0).half().permute(1, 0), folder / f"keys_{shots}shots.pt")
    torch.save(torch.nn.functional.one_hot(label).half(), folder / f"values_{shots}shots.pt")
    for seed, split in enumerate(("val", "test") if val else ("test",), start=1):
        torch.save(unit_rows(5 * classes, seed).half(), folder / f"{split}_f.pt")
        torch.save(torch.arange(classes).repeat(5), folder / f"{split}_l.pt")
    return folder


def benchmark_folder(folder: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, split in enumerate(splits):
        torch.save(unit_rows(8 * CLASSES, seed), folder / f"features_{split}.pt")
        torch.save(torch.arange(CLASSES).repeat(8), folder / f"targets_{split}.pt")
    return folder


def retrieval_folder(folder: Path, paths: list[str], *, per_file: int = 7, dim: int = DIM) -> NDArray[np.float16]:
    """An output folder with these images in this order, and its embeddings (N, D)."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = unit_rows(len(paths), 3, dim).half().numpy()
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(paths), per_file)):
        part = slice(start, start + per_file)
        np.save(folder / f"img_emb/img_emb_{number:02d}.npy", rows[part])
        np.save(folder / f"text_emb/text_emb_{number:02d}.npy", rows[part])
        table = pyarrow.table({"image_path": paths[part], "caption": ["a thing"] * len(paths[part])})
        parquet.write_table(table, folder / f"metadata/metadata_{number:02d}.parquet")
    return rows


def bring(kind: str | None, path: Path, *, name: str = "mine", dataset: str | None = None, **stated: Any) -> Store:
    return Store(import_from(kind, path, name=name, dataset=dataset, stated=Stated(**stated)))


def stored(store: Store, split: str) -> NDArray[Any]:
    return store.array(split, "image", slice(None))[:, 0]


def test_a_tip_adapter_folder_round_trips(home: Path, tmp_path: Path) -> None:
    folder = tip_folder(tmp_path / "caches" / "dtd")
    with bring("tip-adapter", folder, dataset="dtd", backbone="RN50") as store:
        keys = torch.load(folder / "keys_4shots.pt", weights_only=True)
        assert keys.shape == (DIM, CLASSES * SHOTS)
        assert stored(store, "train").tobytes() == keys.T.contiguous().numpy().tobytes()
        for split in ("val", "test"):
            assert torch.equal(torch.from_numpy(stored(store, split)), torch.load(folder / f"{split}_f.pt"))
            assert torch.equal(torch.from_numpy(store.label(split)), torch.load(folder / f"{split}_l.pt"))
        assert store.label("train").tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert (store.norm, store.spec.dtype, store.splits) == ("unit", "float16", ("train", "val", "test"))
        assert (store.provenance["dataset"], store.provenance["backbone"]) == ("dtd", "RN50")
        assert (store.spec.tower.architecture, store.spec.tower.activation) == ("RN50", "unknown")
        assert store.classes == ("class 0", "class 1", "class 2")
        assert store.paths("val")[1] == "val/0000001"
        assert store.text_sets == ()
        assert verify(store) == []
        (chosen,) = draws_of(store, None, None)
        task = load_task(store, chosen, load_frozen(store, "default", CPU))
        assert task.image.shape == (CLASSES * SHOTS, 1, DIM)


def test_an_imagenet_folder_has_no_val(home: Path, tmp_path: Path) -> None:
    with bring("tip-adapter", tip_folder(tmp_path / "imagenet", val=False)) as store:
        assert store.splits == ("train", "test")
        assert draws_of(store, None, None)[0].val_split == "train"


def test_one_of_several_caches_is_picked(home: Path, tmp_path: Path) -> None:
    folder = tip_folder(tip_folder(tmp_path / "dtd"), shots=2)
    torch.save(torch.nn.Parameter(unit_rows(6, 9)), folder / "best_F_2shots.pt")
    with pytest.raises(ConfigError, match=r"holds keys of 2, 4 shots; say which with --shots"):
        bring("tip-adapter", folder)
    with bring("tip-adapter", folder, shots=2, name="two") as two, bring("tip-adapter", folder, shots=4) as four:
        assert (two.num_rows("train"), four.num_rows("train")) == (6, 12)
        assert two.key != four.key
    with pytest.raises(DataError, match=r"no keys_16shots\.pt; .*holds: best_F_2shots\.pt, keys_2shots\.pt"):
        bring("tip-adapter", folder, shots=16)


def test_the_key_hangs_on_bytes_and_not_on_the_place(home: Path, tmp_path: Path) -> None:
    with (
        bring("tip-adapter", tip_folder(tmp_path / "a")) as first,
        bring("tip-adapter", tip_folder(tmp_path / "b")) as same,
    ):
        assert first.key == same.key
    torch.save(unit_rows(15, 77).half(), tmp_path / "b" / "test_f.pt")
    with bring("tip-adapter", tmp_path / "b") as other:
        assert other.key != first.key
        assert other.name == f"mine-{other.key[:8]}"


def test_a_clip_benchmark_folder_round_trips(home: Path, tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "ViT-B-32-openai-wds_vtab-dtd")
    names = tmp_path / "names.txt"
    names.write_text("banded\ntabby_cat\ngrün\n", encoding="utf-8")
    with bring("clip-benchmark", folder, classnames=names, backbone="ViT-B-32") as store:
        assert store.splits == ("train", "val", "test")
        for split in store.splits:
            assert torch.equal(torch.from_numpy(stored(store, split)), torch.load(folder / f"features_{split}.pt"))
            assert torch.equal(torch.from_numpy(store.label(split)), torch.load(folder / f"targets_{split}.pt"))
        assert store.classes == ("banded", "tabby cat", "grün")
        assert (store.norm, store.spec.dtype) == ("unit", "float32")
        assert verify(store) == []


def test_the_old_clip_benchmark_form_calls_its_test_val(home: Path, tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "old", ("train", "val"))
    with bring("clip-benchmark", folder) as store:
        assert store.splits == ("train", "test")
        assert torch.equal(torch.from_numpy(stored(store, "test")), torch.load(folder / "features_val.pt"))
        assert "test from features_val.pt" in store.provenance["split_files"]


def test_a_saved_classifier_becomes_the_text(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "clf.pt"
    weights = unit_rows(CLASSES, 5).T
    torch.save(weights, file)
    with bring("clip-benchmark", benchmark_folder(tmp_path / "f"), classifier=file) as store:
        np.testing.assert_allclose(load_frozen(store, "default", CPU).text, weights.T, atol=1e-6)
    torch.save(weights.T, file)
    with pytest.raises(DataError, match=r"must hold a classifier \(8, 3\), one column a class; found float32 \(3, 8\)"):
        bring("clip-benchmark", tmp_path / "f", classifier=file)


def test_raw_and_bfloat16_rows(home: Path, tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "raw")
    rows = (3 * unit_rows(24, 0)).bfloat16()
    torch.save(rows, folder / "features_train.pt")
    with bring("clip-benchmark", folder) as store:
        assert (store.norm, store.spec.dtype) == ("raw", "float32")
        assert torch.equal(torch.from_numpy(stored(store, "train")), rows.float())


def test_files_of_old_torch_are_read(home: Path, tmp_path: Path) -> None:
    folder = benchmark_folder(tmp_path / "old")
    rows = unit_rows(24, 0)
    torch.save(rows, folder / "features_train.pt", _use_new_zipfile_serialization=False)
    with bring("clip-benchmark", folder) as store:
        assert torch.equal(torch.from_numpy(stored(store, "train")), rows)


def image_paths(root: str, *, splits: bool, images: int = 10) -> list[str]:
    """Image paths in an order that only a file system would choose."""
    folders = ("train", "val", "test") if splits else ("",)
    paths = [
        os.path.join(root, split, name, f"{number:03d}.jpg")  # noqa: PTH118 (text, no file)
        for split in folders
        for name in ("ant", "bee_fly", "cat")
        for number in range(images)
    ]
    np.random.default_rng(0).shuffle(paths)
    return paths


def test_a_clip_retrieval_folder_takes_classes_and_splits_from_the_directories(home: Path, tmp_path: Path) -> None:
    paths = image_paths("/data/my pets", splits=True)
    rows = retrieval_folder(tmp_path / "out", paths)
    with bring("clip-retrieval", tmp_path / "out") as store:
        assert store.classes == ("ant", "bee fly", "cat")
        assert store.splits == ("train", "val", "test")
        for split in store.splits:
            names = store.paths(split)
            assert names == sorted(names)
            assert {name.split("/")[0] for name in names} == {split}
            assert [name.split("/")[1] for name in names] == [("ant", "bee_fly", "cat")[n] for n in store.label(split)]
            expected = rows[[paths.index(f"/data/my pets/{name}") for name in names]]
            assert stored(store, split).tobytes() == expected.tobytes()
        assert (store.norm, store.spec.dtype) == ("unit", "float16")
        assert store.text_sets == ()
        assert verify(store) == []


def test_without_split_directories_the_split_is_that_of_a_plain_folder(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "pets"
    paths = image_paths(str(root), splits=False)
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    retrieval_folder(tmp_path / "out", paths)
    plain = read_folder(str(root))
    with bring("clip-retrieval", tmp_path / "out") as store:
        for split in ("train", "val", "test"):
            assert tuple(store.paths(split)) == plain.splits[split].path
            assert store.label(split).tolist() == plain.splits[split].label.tolist()
        assert "split by seed 1" in store.provenance["splits"]
        ours = draws_of(store, 2, (1,))[0]
        theirs = draw(plain.splits["train"].label, plain.splits["val"].label, shots=2, shot_seed=1)
        assert ours.digest == theirs.digest
        load_task(store, ours, load_frozen(store, "default", CPU))


def test_relative_paths_val_by_another_name_and_test_alone(home: Path, tmp_path: Path) -> None:
    retrieval_folder(
        tmp_path / "a", [f"./{split}/{name}/1.jpg" for split in ("train", "valid", "test") for name in "ab"]
    )
    with bring("clip-retrieval", tmp_path / "a") as store:
        assert store.paths("val") == ["valid/a/1.jpg", "valid/b/1.jpg"]
    retrieval_folder(tmp_path / "b", [f"test/{name}/1.jpg" for name in "ab"])
    with bring("clip-retrieval", tmp_path / "b", name="shifted") as store:
        assert store.splits == ("test",)
        assert load_rows(store, "test", CPU).label.tolist() == [0, 1]
        assert verify(store) == []


def test_a_class_may_be_called_train(home: Path, tmp_path: Path) -> None:
    retrieval_folder(
        tmp_path / "out", [f"voc/{name}/{number}.jpg" for name in ("train", "tram") for number in range(5)]
    )
    with bring("clip-retrieval", tmp_path / "out") as store:
        assert store.classes == ("train", "tram")


@pytest.mark.parametrize("kind", ["tip-adapter", "clip-benchmark"])
def test_genuine_features_in_a_peers_folder(home: Path, tmp_path: Path, real_data: Path, kind: str) -> None:
    with np.load(real_data / "features" / "caltech70_vitb32.npz") as file:
        arrays = {name: file[name] for name in file.files}
    label = {split: torch.from_numpy(arrays[f"{split}_labels"]).long() for split in ("train", "val", "test")}
    rows = {split: torch.from_numpy(arrays[f"{split}_features"]) for split in label}
    if kind == "tip-adapter":
        torch.save(rows["train"].permute(1, 0), tmp_path / "keys_16shots.pt")
        torch.save(torch.nn.functional.one_hot(label["train"]).half(), tmp_path / "values_16shots.pt")
        for split in ("val", "test"):
            torch.save(rows[split], tmp_path / f"{split}_f.pt")
            torch.save(label[split], tmp_path / f"{split}_l.pt")
    else:
        for split in label:
            torch.save(rows[split], tmp_path / f"features_{split}.pt")
            torch.save(label[split], tmp_path / f"targets_{split}.pt")
    torch.save(torch.from_numpy(arrays["text_features"]).T, tmp_path / "clf.pt")
    (tmp_path / "names.txt").write_text("\n".join(arrays["class_names"].tolist()), encoding="utf-8")
    options = {"classifier": tmp_path / "clf.pt", "classnames": tmp_path / "names.txt", "backbone": "ViT-B-32"}
    with bring(kind, tmp_path, **options) as store:
        frozen, test = load_frozen(store, "default", CPU), load_rows(store, "test", CPU)
        right = cosine_logits(test.image, frozen.text, frozen.logit_scale).argmax(dim=1) == test.label
        assert right.float().mean().item() == pytest.approx(0.900, abs=1e-3)
        assert len(draws_of(store, None, None)) == 1
        assert len(store.classes) == 70


class Runs:
    """What a hostile file holds: unpickling it makes the file `ran`."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.ran}'",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("file", ["keys_4shots.pt", "values_4shots.pt", "test_f.pt", "val_l.pt"])
def test_a_file_that_holds_code_is_refused_and_nothing_runs(
    home: Path, tmp_path: Path, file: str, zipped: bool
) -> None:
    folder, ran = tip_folder(tmp_path / "dtd"), tmp_path / "ran"
    torch.save(Runs(ran), folder / file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DataError, match=rf"{file} is refused: it holds code or objects \(\w+\.system\).*was run"):
        bring("tip-adapter", folder)
    assert not ran.exists()
    torch.load(folder / file, weights_only=False)  # the file does what it is meant to
    assert ran.exists()


def test_npy_files_that_hold_objects_are_refused_and_nothing_runs(home: Path, tmp_path: Path) -> None:
    retrieval_folder(tmp_path / "out", image_paths("", splits=True))
    np.save(tmp_path / "out/img_emb/img_emb_01.npy", np.array([[Runs(tmp_path / "ran")]]), allow_pickle=True)
    with pytest.raises(DataError, match=r"img_emb_01\.npy cannot be read as a plain \.npy array"):
        bring("clip-retrieval", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


Fault = tuple[Callable[[Path], object], str]
ROWS = unit_rows(15, 1)
TIP_FAULTS: dict[str, Fault] = {
    "no keys": (
        lambda f: (f / "keys_4shots.pt").unlink(),
        r"no keys_<K>shots\.pt.*holds: test_f\.pt, test_l\.pt, val_f",
    ),
    "no values": (lambda f: (f / "values_4shots.pt").unlink(), r"lacks values_4shots\.pt; .*holds: keys_4shots\.pt"),
    "half a val": (lambda f: (f / "val_l.pt").unlink(), r"lacks val_l\.pt"),
    "no test": (lambda f: (f / "test_f.pt").unlink(), r"lacks test_f\.pt"),
    "keys not turned": (
        lambda f: torch.save(unit_rows(12, 0), f / "keys_4shots.pt"),
        r"must be \(width, 12\), one column for each row of values_4shots\.pt; found \(12, 8\)",
    ),
    "keys of integers": (
        lambda f: torch.save(ROWS.long(), f / "keys_4shots.pt"),
        r"matrix of floats; found int64 \(15, 8\)",
    ),
    "keys complex": (lambda f: torch.save(ROWS + 0j, f / "keys_4shots.pt"), "matrix of floats; found complex64"),
    "keys 1-D": (lambda f: torch.save(ROWS[0], f / "keys_4shots.pt"), "matrix of floats"),
    "two ones": (
        lambda f: torch.save(torch.ones(12, 3), f / "values_4shots.pt"),
        "one-hot labels: a 1 and zeros in each row; 12 rows are not, row 0 first",
    ),
    "soft values": (
        lambda f: torch.save(torch.cat([torch.eye(3)[[0] * 11], torch.tensor([[0.5, 0, 0]])]), f / "values_4shots.pt"),
        "1 rows are not, row 11 first",
    ),
    "values NaN": (lambda f: torch.save(torch.full((12, 3), torch.nan), f / "values_4shots.pt"), "12 rows are not"),
    "values 1-D": (lambda f: torch.save(torch.zeros(12), f / "values_4shots.pt"), r"one-hot labels \(rows, classes\)"),
    "class without row": (
        lambda f: torch.save(torch.eye(4)[torch.arange(12) % 3], f / "values_4shots.pt"),
        "1 of 4 classes have no training row, class 3 first",
    ),
    "other width": (
        lambda f: torch.save(ROWS[:, :5], f / "test_f.pt"),
        r"test_f\.pt must hold .* 8 numbers.*\(15, 5\)",
    ),
    "no row": (lambda f: torch.save(ROWS[:0], f / "val_f.pt"), r"val_f\.pt must hold 1 row or more"),
    "counts": (
        lambda f: torch.save(ROWS[:14], f / "test_f.pt"),
        r"test_f\.pt holds 14 rows, but there are 15 of the labels",
    ),
    "label 3": (
        lambda f: torch.save(torch.arange(15) % 4, f / "test_l.pt"),
        "test_l.pt run from 0 to 3, but there are 3",
    ),
    "label -1": (lambda f: torch.save(torch.arange(15) % 3 - 1, f / "val_l.pt"), "run from -1 to 1"),
    "labels float": (lambda f: torch.save(torch.zeros(15), f / "test_l.pt"), "one integer a row; found float32"),
    "labels one-hot": (lambda f: torch.save(torch.eye(15).long(), f / "test_l.pt"), "several classes a row"),
    "NaN": (lambda f: torch.save(ROWS / (torch.arange(15) != 6)[:, None] * 0, f / "test_f.pt"), "first in row 6"),
    "beyond float32": (lambda f: torch.save(ROWS.double() * 1e300, f / "test_f.pt"), "what float32 cannot hold"),
    "a dictionary": (lambda f: torch.save({"test": ROWS}, f / "test_f.pt"), "must hold one tensor; found a dict"),
    "sparse": (lambda f: torch.save(ROWS.to_sparse(), f / "test_f.pt"), "plain dense tensor"),
    "meta": (lambda f: torch.save(ROWS.to("meta"), f / "test_f.pt"), "plain dense tensor"),
    "repeated": (lambda f: torch.save(ROWS[:1].expand(10**9, 8), f / "test_f.pt"), "fewer numbers than its shape"),
    "text": (lambda f: (f / "test_f.pt").write_text("tensor"), "does not read as a tensor"),
    "nothing": (lambda f: (f / "test_f.pt").write_bytes(b""), "does not read as a tensor"),
    "a folder": (lambda f: ((f / "test_f.pt").unlink(), (f / "test_f.pt").mkdir()), r"lacks test_f\.pt"),
}


@pytest.mark.parametrize("fault", TIP_FAULTS)
def test_an_unsound_tip_adapter_folder_is_refused_and_leaves_nothing(home: Path, tmp_path: Path, fault: str) -> None:
    folder = tip_folder(tmp_path / "dtd")
    spoil, message = TIP_FAULTS[fault]
    spoil(folder)
    with pytest.raises(DataError, match=message):
        bring("tip-adapter", folder)
    assert not [path for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_tensor_is_refused(home: Path, tmp_path: Path, zipped: bool) -> None:
    folder = benchmark_folder(tmp_path / "f")
    file = folder / "features_train.pt"
    torch.save(unit_rows(24, 0), file, _use_new_zipfile_serialization=zipped)
    good = file.read_bytes()
    damaged = [good[: int(share * len(good))] for share in (0.05, 0.5, 0.9, 0.999)]
    if zipped:  # the older form has no checksums
        at = good.index(unit_rows(24, 0).numpy().tobytes()) + 100
        damaged.append(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(DataError, match=r"features_train\.pt is (refused|damaged)"):
            bring("clip-benchmark", folder)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_an_unsound_clip_benchmark_folder_is_refused(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "features"
    folder = benchmark_folder(root / "RN50-openai-dtd")
    with pytest.raises(
        DataError, match=r"give the path of one folder, such as .*RN50-openai-dtd; .*holds: RN50-openai-dtd/"
    ):
        bring("clip-benchmark", root)
    with pytest.raises(DataError, match="cannot list the folder"):
        bring("clip-benchmark", root / "none")
    torch.save(torch.eye(24).long(), folder / "targets_train.pt")
    with pytest.raises(DataError, match="several classes a row"):
        bring("clip-benchmark", folder)
    torch.save(torch.arange(24) + 2**40, folder / "targets_train.pt")
    with pytest.raises(DataError, match="cannot fill that many classes"):
        bring("clip-benchmark", folder)
    (folder / "targets_train.pt").rename(folder / "targets_train_cache_0.pt")
    with pytest.raises(DataError, match=r"lacks targets_train\.pt.*holds: .*targets_train_cache_0\.pt"):
        bring("clip-benchmark", folder)


def without(paths: list[str], part: str) -> list[str]:
    return [path for path in paths if part not in path]


GIVEN = image_paths("/data", splits=True)
PLAIN = image_paths("/data", splits=False)
LAYOUTS: dict[str, tuple[list[str], str]] = {
    "a webdataset": (
        [f"{number:09d}" for number in range(20)],
        r"image 000000000 lies in no class directory.*webdataset",
    ),
    "no class": ([f"/data/train/{number}.jpg" for number in range(20)], "lies in no class directory"),
    "no test": (without(GIVEN, "/test/"), r"all must, with .*; found: train 30, val 30"),
    "val and test": (without(GIVEN, "/train/"), "found: val 30, test 30"),
    "some beside": ([*GIVEN, "/data/ant/1.jpg"], "found: train 30, val 30, test 30, elsewhere 1"),
    "unknown class": ([*GIVEN, "/data/test/dog/1.jpg"], "test has classes that train lacks: dog"),
    "one class": (without(without(PLAIN, "ant"), "bee"), "all images lie in one directory, cat"),
    "one given class": (without(without(GIVEN, "ant"), "bee"), "the only class directory is cat"),
    "one image": ([*PLAIN, "/data/dog/1.jpg"], r"class dog has 1 image"),
    "twice": ([*PLAIN, "/data/./ant/000.jpg"], r"names /data/ant/000\.jpg a second time"),
    "same name": ([*PLAIN, "/data/bee fly/1.jpg", "/data/bee fly/2.jpg"], "both called 'bee fly' in prompts"),
    "here and there": ([*PLAIN, "cat/001.jpg"], "some images have absolute paths and some have not"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_paths_that_tell_no_labels_are_refused(home: Path, tmp_path: Path, layout: str) -> None:
    paths, message = LAYOUTS[layout]
    retrieval_folder(tmp_path / "out", paths)
    with pytest.raises(DataError, match=message):
        bring("clip-retrieval", tmp_path / "out")
    assert not [path for path in home.rglob("*") if path.is_file()]


def save_table(file: Path, **columns: list[Any]) -> None:
    pytest.importorskip("pyarrow.parquet").write_table(pytest.importorskip("pyarrow").table(columns), file)


ARRAY, TABLE = "img_emb/img_emb_02.npy", "metadata/metadata_02.parquet"
RETRIEVAL_FAULTS: dict[str, Fault] = {
    "no metadata": (
        lambda f: (f / "metadata").rename(f / "meta"),
        r"no folder metadata/.*holds: img_emb/, meta/, text_emb/",
    ),
    "no table": (lambda f: (f / TABLE).unlink(), r"without the other: img_emb/img_emb_02\.npy"),
    "no array": (lambda f: (f / ARRAY).unlink(), r"without the other: metadata/metadata_02\.parquet"),
    "counts": (lambda f: np.save(f / ARRAY, np.ones((6, DIM))), r"holds 6 rows, but .*_02\.parquet names 7 images"),
    "other width": (lambda f: np.save(f / ARRAY, np.ones((7, 5))), r"_02\.npy is 5 wide, but .*_00\.npy is 8"),
    "integers": (lambda f: np.save(f / ARRAY, np.ones((7, DIM), dtype=int)), "must hold floats"),
    "1-D": (lambda f: np.save(f / ARRAY, np.ones(7)), r"must hold floats .*\(7,\)"),
    "NaN": (
        lambda f: np.save(f / ARRAY, np.full((7, DIM), np.nan)),
        r"first in row \d+ \((train|val|test)/\w+/\d+\.jpg\)",
    ),
    "truncated array": (lambda f: (f / ARRAY).write_bytes((f / ARRAY).read_bytes()[:-1]), r"_02\.npy cannot be read"),
    "empty array": (lambda f: (f / ARRAY).write_bytes(b""), r"_02\.npy cannot be read"),
    "truncated table": (lambda f: (f / TABLE).write_bytes((f / TABLE).read_bytes()[:-9]), "cannot be read as parquet"),
    "empty table": (lambda f: (f / TABLE).write_bytes(b""), "cannot be read as parquet"),
    "no image_path": (lambda f: save_table(f / TABLE, caption=["a"] * 7), "no column image_path.*columns: caption"),
    "no text": (
        lambda f: save_table(f / TABLE, image_path=list(range(7))),
        "must be text in every row; found 0 in 7 rows",
    ),
    "null path": (lambda f: save_table(f / TABLE, image_path=[None, *"abcdef"]), "found None in 1 rows"),
}


@pytest.mark.parametrize("fault", RETRIEVAL_FAULTS)
def test_an_unsound_clip_retrieval_folder_is_refused(home: Path, tmp_path: Path, fault: str) -> None:
    retrieval_folder(tmp_path / "out", GIVEN)
    spoil, message = RETRIEVAL_FAULTS[fault]
    spoil(tmp_path / "out")
    with pytest.raises(DataError, match=message):
        bring("clip-retrieval", tmp_path / "out")
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_without_pyarrow_the_message_says_how_to_get_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieval_folder(tmp_path / "out", GIVEN)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what Python itself does for a module that may not be imported
    with pytest.raises(ConfigError, match=r'not installed; install it with: pip install "featcache\[data\]"'):
        bring("clip-retrieval", tmp_path / "out")


def test_options_without_effect_and_unknown_kinds_are_refused(home: Path, tmp_path: Path) -> None:
    npz = synthetic.save(tmp_path / "f.npz", synthetic.arrays())
    cases: list[tuple[str | None, Path, dict[str, Any], type[FeatcacheError], str]] = [
        ("npz", npz, {"backbone": "RN50"}, ConfigError, "states its own backbone"),
        (None, npz, {"shots": 4}, ConfigError, "no effect on npz"),
        ("clip-benchmark", tmp_path, {"shots": 4}, ConfigError, "no effect on clip-benchmark"),
        (None, tmp_path, {}, ConfigError, "is a folder; say what wrote it, with --from tip-adapter or"),
        ("tip_adapter", tmp_path, {}, UnknownNameError, "did you mean tip-adapter"),
        ("tip-adapter", tmp_path, {"name": "../x"}, InputError, "cannot name a store"),
    ]
    for kind, path, options, error, message in cases:
        with pytest.raises(error, match=message):
            bring(kind, path, **options)
    with bring(None, npz, dataset="mine too") as store:
        assert store.provenance["dataset"] == "mine too"


def test_class_names_that_do_not_fit_are_refused(home: Path, tmp_path: Path) -> None:
    folder, names = tip_folder(tmp_path / "dtd"), tmp_path / "names.txt"
    for content, message in ((b"a\nb\n", "has 2 lines, but there are 3 classes"), (b"a\n\nc", "line 2 is empty")):
        names.write_bytes(content)
        with pytest.raises(DataError, match=message):
            bring("tip-adapter", folder, classnames=names)
    names.write_bytes(b"a\n\xff\nc")
    with pytest.raises(DataError, match="cannot read class names"):
        bring("tip-adapter", folder, classnames=names)


def test_the_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`featcache import --from` says what it made and took for what; a refusal is one message and exit code 2."""
    monkeypatch.setenv("COLUMNS", "200")
    dtd = tip_folder(tmp_path / "dtd")
    retrieval_folder(tmp_path / "out", image_paths("/data/pets", splits=False))
    torch.save(unit_rows(CLASSES, 5).T, tmp_path / "clf.pt")
    said = run("import", dtd, "--from", "tip-adapter", "--name", "dtd", "--backbone", "RN50")
    assert (said.code, said.err) == (0, "")
    assert "dtd: train 12, val 15, test 15, width 8, 3 classes, no text, unit rows" in " ".join(said.out.split())
    assert "next: featcache prompts add dtd default --backbone RN50" in said.out
    peer = ("import", tmp_path / "out", "--from", "clip-retrieval")
    said = run(*peer, "--name", "pets", "--classifier", tmp_path / "clf.pt")
    assert (said.code, said.err) == (0, "")
    assert "labels: the directory of each image; splits: class directories, split by seed 1" in said.out
    assert "next: featcache fit" in said.out
    for options, message in (
        ((), "is a folder; say what wrote it, with --from tip-adapter"),
        (("--from", "tip-adapter", "--shots", "16"), "no keys_16shots.pt"),
        (("--from", "clip-benchmark"), "lacks features_train.pt"),
    ):
        said = run("import", dtd, "--name", "x", *options)
        assert (said.code, said.out) == (2, "")
        assert message in " ".join(said.err.split())


def test_an_imported_cache_is_fitted(run: Run, tmp_path: Path) -> None:
    folder = tip_folder(tmp_path / "dtd")
    torch.save(unit_rows(CLASSES, 5).T, tmp_path / "clf.pt")
    assert run("import", folder, "--from", "tip-adapter", "--name", "d", "--classifier", tmp_path / "clf.pt").code == 0
    said = run("fit", "d", "--alpha-grid", "0,0.5", "--epochs", "1")
    assert said.code == 0, said.err


def test_memory_does_not_grow_with_the_rows(home: Path, tmp_path: Path) -> None:
    """8,400 and 20,000 rows of 1,536 numbers, 36 MB apart: what Python and NumPy hold at most differs by the paths."""
    peak_mb = {}
    for count in (2100, 5000):
        names = [f"/d/{s}/{c}/{n}.jpg" for s in ("train", "test") for c in "ab" for n in range(count)]
        retrieval_folder(tmp_path / str(count), names, per_file=5000, dim=1536)
        # Not the process's size: it counts the file's pages that the system keeps mapped.
        tracemalloc.start()
        import_from("clip-retrieval", tmp_path / str(count), name=f"rows{count}")
        peak_mb[count] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    assert peak_mb[5000] - peak_mb[2100] < 20, peak_mb
