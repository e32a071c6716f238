"""Panels as one HTML page that needs nothing else: no request leaves it, and no text of the user's is markup in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from featcache.reporting.page import bundle, theme
from featcache.reporting.page.model import Blank, Card, Chart, Panel, Table, View

_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "base-uri 'none'; form-action 'none'"
)
"""What the page may load: nothing. Vega compiles its expressions, hence eval of what the page itself holds."""

_CODE = re.compile(r"`([^`]+)`")
_LONG = 40
"""Characters beyond which a cell of a table is folded."""


def page(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """The whole page."""
    contents = "".join(f'<li><a href="#{one.key}">{escape(one.title)}</a></li>' for one in panels)
    body = "".join(_panel(number, one) for number, one in enumerate(panels, 1))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_style()}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the figures</a>
<header>
<p class="kicker">featcache report</p>
<h1>{escape(title)}</h1>
<p class="subtitle">{escape(subtitle)}</p>
<fieldset class="theme"><legend>Colours</legend>{_theme_buttons()}</fieldset>
</header>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
<noscript><p class="blank">The plots need JavaScript; every number is in the tables all the same.</p></noscript>
<main id="content" tabindex="-1">{body}</main>
<footer><p>Made by featcache. This file is whole: it loads nothing, from anywhere.</p></footer>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="data">{_embedded(_data(panels))}</script>
<script>{bundle.javascript()}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _style() -> str:
    light, dark = (theme.style_variables(mode) for mode in theme.MODES)
    # One page, three states: as the system has it, or as the reader chose.
    variables = (
        f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f":root[data-theme=light]{{{light}}}:root[data-theme=dark]{{{dark}}}"
    )
    return variables + _asset("page.css")


def _asset(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _theme_buttons() -> str:
    return "".join(
        f'<button type="button" data-mode="{mode}" aria-pressed="{str(mode == "auto").lower()}">{mode}</button>'
        for mode in ("auto", *theme.MODES)
    )


def _data(panels: Sequence[Panel]) -> dict[str, Any]:
    """What the script draws from."""
    charts, thumbnails = {}, {}
    images: list[Mapping[int, str]] = []  # each set once: two preprocessings show the same images
    for one in panels:
        for at, view in enumerate(one.views):
            if view.thumbnails and view.thumbnails not in images:
                images.append(view.thumbnails)
            if view.thumbnails:
                thumbnails[_view_id(one, at)] = images.index(view.thumbnails)
            for number, chart in enumerate(view.charts):
                charts[_chart_id(one, at, number)] = {
                    "spec": {**chart.spec, "description": chart.says},
                    "palette": chart.palette,
                }
    configs = {
        mode: {palette: theme.config(mode, palette) for palette in ("category", "ordinal")} for mode in theme.MODES
    }
    return {"charts": charts, "thumbnails": thumbnails, "images": images, "configs": configs}


def _embedded(value: Any) -> str:
    """JSON that cannot end the <script> it stands in, whatever a class is called."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (
        text.replace("<", "\\u003c").replace(">", "\\u003e").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    )


def _view_id(panel: Panel, at: int) -> str:
    return f"{panel.key}-{at}"


def _chart_id(panel: Panel, at: int, number: int) -> str:
    return f"{panel.key}-{at}-{number}"


def _panel(number: int, panel: Panel) -> str:
    views = "".join(_view(panel, at, view) for at, view in enumerate(panel.views))
    lead, blanks = _CODE.sub(r"<code>\1</code>", escape(panel.lead)), "".join(map(_blank, panel.blanks))
    return (
        f'<section id="{panel.key}" aria-labelledby="{panel.key}-title"><h2 id="{panel.key}-title">'
        f'<span class="number" aria-hidden="true">{number}</span> {escape(panel.title)}</h2>'
        f'<p class="lead">{lead}</p>{_choice(panel)}{views}{blanks}</section>'
    )


def _choice(panel: Panel) -> str:
    """What chooses among a panel's views."""
    if len(panel.views) < 2:
        return ""
    options = "".join(
        f'<option value="{_view_id(panel, at)}">{escape(view.name)}</option>' for at, view in enumerate(panel.views)
    )
    return (
        f'<p class="choice"><label for="{panel.key}-choice">Shown</label>'
        f'<select id="{panel.key}-choice" data-choice="{panel.key}" autocomplete="off">{options}</select></p>'
    )


def _view(panel: Panel, at: int, view: View) -> str:
    toggles = "".join(
        f'<label class="toggle"><input type="checkbox" autocomplete="off" data-param="{escape(toggle.param)}"'
        f"{' checked' if toggle.value else ''}> {escape(toggle.label)}</label>"
        for toggle in view.toggles
    )
    heading = f'<p class="view-name">{escape(view.name)}</p>' if len(panel.views) == 1 else ""
    protocol = f'<p class="protocol">{escape(view.protocol)}</p>' if view.protocol else ""
    charts = "".join(_chart(panel, at, number, chart) for number, chart in enumerate(view.charts))
    figures = f'<div class="figures">{charts}</div>' if charts else ""
    cards = f'<ul class="cards">{"".join(map(_card, view.cards))}</ul>' if view.cards else ""
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in view.notes)
    return (
        f'<div class="view" id="{_view_id(panel, at)}" data-panel="{panel.key}"{" hidden" if at else ""}>{heading}'
        f"{protocol}{_legend(view)}{toggles}{figures}{cards}{''.join(map(_table, view.tables))}{notes}</div>"
    )


def _legend(view: View) -> str:
    """Buttons that name the series of a view's plots and show or hide them."""
    shown = next((chart for chart in view.charts if len(chart.series) > 1), None)
    if shown is None:
        return ""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-series="{escape(name)}">'
        f'<span class="swatch{" again" if index >= _size(shown.palette) else ""}" style="{_ink(shown, index)}"></span>'
        f"{escape(name)}</button>"
        for index, name in enumerate(shown.series)
    )
    return f'<div class="legend" role="group" aria-label="Series: press to hide or show">{buttons}</div>'


def _ink(chart: Chart, index: int) -> str:
    ink = f"var(--{chart.palette}-{index % _size(chart.palette)})"
    return f"background:{ink};border-color:{ink}"


def _size(palette: str) -> int:
    return len(theme.colours("light")[palette])


def _chart(panel: Panel, at: int, number: int, chart: Chart) -> str:
    return (
        f'<figure class="{"wide" if chart.wide else "half"}"><figcaption>{escape(chart.title)}</figcaption>'
        f'<div class="chart" id="{_chart_id(panel, at, number)}" role="img" aria-label="{escape(chart.says)}"></div>'
        f"{_table(chart.table) if chart.table else ''}</figure>"
    )


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in table.rows
    )
    caption = escape(table.caption)
    # A region that scrolls sideways by itself keeps a phone's page from doing so, and can be reached by keyboard.
    return (
        f'<details class="table"{" open" if table.is_open else ""}><summary>{caption}</summary>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _cell(text: str) -> str:
    return f"<td{' class=long' if len(text) > _LONG else ''}>{escape(text)}</td>"


def _card(card: Card) -> str:
    lines = "".join(f"<span>{escape(line)}</span>" for line in card.lines)
    image = (
        f'<img src="{escape(card.image)}" alt="{escape(card.lines[0])}">'
        if card.image
        else '<div class="no-image"></div>'
    )
    return f"<li>{image}{lines}</li>"


def _blank(blank: Blank) -> str:
    command = f" <code>{escape(blank.command)}</code> makes it." if blank.command else ""
    return f'<p class="blank">Not here: {escape(blank.why)}.{command}</p>'
