"""Flips every byte of a small store and of a part, and cuts both at every length: is anything read wrong?

    python -m tests.damage_sweep                every byte twice, every length: some tens of minutes on two cores
    python -m tests.damage_sweep --every 20     each 20th
    python -m tests.damage_sweep --share 2/8    the second eighth of all, for `python -m tests.torture`

Each damaged file is opened and read by all there is to read one with, and a head is fitted on it, in a child process
with a time limit. It must be refused with StoreError, or give exactly what the sound file gives. A wrong number,
another exception, a child that dies and one that hangs are each counted apart, and make the sweep fail.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from featcache.prompts import TextSet
from featcache.store import Store
from featcache.store.gate import vouch

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("store", "part")
KEY = "ab" * 32
SECONDS_A_CASE = 60
CASES_A_CHILD = 2000


def make(kind: str, home: Path) -> Path:
    """A small sound file of a kind, in the cache folder `home`; run where FEATCACHE_HOME says so too."""
    return _make_store(home) if kind == "store" else _make_part()


def damaged(good: bytes, case: int) -> bytes:
    """The case-th damage of a file of n bytes: n times all bits of one byte, n times one random bit, n lengths."""
    way, at = divmod(case, len(good))
    if way == 2:
        return good[:at]
    bits = 255 if way == 0 else 1 << random.Random(case).randrange(8)
    return good[:at] + bytes([good[at] ^ bits]) + good[at + 1 :]


def told(kind: str, path: Path) -> str:
    """A digest of all that a file gives its readers. Raises StoreError where it is refused."""
    return _told_by_store(path) if kind == "store" else _told_by_part()


def sweep(kind: str, cases: list[int], *, jobs: int) -> Counter[str]:
    """How many cases ended in which way; prints each that ended in none it may."""
    groups = [cases[start : start + CASES_A_CHILD] for start in range(0, len(cases), CASES_A_CHILD)]
    if len(groups) < jobs:
        groups = [cases[first::jobs] for first in range(jobs) if cases[first::jobs]]
    with ThreadPoolExecutor(jobs) as pool:
        return sum(pool.map(lambda group: _in_children(kind, group), groups), Counter())


def _in_children(kind: str, cases: list[int]) -> Counter[str]:
    """A child does the cases in turn; where it dies or hangs, that case is told and another child goes on."""
    counts: Counter[str] = Counter()
    left = list(cases)
    while left:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as numbers:
            numbers.write(" ".join(map(str, left)))
            numbers.seek(0)
            out = Path(folder) / "out"
            with out.open("w") as said:
                child = subprocess.Popen(
                    [sys.executable, "-m", "tests.damage_sweep", "--child", kind],
                    cwd=ROOT,
                    env=os.environ | {"FEATCACHE_HOME": str(Path(folder) / "home"), "OMP_NUM_THREADS": "1"},
                    stdin=numbers,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
                ending = _wait(child, out)
            lines = [line.split(" ", 2) for line in out.read_text(errors="replace").splitlines()]
            done = [line for line in lines if line[0] == "case" and len(line) == 3]
            for _, number, outcome in done:
                kind_of = outcome.split(":")[0]
                counts[kind_of] += 1
                if kind_of not in ("refused", "equal"):
                    print(f"{kind} case {number}: {outcome}", flush=True)  # noqa: T201
            if child.returncode == 0:
                break
            if not done and ending != "hangs":
                raise RuntimeError(out.read_text(errors="replace")[-2000:])
            left = left[len(done) :]
            print(f"{kind} case {left[0]}: the process {ending}", flush=True)  # noqa: T201
            counts[ending.split()[0]] += 1
            left = left[1:]
    return counts


def _wait(child: subprocess.Popen[bytes], out: Path) -> str:
    """How the child ended; one that says nothing for SECONDS_A_CASE hangs, and is killed."""
    size, since = -1, time.monotonic()
    while child.poll() is None:
        time.sleep(0.05)
        now = out.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > SECONDS_A_CASE + (240 if size <= 0 else 0):  # it loads torch at first
            child.kill()
            child.wait()
            return "hangs"
    return f"dies ({child.returncode})"


def _child(kind: str) -> None:
    home = Path(os.environ["FEATCACHE_HOME"])
    path = make(kind, home)
    good, expected = path.read_bytes(), told(kind, path)
    fit = _fit_of(path) if kind == "store" else ""
    for case in map(int, sys.stdin.read().split()):
        path.write_bytes(damaged(good, case))
        if kind == "store":
            vouch(path)  # as if the disk had damaged what was written here: no child reads it first
        try:
            outcome = _outcome(kind, path, expected, fit)
        except BaseException as error:
            outcome = f"RAISES: {type(error).__name__} {error}".replace("\n", " ")
        print(f"case {case} {outcome}", flush=True)  # noqa: T201


def _outcome(kind: str, path: Path, expected: str, fit: str) -> str:
    from featcache.errors import StoreError

    try:
        return "equal" if told(kind, path) == expected else "WRONG"
    except StoreError:
        if kind == "part":
            return "refused"
    try:  # a fit reads less than all: damage to what it does not need must not change it
        return "refused" if _fit_of(path) == fit else "WRONG fit"
    except StoreError:
        return "refused"


# --- a store


def _make_store(home: Path) -> Path:
    from featcache.store import Block, Contents, Spec, SplitContents, Tower, write_store

    generator = np.random.default_rng(0)
    tower = Tower(architecture="RN50-quickgelu", activation="quickgelu", checkpoint="ab" * 32, precision="fp32")
    spec = Spec(tower=tower, transform={"style": "coop"}, view_seed=0, dtype="float16", manifest="cd" * 32)
    splits = {}
    for split, (count, views) in {"train": (9, 2), "val": (6, 1), "test": (6, 1)}.items():
        block = Block(
            image=generator.normal(size=(count, views, 8)).astype(np.float16),
            crop=generator.integers(0, 99, size=(count, views, 5)).astype(np.int32),
            source=generator.integers(0, 2**63, size=(count, 2), dtype=np.uint64),
        )
        lacking = [count] if split == "train" else []
        splits[split] = SplitContents(
            path=tuple(f"{split}/ü{row}.jpg" for row in range(count + len(lacking))),
            label=np.arange(count + len(lacking)) % 3,
            row=np.arange(count),
            num_views=views,
            blocks=[block],
            missing=dict.fromkeys(lacking, "does not decode"),
        )
    # An attribute beyond 4 KiB lies where HDF5 keeps no checksum of its own.
    provenance = {"kind": "extract", "dataset": "small", "command": "featcache extract", "draws": [[2, 1]]}
    contents = Contents(
        spec=spec,
        classes=("ant", "bee", "cat"),
        class_ids=("n01", "n02", "n03"),
        dim=8,
        logit_scale=50.0,
        provenance=provenance | {"note": "x" * 4200},
        splits=splits,
        text={"default": _text_set(1), "paper-7": _text_set(2)},
    )
    path = home / "stores" / "small.h5"
    write_store(path, contents)
    return path


def _text_set(each: int) -> TextSet:
    label = np.repeat(np.arange(3, dtype=np.int32), each)
    return TextSet(
        embedding=np.random.default_rng(each).normal(size=(3 * each, 8)).astype(np.float32),
        label=label,
        template=np.tile(np.arange(each, dtype=np.int32), 3),
        templates=tuple(f"{number} {{}}." for number in range(each)),
        origin="ef" * 32,
        sentences=tuple(f"sentence {number}" for number in range(3 * each)),
    )


def _told_by_store(path: Path) -> str:
    """Store's every property, the tensors methods see, what `verify` says, and a head fitted on them."""
    import torch

    from featcache.errors import StoreError
    from featcache.loading import data_set, draws_of, load_frozen, load_rows, load_task, missing_paths
    from featcache.store.checking import verify
    from featcache.store.copying import contents_of
    from featcache.store.places import key_of

    digest = hashlib.sha256()

    def tell(*values: object) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                value = value.numpy()
            digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())

    key = key_of(path)
    with Store(path) as store:
        tell(key, store.spec, store.key, store.content, store.logit_scale, store.logit_bias, store.norm, store.created)
        tell(store.versions, store.provenance, store.classes, store.class_ids, store.splits, store.text_sets, store.dim)
        tell([store.text(name).digest for name in store.text_sets], data_set(store), missing_paths(store))
        for split in store.splits:
            tell(store.label(split), store.paths(split), store.rows(split), store.missing(split))
            tell(*(store.array(split, name, slice(None)) for name in ("image", "crop", "source", "digest")))
        cpu = torch.device("cpu")
        for chosen in draws_of(store, None, None):
            frozen = load_frozen(store, "default+paper-7", cpu)
            task = load_task(store, chosen, frozen)
            tell(frozen.text, frozen.logit_scale, frozen.names, task.image, task.label)
        for split in ("val", "test"):
            rows = load_rows(store, split, cpu)
            tell(rows.image, rows.label)
        tell([block for split in contents_of(store).splits.values() for block in split.blocks])
        if problems := verify(store):
            raise StoreError("; ".join(problems))
        tell(_fitted(store))
    return digest.hexdigest()


