"""What `featcache fit` was asked for, and what it means for a method: grid and recipe, and what would do nothing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from featcache import grids, recipes, registry
from featcache.errors import ConfigError
from featcache.preparing import Settings
from featcache.prompts import DEFAULT
from featcache.recipes import Recipe

_TRAINING = ("preset", "epochs", "lr", "batch_size", "weight_decay", "momentum", "last_batch", "products", "init_seeds")
"""Options that only a trained method heeds."""
ALL = ("all",)
"""Methods asked for by this word: every one that a store has what it needs for."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What `fit` was asked for; None keeps a default."""

    adapters: tuple[str, ...] = ("clip_adapter",)
    grid: tuple[str, ...] = ()
    """FIELD=VALUES each, in place of what the method searches by default or beside it."""
    post_hoc_alpha: str | None = None
    views: str | None = None
    choose: str = "per-draw"
    shots: tuple[int | None, ...] = (None,)
    shot_seeds: tuple[int, ...] | None = None
    init_seeds: tuple[int, ...] | None = None
    preset: str | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    last_batch: str | None = None
    products: str | None = None
    select: str | None = None
    prompts: tuple[str, ...] = (DEFAULT,)
    classes: str = "all"
    also: tuple[str, ...] = ()
    device: str = "auto"
    engine: str = "here"
    """`here`, one search after another, or `ray`, each a task of a cluster."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of all methods that may be fitted."""
        return tuple(registry.known()) if self.adapters == ALL else self.adapters


class Job(NamedTuple):
    """One search."""

    store: Path
    adapter: str
    prompts: str
    shots: int | None

    @property
    def name(self) -> str:
        """What messages call it."""
        words = [self.store.stem, self.adapter]
        words += [self.prompts] if self.prompts != DEFAULT else []
        words += [f"{self.shots} shots"] if self.shots else []
        return ", ".join(words)


def settings_of(job: Job, options: FitOptions) -> Settings:
    """What one search tries."""
    return Settings(
        adapter=job.adapter,
        grid=grid_asked(job.adapter, options),
        post_hoc_alpha=() if options.post_hoc_alpha is None else grids.parse(options.post_hoc_alpha),
        views=options.views,
        choose=options.choose,
        shots=job.shots,
        shot_seeds=options.shot_seeds,
        init_seeds=options.init_seeds if hasattr(registry.load(job.adapter), "init") else None,
        protocol=options.select,
        text_set=job.prompts,
        classes=options.classes,
        device=options.device,
    )


def grid_asked(adapter: str, options: FitOptions) -> dict[str, tuple[Any, ...]]:
    """What a method searches under the options."""
    given = [name for name in recipes.PER_RUN if getattr(options, name) is not None]
    # A post-hoc sweep blends the head trained at the method's own alpha.
    kept = [*given, "alpha"] if options.post_hoc_alpha is not None else given
    return grid_of(adapter, options.grid, options.preset, kept=kept)


def grid_of(
    adapter: str, asked: Sequence[str], preset: str | None = None, *, kept: Sequence[str] = ()
) -> dict[str, tuple[Any, ...]]:
    """What is searched: the method's default grid, with FIELD=VALUES in its place or beside it. Raises ConfigError.

    Fields that are `kept` are searched only where asked, and so are training fields that the optimiser does not heed.
    """
    kind = registry.load(adapter)
    types = get_type_hints(kind)
    searched = searchable(adapter, preset)
    searched_alone = _default_grid(adapter, {name: text for name, text in _asked(asked) if name in types})
    unheeded = {*kept, *(name for name in recipes.PER_RUN if name not in searched)}
    default = {name: text for name, text in searched_alone.items() if name not in unheeded}
    texts = default | {name: text for name, text in _asked(asked) if name in searched}
    return {name: grids.parse_as(types.get(name, float), text, name) for name, text in texts.items()}


