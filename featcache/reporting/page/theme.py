"""Colours and type, once for the page's style sheet, its plots and the plots for papers."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
MODES = ("light", "dark")


@cache
def colours(mode: str) -> dict[str, Any]:
    """The named colours of `light` or `dark`."""
    found: dict[str, Any] = json.loads((files(__package__) / "theme.json").read_text(encoding="utf-8"))[mode]
    return found


def style_variables(mode: str) -> str:
    """The colours as custom properties of a style sheet; those of a palette are numbered."""
    named = [f"--{name}:{value}" for name, value in colours(mode).items() if isinstance(value, str)]
    numbered = [
        f"--{name}-{index}:{value}"
        for name in ("category", "ordinal")
        for index, value in enumerate(colours(mode)[name])
    ]
    return ";".join([*named, *numbered])


def config(mode: str, palette: str = "category", font: str = SANS) -> dict[str, Any]:
    """The Vega-Lite configuration of a mode."""
    colour = colours(mode)
    text = {"labelColor": colour["soft"], "titleColor": colour["soft"], "labelFontSize": 11, "titleFontSize": 11}
    axis = {"gridColor": colour["rule"], "domainColor": colour["soft"], "tickColor": colour["soft"], "gridOpacity": 0.7}
    return {
        "background": "transparent" if mode != "paper" else "white",
        "font": font,
        "padding": 4,
        "view": {"stroke": None},
        "axis": {**text, **axis, "titleFontWeight": "normal", "tickSize": 4, "labelLimit": 240, "titlePadding": 9},
        "legend": {**text, "titleFontWeight": "normal", "labelLimit": 280},
        "title": {"color": colour["ink"], "subtitleColor": colour["soft"], "fontSize": 12, "anchor": "start"},
        "text": {"color": colour["ink"]},
        "range": {"category": colour[palette], "heatmap": colour["heat"], "ramp": colour["heat"]},
        "line": {"strokeWidth": 1.8},
        "style": {
            "reference": {"stroke": colour["soft"], "color": colour["soft"], "fill": colour["soft"]},
            "accent": {"stroke": colour["accent"], "color": colour["accent"], "fill": colour["accent"]},
            "quiet": {"stroke": colour["soft"], "color": colour["soft"], "fill": colour["soft"]},
            "words": {"color": colour["soft"], "fill": colour["soft"]},
            "cell": {"stroke": None},
        },
    }