def _fit_of(path: Path) -> str:
    with Store(path) as store:
        return repr(_fitted(store))


def _fitted(store: Store) -> object:
    """What one alpha comes to."""
    from featcache import recipes
    from featcache.preparing import Settings
    from featcache.search import search

    chosen = Settings(adapter="clip_adapter", grid={"alpha": (0.5,)}, shots=2, shot_seeds=(1,))
    outcome = search(store, chosen, lambda shots: replace(recipes.make("coop", shots=shots, dataset="any"), epochs=1))
    return [(run.selection, run.test) for run in outcome.runs]


# --- a part


def _make_part() -> Path:
    from featcache.extraction.parts import PartContents, read_parts, write_part

    generator = np.random.default_rng(0)
    contents = PartContents(
        split="train",
        row=np.repeat(np.arange(6), 2),
        view=np.tile(np.arange(2), 6),
        image=generator.normal(size=(12, 8)).astype(np.float16),
        crop=generator.integers(0, 99, size=(12, 5)).astype(np.int32),
        source=generator.integers(0, 2**63, size=(12, 2), dtype=np.uint64),
        unreadable={7: "does not decode"},
        place="ab" * 8,
    )
    write_part(KEY, "0" * 32, contents)
    return next(iter(read_parts(KEY))).path


