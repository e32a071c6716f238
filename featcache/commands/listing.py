"""`featcache results`: what has been fitted, one search whole, and one over another."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


class _Results(TyperGroup):
    """`results 17` is short for `results show 17`; an option may stand before the command it is for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        places = (at for at, word in enumerate(args) if not word.startswith("-") and args[at - 1 : at] != ["--limit"])
        first = next(places, None)
        if first is not None and args[first].isdecimal():
            args = ["show", *args]
        elif first is not None:
            args = [args[first], *args[:first], *args[first + 1 :]]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_Results, invoke_without_command=True)


@app.callback()
def results(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest to list.")] = 20,
    json: Json = False,
) -> None:
    """List what has been fitted; `results ID` shows one search whole, `results diff A B` one over another."""
    if ctx.invoked_subcommand is not None:
        return
    from featcache import console, reporting
    from featcache import results as records
    from featcache.store.places import results_path

    summaries = records.summaries(results_path(), limit=limit)
    if json:
        console.raw(jsonlib.dumps([vars(row) for row in summaries], indent=2))
    elif summaries:
        reporting.show_summaries(summaries)
    else:
        console.say("no results yet; `featcache fit` makes some")


@app.command()
def show(
    result: Annotated[int, typer.Argument(metavar="ID", help="A result's id, as `results` lists it.")],
    per_class: Annotated[bool, typer.Option("--per-class", help="Every class in a table.")] = False,
    json: Json = False,
) -> None:
    """Show one search whole: its settings, its runs, and what the chosen ones are worth. Short: `results ID`."""
    from featcache import assessment, console, reporting
    from featcache import results as records
    from featcache.store.places import results_path

    found = records.fetch(results_path(), result)
    kept = records.answered(results_path(), result)
    measures = None if kept is None else assessment.assess(kept.items, kept.answers)
    if json:
        plain = None if measures is None else reporting.measures_as_plain(measures)
        console.raw(jsonlib.dumps({**found, "measures": plain}, indent=2))
        return
    _show_record(found)
    if measures is None:
        console.note("no predictions were kept of this search, so there are no measures by class")
        return
    if per_class:
        reporting.show_classes(measures)
    reporting.show_measures(measures, found["protocol"])


@app.command()
def diff(
    first: Annotated[int, typer.Argument(metavar="A", help="A result's id.")],
    second: Annotated[int, typer.Argument(metavar="B", help="The id of the one to hold against it.")],
    json: Json = False,
) -> None:
    """Compare two searches image by image: what B gains over A on the same draws and test images."""
    from featcache import console, reporting
    from featcache import results as records
    from featcache.store.places import results_path

    comparison = records.compare_results(results_path(), first, second)
    if json:
        console.raw(reporting.comparison_as_json(comparison, first, second))
        return
    searches = [records.fetch(results_path(), result) for result in (first, second)]
    reporting.show_comparison(comparison, *searches)


def _show_record(found: dict[str, Any]) -> None:
    from featcache import console

    values = {name: value for name, value in found.items() if name not in ("runs", "also")}
    console.table(["what", "value"], [[k, v if isinstance(v, str) else jsonlib.dumps(v)] for k, v in values.items()])
    columns = ["config", "shots", "shot_seed", "selection_accuracy", "test_accuracy", "chosen"]
    columns += ["fault"] if any(run["fault"] for run in found["runs"]) else []
    console.table(columns, [[_cell(run[name]) for name in columns] for run in found["runs"]])
    if found["also"]:
        columns = ["store", "classes", "run", "test_accuracy", "test_rows", "zero_shot_accuracy"]
        console.table(columns, [[_cell(item[name]) for name in columns] for item in found["also"]])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return jsonlib.dumps(value) if isinstance(value, dict) else str(value)
