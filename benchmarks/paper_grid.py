"""Claim: the fit stage of CLIP-Adapter's whole Fig. 3 takes under a minute on an H100, 30 times less than the loop.

    python benchmarks/paper_grid.py [--short] [--write [FILE]]

11 data sets' class counts x 1, 2, 4, 8, 16 shots x 3 draws x 11 alphas at CoOp's epochs, batches of 32, width 1024 as
RN50's, on embeddings drawn from a seed: 1815 fits in 55 searches. On a GPU every search is fitted in full. On a CPU
each is sampled: full batches of its first images, its 33 runs stacked as they would be, for about 40 steps, and
multiplied out by the steps that the whole has; the table says so and no cell of it was run in full there.

The loop over alphas (featcache/peer_loop.py, the same start and batches) is sampled everywhere: one alpha of one draw,
held against the stacked run of the same sample, which must end the same, and multiplied out by 33 runs and all steps.
A search's data is made before its clock starts.

On CUDA the clock waits for the device; nobody has tried it there yet, so no figure of a GPU is known.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import common

from featcache import recipes
from featcache.bench import Grid, check_equal, num_batches, one_by_one, stacked
from featcache.recipes import Recipe

CLASSES = {
    "ImageNet": 1000,
    "Caltech101": 100,
    "OxfordPets": 37,
    "StanfordCars": 196,
    "Flowers102": 102,
    "Food101": 101,
    "FGVCAircraft": 100,
    "SUN397": 397,
    "DTD": 47,
    "EuroSAT": 10,
    "UCF101": 101,
}
SHOTS = (1, 2, 4, 8, 16)
DRAWS = 3
LOOP_ALPHA = 0.5
TARGETS = {"seconds on an H100": 60, "times as fast as the loop on a GPU": 30}


def main() -> None:
    """Times or samples every search, prints the table by data set and writes the JSON."""
    asked = parsed()
    with common.observed(asked.device) as facts:
        searches = [measure(asked, name, shots) for name in asked.data_sets for shots in asked.shots]
    total = {way: sum(search["seconds"][way] for search in searches) for way in ("stacked", "loop")}
    result = {
        "searches": searches,
        "how": asked.how,
        "fits": len(searches) * DRAWS * len(common.ALPHAS),
        "seconds of all": {way: common.three_digits(spent) for way, spent in total.items()},
        "times as fast": common.three_digits(total["loop"] / total["stacked"]),
        "targets": TARGETS,
        **facts,
    }
    tell(result)
    common.judge(verdicts(result))
    common.write(asked, "paper_grid", result)


def parsed() -> Any:
    made = common.parser(__doc__ or "")
    common.add_repeats(made, 3)
    common.add_device(made)
    made.add_argument("--data-sets", nargs="+", choices=CLASSES, help="default all; short: DTD EuroSAT")
    made.add_argument("--shots", type=int, nargs="+", default=list(SHOTS))
    made.add_argument("--width", type=int, default=1024)
    made.add_argument("--views", type=int, default=10)
    made.add_argument("--steps", type=int, default=40, help="of a sample, about")
    made.add_argument("--how", choices=("full", "sampled"), help="default: full on a GPU, sampled on a CPU")
    asked = common.options(made)
    asked.data_sets = asked.data_sets or (["DTD", "EuroSAT"] if asked.short else list(CLASSES))
    asked.how = asked.how or ("sampled" if asked.device.type == "cpu" else "full")
    return asked


def measure(asked: Any, name: str, shots: int) -> dict[str, Any]:
    """One search: its seconds by the stack and by the loop, whole or multiplied out, as `how` says."""
    recipe = recipes.make("coop", shots=shots, dataset=recipes.IMAGENET if name == "ImageNet" else "")
    images = CLASSES[name] * shots
    sample = sampled(asked, CLASSES[name], images, recipe)
    steps = recipe.epochs * num_batches(images, recipe)
    lone = replace(sample, alphas=(LOOP_ALPHA,), tasks=sample.tasks[:1])
    ways = {"stacked": lambda: stacked(sample), "loop": lambda: one_by_one(lone).params}
    seconds, given = common.turns(ways, asked.repeats, sample.device)
    check_equal(lone, [given["stacked"][common.ALPHAS.index(LOOP_ALPHA)]], given["loop"])
    spent = {way: common.summary(each)["median"] / sample.num_steps * steps for way, each in seconds.items()}
    spent["loop"] *= len(common.ALPHAS) * DRAWS
    found = {
        "data set": name,
        "classes": CLASSES[name],
        "shots": shots,
        "epochs": recipe.epochs,
        "steps of a run": steps,
        "steps of the sample": sample.num_steps,
        "seconds of the sample": {way: common.summary(each) for way, each in seconds.items()},
        "seconds": spent,
        "stacked is": "multiplied out",
    }
    if asked.how == "full":
        whole = grid_of(asked, CLASSES[name], images, recipe)
        start = common.now(whole.device)
        stacked(whole)
        found["seconds"]["stacked"] = common.now(whole.device) - start
        found["stacked is"] = "run in full"
    found["seconds"] = {way: common.three_digits(each) for way, each in spent.items()}
    common.say(
        f"{name}, {shots} shot{'s' if shots > 1 else ''}: {found['seconds']['stacked']:g} s, {found['stacked is']}"
    )
    return found


def sampled(asked: Any, classes: int, images: int, recipe: Recipe) -> Grid:
    """The search cut to its first batches, no more than `steps` an epoch, and to as many epochs as make about that."""
    whole_batches = images if images <= recipe.batch_size else images // recipe.batch_size * recipe.batch_size
    rows = min(whole_batches, recipe.batch_size * asked.steps)
    epochs = min(recipe.epochs, -(-asked.steps // num_batches(rows, recipe)))
    return grid_of(asked, classes, rows, replace(recipe, epochs=epochs, warmup_lr=None))


def grid_of(asked: Any, classes: int, images: int, recipe: Recipe) -> Grid:
    """11 alphas on 3 draws."""
    size = {"classes": classes, "width": asked.width, "images": images, "views": asked.views}
    return common.drawn_grid(recipe, **size, draws=DRAWS, device=asked.device)


def verdicts(result: dict[str, Any]) -> list[common.Verdict]:
    """Of a GPU, all data sets and shots; a CPU has no target."""
    if result["device"] != "cuda" or result["fits"] < len(CLASSES) * len(SHOTS) * DRAWS * len(common.ALPHAS):
        return []
    total, times = result["seconds of all"]["stacked"], result["times as fast"]
    most, least = TARGETS.values()
    return [
        common.Verdict(f"the whole grid in {most} s", f"{total:g} s", total <= most),
        common.Verdict(f"at least {least}x the loop", f"{times:g}x", times >= least),
    ]


def tell(result: dict[str, Any]) -> None:
    """Seconds by data set and shots, then the sums."""
    searches = result["searches"]
    shots = sorted({search["shots"] for search in searches})
    found = {(search["data set"], search["shots"]): search["seconds"]["stacked"] for search in searches}
    names = list(dict.fromkeys(name for name, _ in found))
    rows = [[name, str(CLASSES[name]), *(f"{found[name, k]:g}" for k in shots)] for name in names]
    how = "run in full" if result["how"] == "full" else "sampled and multiplied out"
    title = f"Seconds of each search of {DRAWS} draws x {len(common.ALPHAS)} alphas, {how}"
    common.show(["data set", "classes", *(f"{k} shot{'s' if k > 1 else ''}" for k in shots)], rows, title)
    total = result["seconds of all"]
    common.say(
        f"{result['fits']} fits: stacked {total['stacked']:g} s ({how}), loop {total['loop']:g} s (sampled and "
        f"multiplied out), {result['times as fast']:g} times as fast; targets on a GPU, all data sets: at most "
        f"{TARGETS['seconds on an H100']} s on an H100, at least {TARGETS['times as fast as the loop on a GPU']} times"
    )


if __name__ == "__main__":
    main()
