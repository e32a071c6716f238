"""Configurations on draws -> fitted parameters: each fit made once, together with all it can be made with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from featcache import registry
from featcache.errors import ConfigError, MethodError
from featcache.faults import apart, blame, shared
from featcache.recipes import PER_RUN, Recipe
from featcache.shelf import Shelf
from featcache.task import Method, Params, Solved, SolvedTogether, Task, Trained, field_values, swept_fields
from featcache.training import Run, num_run_epochs, single_hyper, train
from featcache.vetting import vet, vet_solved

POST_HOC_ALPHA = "post_hoc_alpha"
"""What the alpha of one trained head is called when it is swept afterwards: not the alpha it was trained at."""
Progress = Callable[[int, int], None]
"""Told how many run-epochs have just been done, and of how many in all; called from worker threads."""


class Config(NamedTuple):
    """One point of a grid."""

    method: Method
    """What predicts."""
    training: Mapping[str, float] = MappingProxyType({})
    """The recipe's fields that are searched (`recipes.PER_RUN`), in its place."""
    trained_as: Method | None = None
    """What was trained, where `method` is that head with another alpha."""

    @property
    def fitted(self) -> Method:
        """What is fitted."""
        return self.trained_as or self.method

    @property
    def values(self) -> dict[str, Any]:
        """The whole configuration as a plain mapping."""
        values = {**field_values(self.fitted), **self.training}
        return values if self.trained_as is None else {**values, POST_HOC_ALPHA: getattr(self.method, "alpha")}  # noqa: B009


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Parameters, and what they serve: configurations that differ in post-hoc fields alone share them."""

    task: int
    """Index of the task they were fitted on."""
    configs: list[int]
    """Indices of the configurations."""
    params: Params
    """Empty where there are faults."""
    faults: dict[int, MethodError] = field(default_factory=dict)
    """By configuration: why its run came to nothing, be it in fitting or, added then, in predicting."""


def expand(adapter: str, grid: Mapping[str, Sequence[Any]]) -> list[Config]:
    """The points of a grid, every field's values times every other's; raises for what the method does not know."""
    kind = registry.load(adapter)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    training = [name for name in PER_RUN if name not in known and hasattr(kind, "init")]
    for name in grid:
        if name not in known and name not in training:
            raise ConfigError(f"{adapter} has no field {name!r}; it has: {', '.join(known) or 'none'}")
    points = (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
    with blame(kind, "its fields"):
        return [
            Config(
                kind(**{name: value for name, value in point.items() if name in known}),
                {name: value for name, value in point.items() if name in training},
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
        swept += [Config(replace(method, alpha=alpha), config.training, method) for alpha in alphas]
    return swept


def _name(method: Method) -> str:
    return type(method).__module__.rpartition(".")[2]


def fit(
    configs: Sequence[Config],
    tasks: Sequence[Task],
    seeds: Sequence[int],
    recipe: Recipe,
    progress: Progress,
    shelf: Shelf | None = None,
) -> list[Fit]:
    """Every configuration fitted on every task, task by task, each from the init seed beside it in `seeds`.

    Stacks that were trained before may lie on the `shelf`, and those trained now are put there.
    """
    groups = _share(configs)
    firsts = [configs[members[0]] for members in groups]
    places = [(task, group) for task in range(len(tasks)) for group in range(len(groups))]
    served = [[configs[index].method for index in groups[group]] for _, group in places]
    if isinstance(firsts[0].method, Solved):
        made = _solve([(tasks[task], firsts[group].fitted) for task, group in places], served)
    else:
        runs = [
            Run(
                method=firsts[group].fitted,
                draw=task,
                init_seed=seeds[task],
                **{"lr": recipe.lr, **firsts[group].training},
            )
            for task, group in places
        ]
        total = num_run_epochs(runs, recipe)
        made = _train(runs, served, tasks, recipe, lambda done: progress(done, total), shelf)
    return [
        Fit(task=task, configs=groups[group], params=fitted)
        if not isinstance(fitted, MethodError)
        else Fit(task=task, configs=groups[group], params={}, faults=dict.fromkeys(groups[group], fitted))
        for (task, group), fitted in zip(places, made, strict=True)
    ]


def num_params(method: Method, params: Params) -> int | None:
    """How many numbers gradient steps can change; None for a method that takes none."""
    if not isinstance(method, Trained):
        return None
    return sum(value.numel() for name, value in params.items() if name not in method.constant)


def _share(configs: Sequence[Config]) -> list[list[int]]:
    """Indices of configurations by what their fits share: all but post-hoc fields."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, config in enumerate(configs):
        free = {*config.method.post_hoc, POST_HOC_ALPHA}
        own = tuple(item for item in config.values.items() if item[0] not in free)
        groups.setdefault(own, []).append(index)
    return list(groups.values())


