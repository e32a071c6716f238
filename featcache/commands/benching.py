"""`featcache bench`: what the stacked alpha grid costs on a store of one's own, against the loop over alphas."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from featcache import console, recipes
from featcache.bench import Grid, compare, shortened
from featcache.commands.running import stoppable
from featcache.devices import check_products
from featcache.grids import parse
from featcache.loading import data_set
from featcache.precision import compare_products
from featcache.preparing import Ready, Settings, prepare
from featcache.recipes import Recipe
from featcache.store import Store
from featcache.text_sources import nothing_learnt
from featcache.timing import observed, three_digits

ALPHAS = "0:1:0.1"


def bench(
    path: Path, *, shots: int | None, repeats: int, device: str, as_json: bool, products: str | None = None
) -> None:
    """Both ways on the store's own draws, timed in turns; a table, or JSON.

    With `products` (recipes.PRODUCTS), also the whole search under them: its time, and what accuracy they cost.
    """
    with Store(path) as store, stoppable("nothing was recorded"):
        settings = Settings(adapter="clip_adapter", grid={"alpha": parse(ALPHAS)}, shots=shots, device=device)
        ready = prepare(
            store, settings, lambda k: recipes.make("coop", shots=k, dataset=data_set(store)), nothing_learnt
        )
        grid = grid_of(ready)
        if products:
            check_products(products, grid.device)
        console.note(f"{store.name}: {len(grid.points)} runs both ways, {repeats} times, {grid.num_steps} steps each")
        with observed(grid.device) as facts:
            with _turns(grid) as advance:
                found = compare(grid, repeats, progress=advance)
            if products:
                console.note(f"now the whole search, under fp32 and under {products} products, {repeats} times")
                whole_grid = replace(grid, recipe=ready.recipe)
                with _turns(whole_grid) as advance:
                    found["products"] = compare_products(whole_grid, products, repeats, progress=advance)
    found["seconds of a search's training"] = whole(found, ready.recipe)
    if as_json:
        console.raw(json.dumps({"store": store.name, **found, "repeats": repeats, **facts}, indent=1))
    else:
        show(store.name, found, ready)
        if products:
            say_products(found["products"])


def _turns(grid: Grid) -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar of turns, in each of which every run is fitted two ways."""
    return console.progress("timing", "turns", rate="run-steps", per_unit=2 * grid.num_trained * grid.num_steps)


def grid_of(ready: Ready) -> Grid:
    """What a search of all alphas fits, for fewer epochs; accuracies are compared on the rows that would choose."""
    return Grid(
        alphas=tuple(getattr(config.method, "alpha") for config in ready.configs),  # noqa: B009
        tasks=tuple(ready.tasks),
        init_seeds=tuple(ready.init_seeds),
        rows=tuple(judged[0].rows for judged in ready.judged),
        recipe=shortened(ready.recipe, len(ready.tasks[0].label)),
    )


def whole(found: dict[str, Any], recipe: Recipe) -> dict[str, float]:
    """Seconds of training at all the recipe's epochs, multiplied out."""
    return {
        way: three_digits(each * recipe.epochs) for way, each in found["seconds an epoch of the whole grid"].items()
    }


def show(name: str, found: dict[str, Any], ready: Ready) -> None:
    """The table and what it says."""
    shape, search, step = found["shape"], found["seconds of a search's training"], found["ms a step of the whole grid"]
    share, faster = found["share of the matrix rate"], found["times as fast"]["all alphas of the loop"]
    rows = [
        [
            "one alpha after another",
            f"{step['loop']:g}",
            f"{search['loop']:g}",
            "1",
            _share(share["loop without alpha 0"]),
        ],
        [
            "stacked",
            f"{step['stacked']:g}",
            f"{search['stacked']:g}",
            f"{faster['median']:g}",
            _share(share["stacked"]),
        ],
    ]
    title = (
        f"{name}: {shape['runs']} runs ({len(ready.configs)} alphas x {shape['draws']} draws), "
        f"{shape['images']} images, {shape['classes']} classes, width {shape['width']}, batch {shape['batch']}"
    )
    columns = [
        "way",
        "ms a step of all runs",
        f"s at {ready.recipe.epochs} epochs",
        "times as fast",
        "of the matrix rate",
    ]
    console.table(columns, rows, title=title)
    alone = found["times as fast"]["trained alphas alone"]
    console.say(
        f"Both ways ended the same. Measured for {shape['epochs']} epochs, {shape['steps']} steps, and multiplied out; "
        f"times as fast, turn by turn: {faster['min']:g} to {faster['max']:g}. At alpha 0 nothing is trained when "
        f"stacked: run for run, without it, {alone['median']:g} times."
    )


def say_products(found: dict[str, Any]) -> None:
    """What another kind of products gives and costs."""
    kind, gained, faster = found["products"], found["points of accuracy gained"], found["times as fast"]["median"]
    before, after = (found["seconds"][each]["median"] for each in ("fp32", kind))
    accuracy_before, accuracy_after = (100 * found["mean accuracy"][each] for each in ("fp32", kind))
    console.say(
        f"Products {kind}, all {found['epochs']} epochs: {before:g} -> {after:g} s, {faster:g} times as fast. Accuracy "
        f"on the {found['rows']} images that choose, mean over runs: {accuracy_before:.2f} -> {accuracy_after:.2f} % "
        f"({gained['mean']:+g} points); the run that moved furthest: {gained['furthest']:+g} points (alpha "
        f"{gained['of']['alpha']:g})."
    )


def _share(measured: dict[str, float]) -> str:
    return f"{100 * measured['median']:.0f} %"
