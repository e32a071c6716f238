"""Claim: fitting costs what its images and runs cost, and a store opens in the same time whatever its size.

    python benchmarks/scaling.py [--short] [--write [FILE]] [--folder FOLDER]

Fits: CLIP-Adapter's stacked grid at 1600 images of 100 classes, width 512, 4 views, 11 runs, with one of these changed
at a time; milliseconds a step and seconds an epoch, sizes of a series taking turns. What should hold: seconds an epoch
grow as images and runs do; a step grows with classes by the classifier's products alone; views cost nothing, for an
epoch shows each image once.

Stores: of 10^4, 10^5 and 10^6 training rows (width 512, float16, one view, 100 classes; a short run leaves the last
out), written by featcache.store into --folder (default: the system's temporary one; the largest takes 1.1 GB) and
removed afterwards. Each is read by a process of its own once torch is imported, `--repeats` times, its pages dropped
from the system's memory before where it allows that (`read from disk`), and once more as the write left it or the read
before. Told are: opening it and reading a batch of 32 rows spread over it; loading a draw of 16 images a class as a
search does; and the memory that each took at its peak above what the process held before. Target: open and first batch
under 0.2 s at 10^5 rows.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np

from featcache import recipes
from featcache.bench import Grid, shortened, stacked
from featcache.loading import draws_of, load_frozen, load_task
from featcache.prompts import DEFAULT, TextSet
from featcache.store import Block, Contents, Spec, SplitContents, Store, Tower, write_store

BASE = {"images": 1600, "classes": 100, "runs": 11, "views": 4}
SERIES = {
    "images": (400, 1600, 6400, 25_600),
    "classes": (10, 100, 1000),
    "runs": (11, 33, 99),
    "views": (1, 4, 16),
}
SHORT = {"images": (400, 1600, 6400), "classes": (10, 100), "runs": (11, 33), "views": (1, 4)}
ROWS = (10**4, 10**5, 10**6)
WIDTH, NUM_CLASSES, BLOCK = 512, 100, 10_000
TARGET = {"rows": 10**5, "open and first batch, s": 0.2}


def main() -> None:
    """Times fits and stores, prints both tables and writes the JSON."""
    asked = parsed()
    if asked.read:
        print(json.dumps(read(Path(asked.read))))  # noqa: T201 (`common.apart` reads it)
        return
    with common.observed(asked.device) as facts:
        fits = {what: series(asked, what) for what in asked.series}
        stores = [store(asked, rows) for rows in asked.rows]
    result = {"base": {**BASE, "width": asked.width}, "fits": fits, "stores": stores, "target": TARGET, **facts}
    tell(result)
    common.judge(verdicts(result))
    common.write(asked, "scaling", result)


def parsed() -> Any:
    made = common.parser(__doc__ or "")
    common.add_repeats(made, 3)
    common.add_device(made)
    made.add_argument("--width", type=int, default=512, help="of the fits")
    made.add_argument("--rows", type=int, nargs="+", help="of the stores; default 10^4 10^5 10^6")
    made.add_argument("--fits", nargs="+", metavar="WHAT=SIZES", help="in place of all series, as in classes=10,100")
    made.add_argument("--folder", type=Path, help="where to write the stores")
    made.add_argument("--read", help="for the script's own use: read this store and tell")
    asked = common.options(made)
    asked.rows = asked.rows or (ROWS[:2] if asked.short else ROWS)
    asked.series = SHORT if asked.short else SERIES
    if asked.fits:
        pairs = [text.split("=") for text in asked.fits]
        asked.series = {what: tuple(map(int, sizes.split(","))) for what, sizes in pairs}
    return asked


# -- fits ------------------------------------------------------------------------------------------------------------


def series(asked: Any, what: str) -> list[dict[str, Any]]:
    """The base size with one number changed, all taking turns."""
    grids = {size: grid_of(asked, {**BASE, what: size}) for size in asked.series[what]}
    ways = {str(size): partial(stacked, grid) for size, grid in grids.items()}
    seconds, _ = common.turns(ways, asked.repeats, asked.device)
    common.say(f"measured: fits by {what}")
    return [
        {
            what: size,
            "steps": grid.num_steps,
            "epochs": grid.recipe.epochs,
            "ms a step": common.summary([1e3 * each / grid.num_steps for each in seconds[str(size)]]),
            "seconds an epoch": common.summary([each / grid.recipe.epochs for each in seconds[str(size)]]),
        }
        for size, grid in grids.items()
    ]


def grid_of(asked: Any, size: dict[str, int]) -> Grid:
    """11 alphas on as many draws as make the runs."""
    recipe = shortened(recipes.make("coop", shots=16, dataset=""), size["images"])
    return common.drawn_grid(
        recipe,
        classes=size["classes"],
        width=asked.width,
        images=size["images"],
        views=size["views"],
        draws=size["runs"] // len(common.ALPHAS),
        device=asked.device,
    )


# -- stores ----------------------------------------------------------------------------------------------------------


def store(asked: Any, rows: int) -> dict[str, Any]:
    """A store of so many rows written, read in processes of their own, and removed."""
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        path = Path(folder) / "rows.h5"
        needed = 2 * rows * WIDTH * 2
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"a store of {rows} rows wants {needed / 1e9:.1f} GB free; --folder names another place")
        start = time.perf_counter()
        write(path, rows)
        written = time.perf_counter() - start
        from_disk, warm = [], []
        for _ in range(asked.repeats):
            dropped = drop(path)
            from_disk.append(common.apart(__file__, "--read", str(path)))
            warm.append(common.apart(__file__, "--read", str(path)))
        size = path.stat().st_size
    common.say(f"measured: a store of {rows} rows")
    return {
        "rows": rows,
        "file, MB": common.three_digits(size / 1e6),
        "seconds to write": common.three_digits(written),
        "pages could be dropped": dropped,
        "read from disk": summaries(from_disk),
        "read from memory": summaries(warm),
    }


def summaries(told: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median and range of what the processes told."""
    return {name: common.summary([each[name] for each in told]) for name in told[0]}