def _solve(runs: Sequence[tuple[Task, Method]], served: Sequence[Sequence[Method]]) -> list[Params | MethodError]:
    """The solved parameters of each run, together where the method can; its own error where it has none.

    `served` are the methods that predict from each.
    """

    def together(members: list[int]) -> list[Params]:
        method, tasks = runs[members[0]][1], [runs[index][0] for index in members]
        hypers = [single_hyper(runs[index][1], task.image.device) for index, task in zip(members, tasks, strict=True)]
        with blame(method, "solve", shared(*tasks)):
            if isinstance(method, SolvedTogether):
                made = method.solve_runs(list(zip(tasks, hypers, strict=True)))
            else:
                assert isinstance(method, Solved)
                made = [method.solve(*pair) for pair in zip(tasks, hypers, strict=True)]
        vet_solved(served[members[0]], made, len(members), tasks[0])
        # As a head's file will hold them: strides pick the product's kernel, and so the last bits of logits.
        return [{name: value.contiguous() for name, value in params.items()} for params in made]

    return _kind_by_kind([method for _, method in runs], together)


def _train(
    runs: Sequence[Run],
    served: Sequence[Sequence[Method]],
    tasks: Sequence[Task],
    recipe: Recipe,
    progress: Callable[[int], None],
    shelf: Shelf | None,
) -> list[Params | MethodError]:
    """The trained parameters of each run: a stack holds runs that share all but float fields."""
    sound: set[tuple[int, ...]] = set()

    def look(members: list[int]) -> None:
        vet([runs[index].method for index in members], served[members[0]], tasks[runs[members[0]].draw])
        sound.add(tuple(members))

    def together(members: list[int]) -> list[Params]:
        if tuple(members) not in sound:
            look(members)
        with blame(runs[members[0]].method, "training", shared(*tasks)):
            return train([runs[index] for index in members], tasks, recipe, progress=progress, shelf=shelf)

    # All are looked at before any is trained: what a store lacks for one of them is told at once.
    for members in _by_kind([run.method for run in runs]):
        with suppress(MethodError):
            look(members)
    return _kind_by_kind([run.method for run in runs], together)


def _kind_by_kind(
    methods: Sequence[Method], together: Callable[[list[int]], list[Params]]
) -> list[Params | MethodError]:
    """What `together` gives for the runs of each kind, in the runs' order; a run that fails alone has its error."""
    fitted: dict[int, Params | MethodError] = {}
    for members in _by_kind(methods):
        fitted.update(zip(members, apart(together, members), strict=True))
    return [fitted[index] for index in range(len(methods))]


def _by_kind(methods: Sequence[Method]) -> list[list[int]]:
    """Indices of methods by the fields that are not float: those change shapes or code."""
    floats = swept_fields(methods[0])
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for index, method in enumerate(methods):
        own = tuple((name, value) for name, value in field_values(method).items() if name not in floats)
        kinds.setdefault(own, []).append(index)
    return list(kinds.values())
