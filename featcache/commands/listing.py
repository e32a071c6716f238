"""`featcache results`: what has been fitted, one search whole, one over another, and removing."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from featcache.commands import completing

Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
_NEWEST = 20
"""How many a plain list shows."""


class _Results(TyperGroup):
    """`results 17` is short for `results show 17`; an option may stand before the command it is for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with_value = {name for option in self.params if not option.is_flag for name in option.opts}  # type: ignore[attr-defined]
        places = (at for at, word in enumerate(args) if word[:1] != "-" and not with_value & {*args[at - 1 : at]})
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
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Only these data sets; several by commas, here and below.", autocompletion=completing.datasets
        ),
    ] = None,
    store: Annotated[str | None, typer.Option(help="Only these stores.", autocompletion=completing.stores)] = None,
    backbone: Annotated[str | None, typer.Option(help="Only these backbones.")] = None,
    adapter: Annotated[str | None, typer.Option(help="Only these methods.", autocompletion=completing.adapters)] = None,
    prompts: Annotated[str | None, typer.Option(help="Only these prompt sets.")] = None,
    classes: Annotated[str | None, typer.Option(help="Only all, base or new.")] = None,
    shots: Annotated[str | None, typer.Option(help="Only these numbers of shots.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Only what was chosen so: fewshot-val, ...", autocompletion=completing.protocols)
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only from then on: 2026-01-31, or 30m, 6h, 2d, 1w ago.")] = None,
    best_per: Annotated[
        str | None, typer.Option(help="The best by selection accuracy for each dataset,shots,... Never by test.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="One line for each adapter,shots,...: mean, spread and interval over draws.")
    ] = None,
    across: Annotated[str | None, typer.Option(help="With --by: a column for each dataset (or shots, ...).")] = None,
    sort: Annotated[
        str | None, typer.Option(help="A field, -FIELD from high to low: -test, val, gain, seconds, adapter, ...")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"How many to list. Default: the newest {_NEWEST}; all with a filter.")
    ] = None,
    how: Annotated[
        str,
        typer.Option(
            "--format", help="table, csv, json, markdown or latex (booktabs).", autocompletion=completing.formats
        ),
    ] = "table",
    sql: Annotated[str | None, typer.Option(help="Ask the results file itself; only reading is possible.")] = None,
    json: Json = False,
) -> None:
    """List what has been fitted; `results ID` shows one search whole, `results diff A B` one over another."""
    if ctx.invoked_subcommand is not None:
        return
    from featcache import results as records
    from featcache.commands import tabulating

    words = tabulating.words
    filters = records.Filters(
        dataset=words(dataset),
        store=words(store),
        backbone=words(backbone),
        adapter=words(adapter),
        text_set=words(prompts),
        classes=words(classes),
        protocol=words(protocol),
        shots=tabulating.numbers(shots),
        since=since,
    )
    view = tabulating.View(
        filters=filters,
        best_per=words(best_per),
        by=words(by),
        across=across,
        sort=sort,
        limit=limit or (_NEWEST if filters == records.Filters() and not (best_per or by or sort) else None),
        format="json" if json else how,
    )
    if sql is not None:
        tabulating.show_sql(sql, view)
    else:
        tabulating.show_view(view)


@app.command()
def show(
    result: Annotated[
        int,
        typer.Argument(metavar="ID", help="A result's id, as `results` lists it.", autocompletion=completing.results),
    ],
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
    first: Annotated[int, typer.Argument(metavar="A", help="A result's id.", autocompletion=completing.results)],
    second: Annotated[
        int,
        typer.Argument(metavar="B", help="The id of the one to hold against it.", autocompletion=completing.results),
    ],
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


@app.command()
def rm(
    ids: Annotated[list[int], typer.Argument(metavar="ID...", help="Results' ids.", autocompletion=completing.results)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove results with all that belongs to them. Stores stay."""
    from featcache import console
    from featcache import results as records
    from featcache.errors import InputError
    from featcache.store.places import results_path

    wanted = list(dict.fromkeys(ids))
    for found in [records.fetch(results_path(), result) for result in wanted]:
        text = f"{found['id']}, {found['adapter']} on {found['store']}, {len(found['runs'])} runs"
        if not yes and not console.confirm(f"Remove result {text}?"):
            raise InputError(f"nothing is removed: result {text} needs a yes; without a terminal say --yes")
    records.remove(results_path(), wanted)
    console.say(f"removed {', '.join(map(str, wanted))}")


def _show_record(found: dict[str, Any]) -> None:
    from featcache import console

    values = {name: value for name, value in found.items() if name not in ("runs", "also")}
    spent = ", ".join(f"{stage} {console.seconds(each)}" for stage, each in found["seconds"].items())
    values["seconds"] = spent or "not known"
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
