"""Test embeddings in the plane: CLIP's, CoOp's logits, and after the adapter without and with its residual (Fig. 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.errors import ConfigError, FeatcacheError
from featcache.fits import POST_HOC_ALPHA
from featcache.loading import draws_of
from featcache.ops import normalise
from featcache.predictions import Items
from featcache.reporting.page import model
from featcache.reporting.page.gather import Found, Gathered, grouped
from featcache.reporting.page.layouts import laid_out
from featcache.reporting.page.marks import NUM_COLOURS, colour, layer, spec
from featcache.reporting.page.model import Blank, Chart, Panel, Spec, View, told_apart
from featcache.reporting.page.refitting import fitted_as_recorded, refit
from featcache.reporting.page.stores import sample, test_rows
from featcache.reporting.page.words import plural
from featcache.results import learnt_for
from featcache.store import Store
from featcache.task import EmbedsImages
from featcache.training import single_hyper

KEY = "embeddings"
MOST = 1000
"""Points of a plot."""
_MOST_PLACES = 4
"""Stores that are laid out, the newest."""
_SHAPES = ("circle", "triangle-up", "square", "diamond", "cross", "triangle-down")
_MOST_NAMED = 40
"""Classes beyond which the legend would be longer than the plots: colours repeat then, and a mark tells its class."""


class Cloud(NamedTuple):
    """What one plot lays out."""

    title: str
    protocol: str
    meaning: Sequence[Any]
    """All that decides the rows, beside the store and the sample."""
    rows: Callable[[], Tensor]
    """(N, D)."""


class Subject(NamedTuple):
    """The result whose adapter is looked at."""

    one: Found
    run: Mapping[str, Any]
    """Its chosen run of the first draw."""
    items: Items
    predicted: NDArray[np.int64]
    """(N,) what that run says of each test image."""
    image: Tensor
    """(n, D) raw embeddings of the sampled test images."""
    shown: NDArray[np.int64]
    """(n,) which they are."""


def panel(gathered: Gathered) -> Panel:
    """One view for each store with an adapter's result, the newest few."""
    views, blanks = [], []
    kept = _subjects(gathered)
    for one in kept:
        try:
            with gathered.stores.open(one.store_key, one.store) as store:
                view, lacking = _view(gathered, store, one)
        except FeatcacheError as error:
            blanks.append(Blank(f"the embeddings of result {one.id} on {one.store} ({error})", ""))
        else:
            views.append(view)
            blanks += lacking
    if not kept:
        blanks.append(Blank("no result moves image embeddings", "featcache fit --adapter clip_adapter"))
    return Panel(
        key=KEY,
        title="What does the adapter do to the embeddings?",
        lead=f"The same test images, at most {MOST:,}, laid out by t-SNE: as CLIP embeds them, as CoOp's logits, and "
        "after the adapter without its residual (alpha 1) and with it. Colours and shapes are classes. A layout keeps "
        "neighbours, not distances, and has no axes.",
        views=tuple(views),
        blanks=tuple(dict.fromkeys(blanks)),
    )


def _subjects(gathered: Gathered) -> list[Found]:
    """Of each store one search that moves images: the plainest, not chosen on test, at the most shots."""
    able = [one for one in gathered.found if one.adapter == "clip_adapter" and _moves_images(one)]
    groups = grouped(able, lambda one: one.store_key)
    best = [
        min(each, key=lambda one: (one.protocol == "test-oracle", one.method != one.adapter, -one.shots))
        for each in groups.values()
    ]
    return sorted(best, key=lambda one: -one.id)[:_MOST_PLACES]


def _moves_images(one: Found) -> bool:
    return bool(one.chosen[0]["config"].get("where", "visual") != "text")


def _view(gathered: Gathered, store: Store, one: Found) -> tuple[View, list[Blank]]:
    subject = _subject(gathered, store, one)
    names = told_apart(subject.items.classes)
    clouds, blanks = _clouds(gathered, store, subject)
    charts = []
    for cloud in clouds:
        try:
            layout = laid_out(_meaning(cloud, store, subject), lambda cloud=cloud: cloud.rows().numpy())  # type: ignore[misc]
        except FeatcacheError as error:
            blanks.append(Blank(f"{cloud.title} on {one.store} ({error})", ""))
        else:
            charts.append(_chart(cloud, layout, subject, names))
    draw = f"draw of {plural(subject.run['shots'], 'shot')}, seed {subject.run['shot_seed']}"
    view = View(
        name=f"{one.place} · {one.method} · {one.protocol}",
        protocol=one.chosen_on,
        charts=tuple(charts),
        notes=(f"The adapter is result {one.id}'s, {draw}. Without residual it is trained anew, at alpha 1.",),
        thumbnails=gathered.images.thumbnails(store, subject.items.row[subject.shown].tolist()),
    )
    return view, blanks


def _subject(gathered: Gathered, store: Store, one: Found) -> Subject:
    kept, rows = gathered.answered(one), test_rows(store, one.classes)
    if kept is None:
        raise ConfigError("its predictions were not kept; fit it again")
    if not np.array_equal(kept.items.label, rows.label.numpy()):
        raise ConfigError("the store holds other test images now; fit it again")
    shown = sample(len(rows.label), MOST)
    return Subject(one, one.chosen[0], kept.items, kept.answers[0].predictions.predicted, rows.image[shown], shown)