def _told_by_part() -> str:
    from featcache.errors import StoreError
    from featcache.extraction.parts import read_parts

    parts = list(read_parts(KEY))
    if not parts:
        raise StoreError("no sound part is left, so its rows are made anew")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr((part.split, part.unreadable, part.place)).encode())
        for values in (part.row, part.view, *(part.load(name) for name in ("image", "crop", "source"))):
            digest.update(values.tobytes())
    return digest.hexdigest()


def sizes() -> dict[str, int]:
    """How many bytes the swept file of each kind has."""
    found = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            before = os.environ.get("FEATCACHE_HOME")
            os.environ["FEATCACHE_HOME"] = folder
            try:
                found[kind] = make(kind, Path(folder)).stat().st_size
            finally:
                os.environ.pop("FEATCACHE_HOME")
                if before is not None:
                    os.environ["FEATCACHE_HOME"] = before
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take each N-th case only")
    parser.add_argument("--share", default="1/1", metavar="I/N", help="the I-th of N equal shares of the cases")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--child", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child)
        return
    failed = False
    share, shares = map(int, options.share.split("/"))
    for kind, size in sizes().items():
        start = time.monotonic()
        counts = sweep(kind, list(range(0, 3 * size, options.every))[share - 1 :: shares], jobs=options.jobs)
        failed |= bool(set(counts) - {"refused", "equal"})
        ended = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
        took = time.monotonic() - start
        print(f"{kind}: {size:,} bytes, {counts.total():,} damaged files, {took:.0f} s: {ended}", flush=True)  # noqa: T201
    sys.exit(failed)


if __name__ == "__main__":
    main()
