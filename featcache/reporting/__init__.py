"""Tables and plots from outcomes and results. No number here that they do not hold."""

from featcache.reporting.formats import FORMATS, Sheet, check_format, show_sheet
from featcache.reporting.grid import GridRow, grid_rows, shown_fields
from featcache.reporting.groups import across_sheet, group_sheet, unshared
from featcache.reporting.lists import show_means, summary_sheet
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
    "FORMATS",
    "PLOT_FORMATS",
    "GridRow",
    "Sheet",
    "across_sheet",
    "as_json",
    "check_format",
    "check_plot_file",
    "comparison_as_json",
    "curve",
    "grid_rows",
    "group_sheet",
    "measures_as_plain",
    "percent",
    "plot",
    "show",
    "show_classes",
    "show_comparison",
    "show_means",
    "show_measures",
    "show_methods",
    "show_sheet",
    "shown_fields",
    "summary_sheet",
    "unshared",
]
