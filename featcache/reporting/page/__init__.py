"""The report: one HTML page from results, and its plots one by one for papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.errors import ConfigError, InputError, UnknownNameError
from featcache.reporting.page import (
    alphas,
    bundle,
    calibration,
    classes,
    domains,
    embeddings,
    hardest,
    methods,
    provenance,
    shots,
    variants,
)
from featcache.reporting.page.gather import Gathered, gather
from featcache.reporting.page.images import Images
from featcache.reporting.page.model import Panel, View
from featcache.reporting.page.rendering import page
from featcache.reporting.page.words import plural

PLOT_FORMATS = (".png", ".svg", ".pdf")
_PANELS: dict[str, Callable[[Gathered], Panel]] = {
    alphas.KEY: alphas.panel,
    shots.KEY: shots.panel,
    methods.KEY: methods.panel,
    variants.WHERE: variants.sides_panel,
    variants.STYLES: variants.styles_panel,
    domains.GAIN: domains.gain_panel,
    domains.GAP: domains.gap_panel,
    embeddings.KEY: embeddings.panel,
    classes.CONFUSION: classes.confusion_panel,
    classes.GAINS: classes.gains_panel,
    calibration.KEY: calibration.panel,
    hardest.KEY: hardest.panel,
    provenance.KEY: provenance.panel,
}
"""In the page's order."""


class Written(NamedTuple):
    """A report on disk."""

    file: Path
    num_bytes: int
    panels: tuple[Panel, ...]


class Drawn(NamedTuple):
    """A plot on disk."""

    file: Path
    says: str


def write_report(
    results: Path,
    folder: Path,
    *,
    ids: Sequence[int] = (),
    images: Images | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Written:
    """The report of all results, or those of `ids`, as `folder`/index.html. Raises InputError's kin.

    `progress` is told of each panel that is made, and of how many there are.
    """
    gathered = gather(results, ids, images=images)
    panels: tuple[Panel, ...] = ()
    for make in _PANELS.values():
        panels = (*panels, make(gathered))
        progress(1, len(_PANELS))
    text = page(_title(gathered), _subtitle(gathered), panels)
    file = folder / "index.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the report {file}: {error.strerror}; name another folder with -o") from error
    return Written(file, len(text.encode()), panels)


def kinds() -> tuple[str, ...]:
    """The plots that can be drawn one by one."""
    return tuple(name for name in _PANELS if name not in (hardest.KEY, provenance.KEY))


def draw(
    results: Path,
    kind: str,
    file: Path,
    *,
    ids: Sequence[int] = (),
    width: int = 560,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Drawn]:
    """The plots of one panel as files; several are numbered. Raises InputError's kin where there is nothing to draw.

    `progress` is told of each plot that is saved, and of how many there are.
    """
    if kind not in kinds():
        raise UnknownNameError("kind of plot", kind, kinds())
    if file.suffix.lower() not in PLOT_FORMATS:
        raise ConfigError(f"-o {file}: the ending says the format; use one of {', '.join(PLOT_FORMATS)}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"-o {file}: there is no folder {file.absolute().parent}")
    panel = _PANELS[kind](gather(results, ids))
    charts = [(chart, view) for view in panel.views for chart in view.charts]
    if not charts:
        raise InputError(f"there is nothing to draw for {kind}: {_why(panel)}")
    places = [file] if len(charts) == 1 else [file.with_stem(f"{file.stem}-{at}") for at in range(1, len(charts) + 1)]
    drawn = []
    for (chart, view), place in zip(charts, places, strict=True):
        saved = bundle.save(chart, place, width=width, subtitle=_below(view))
        drawn.append(Drawn(saved, f"{chart.title}; {view.name}"))
        progress(1, len(charts))
    return drawn


def _below(view: View) -> list[str]:
    """What stands below a plot's title: what it is about, and how its numbers were chosen."""
    return [view.name, *([view.protocol] if view.protocol and view.protocol not in view.name else [])]


def _why(panel: Panel) -> str:
    return "; ".join(f"{why}" + (f" (`{command}` makes it)" if command else "") for why, command in panel.blanks)


def _title(gathered: Gathered) -> str:
    datasets = sorted({one.dataset for one in gathered.found})
    shown = ", ".join(datasets[:3]) + (f" and {len(datasets) - 3} more" if len(datasets) > 3 else "")
    return f"Few-shot adapters on {shown}"


def _subtitle(gathered: Gathered) -> str:
    found = gathered.found
    backbones = sorted({one.model for one in found})
    runs = sum(len(one.runs) for one in found)
    newest = max(one.created for one in found)[:16].replace("T", " ")
    counts = (len(found), "result"), (runs, "run"), (len({one.adapter for one in found}), "method")
    return (
        f"{', '.join(plural(count, word) for count, word in counts)}; "
        f"{', '.join(backbones)}. The newest is of {newest} UTC. Accuracies are on test images; how each configuration "
        "was chosen is said beside its number."
    )
