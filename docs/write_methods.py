"""Writes docs/methods.md from recorded results: the methods, what they cost and what they reach.

    featcache extract --dataset shapes --backbone tiny
    featcache fit shapes-tiny-coop --adapter all --shots 1,2,4,8,16
    featcache import caltech70_vitb32.npz --name caltech70
    featcache fit caltech70 --adapter all --shots 16
    featcache fit caltech70 --adapter all --shots 16 --select full-val
    featcache import dtd_rn50_no_text.npz --name dtd-no-text
    featcache fit dtd-no-text --adapter all --shots 16
    featcache fit dtd-no-text --adapter elevater --grid start=random --shots 16
    python docs/write_methods.py

Of every method and setting the newest result counts, whatever its grid was, so leave the defaults as they are above.
No number is written here by hand. Seconds mean something only if nothing else ran.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featcache import registry
from featcache import results as records
from featcache.commands.adapters import paper_of
from featcache.results import Summary
from featcache.store.places import results_path

TARGET = Path(__file__).with_name("methods.md")
SHOTS = (1, 2, 4, 8, 16)
PROTOCOLS = ("fewshot-val", "full-val")
COSTS = ("method", "parameters", "configurations", "fitting, s", "search, s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="shapes-tiny-coop", help="the store of shapes")
    parser.add_argument("--features", default="caltech70", help="the store of genuine features")
    parser.add_argument("--no-text", default="dtd-no-text", help="the store without text")
    options = parser.parse_args()
    found = Found(records.summaries(results_path()))
    names = ["zero_shot", *sorted(name for name in registry.known() if name != "zero_shot")]
    TARGET.write_text(page(found, names, options) + "\n", encoding="utf-8")


class Found:
    """The newest result of each method on each store, with default prompts on all classes."""

    def __init__(self, summaries: Sequence[Summary]) -> None:
        self._newest: dict[tuple[str, str, int, str], Summary] = {}
        for row in summaries:  # newest first
            if (row.text_set, row.classes) == ("default", "all"):
                self._newest.setdefault((row.store, row.adapter, row.shots, row.protocol), row)

    def result(self, store: str, adapter: str, shots: int, protocol: str = PROTOCOLS[0]) -> Summary | None:
        """None where it was never fitted so; a method that searches nothing is `fixed` under every protocol."""
        return self._newest.get((store, adapter, shots, protocol))

    def whole(self, row: Summary) -> dict[str, Any]:
        """The record with its runs."""
        return records.fetch(results_path(), row.id)


def page(found: Found, names: Sequence[str], options: argparse.Namespace) -> str:
    """The whole page as Markdown."""
    one = next(row for name in names if (row := found.result(options.features, name, 16)))
    versions = found.whole(one)["versions"]
    made_by = ", ".join(f"{name} {versions[name]}" for name in ("featcache", "torch") if name in versions)
    return "\n\n".join(
        [
            "<!-- Written by docs/write_methods.py from recorded results; do not edit. -->",
            "# Methods",
            "One file each in `adapters/`. `featcache adapters info NAME` prints a method's equations, its fields, and "
            "where its authors' code departs from the paper; `--adapter NAME` fits it.",
            _table(
                ["method", "paper", "needs", "searched by default"],
                [[f"`{name}`", paper_of(name), _needs(name), _searched(name)] for name in names],
            ),
            "## On shapes",
            "Test accuracy, per cent, mean and spread over three draws; each draw's configuration is chosen on "
            "`fewshot-val`. `shapes` is the bundled data set, seen through the bundled `tiny` (see the README): it "
            "shows the machinery, and nothing about CLIP. Made by:",
            "<!-- test: skip: fits every method at five numbers of shots -->\n"
            f"```sh\nfeatcache extract --dataset shapes --backbone tiny\n"
            f"featcache fit {options.shapes} --adapter all --shots 1,2,4,8,16\n```",
            _table(
                ["method", *(f"{k} shot{'s' if k > 1 else ''}" for k in SHOTS)],
                [
                    [f"`{name}`", *(_accuracy(found.result(options.shapes, name, shots)) for shots in SHOTS)]
                    for name in names
                ],
            ),
            "What each cost there at 16 shots, three draws together: a dash for parameters where no step of a recipe "
            "trains, seconds of fitting every configuration searched, and of the whole search, tests included; one "
            "machine and versions, named below.",
            _table(
                list(COSTS),
                [
                    _cost(found, options.shapes, name)[: len(COSTS)]
                    for name in names
                    if found.result(options.shapes, name, 16)
                ],
            ),
            "## On genuine ViT-B/32 features, not distributed",
            "70 classes of Caltech101, 16 shots, as OpenAI's ViT-B/32 embeds them: one draw, L2-normalised, the mean "
            "of ten views to train on, so views make no difference here. Parameters are what gradient steps can "
            "change, at most. Seconds are those of fitting every configuration searched, and of the whole search, "
            "tests of all of "
            f"them included, on {_machine(found.whole(one))}, with {made_by}. The like is made of images by "
            "`featcache extract --dataset caltech101 --backbone ViT-B-32`, or of features you have by:",
            "<!-- test: skip: needs the features -->\n"
            f"```sh\nfeatcache import FEATURES.npz --name {options.features}\n"
            f"featcache fit {options.features} --adapter all --shots 16\n"
            f"featcache fit {options.features} --adapter all --shots 16 --select full-val\n```",
            _table(
                [*COSTS, *(f"chosen on {protocol}" for protocol in PROTOCOLS)],
                [_cost(found, options.features, name) for name in names if found.result(options.features, name, 16)],
            ),
            "## Without text",
            "Those that need none, on 47 textures of DTD as OpenAI's RN50 embeds them: genuine features, not "
            "distributed, 16 shots. `elevater` starts at random there (`--grid start=random`), as it has to.",
            _table(
                ["method", "test %", "chosen on"],
                [
                    [f"`{name}`", _accuracy(row), f"`{row.protocol}`"]
                    for name in names
                    if (row := _without_text(found, options.no_text, name))
                ],
            ),
        ]
    )


def _cost(found: Found, store: str, name: str) -> list[str]:
    row = found.result(store, name, 16)
    assert row is not None
    whole = found.whole(row)
    seconds = whole["seconds"]
    configurations = len({json.dumps(run["config"], sort_keys=True) for run in whole["runs"]})
    return [
        f"`{name}`",
        "-" if row.num_params is None else f"{row.num_params:,}",
        f"{configurations:,}",
        f"{seconds['train']:.1f}",
        f"{sum(seconds.values()):.1f}",
        *(_accuracy(found.result(store, name, 16, protocol)) for protocol in PROTOCOLS),
    ]


def _without_text(found: Found, store: str, name: str) -> Summary | None:
    return found.result(store, name, 16) or found.result(store, name, 16, "train-holdout")


def _needs(name: str) -> str:
    return ", ".join(sorted(registry.load(name).needs)) or "-"


def _searched(name: str) -> str:
    kind = registry.load(name)
    return ", ".join(f"{field} {values}" for field, values in kind.grid.items()) or "-"


def _accuracy(row: Summary | None) -> str:
    if row is None or row.test_accuracy is None:
        return "-"
    spread = "" if row.test_spread is None else f" ± {100 * row.test_spread:.2f}"
    return f"{100 * row.test_accuracy:.2f}{spread}"


def _machine(whole: dict[str, Any]) -> str:
    """The machine that writes the page, which must be the one that fitted."""
    return f"{os.cpu_count()} cores ({platform.machine()}, {whole['device']})"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