def _meaning(cloud: Cloud, store: Store, subject: Subject) -> list[Any]:
    one = subject.one
    return [*cloud.meaning, store.key, store.content, one.classes, len(subject.shown), subject.items.digest]


def _clouds(gathered: Gathered, store: Store, subject: Subject) -> tuple[list[Cloud], list[Blank]]:
    one = subject.one
    clouds = [Cloud("CLIP, zero-shot", "nothing chosen", ["clip"], lambda: normalise(subject.image))]
    blanks = []
    learnt = _coop(gathered, store, subject)
    if isinstance(learnt, Cloud):
        clouds.append(learnt)
    else:
        blanks.append(learnt)
    config = subject.run["config"]
    ratio = POST_HOC_ALPHA if POST_HOC_ALPHA in config else "alpha"
    chosen = float(config[ratio])
    clouds.append(_adapter(gathered, store, subject, f"{one.method} without residual, alpha 1", {ratio: 1.0}))
    if chosen != 1:
        clouds.append(_adapter(gathered, store, subject, f"{one.method} with residual, alpha {chosen:g}", {}))
    return clouds, blanks


def _adapter(gathered: Gathered, store: Store, subject: Subject, title: str, changes: dict[str, float]) -> Cloud:
    """The images after the adapter, trained as recorded save for the changes."""
    one, run = subject.one, subject.run

    def rows() -> Tensor:
        if changes:
            fitted = refit(store, gathered.path, one, run, **changes)
        else:
            fitted = fitted_as_recorded(store, gathered.path, one, run)
        assert isinstance(fitted.method, EmbedsImages)
        hyper = single_hyper(fitted.method, subject.image.device)
        return normalise(fitted.method.embedding(fitted.params, subject.image, fitted.frozen, hyper))

    config = {**run["config"], **changes}
    recorded = [
        run["shots"],
        run["shot_seed"],
        run["init_seed"],
        run["draw"],
        one.search["recipe"],
        one.search["views"],
    ]
    protocol = "not chosen" if changes else one.protocol
    return Cloud(title, protocol, ["adapter", one.adapter, config, *recorded, one.text_set], rows)


def _coop(gathered: Gathered, store: Store, subject: Subject) -> Cloud | Blank:
    """CoOp's logits of the images: its text is learnt, the images stay where they are."""
    one = subject.one
    found = [
        other
        for other in gathered.found
        if (other.adapter, other.store_key, other.classes) == ("coop", one.store_key, one.classes)
    ]
    if not found:
        return Blank(f"CoOp's logits on {one.store}", f"featcache fit {one.store} --adapter coop")
    coop = max(found, key=lambda other: (other.shots, other.id))
    run = coop.chosen[0]
    try:
        [drawn] = draws_of(store, run["shots"], (run["shot_seed"],))
        text = learnt_for(gathered.path, one.store_key, one.classes)(coop.id, drawn)
    except FeatcacheError as error:
        return Blank(f"CoOp's logits on {one.store} ({error})", f"featcache fit {one.store} --adapter coop")
    meaning = ["coop", run["config"], run["draw"], run["init_seed"], coop.search["recipe"]]
    return Cloud(
        f"CoOp's logits, {plural(run['shots'], 'shot')}",
        coop.protocol,
        meaning,
        lambda: normalise(subject.image) @ torch.from_numpy(text.copy()).T,
    )


def _chart(cloud: Cloud, layout: NDArray[np.float32], subject: Subject, names: Sequence[str]) -> Chart:
    items, shown = subject.items, subject.shown
    values: model.Rows = [
        {
            "series": names[items.label[at]],
            "says": names[subject.predicted[at]],
            "row": int(items.row[at]),
            "x": round(float(x), 3),
            "y": round(float(y), 3),
        }
        for at, (x, y) in zip(shown.tolist(), layout, strict=True)
    ]
    return Chart(
        title=f"{cloud.title} · {cloud.protocol}",
        says=f"{plural(len(shown), 'test image')} of {len(names)} classes as points: {cloud.title}.",
        spec=_spec(values, names),
        series=tuple(names) if len(names) <= _MOST_NAMED else (),
    )


def _spec(values: model.Rows, names: Sequence[str]) -> Spec:
    bare = {"type": "quantitative", "axis": None, "scale": {"zero": False, "nice": False, "padding": 8}}
    shapes = [_SHAPES[index // NUM_COLOURS % len(_SHAPES)] for index in range(len(names))]
    shape = {"field": "series", "type": "nominal", "scale": {"domain": list(names), "range": shapes}, "legend": None}
    told_fields = [
        {"field": field, "type": "nominal", "title": title}
        for field, title in (("series", "class"), ("says", "the result says"), ("row", "test row"))
    ]
    return spec(
        values,
        [
            layer(
                {"type": "point", "filled": True, "size": 26, "opacity": 0.8, "aria": False},
                {
                    "x": {"field": "x", **bare},
                    "y": {"field": "y", **bare},
                    "color": colour(names),
                    "shape": shape,
                    "tooltip": told_fields,
                },
            )
        ],
        height=330,
    )
