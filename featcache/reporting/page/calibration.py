"""Is confidence accuracy? Reliability diagrams of the methods of a place (Guo et al., ICML 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from featcache import measures
from featcache.assessment import by_draw
from featcache.reporting.page.closely import Seen, nothing_kept, places
from featcache.reporting.page.gather import Gathered, protocols_words
from featcache.reporting.page.marks import colour, layer, number, only, spec, tooltip
from featcache.reporting.page.model import Chart, Panel, Rows, Table, View, unique
from featcache.reporting.page.shots import series_of
from featcache.reporting.page.words import plural, told

KEY = "reliability"


def panel(gathered: Gathered) -> Panel:
    """One diagram for each store, prompt set and part of the classes."""
    found = places(gathered)
    return Panel(
        key=KEY,
        title="Is confidence accuracy?",
        lead="Test images in bins of the confidence in their predicted class: the bin's accuracy against its mean "
        "confidence, all draws together, larger marks for more images. Below the diagonal a method is too sure of "
        "itself. The expected calibration error (ECE) is the mean distance from it.",
        views=tuple(_view(place) for place in found),
        blanks=() if found else (nothing_kept(),),
    )


def _view(place: Sequence[Seen]) -> View:
    first = place[0].one
    series = unique([series_of(seen.one) for seen in place])
    errors = {series_of(seen.one): _error(seen) for seen in place}
    values: Rows = [{"end": 0, "diagonal": 0}, {"end": 100, "diagonal": 100}]
    for seen in place:
        values += _bins(seen)
    x = number("confidence", "mean confidence of the bin, %", scale={"domain": [0, 100]})
    y = number("accuracy", "accuracy of the bin, %", scale={"domain": [0, 100]})
    ends = {"x": {**x, "field": "end"}, "y": {**y, "field": "diagonal"}}
    at = {"x": x, "y": y, "color": colour(series)}
    made = only("isValid(datum.series)")
    size = {"field": "images", "type": "quantitative", "legend": None, "scale": {"range": [12, 260]}}
    told_fields = tooltip("series", "bin", "confidence", "accuracy", "images")
    worst = "; ".join(f"{name}: ECE {told(error)} %" for name, error in errors.items())
    return View(
        name=f"{first.place}, {plural(first.shots, 'shot')}",
        protocol=protocols_words(seen.one for seen in place),
        charts=(
            Chart(
                title="Reliability on test images, by method and protocol",
                says=f"Accuracy against confidence in {measures.NUM_BINS} bins. {worst}.",
                spec=spec(
                    values,
                    [
                        layer({"type": "line", "style": "reference", "strokeDash": [2, 3]}, ends),
                        layer({"type": "line", "strokeWidth": 1.2, "opacity": 0.7}, at, transform=made),
                        layer(
                            {"type": "point", "filled": True, "opacity": 0.85},
                            {**at, "size": size, "tooltip": told_fields},
                            transform=made,
                        ),
                    ],
                    height=340,
                ),
                series=series,
                wide=True,
                table=Table(
                    columns=("method", "chosen on", "test %", "ECE %"),
                    rows=tuple(
                        (seen.one.method, seen.one.protocol, told(seen.one.test[0]), told(errors[series_of(seen.one)]))
                        for seen in place
                    ),
                    caption="Expected calibration error, mean over draws",
                    is_open=True,
                ),
            ),
        ),
    )


def _error(seen: Seen) -> float:
    each = [
        measures.calibration(answer.right(seen.items), answer.predictions.confidence).error for answer in seen.answers
    ]
    return fmean(by_draw(each, [answer.draw for answer in seen.answers]))


def _bins(seen: Seen) -> Rows:
    right = np.concatenate([answer.right(seen.items) for answer in seen.answers])
    confidence = np.concatenate([answer.predictions.confidence for answer in seen.answers])
    found = measures.calibration(right, confidence)
    return [
        {
            "series": series_of(seen.one),
            "bin": f"{100 * found.edges[at]:.0f} to {100 * found.edges[at + 1]:.0f} %",
            "confidence": round(100 * float(found.confidence[at]), 2),
            "accuracy": round(100 * float(found.accuracy[at]), 2),
            "images": int(found.count[at]),
        }
        for at in range(len(found.count))
        if found.count[at]
    ]
