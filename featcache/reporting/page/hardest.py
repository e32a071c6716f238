"""The test images that methods get wrong most, with what they are taken for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from featcache.errors import FeatcacheError
from featcache.reporting.page.closely import Seen, nothing_kept, places
from featcache.reporting.page.gather import Gathered, protocols_words
from featcache.reporting.page.model import Card, Panel, Table, View
from featcache.reporting.page.words import plural, told

KEY = "hardest"
_MOST = 24


def panel(gathered: Gathered) -> Panel:
    """One view for each store, prompt set and part of the classes."""
    found = places(gathered)
    return Panel(
        key=KEY,
        title="Which images are hardest?",
        lead="Test images that the methods get wrong most often, each method counting alike, first those they "
        "are surest of: often a wrong label, or two classes in one image.",
        views=tuple(_view(gathered, place) for place in found),
        blanks=() if found else (nothing_kept(),),
    )


def _view(gathered: Gathered, place: Sequence[Seen]) -> View:
    first, items = place[0].one, place[0].items
    wrong = np.mean([np.mean([~a.right(items) for a in seen.answers], axis=0) for seen in place], axis=0)
    sure = np.mean([np.mean([a.predictions.confidence for a in seen.answers], axis=0) for seen in place], axis=0)
    order = [int(at) for at in np.lexsort((-sure, -wrong))[:_MOST] if wrong[at] > 0]
    paths, thumbnails, note = _images(gathered, place[0], [int(items.row[at]) for at in order])
    cards, rows = [], []
    for at in order:
        taken = _taken_for(place, at)
        row, label = int(items.row[at]), items.classes[items.label[at]]
        cards.append(
            Card(
                thumbnails.get(row, ""),
                (
                    label,
                    f"taken for {taken}",
                    f"wrong in {told(float(wrong[at]), 0)} % of fits, confidence {told(float(sure[at]), 0)} %",
                ),
            )
        )
        rows.append((str(row), paths.get(row, "–"), label, taken, told(float(wrong[at]), 1), told(float(sure[at]), 1)))
    methods = ", ".join(f"{seen.one.method} ({seen.one.protocol})" for seen in place)
    return View(
        name=f"{first.place}, {plural(first.shots, 'shot')}",
        protocol=protocols_words(seen.one for seen in place),
        cards=tuple(cards) if thumbnails else (),
        tables=(
            Table(
                columns=("test row", "image", "true", "mostly taken for", "wrong %", "mean confidence %"),
                rows=tuple(rows),
                caption="The hardest test images",
                is_open=not thumbnails,
            ),
        ),
        notes=(f"Over {methods}.", *([note] if note else [])),
    )


def _taken_for(place: Sequence[Seen], at: int) -> str:
    """The wrong class that most runs take an image for."""
    items = place[0].items
    found = Counter(int(answer.predictions.predicted[at]) for seen in place for answer in seen.answers)
    del found[int(items.label[at])]
    return items.classes[found.most_common(1)[0][0]]


def _images(gathered: Gathered, seen: Seen, rows: Sequence[int]) -> tuple[dict[int, str], dict[int, str], str]:
    """The paths and the thumbnails of test rows, and why there are none."""
    try:
        with gathered.stores.open(seen.one.store_key, seen.one.store) as store:
            paths = {row: store.path_at("test", row) for row in rows}
            thumbnails = gathered.images.thumbnails(store, rows)
    except FeatcacheError as error:
        return {}, {}, f"No images: {error}."
    note = "" if thumbnails else "The images are not at hand (an import, a folder that moved, or not asked for)."
    return paths, thumbnails, note
