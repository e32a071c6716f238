"""What `featcache results` lists: filtered, the best of groups, grouped, sorted, in one of several formats."""

from __future__ import annotations

from dataclasses import dataclass

from featcache import console, reporting
from featcache import results as records
from featcache.errors import ConfigError
from featcache.store.places import results_path


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown of the results."""

    filters: records.Filters
    best_per: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    across: str | None = None
    sort: str | None = None
    limit: int | None = None
    format: str = "table"


def show_view(view: View) -> None:
    """Filter, take the best, sort, cut, group and print."""
    reporting.check_format(view.format)
    if view.across and not view.by:
        raise ConfigError("--across makes columns of the groups of --by; name those too, as in --by adapter")
    if view.by and view.sort:
        raise ConfigError("--sort orders single results, but --by makes groups of them; leave one of the two out")
    rows = records.select(results_path(), view.filters)
    if view.best_per:
        rows = records.best_per(rows, [records.field_named(name, records.GROUPABLE) for name in view.best_per])
    if view.sort:
        rows = records.in_order(rows, view.sort)
    rows = rows[: view.limit]
    if not rows and view.format == "table":
        console.say(
            "no results yet; `featcache fit` makes some" if view.filters == records.Filters() else "no result fits"
        )
        return
    if not view.by:
        reporting.show_sheet(reporting.summary_sheet(rows), view.format)
        return
    names = tuple(dict.fromkeys(records.field_named(name, records.GROUPABLE) for name in view.by))
    if len({row.protocol for row in rows}) > 1 and "protocol" not in names:
        console.warn("these were not all chosen on the same kind of rows; --by protocol,... keeps them apart")
    columns = () if view.across is None else (records.field_named(view.across, records.GROUPABLE),)
    if apart := reporting.unshared(rows, (*names, *columns)):
        console.warn(
            f"{apart} groups hold results of unequal draws, and test is the mean over the draws that all of a group "
            "have; --by shots,method,.. or a filter keeps them apart"
        )
    if view.across is None:
        reporting.show_sheet(reporting.group_sheet(rows, names), view.format)
        return
    across = records.field_named(view.across, records.GROUPABLE)
    if across in names:
        raise ConfigError(f"--across {across}: it is one of the fields of --by already")
    title = f"test % by {', '.join(names)} across {across}: mean ± spread over draws"
    reporting.show_sheet(reporting.across_sheet(rows, names, across), view.format, title=title)


def show_sql(statement: str, view: View) -> None:
    """The answer to one question in SQL. Raises ConfigError where another option would have no effect on it."""
    reporting.check_format(view.format)
    if view.filters != records.Filters() or view.best_per or view.by or view.across or view.sort:
        raise ConfigError("--sql asks the file itself: say the rest in SQL (WHERE, GROUP BY, ORDER BY)")
    answer = records.ask(results_path(), statement)
    reporting.show_sheet(
        reporting.Sheet(
            answer.columns,
            [[_word(value) for value in row] for row in answer.rows],
            [dict(zip(answer.columns, row, strict=True)) for row in answer.rows],
        ),
        view.format,
    )


def words(text: str | None) -> tuple[str, ...]:
    """Words by commas; none where nothing was said."""
    return () if text is None else tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def numbers(text: str | None) -> tuple[int, ...]:
    """Whole numbers by commas. Raises ConfigError."""
    try:
        return tuple(int(word) for word in words(text))
    except ValueError:
        raise ConfigError(f"--shots {text}: a comma-separated list of whole numbers, as in 1,2,4") from None


def _word(value: object) -> str:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return "-" if value is None else str(value)
