"""What matrix products of less precision change: one grid trained to its end at float32 and so, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from featcache.bench import Grid, rows_right, stacked
from featcache.devices import check_products
from featcache.recipes import PRODUCTS
from featcache.task import Params
from featcache.timing import ratios, summary, three_digits, turns


def compare_products(
    grid: Grid, kind: str, repeats: int, *, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> dict[str, Any]:
    """Seconds and accuracies of the grid's runs under float32 products and under `kind` (recipes.PRODUCTS).

    Runs train for all the recipe's epochs, for what rounding does to an accuracy shows at the end. Both kinds are
    judged by float32 logits, as a search judges. Raises ConfigError where the device has no such products.
    """
    check_products(kind, grid.device)
    small = replace(grid, recipe=replace(grid.recipe, epochs=1))
    stacked(_under(small, kind))  # warms up at little cost
    ways = {each: lambda each=each: stacked(_under(grid, each)) for each in (PRODUCTS[0], kind)}
    seconds, given = turns(ways, repeats, grid.device, warm_up=0, progress=progress)
    accuracy = {each: _accuracies(grid, params) for each, params in given.items()}
    points = [100 * (other - plain) for plain, other in zip(*accuracy.values(), strict=True)]
    index, alpha = grid.points[max(range(len(points)), key=lambda run: abs(points[run]))]
    return {
        "products": kind,
        "epochs": grid.recipe.epochs,
        "rows": len(grid.rows[0].label),
        "seconds": {each: summary(spent) for each, spent in seconds.items()},
        "times as fast": ratios(*seconds.values()),
        "mean accuracy": {each: round(fmean(of_runs), 4) for each, of_runs in accuracy.items()},
        "points of accuracy gained": {
            "mean": three_digits(fmean(points)),
            "furthest": three_digits(max(points, key=abs)),
            "of": {"alpha": alpha, "draw": index},
        },
    }


def _under(grid: Grid, kind: str) -> Grid:
    return replace(grid, recipe=replace(grid.recipe, products=kind))


def _accuracies(grid: Grid, params: Sequence[Params]) -> list[float]:
    """Of each run, on the rows that the grid compares on."""
    return [
        rows_right(grid, index, alpha, own) / len(grid.rows[index].label)
        for (index, alpha), own in zip(grid.points, params, strict=True)
    ]
