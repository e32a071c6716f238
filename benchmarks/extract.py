"""Claim: extraction costs the frozen forward pass and the decoding of each image once, and nothing else.

    python benchmarks/extract.py --write             [--short] [--backbones RN50,tiny]

Images a second of `featcache extract`'s work, plan and store included, beside

    bare forward          passes over ready tensors of the same batch, channels last, freed memory kept on a CPU as
                          featcache keeps it, and nothing else
    decode per view       a DataLoader whose every item opens, decodes and crops an image for one view; a list
    CLIP_benchmark-style  a DataLoader over the images, one view, autocast off, features to a list, then torch.save

and the loading stages alone: featcache's (decode once, draw all views; with PIL's pixels and torch's) and
decode-per-view's, with nothing done with what they give; the data set's sentences through the text tower; and, on one
thread, the processor seconds an image takes to decode and view. In one view, decoding per view is what the
CLIP_benchmark-style loop does. JPEG files made here, DTD-sized (300 to 640 pixels a side) and ImageNet-sized (500 x
375), in 1 view (the squash of test images) and 10; RN50 with random weights and `tiny`, float32, batches of 64, one
loading process a core. The ways take turns. The floor is the bare forward plus decode core-seconds / cores on a CPU,
whose cores do both, and the longer of the two on a GPU; either plus the sentences, which an extraction cannot do
without.

Same work: view 0's embeddings of featcache and of the CLIP_benchmark-style loop are held against each other; the
largest difference is told relative to an embedding's distance from the mean one.

Targets: RN50, DTD-sized, 1 view on a CPU within 5 % of the floor; `tiny`, ImageNet-sized, 10 views: the loading stage
at least 3x decode-per-view; RN50, 10 views on a GPU at least 90 % of the lesser of the two rates.
What was found: docs/performance.md.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import as_published
import common
import numpy as np
import torch
from pictures import SIZES, jpeg_files
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from featcache.backbones import Backbone
from featcache.datasets import FileReader, Manifest
from featcache.datasets.manifest import split_of
from featcache.extraction import Plan, Request, carry_out, make_plan
from featcache.extraction.encode import Decoded, Machine, Work, decode
from featcache.extraction.shards import Shards
from featcache.kept_memory import kept_memory
from featcache.store import Store

BATCH = 64
WITHIN, LOADING_TARGET = 1.05, 3
VIEWS = (1, 10)
BARE_BATCHES = 2
"""Ready batches that the bare loop runs: every batch costs the same."""
OURS, BARE, PER_VIEW, PLAIN = "featcache", "bare forward", "decode per view", "CLIP_benchmark-style"
TEXT = "sentences alone"
LOADING_TORCH = "loading alone, --pixels torch"
LOADING, LOADING_PER_VIEW = "loading alone", "loading alone, decode per view"
IMAGES = {
    "full": {("RN50", 1): 1024, ("RN50", 10): 64, ("tiny", 1): 512, ("tiny", 10): 256},
    "short": {("RN50", 1): 64, ("RN50", 10): 64, ("tiny", 1): 128, ("tiny", 10): 64},
    "least": {("RN50", 1): 2, ("RN50", 10): 2, ("tiny", 1): 4, ("tiny", 10): 3},
}
"""How many images: under 64 featcache starts no loading processes. A thousand in one view, for a test split is as
large: the first batch costs a second more than the others, and 256 images would tell of that."""


def main() -> None:
    made = common.parser(__doc__ or "")
    common.add_repeats(made, 3)
    common.add_device(made)
    made.add_argument("--backbones", default="RN50,tiny")
    made.add_argument("--only", default="", help="cases whose name holds this; the others stay as they were written")
    made.add_argument(
        "--least", action="store_true", help="run through as little as possible; the figures mean nothing"
    )
    asked = common.options(made)
    counts = IMAGES["least" if asked.least else "short" if asked.short else "full"]
    cases = {}
    with common.observed(asked.device) as machine, tempfile.TemporaryDirectory() as place:
        for kind in SIZES:
            names = jpeg_files(Path(place) / kind, kind, max(counts.values()))
            for name in asked.backbones.split(","):
                weights = None if name == "tiny" else "random:0"
                backbone, plain = Backbone(name, weights), Backbone(name, weights).model.to(asked.device)
                for num_views in VIEWS:
                    named = f"{name}, {kind}, {num_views} views"
                    if asked.only not in named:
                        continue
                    chosen = tuple(names[: counts[name, num_views]])
                    case = Case(backbone, plain, Path(place) / kind, chosen, num_views, asked.device)
                    cases[named] = measured(case, asked)
    tell({"cases": cases})
    common.judge(verdicts({"cases": cases}))
    for told in cases.values():
        told |= {"machine": machine, "commit": common.commit(), "repeats": asked.repeats}
    common.write(asked, "extract", {"cases": common.written(asked, "extract").get("cases", {}) | cases})


@dataclass(frozen=True)
class Case:
    """One backbone on one folder of images, in a number of views."""

    backbone: Backbone
    plain: Any
    """The same model once more, in the memory format that loops leave it in."""
    root: Path
    names: tuple[str, ...]
    num_views: int
    device: torch.device

    @property
    def workers(self) -> int:
        """Loading processes, of every way alike."""
        return as_published.num_cores()

    @property
    def num_embeddings(self) -> int:
        return len(self.names) * self.num_views

    @property
    def machine(self) -> Machine:
        return Machine(device=self.device, batch_size=BATCH, workers=self.workers)

    def plan(self, pixels: str = Request.pixels) -> Plan:
        """What featcache has to do: one view is a test image's, ten are a training image's."""
        split = split_of((name, index % 2) for index, name in enumerate(self.names))
        manifest = Manifest(
            name="made-here",
            classes=("one", "other"),
            template="a photo of a {}.",
            splits={"test" if self.num_views == 1 else "train": split},
            source="made here",
            reader=FileReader(self.root),
        )
        request = Request(shots=(1,), shot_seeds=(1,), num_views=self.num_views - 1, all_train=True, pixels=pixels)
        return make_plan(manifest, self.backbone.identity, request)


def measured(case: Case, asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every way over the same images, and what they say."""
    said = sentences(case)
    ways: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(case),
        BARE: lambda: bare(case),
        TEXT: lambda: case.backbone.encode_texts(said, case.device),
        LOADING: lambda: loading(case),
        LOADING_TORCH: lambda: loading(case, "torch"),
        LOADING_PER_VIEW: lambda: sum(len(pixels) for pixels in per_view_loader(case)),
    }
    loop = PLAIN if case.num_views == 1 else PER_VIEW
    ways[loop] = lambda: clip_benchmark(case) if loop == PLAIN else per_view(case)
    for warm_up in (BARE, TEXT, LOADING, LOADING_PER_VIEW):
        ways[warm_up]()
    seconds, given = common.turns(ways, asked.repeats, case.device, warm_up=0)
    scale = case.num_embeddings / given[BARE]
    seconds[BARE] = [scale * value for value in seconds[BARE]]
    decode = [core_seconds(case) for _ in range(asked.repeats)]
    cores = case.workers
    shared = sum if case.device.type == "cpu" else max
    floor = [
        shared((one, per_image / cores)) + text
        for one, per_image, text in zip(seconds[BARE], decode, seconds[TEXT], strict=True)
    ]
    text = common.summary(seconds.pop(TEXT))
    told: dict[str, Any] = {
        "images": len(case.names),
        "images a second": {
            name: common.summary([len(case.names) / value for value in each]) for name, each in seconds.items()
        },
        "seconds of the sentences": text,
        "core-seconds an image to decode and view": common.three_digits(median(decode) / len(case.names)),
        "floor, images a second": common.summary([len(case.names) / value for value in floor]),
        "time over the floor's": common.ratios(seconds[OURS], floor),
        "times decode per view": common.ratios(seconds[loop], seconds[OURS]),
        "loading, times decode per view": common.ratios(seconds[LOADING_PER_VIEW], seconds[LOADING]),
        "loading with --pixels torch, times decode per view": common.ratios(
            seconds[LOADING_PER_VIEW], seconds[LOADING_TORCH]
        ),
    }
    if case.num_views == 1:
        told["times CLIP_benchmark-style"] = common.ratios(seconds[PLAIN], seconds[OURS])
        told["largest difference of an embedding, relative"] = difference(given[OURS], given[PLAIN])
    return told


