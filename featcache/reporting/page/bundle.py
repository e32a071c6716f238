"""The plotting library: Vega-Lite, embedded from an installed package, and the same specifications as PNG and SVG."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featcache.errors import InputError
from featcache.reporting.page import theme
from featcache.reporting.page.model import Chart
from featcache.store.places import home, make_folder

_PAPER_FONT = "Arial, Liberation Sans, sans-serif"


def javascript() -> str:
    """Vega, Vega-Lite and their embedder, about 0.9 MB, safe inside a <script>; made once and kept in the cache."""
    converter = _converter()
    file = home() / "report" / f"vega-{converter.__version__}.js"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    text = re.sub(r"<(/script|!--)", r"<\\\1", str(converter.javascript_bundle()), flags=re.IGNORECASE)
    make_folder(file.parent)
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)
    return text


def save(chart: Chart, file: Path, *, width: int, subtitle: Sequence[str] = ()) -> Path:
    """The file, with the chart as PNG, SVG or PDF on white, `width` pixels wide, with a legend. Raises InputError."""
    converter = _converter()
    spec = {**chart.spec, "width": width, "config": theme.config("light", chart.palette, _PAPER_FONT)}
    spec["config"]["background"] = "white"
    spec["title"] = {"text": chart.title, "subtitle": list(subtitle), "limit": width}
    text = json.dumps(_with_legend(spec))
    try:
        match file.suffix.lower():
            case ".svg":
                file.write_text(converter.vegalite_to_svg(text), encoding="utf-8")
            case ".pdf":
                file.write_bytes(converter.vegalite_to_pdf(text))
            case _:
                file.write_bytes(converter.vegalite_to_png(text, ppi=220))
    except OSError as error:
        raise InputError(f"cannot write the plot {file}: {error.strerror}") from error
    return file


def _with_legend(spec: Any) -> Any:
    """The specification with the plot's own legends, which the page replaces by buttons."""
    if isinstance(spec, list):
        return [_with_legend(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    kept = {name: _with_legend(value) for name, value in spec.items() if name != "values"}
    if "values" in spec:
        kept["values"] = spec["values"]
    if kept.get("field") == "series" and "legend" in kept:
        kept["legend"] = {"title": None, "orient": "bottom", "columns": 2, "symbolOpacity": 1}
    return kept


def _converter() -> Any:
    try:
        import vl_convert
    except ImportError as error:
        raise InputError(
            "reports and plots need the package vl-convert-python: pip install 'featcache[report]'"
        ) from error
    return vl_convert
