"""Where every number comes from: enough to make it again."""

from __future__ import annotations

import json

from featcache.reporting.page.gather import Found, Gathered
from featcache.reporting.page.model import Panel, Table, View
from featcache.reporting.page.words import listed, told

KEY = "provenance"


def panel(gathered: Gathered) -> Panel:
    """One table of all results, one of their stores, and the newest result's replaced kin."""
    replaced = [str(one.id) for one in gathered.replaced]
    notes = [f"Replaced by newer results of the same kind, and not drawn: {', '.join(replaced)}."] if replaced else []
    return Panel(
        key=KEY,
        title="Where do the numbers come from?",
        lead="Every result with its command, protocol, seeds, recipe, versions and store. `featcache results ID` shows "
        "one whole.",
        views=(
            View(
                name="results",
                tables=(_results(gathered), _stores(gathered)),
                notes=tuple(notes),
                protocol="the column chosen on says how",
            ),
        ),
    )


def _results(gathered: Gathered) -> Table:
    columns = ("result", "when (UTC)", "store", "method", "chosen on", "choice", "test %", "zero-shot, test %", "shots")
    more = ("shot seeds", "init seeds", "draws", "prompts", "views", "recipe", "device", "versions", "notes", "command")
    return Table(
        columns=(*columns, *more),
        rows=tuple(_row(one) for one in (*gathered.found, *gathered.replaced)),
        caption="Results",
    )


def _row(one: Found) -> tuple[str, ...]:
    search = one.search
    return (
        str(one.id),
        one.created[:16].replace("T", " "),
        one.store,
        one.method,
        one.protocol,
        search["choose"],
        told(one.test[0]),
        told(one.zero_shot),
        str(one.shots),
        listed([run["shot_seed"] for run in one.chosen]),
        listed([run["init_seed"] for run in one.chosen]),
        ", ".join(dict.fromkeys(run["draw"][:12] for run in one.chosen)),
        one.text_set,
        search["views"],
        json.dumps(search["recipe"]) if any(run["num_params"] is not None for run in one.runs) else "needs none",
        search["device"],
        ", ".join(f"{name} {version}" for name, version in search["versions"].items()),
        "; ".join(search["notes"]),
        " ".join(["featcache", *search["command"]]),
    )


def _stores(gathered: Gathered) -> Table:
    rows = {}
    for one in gathered.found:
        facts = gathered.stores.facts(one.store_key, one.store)
        rows[one.store_key, one.store] = (
            one.store,
            one.dataset,
            one.model,
            one.store_key,
            one.search["content"],
            *(facts.get(name, "the store is gone") for name in ("checkpoint", "transform", "text", "command")),
        )
    columns = ("store", "data set", "backbone", "key", "content", "checkpoint", "transform", "prompts", "made by")
    return Table(columns=columns, rows=tuple(rows.values()), caption="Stores")