def ours(case: Case) -> Tensor:
    """View 0 of the first images (N, D), from a store made from nothing."""
    with tempfile.TemporaryDirectory() as home, own_home(home):
        plan = case.plan()
        carry_out(plan, case.backbone, case.machine, provenance={}, progress=lambda _: None)
        with Store(plan.store) as store:
            split = store.splits[0]
            rows = store.gather(split, "image", np.arange(len(case.names)))[:, 0]
    return torch.from_numpy(rows.astype(np.float32))


def sentences(case: Case) -> tuple[str, ...]:
    """What the text tower is given."""
    with tempfile.TemporaryDirectory() as home, own_home(home):
        (prompts,) = case.plan().texts.missing
    return prompts.sentences


def loading(case: Case, pixels: str = Request.pixels) -> int:
    """How many views featcache's loading stage gave."""
    with loading_stage(case, case.machine, pixels) as images:
        return sum(len(decoded.pixels) for decoded in images)


@contextmanager
def loading_stage(case: Case, machine: Machine, pixels: str = Request.pixels) -> Iterator[Iterator[Decoded]]:
    """featcache's loading stage, over images of which nothing is there already."""
    with tempfile.TemporaryDirectory() as home, own_home(home):
        plan = case.plan(pixels)
        shards = Shards(plan.missing, plan.manifest)
        yield decode(Work.of(plan), shards, range(len(shards)), machine)


