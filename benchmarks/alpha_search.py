"""Claim: the stacked alpha grid costs a fraction of the same grid trained one alpha after another, and ends the same.

    python benchmarks/alpha_search.py [--short] [--write [FILE]]

CLIP-Adapter, 16 shots, batches of 32, the recipe `coop` without its warm-up epoch. `stacked` is what a search calls
(featcache.training.train); `loop` is the grid as peers write it (featcache/peer_loop.py): for each alpha a torch
DataLoader over a TensorDataset of cached features, torch.optim.SGD and an nn.Module of Linear layers. Both start from
the same weights and are shown the same batches, one view an epoch; the script ends in an error where the parameters
of the median run differ by more than 0.1 % of the way that training moved them, those of any by more than 5 %, or an
accuracy by more than one of 2000 rows. Near alpha 1 training may blow up any rounding: such a run is held against the
loop itself begun a rounding away (featcache.bench.AS_FAR), and the JSON tells both.

Each size is fitted for as many epochs as make 100 steps (1000 classes: one epoch of 500, cut to 100 batches of images
from all over it; seconds an epoch are multiplied out from a step's, which costs the same, while over 500 steps of lr
0.002 roundings grow until the two ways differ by more than a row), the two ways taking turns in one process: the median
and range are over the turns. Of 11 alphas 0, 0.1, .. 1 the loop trains all, as peers do, and `stacked` ten, for at
alpha 0 no training changes a logit: `times as fast` is of the whole grid, `trained alone` is without the loop's
seconds at alpha 0, ten against ten. 33 runs are 11 alphas on 3 draws, and
take turns with the 11 of the first. The share of the matrix rate sets the FLOPs that
a step cannot do without (no gradient to the adapter's input, none of the classifier's weights) against plain float32
products of the machine, measured at each turn right before the stack's; it is of trained runs alone.

The targets hold for 2 CPU cores at 11 runs. On CUDA the clock waits for the device; nobody has tried it there yet.
The features are drawn from a seed: `featcache bench` does the same on your own store.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import common
from common import Verdict

from featcache import recipes
from featcache.bench import Grid, compare, shortened

TARGETS = {(512, 10): 4, (512, 100): 4, (1024, 10): 3, (1024, 100): 3, (512, 1000): 3, (1024, 1000): 2}
"""Times as fast at 11 runs, by width and classes."""
SHARE = 0.55
"""Target share of the matrix rate at width 1024 and 100 classes or more."""


def main() -> None:
    """Times every size asked for, prints the table and writes the JSON."""
    asked = parsed()
    sizes = list(itertools.product(asked.classes, asked.widths, asked.draws))
    with common.observed(asked.device) as facts:
        measured = []
        for classes, width, draws in sizes:
            grid = grid_of(asked, classes, width, draws)
            eleven = None if draws == 1 else replace(grid, tasks=grid.tasks[:1])
            measured.append(compare(grid, asked.repeats, beside=eleven))
            common.say(f"measured: {classes} classes, width {width}, {len(common.ALPHAS) * draws} runs")
    for cell in measured:
        shape = cell["shape"]
        cell["targets"] = targets(shape)
    result = {"sizes": measured, **facts}
    tell(result)
    common.judge(verdicts(result))
    common.write(asked, "alpha_search", result)


def parsed() -> Any:
    made = common.parser(__doc__ or "")
    common.add_repeats(made, 3)
    common.add_device(made)
    made.add_argument("--classes", type=int, nargs="+", help="default 10 100 1000; short: 10 100")
    made.add_argument("--widths", type=int, nargs="+", default=[512, 1024])
    made.add_argument("--draws", type=int, nargs="+", help="11 runs each; default 1 3; short: 1")
    made.add_argument("--shots", type=int, default=16)
    made.add_argument("--views", type=int, default=4)
    asked = common.options(made)
    asked.classes = asked.classes or ([10, 100] if asked.short else [10, 100, 1000])
    asked.draws = asked.draws or ([1] if asked.short else [1, 3])
    return asked


def grid_of(asked: Any, classes: int, width: int, draws: int) -> Grid:
    """11 alphas on some draws of the same data set."""
    images = classes * asked.shots
    recipe = shortened(recipes.make("coop", shots=asked.shots, dataset=""), images)
    size = {"classes": classes, "width": width, "images": images}
    return common.drawn_grid(recipe, **size, views=asked.views, draws=draws, device=asked.device)


def targets(shape: dict[str, int]) -> dict[str, float | None]:
    """What this size must reach on 2 CPU cores; None where nothing is asked of it."""
    size = shape["width"], shape["classes"]
    return {
        "times as fast": TARGETS.get(size) if shape["runs"] == len(common.ALPHAS) else None,
        "share of the matrix rate": SHARE if size[0] == 1024 and size[1] >= 100 else None,
    }


def verdicts(result: dict[str, Any]) -> list[Verdict]:
    """Every size's targets."""
    found = []
    for cell in result["sizes"]:
        shape, goal, slower = cell["shape"], cell["targets"], cell.get("a run, over one beside")
        size = f"D {shape['width']}, C {shape['classes']}, {shape['runs']} runs"
        faster, share = cell["times as fast"]["all alphas of the loop"], cell["share of the matrix rate"]["stacked"]
        if least := goal["times as fast"]:
            told = f"{common.spread(faster)}x"
            found.append(Verdict(f"{size}: at least {least:g}x the loop", told, faster["median"] >= least))
        if least := goal["share of the matrix rate"]:
            told = f"{common.spread({kind: round(100 * value) for kind, value in share.items()})} %"
            found.append(Verdict(f"{size}: {100 * least:.0f} % of the matrix rate", told, share["median"] >= least))
        if slower:
            told = f"{common.spread(slower)}x its time"
            found.append(Verdict(f"{size}: a run no slower than among 11", told, slower["median"] <= 1))
    return found


def tell(result: dict[str, Any]) -> None:
    """The table, targets beside figures."""
    rows = []
    for cell in result["sizes"]:
        shape, step, faster = cell["shape"], cell["ms a step of the whole grid"], cell["times as fast"]
        share, goal = cell["share of the matrix rate"]["stacked"], cell["targets"]
        rows.append(
            [
                f"{shape['classes']}",
                f"{shape['width']}",
                f"{shape['runs']}",
                f"{step['loop']:g}",
                f"{step['stacked']:g}",
                f"{cell['seconds an epoch of the whole grid']['stacked']:g}",
                common.spread(faster["all alphas of the loop"]),
                aim(goal["times as fast"]),
                f"{faster['trained alphas alone']['median']:g}",
                f"{share['median']:g}",
                aim(goal["share of the matrix rate"]),
                common.spread(cell["a run, over one beside"]) if "a run, over one beside" in cell else "-",
            ]
        )
    columns = ["C", "D", "runs", "loop", "stacked", "s/epoch", "times as fast", "target", "alone", "of rate", "target"]
    common.show(
        [*columns, "to 11"], rows, "The alpha grid, loop and stacked: ms a step of all runs; s an epoch, stacked"
    )
    common.say(
        "times as fast: the loop trains every alpha; alone: without its seconds at alpha 0, which the stack does not "
        "train. of rate: of the fp32 matrix rate. to 11: a run's step over one among 11, in turns; target at most 1. "
        "Parameters and accuracies are equal. Targets are of 2 CPU cores."
    )


def aim(goal: float | None) -> str:
    """A number that not every line has."""
    return "-" if goal is None else f"{goal:g}"


if __name__ == "__main__":
    main()
