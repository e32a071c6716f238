"""Results as panels read them: finished searches, each told apart from its like, the newest of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from featcache import recipes, registry
from featcache import results as records
from featcache.errors import FeatcacheError, InputError
from featcache.outcome import mean_spread, plain, varying_fields
from featcache.prompts import DEFAULT
from featcache.reporting.page.images import Images
from featcache.reporting.page.stores import Stores
from featcache.results import Answered

_Key = TypeVar("_Key")


@dataclass(frozen=True, kw_only=True)
class Found:
    """One finished search."""

    id: int
    """Its number in `featcache results`."""
    created: str
    store: str
    """The store's name at the time."""
    store_key: str
    dataset: str
    backbone: str
    untrained: bool
    adapter: str
    text_set: str
    classes: str
    """`all`, `base` or `new`."""
    protocol: str
    """How its configuration was chosen."""
    zero_shot: float | None
    """Zero-shot CLIP's accuracy on the same test images, a fraction; None without text."""
    style: str
    """The preprocessing of its store: coop, coop-2021, clip or import; empty where the store is gone."""
    method: str
    """The adapter's name with all that makes this search another than its default one."""
    searched: tuple[str, ...]
    """The fields that were searched."""
    search: Mapping[str, Any]
    """All of it, as `results.fetch` gives it."""

    @property
    def runs(self) -> Sequence[Mapping[str, Any]]:
        """All of its runs."""
        return list(self.search["runs"])

    @property
    def chosen(self) -> Sequence[Mapping[str, Any]]:
        """The chosen run of each draw."""
        return [run for run in self.runs if run["chosen"]]

    @property
    def shots(self) -> int:
        """Images a class."""
        return int(self.runs[0]["shots"])

    @property
    def test(self) -> tuple[float, float]:
        """Mean and spread over draws of the chosen runs' test accuracy, fractions; NaN for what is not there."""
        return mean_spread([run["test_accuracy"] for run in self.chosen if run["test_accuracy"] is not None])

    @property
    def num_test(self) -> int:
        """How many test images there are."""
        return int(self.chosen[0]["test_rows"] or 0)

    @property
    def alphas(self) -> list[float]:
        """The chosen alpha of each draw; none for a method without one."""
        return [float(run["alpha"]) for run in self.chosen if run["alpha"] is not None]

    @property
    def place(self) -> str:
        """Data set, backbone and preprocessing, in words."""
        words = [self.dataset, self.model, f"{self.style or 'unknown'} preprocessing"]
        words += [f"prompts {self.text_set}"] if self.text_set != DEFAULT else []
        words += [f"{self.classes} classes"] if self.classes != "all" else []
        return ", ".join(words)

    @property
    def model(self) -> str:
        """The backbone, marked where its weights are random."""
        return self.backbone + (" (untrained)" if self.untrained else "")

    @property
    def chosen_on(self) -> str:
        """The protocol, in words that cannot be misread."""
        return protocol_words(self.protocol)


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Everything a report is made of."""

    path: Path
    """The results file."""
    found: tuple[Found, ...]
    """The newest search of each kind, by id."""
    replaced: tuple[Found, ...]
    """Older searches of the same kind: listed, not drawn."""
    stores: Stores
    images: Images
    """Of the stores, where they are at hand."""

    def answered(self, search: Found) -> Answered | None:
        """What its chosen runs say of each test image; None where it was not kept."""
        return records.answered(self.path, search.id)


def gather(path: Path, ids: Sequence[int] = (), *, images: Images | None = None) -> Gathered:
    """All finished searches, or those of `ids`. Raises InputError where there are none, UnknownNameError."""
    for asked in ids:
        if records.fetch(path, asked)["state"] != "done":
            raise InputError(f"result {asked} is not finished, so it has no test numbers; fit it again")
    listed = sorted(row.id for row in records.summaries(path, ids=ids or None))
    if not listed:
        raise InputError("there are no results to report on yet; `featcache fit` makes some")
    stores = Stores()
    every = [_found(records.fetch(path, number), stores) for number in listed]
    newest = {_kind(one): one for one in every}
    kept = {one.id for one in newest.values()}
    return Gathered(
        path=path,
        found=tuple(one for one in every if one.id in kept),
        replaced=tuple(one for one in every if one.id not in kept),
        stores=stores,
        images=images or Images(wanted=False),
    )


def grouped(items: Iterable[Found], key: Callable[[Found], _Key]) -> dict[_Key, list[Found]]:
    """The searches by a key, in order."""
    groups: dict[_Key, list[Found]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def with_result(names: Sequence[str], items: Sequence[Found]) -> tuple[str, ...]:
    """The names of searches; those that several share, which differ in their seeds, with the result's number."""
    times = Counter(names)
    return tuple(
        f"{name}, result {one.id}" if times[name] > 1 else name for name, one in zip(names, items, strict=True)
    )


