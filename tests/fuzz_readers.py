"""The readers that tests/fuzz.py tries: for each a sound input, a way to spoil it, and all that is read of it."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests import damage_sweep, recorded, synthetic
from tests.fuzz_inputs import SPLITS, TABLES, VALUES, archives, example, headed, heads, mutated, pngs, resealed, zips


class Reader:
    """One reader: files in a folder of its own, spoilt and read again and again."""

    def __init__(self, file: Path, read: Callable[[], Any], *, seeds: list[bytes], spoil: Any = None) -> None:
        self.file = file
        self.read = read
        self.seeds = seeds
        self.spoil = spoil or mutated

    def put(self, generator: random.Random) -> None:
        """Write one input."""
        self.file.write_bytes(self.spoil(generator.choice(self.seeds), generator))


def _store(folder: Path) -> Reader:
    from featcache.store.gate import vouch

    path = damage_sweep.make("store", Path(os.environ["FEATCACHE_HOME"]))
    good = path.read_bytes()

    def read() -> None:
        vouch(path)  # what the trial in another process refuses is refused; what it lets pass is tried here
        damage_sweep.told("store", path)

    def spoil(data: bytes, generator: random.Random) -> bytes:
        return (resealed if generator.random() < 0.7 else mutated)(data, generator)

    return Reader(path, read, seeds=[good], spoil=spoil)


def _part(folder: Path) -> Reader:
    path = damage_sweep.make("part", folder)
    return Reader(path, lambda: damage_sweep.told("part", path), seeds=[path.read_bytes()])


def _npz(folder: Path) -> Reader:
    from featcache.importing import npz

    file, arrays = folder / "f.npz", synthetic.arrays(classes=3, dim=4, train=3, val=1, test=2)
    named = arrays | {"class_names": np.array(["a", "b", "c"]), "logit_scale": np.array(50.0)}
    synthetic.save(file, named)
    return Reader(file, lambda: npz.read(file), seeds=[file.read_bytes()], spoil=zips)


def _torch(folder: Path) -> Reader:
    from featcache.importing import tensors

    file, seeds = folder / "t.pt", []
    for value in (torch.randn(6, 4), torch.arange(6), torch.eye(3)[[0, 1, 2]], torch.randn(4).expand(3, 4)):
        for zipped in (True, False):
            torch.save(value, file, _use_new_zipfile_serialization=zipped)
            seeds.append(file.read_bytes())

    def read() -> None:
        from featcache.errors import DataError

        refusals = []
        for load in (tensors.load_rows, tensors.load_labels, tensors.load_one_hot):
            try:
                load(file)
            except DataError as error:
                refusals.append(error)
        if len(refusals) == 3:
            raise refusals[0]

    return Reader(file, read, seeds=seeds, spoil=zips)


def _checkpoint(folder: Path) -> Reader:
    from safetensors.torch import save_file

    from featcache.backbones.files import check_loads_safely
    from featcache.errors import DataError

    file, seeds = folder / "w.safetensors", []
    state = {"a.weight": torch.randn(3, 4), "logit_scale": torch.tensor(4.6)}
    save_file(state, file)
    seeds.append(file.read_bytes())
    torch.save(state, file)
    seeds.append(file.read_bytes())

    def read() -> None:
        from safetensors.torch import load_file

        if file.read_bytes()[:2] == b"PK":
            other = file.with_suffix(".pt")
            other.write_bytes(file.read_bytes())
            check_loads_safely(other, "tiny")
            return
        check_loads_safely(file, "tiny")
        try:  # as building.py does, whose error trees these are
            load_file(file)
        except Exception as error:
            raise DataError(str(error)[:500] or type(error).__name__) from error

    return Reader(file, read, seeds=seeds, spoil=zips)


def _head(folder: Path) -> Reader:
    from featcache.heads.exporting import head_of_result
    from featcache.heads.files import load_module, save_head
    from featcache.importing import import_npz

    record, file = folder / "results.sqlite", folder / "head.safetensors"
    arrays = synthetic.arrays(classes=3, dim=8, train=4, val=2, test=3)
    recorded.fitted(import_npz(synthetic.save(folder / "f.npz", arrays), name="toy"), record, "clip_adapter")
    save_head(file, head_of_result(record, 1).head)

    def read() -> None:
        module = load_module(file)
        assert module.logits(torch.zeros(2, 8) + 1).isfinite().all()

    return Reader(file, read, seeds=[file.read_bytes()], spoil=heads)


def _npy_folder(folder: Path) -> Reader:
    from featcache.importing import clip_retrieval

    file = folder / "x.npy"
    np.save(file, np.random.default_rng(0).normal(size=(5, 4)).astype(np.float16))

    def read() -> None:
        rows = clip_retrieval.NpyRows((file,))
        rows.take(np.arange(rows.shape[0]))

    return Reader(file, read, seeds=[file.read_bytes()], spoil=headed)


def _archive(folder: Path) -> Reader:
    from featcache.datasets.archives import unpack

    seeds = []
    members = {"a/b/1.jpg": b"x" * 300, "a/list.txt": b"1 2 3\n" * 50}
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("a/link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            if mode == "w:xz":
                tar.addfile(link)
        seeds.append(out.getvalue())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    seeds.append(out.getvalue())
    file, number = folder / "archive", iter(range(1 << 40))

    def read() -> None:
        target = folder / "unpacked" / str(next(number)) / "here"
        target.parent.mkdir(parents=True)
        try:
            unpack(file, target, limit_bytes=50 << 20)
        finally:
            outside = [path for path in target.parent.iterdir() if path != target]
            links = [path for path in target.rglob("*") if path.is_symlink()]
            shutil.rmtree(target.parent)
            assert not outside, f"wrote outside: {outside}"
            assert not links, f"made links: {links}"

    return Reader(file, read, seeds=seeds, spoil=archives)


def _image(folder: Path) -> Reader:
    from featcache import views

    seeds = []
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        out = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(out, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
        seeds.append(out.getvalue())
    for mode in ("I;16", "L", "P", "1", "LA"):
        out = io.BytesIO()
        (Image.new("I;16", (9, 7)) if mode == "I;16" else picture.convert(mode)).save(out, "PNG")
        seeds.append(out.getvalue())
    file = folder / "image"
    transform = views.Transform(style="clip", size=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))

    def read() -> None:
        image = views.decode(file.read_bytes(), upright=True)
        for number in (0, 1):
            pixels, _ = views.view(image, transform, number=number, path="image", seed=0)
            assert pixels.shape == (32, 32, 3)

    return Reader(file, read, seeds=seeds, spoil=pngs)


def _coop(folder: Path) -> Reader:
    from featcache.datasets import load

    root = folder / "data" / "dtd"
    for name in ("a", "b"):
        for number in range(4):
            (root / "images" / name).mkdir(parents=True, exist_ok=True)
            (root / "images" / name / f"{number}.jpg").write_bytes(b"x")
    entries = [[f"{name}/{number}.jpg", label, name] for label, name in enumerate("ab") for number in range(4)]
    good = json.dumps({"train": entries[::2], "val": [], "test": entries[1::2]}).encode()
    file = root / "split_zhou_DescribableTextures.json"

    def spoil(data: bytes, generator: random.Random) -> bytes:
        if generator.random() < 0.7:
            return mutated(data, generator)
        return json.dumps(example(SPLITS | VALUES, generator)).encode()

    return Reader(file, lambda: load("dtd", data=folder / "data"), seeds=[good, b"[" * 100_000], spoil=spoil)


def _csv(folder: Path) -> Reader:
    from featcache.datasets import load

    for name in ("a", "b"):
        for number in range(5):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{number}.jpg").write_bytes(b"x")
    rows = "".join(f"{name}/{number}.jpg,{name}\n" for name in "ab" for number in range(5))
    split = "".join(
        f"{name}/{number}.jpg,{name},{'test' if number else 'train'}\n" for name in "ab" for number in range(5)
    )
    seeds = [f"path,label\n{rows}".encode(), f"path,label,split\n{split}".encode()]
    file = folder / "table.csv"

    def spoil(data: bytes, generator: random.Random) -> bytes:
        if generator.random() < 0.7:
            return mutated(data, generator)
        return f"path,label\n{example(TABLES, generator)}".encode(errors="surrogatepass")

    return Reader(file, lambda: load(f"csv:{file}", data=None), seeds=seeds, spoil=spoil)


def _prompts(folder: Path) -> Reader:
    from featcache.prompts import prompt_set

    file = folder / "described.json"
    good = json.dumps({"cat": ["a cat."], "dog": ["a dog.", "it barks."]}).encode()

    def spoil(data: bytes, generator: random.Random) -> bytes:
        return mutated(data, generator) if generator.random() < 0.7 else json.dumps(example(VALUES, generator)).encode()

    def read() -> None:
        prompt_set(str(file), ("cat", "dog"), ("cat", "dog"), template="a photo of a {}.")

    return Reader(file, read, seeds=[good, b"[" * 100_000], spoil=spoil)


def _mat_whole(folder: Path) -> Reader:
    """As a command reads it, which takes a process each time."""
    from featcache.datasets import mat

    reader = _mat(folder)
    return Reader(reader.file, lambda: mat.read_rows((reader.file, "row")), seeds=reader.seeds)


def _mat(folder: Path) -> Reader:
    import scipy.io

    from featcache.datasets import mat
    from featcache.errors import DataError

    file, seeds = folder / "m.mat", []
    records = np.array(
        [[(np.array(["a.jpg"]), np.array([[1]], dtype=np.uint8))]], dtype=[("fname", "O"), ("class", "O")]
    )
    for value in (np.arange(9, dtype=np.uint8)[None], records, np.array([["x", "yy"]], dtype=object)):
        for packed in (False, True):
            scipy.io.savemat(file, {"row": value}, do_compression=packed)
            seeds.append(file.read_bytes())

    def read() -> None:  # what the process apart does; there a crash or MemoryError is a refusal
        try:
            json.dumps(mat.rows_apart(str(file), "row"))
        except MemoryError as error:
            raise DataError("too much memory") from error

    return Reader(file, read, seeds=seeds)


def _parquet(folder: Path) -> Reader:
    import pyarrow
    import pyarrow.parquet

    from featcache.importing import clip_retrieval

    file, seeds = folder / "m.parquet", []
    table = pyarrow.table({"image_path": [f"train/cat/{number}.jpg" for number in range(6)], "key": list(range(6))})
    for packed in ("snappy", "none", "gzip"):
        pyarrow.parquet.write_table(table, file, compression=packed)
        seeds.append(file.read_bytes())
    return Reader(file, lambda: clip_retrieval._paths(file, Path("x.npy"), 6), seeds=seeds)


READERS: dict[str, Callable[[Path], Reader]] = {
    "store": _store,
    "part": _part,
    "npz": _npz,
    "torch": _torch,
    "checkpoint": _checkpoint,
    "head": _head,
    "npy": _npy_folder,
    "archive": _archive,
    "image": _image,
    "split-json": _coop,
    "csv": _csv,
    "prompts": _prompts,
    "mat": _mat,
    "parquet": _parquet,
}
APART = {"mat": _mat_whole}
"""Readers whose own process may die of an input, for the command's reads in another: what that makes of it counts."""