def bare(case: Case) -> int:
    """How many embeddings passes over a ready batch gave; the caller multiplies."""
    model: Any = case.backbone.model.to(case.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = min(BARE_BATCHES, -(-case.num_embeddings // BATCH))
    size = case.backbone.identity.size
    pixels = torch.zeros(BATCH, size, size, 3, device=case.device).uniform_(-1, 1).permute(0, 3, 1, 2)
    with torch.inference_mode(), kept_memory(case.device):
        for _ in range(batches):
            model.encode_image(pixels)
    return batches * BATCH


def per_view(case: Case) -> Tensor:
    """(N V, D) features of a loop that decodes an image once for each view."""
    return features(case, per_view_loader(case))


def clip_benchmark(case: Case) -> Tensor:
    """(N, D) features of images in one view, collected in a list and saved."""
    found = features(case, per_view_loader(case))
    torch.save(found, io.BytesIO())
    return found


def features(case: Case, batches: DataLoader[Tensor]) -> Tensor:
    """What loops over a DataLoader write: no memory format, no overlap but the loader's own, float32."""
    found = []
    with torch.no_grad():
        for pixels in batches:
            found.append(case.plain.encode_image(pixels.to(case.device)).cpu())
    return torch.cat(found)


def per_view_loader(case: Case) -> DataLoader[Tensor]:
    """Batches of single views in order, each decoded for itself."""
    return DataLoader(
        ImageOfView(case), batch_size=BATCH, num_workers=case.workers, pin_memory=case.device.type == "cuda"
    )


class ImageOfView(Dataset[Tensor]):
    """Item i is view i % V of image i // V, opened, decoded and transformed for itself."""

    def __init__(self, case: Case) -> None:
        self.root, self.names, self.num_views = case.root, case.names, case.num_views
        split = "test" if case.num_views == 1 else "train"
        self.transform = as_published.transform_of(split, case.backbone.model)

    def __len__(self) -> int:
        return len(self.names) * self.num_views

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(self.root / self.names[index // self.num_views]).convert("RGB")
        pixels: Tensor = self.transform(image)
        return pixels


def core_seconds(case: Case) -> float:
    """Processor seconds of decoding every image once and drawing its views, on one thread."""
    alone = Machine(device=case.device, batch_size=BATCH, workers=0)
    with loading_stage(case, alone) as images:
        start = time.process_time()
        for _ in images:
            pass
        return time.process_time() - start


def difference(one: Tensor, other: Tensor) -> float:
    """The largest distance of an embedding from its other self, over the mean distance from the mean embedding.

    Random weights give all images nearly the same direction, so a cosine would tell nothing.
    """
    spread = (other - other.mean(dim=0)).norm(dim=1).mean()
    return common.three_digits(float((one - other).norm(dim=1).max() / spread))


@contextmanager
def own_home(home: str) -> Iterator[None]:
    """A cache folder of its own, so that nothing is there already."""
    before = os.environ.get("FEATCACHE_HOME")
    os.environ["FEATCACHE_HOME"] = home
    try:
        yield
    finally:
        if before is None:
            del os.environ["FEATCACHE_HOME"]
        else:
            os.environ["FEATCACHE_HOME"] = before


def verdicts(result: dict[str, Any]) -> list[common.Verdict]:
    """Those of the CPU cases that have a target."""
    over, loads, cases = "time over the floor's", "loading, times decode per view", result["cases"]
    found = []
    if rn50 := cases.get("RN50, DTD-sized, 1 views"):
        ratio = rn50[over]
        found.append(
            common.Verdict(
                "RN50, DTD-sized, 1 view: within 5 % of bare forwards + decode core-seconds / cores",
                f"{common.spread(ratio)} of the floor's time",
                ratio["median"] <= WITHIN,
            )
        )
    if tiny := cases.get("tiny, ImageNet-sized, 10 views"):
        for what, by in (
            (loads, "PIL's pixels"),
            ("loading with --pixels torch, times decode per view", "--pixels torch"),
        ):
            found.append(
                common.Verdict(
                    f"tiny, ImageNet-sized, 10 views, {by}: loading at least {LOADING_TARGET}x decode-per-view",
                    f"{common.spread(tiny[what])}x",
                    tiny[what]["median"] >= LOADING_TARGET,
                )
            )
    return found


def tell(result: dict[str, Any]) -> None:
    """The table of all cases."""
    cases = result["cases"]
    names = {
        OURS: OURS,
        BARE: "bare",
        PER_VIEW: "per view",
        PLAIN: "CLIP_b.",
        LOADING: "load",
        LOADING_TORCH: "load, torch",
        LOADING_PER_VIEW: "load p.v.",
    }
    over, loads = "time over the floor's", "loading, times decode per view"
    cells = []
    for case, told in cases.items():
        rates = told["images a second"]
        medians = [f"{rates[name]['median']:g}" if name in rates else "-" for name in names]
        cells.append((case, *medians, f"{told[over]['median']:g}", f"{told[loads]['median']:g}"))
    common.show(("case", *names.values(), "/ floor", "load x"), cells, "images a second, medians over turns")
    common.say(
        "bare: ready tensors; per view: an image decoded for each; load: the loading stages alone (p.v.: per view)"
    )
    common.say(f"/ floor: {over}; load x: {loads}")


if __name__ == "__main__":
    main()