def write(path: Path, rows: int) -> None:
    """A store of `rows` training rows and a few of test, as an import would write it."""
    generator = np.random.default_rng(0)
    text = generator.normal(size=(NUM_CLASSES, WIDTH)).astype(np.float32)
    counts = {"train": rows, "test": NUM_CLASSES}
    tower = Tower(architecture="drawn", activation="gelu", checkpoint="random:0", precision="fp32")
    spec = Spec(tower=tower, transform={"style": "import"}, view_seed=0, dtype="float16", manifest=str(rows))
    contents = Contents(
        spec=spec,
        classes=tuple(f"class {index}" for index in range(NUM_CLASSES)),
        dim=WIDTH,
        logit_scale=100.0,
        provenance={"kind": "import", "dataset": "drawn"},
        splits={name: split(name, count, generator) for name, count in counts.items()},
        text={DEFAULT: text_set(text)},
    )
    write_store(path, contents)


def split(name: str, count: int, generator: np.random.Generator) -> SplitContents:
    """Rows class after class; the embeddings repeat block by block, for no figure hangs on them."""
    return SplitContents(
        path=tuple(f"{name}/{row:08d}.jpg" for row in range(count)),
        label=np.arange(count) * NUM_CLASSES // count,
        row=np.arange(count),
        num_views=1,
        blocks=blocks(count, generator.normal(size=(min(count, BLOCK), 1, WIDTH)).astype(np.float16)),
    )


def blocks(count: int, image: np.ndarray[Any, Any]) -> Iterator[Block]:
    for first in range(0, count, len(image)):
        part = image[: count - first]
        crop = np.zeros((len(part), 1, 5), dtype=np.int32)
        yield Block(part, crop, np.zeros((len(part), 2), dtype=np.uint64))


def text_set(text: np.ndarray[Any, Any]) -> TextSet:
    return TextSet(
        embedding=text,
        label=np.arange(len(text), dtype=np.int32),
        template=np.zeros(len(text), dtype=np.int32),
        templates=("a photo of a {}.",),
        origin="drawn",
        sentences=tuple(f"a photo of a class {index}." for index in range(len(text))),
    )


def drop(path: Path) -> bool:
    """Whether the system could be told to forget the file's pages, so that the next read is the disk's."""
    if not hasattr(os, "posix_fadvise"):
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
    return True


def read(path: Path) -> dict[str, float]:
    """Seconds and memory of opening the store, of a first batch, and of a draw, in this process."""
    before = common.reset_peak()
    start = time.perf_counter()
    with Store(path) as opened:
        at_open = time.perf_counter()
        rows = opened.num_rows("train")
        opened.gather("train", "image", np.linspace(0, rows - 1, 32).astype(np.int64))
        at_batch, batch_peak = time.perf_counter(), common.peak_bytes()
        (drawn,) = draws_of(opened, 16, (1,))
        task = load_task(opened, drawn, load_frozen(opened, DEFAULT, common.CPU))
        at_draw, draw_peak = time.perf_counter(), common.peak_bytes()
    assert len(task.label) == 16 * NUM_CLASSES, "every class has 16 rows"
    return {
        "open, s": at_open - start,
        "open and first batch, s": at_batch - start,
        "first batch, MB": (batch_peak - before) / 1e6,
        "a draw of 16 shots, s": at_draw - at_batch,
        "a draw of 16 shots, MB": (draw_peak - before) / 1e6,
    }


# -- the report ------------------------------------------------------------------------------------------------------


def verdicts(result: dict[str, Any]) -> list[common.Verdict]:
    """Opening the store of the target's size."""
    named = "open and first batch, s"
    return [
        common.Verdict(
            f"{cell['rows']:,} rows: open and first batch under {TARGET[named]} s",
            f"{common.spread(cell[how][named])} s, {how}",
            cell[how][named]["median"] < TARGET[named],
        )
        for cell in result["stores"]
        if cell["rows"] == TARGET["rows"]
        for how in ("read from disk", "read from memory")
    ]


def tell(result: dict[str, Any]) -> None:
    """A table of fits and one of stores."""
    stores = result["stores"]
    rows = [
        [what, str(cell[what]), common.spread(cell["ms a step"]), common.spread(cell["seconds an epoch"])]
        for what, cells in result["fits"].items()
        for cell in cells
    ]
    title = ", ".join(f"{size} {what}" for what, size in BASE.items())
    common.show(["changed", "to", "ms a step", "s an epoch"], rows, f"Stacked fits; unless changed {title}")
    rows = []
    for cell in stores:
        for how in ("read from disk", "read from memory"):
            told = [common.spread(each) for each in cell[how].values()]
            rows.append([f"{cell['rows']:,}", how.removeprefix("read from "), *told])
    columns = ["rows", "from", *stores[0]["read from disk"]]
    common.show(
        columns,
        rows,
        f"Stores: medians (range); target at {TARGET['rows']:,} rows: {TARGET['open and first batch, s']} s",
    )


if __name__ == "__main__":
    main()