def _default_grid(adapter: str, asked: Mapping[str, str]) -> Mapping[str, str]:
    """What a method searches unless the user says, given the values asked of its fields. Raises ConfigError."""
    kind: Any = registry.load(adapter)
    if not hasattr(kind, "own_grid"):
        return dict(kind.grid)
    types = get_type_hints(kind)
    shapes = {name: grids.parse_as(types[name], text, name) for name, text in asked.items() if types[name] is not float}
    points = [dict(zip(shapes, values, strict=True)) for values in itertools.product(*shapes.values())]
    found = [dict(kind(**point).own_grid) for point in points]
    for point, grid in zip(points, found, strict=True):
        lacking = [name for name in {**found[0], **grid} if found[0].get(name) != grid.get(name) and name not in asked]
        if lacking:
            one, other = (" ".join(f"{name}={value}" for name, value in each.items()) for each in (points[0], point))
            raise ConfigError(
                f"{adapter} searches {_listed(found[0])} with {one} but {_listed(grid)} with {other}; fit them one at "
                f"a time, or say what to search of {', '.join(lacking)} with --grid"
            )
    return found[0]


def _listed(grid: Mapping[str, str]) -> str:
    return ", ".join(f"{name} over {values}" for name, values in grid.items()) or "nothing"


def searchable(adapter: str, preset: str | None = None) -> list[str]:
    """The fields of a method that --grid can search, and those of its training that its optimiser heeds."""
    own = [field.name for field in fields(registry.load(adapter))]  # type: ignore[arg-type]
    return [*own, *(name for name in _heeded(adapter, preset) if name not in own)]


def _heeded(adapter: str, preset: str | None) -> tuple[str, ...]:
    """Of lr, weight_decay and momentum, those that change anything; none for a method that is not trained."""
    if not hasattr(registry.load(adapter), "init"):
        return ()
    return recipes.make(_preset(adapter, preset), shots=1, dataset="").heeds


def _preset(adapter: str, asked: str | None) -> str:
    return str(asked or getattr(registry.load(adapter), "preset", "coop"))


def _asked(items: Sequence[str]) -> list[tuple[str, str]]:
    """(field, values as typed) of each --grid."""
    pairs = [tuple(part.strip() for part in item.split("=", 1)) for item in items]
    for item, pair in zip(items, pairs, strict=True):
        if len(pair) != 2:
            raise ConfigError(f"--grid {item}: write FIELD=VALUES, as in alpha=0:1:0.1 or lr=1e-3,1e-4")
    names = [pair[0] for pair in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"--grid {twice}=.. is given twice; give all its values at once, as in {twice}=0.1,0.2")
    return [(pair[0], pair[1]) for pair in pairs]


def recipe_of(adapter: str, options: FitOptions, shots: int, dataset: str) -> Recipe:
    """The recipe of the preset, or of the method's own, with what was asked for in its place."""
    recipe = recipes.make(_preset(adapter, options.preset), shots=shots, dataset=dataset)
    heeded = ("epochs", "batch_size", "last_batch", "products", *recipe.heeds)
    changed = {name: getattr(options, name) for name in heeded}
    return replace(recipe, **{name: value for name, value in changed.items() if value is not None})


def check_effect(options: FitOptions) -> None:
    """A setting that would have no effect on any of the methods is an error."""
    methods = {name: registry.load(name) for name in options.methods}
    unused = [f"--{name.replace('_', '-')}" for name in _TRAINING if getattr(options, name) is not None]
    if unused and not any(hasattr(method, "init") for method in methods.values()):
        listed = ", ".join(methods)
        raise ConfigError(f"{listed}: not trained, so {', '.join(unused)} would do nothing; leave it out")
    _check_per_run(options, [name for name, _ in _asked(options.grid)])
    known = list(dict.fromkeys(field for adapter in methods for field in searchable(adapter, options.preset)))
    for name, _ in _asked(options.grid):
        if name not in known:
            raise ConfigError(
                f"{', '.join(methods)}: there is no field {name}, so --grid {name}=.. would do nothing; there is: "
                f"{', '.join(known) or 'none'}"
            )


def _check_per_run(options: FitOptions, searched: Sequence[str]) -> None:
    """Raises where --lr, --weight-decay or --momentum, or one of them in the grid, would do nothing."""
    trained = [name for name in options.methods if hasattr(registry.load(name), "init")]
    heeded = {field for name in trained for field in _heeded(name, options.preset)}
    for name in recipes.PER_RUN:
        flag, asked = f"--{name.replace('_', '-')}", getattr(options, name) is not None
        if asked and name in searched:
            raise ConfigError(f"{flag} would do nothing beside --grid {name}=..; leave one of the two out")
        if trained and name not in heeded and asked:
            raise ConfigError(
                f"{flag} would do nothing: {', '.join(trained)} is trained with Adam or AdamW, which have none; leave "
                "it out, or choose a --preset with SGD, such as coop"
            )
