"""Configurations on draws -> fitted parameters: each fit made once, together with all it can be made with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from featcache import registry
from featcache.errors import ConfigError
from featcache.recipes import Recipe
from featcache.task import Method, Params, Solved, SolvedTogether, Task, field_values, swept_fields
from featcache.training import Run, num_run_epochs, single_hyper, train

POST_HOC_ALPHA = "post_hoc_alpha"
"""What the alpha of one trained head is called when it is swept afterwards: not the alpha it was trained at."""
LR = "lr"
"""The field of a grid that is the recipe's, not the method's: each run of a stack has its own."""
Progress = Callable[[int, int], None]
"""Told how many run-epochs have just been done, and of how many in all; called from worker threads."""


class Config(NamedTuple):
    """One point of a grid."""

    method: Method
    """What predicts."""
    lr: float | None
    """The learning rate, where it is searched."""
    trained_as: Method | None = None
    """What was trained, where `method` is that head with another alpha."""

    @property
    def fitted(self) -> Method:
        """What is fitted."""
        return self.trained_as or self.method

    @property
    def values(self) -> dict[str, Any]:
        """The whole configuration as a plain mapping."""
        values = field_values(self.fitted) | ({} if self.lr is None else {LR: self.lr})
        return values if self.trained_as is None else {**values, POST_HOC_ALPHA: getattr(self.method, "alpha")}  # noqa: B009


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Parameters, and what they serve: configurations that differ in post-hoc fields alone share them."""

    draw: int
    """Index of the draw they were fitted on."""
    configs: list[int]
    """Indices of the configurations."""
    params: Params


def expand(adapter: str, grid: Mapping[str, Sequence[Any]]) -> list[Config]:
    """The points of a grid, every field's values times every other's; raises for what the method does not know."""
    kind = registry.load(adapter)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in grid:
        if name not in known and not (name == LR and hasattr(kind, "init")):
            raise ConfigError(f"{adapter} has no field {name!r}; it has: {', '.join(known) or 'none'}")
    points = (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
    return [
        Config(
            kind(**{name: value for name, value in point.items() if name in known}),
            point.get(LR) if LR not in known else None,
        )
        for point in points
    ]


def sweep_alpha(configs: Sequence[Config], alphas: Sequence[float]) -> list[Config]:
    """Each configuration trained as it is and then blended at every one of `alphas`. Raises ConfigError."""
    swept = []
    for config in configs:
        method: Any = config.method
        if "alpha" not in swept_fields(method) or not hasattr(method, "init"):
            raise ConfigError(f"{_name(method)} has no alpha that is trained, so there is nothing to sweep post hoc")
        if method.inert:
            raise ConfigError(f"nothing is trained at alpha {method.alpha:g}, so there is nothing to sweep post hoc")
        swept += [Config(replace(method, alpha=alpha), config.lr, method) for alpha in alphas]
    return swept


def _name(method: Method) -> str:
    return type(method).__module__.rpartition(".")[2]


def fit(
    configs: Sequence[Config], tasks: Sequence[Task], seeds: Sequence[int], recipe: Recipe, progress: Progress
) -> list[Fit]:
    """Every configuration fitted on every draw's task, draw by draw; `seeds` are the draws' init seeds."""
    groups = _share(configs)
    firsts = [configs[members[0]] for members in groups]
    places = [(draw, group) for draw in range(len(tasks)) for group in range(len(groups))]
    if isinstance(firsts[0].method, Solved):
        params = _solve([(tasks[draw], firsts[group].fitted) for draw, group in places])
    else:
        runs = [
            Run(
                method=firsts[group].fitted,
                lr=recipe.lr if firsts[group].lr is None else firsts[group].lr,  # type: ignore[arg-type]
                draw=draw,
                init_seed=seeds[draw],
            )
            for draw, group in places
        ]
        total = num_run_epochs(runs, recipe)
        params = _train(runs, tasks, recipe, lambda done: progress(done, total))
    return [
        Fit(draw=draw, configs=groups[group], params=fitted)
        for (draw, group), fitted in zip(places, params, strict=True)
    ]


def _share(configs: Sequence[Config]) -> list[list[int]]:
    """Indices of configurations by what their fits share: all but post-hoc fields."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, config in enumerate(configs):
        free = {*config.method.post_hoc, POST_HOC_ALPHA}
        own = tuple(item for item in config.values.items() if item[0] not in free)
        groups.setdefault(own, []).append(index)
    return list(groups.values())


def _solve(runs: Sequence[tuple[Task, Method]]) -> list[Params]:
    """The solved parameters of each run, together where the method can."""
    solved: dict[int, Params] = {}
    for members in _by_kind([method for _, method in runs]):
        method = runs[members[0]][1]
        pairs = [(runs[index][0], single_hyper(runs[index][1], runs[index][0].image.device)) for index in members]
        if isinstance(method, SolvedTogether):
            made = method.solve_runs(pairs)
        else:
            assert isinstance(method, Solved)
            made = [method.solve(*pair) for pair in pairs]
        solved.update(zip(members, made, strict=True))
    return [solved[index] for index in range(len(runs))]


def _train(runs: Sequence[Run], tasks: Sequence[Task], recipe: Recipe, progress: Callable[[int], None]) -> list[Params]:
    """The trained parameters of each run: a stack holds runs that share all but float fields."""
    trained: dict[int, Params] = {}
    for members in _by_kind([run.method for run in runs]):
        fitted = train([runs[index] for index in members], tasks, recipe, progress=progress)
        trained.update(zip(members, fitted, strict=True))
    return [trained[index] for index in range(len(runs))]


def _by_kind(methods: Sequence[Method]) -> list[list[int]]:
    """Indices of methods by the fields that are not float: those change shapes or code."""
    floats = swept_fields(methods[0])
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for index, method in enumerate(methods):
        own = tuple((name, value) for name, value in field_values(method).items() if name not in floats)
        kinds.setdefault(own, []).append(index)
    return list(kinds.values())