def protocol_words(protocol: str) -> str:
    """`chosen on fewshot-val`; the oracle says what it is."""
    if protocol == "test-oracle":
        return "chosen on the test set itself (test-oracle: an upper bound)"
    return "nothing chosen (fixed)" if protocol == "fixed" else f"chosen on {protocol}"


def protocols_words(items: Iterable[Found]) -> str:
    """The protocols of several searches, each once."""
    words = list(dict.fromkeys(item.chosen_on for item in items))
    return "; ".join(words)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are there; None for none."""
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def _found(search: Mapping[str, Any], stores: Stores) -> Found:
    configs = [run["config"] for run in search["runs"]]
    named = ("id", "created", "store", "store_key", "dataset", "backbone", "adapter", "text_set", "classes", "protocol")
    return Found(
        **{name: search[name] for name in named},
        untrained=bool(search["untrained"]),
        zero_shot=search["zero_shot_accuracy"],
        search=search,
        style=stores.style(search["store_key"]),
        method=_method_words(search),
        searched=tuple(varying_fields(configs)),
    )


def _kind(one: Found) -> tuple[object, ...]:
    """What a newer search of the same kind takes the place of."""
    draws = tuple(sorted((run["shot_seed"], run["init_seed"]) for run in one.chosen))
    return one.store_key, one.method, one.text_set, one.classes, one.shots, one.protocol, one.searched, draws


def _method_words(search: Mapping[str, Any]) -> str:
    """`clip_adapter where=text, adamw, 50 epochs`: what is not the method's default and was not searched."""
    configs = [run["config"] for run in search["runs"]]
    varied = set(varying_fields(configs))
    words = [
        f"{name}={plain(value)}"
        for name, value in configs[0].items()
        if name not in varied and value != _defaults(search["adapter"]).get(name, value)
    ]
    words += ["post-hoc alpha"] if "post_hoc_alpha" in configs[0] else []
    words += _recipe_words(search) if any(run["num_params"] is not None for run in search["runs"]) else []
    words += ["one choice for all draws"] if search["choose"] == "pooled" else []
    return " ".join([search["adapter"], *([", ".join(words)] if words else [])])


def _defaults(adapter: str) -> dict[str, Any]:
    """A method's fields as they are unless the user says; none where its file is not at hand."""
    try:
        kind: Any = registry.load(adapter)
        return dict(vars(kind()))
    except (FeatcacheError, TypeError):
        return {}


def _recipe_words(search: Mapping[str, Any]) -> list[str]:
    """What of the recipe is not the method's own."""
    recipe = search["recipe"]
    try:
        preset = str(getattr(registry.load(search["adapter"]), "preset", recipe["preset"]))
        usual = vars(recipes.make(recipe["preset"], shots=search["runs"][0]["shots"], dataset=search["dataset"]))
    except FeatcacheError:
        return [recipe["preset"]]
    words = [recipe["preset"]] if recipe["preset"] != preset else []
    heeded = ("epochs", "lr", "batch_size", "weight_decay", "momentum", "last_batch")
    return words + [f"{name}={plain(recipe[name])}" for name in heeded if recipe.get(name) != usual.get(name)]
