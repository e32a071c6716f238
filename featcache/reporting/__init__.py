"""Tables and plots from outcomes and results. No number here that they do not hold."""

from featcache.reporting.grid import GridRow, grid_rows, shown_fields
from featcache.reporting.lists import show_means, show_summaries
from featcache.reporting.measured import (
    comparison_as_json,
    measures_as_plain,
    show_classes,
    show_comparison,
    show_measures,
)
from featcache.reporting.methods import show_methods
from featcache.reporting.one_search import as_json, show
from featcache.reporting.plots import PLOT_FORMATS, check_plot_file, curve, plot
from featcache.reporting.words import percent

__all__ = [
    "PLOT_FORMATS",
    "GridRow",
    "as_json",
    "check_plot_file",
    "comparison_as_json",
    "curve",
    "grid_rows",
    "measures_as_plain",
    "percent",
    "plot",
    "show",
    "show_classes",
    "show_comparison",
    "show_means",
    "show_measures",
    "show_methods",
    "show_summaries",
    "shown_fields",
]
