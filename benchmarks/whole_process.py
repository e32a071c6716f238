"""Claim: from nothing to a searched alpha in an eighth of the time of one CoOp training; the next search in a fortieth.

    python benchmarks/whole_process.py --write             [--short]

Whole processes timed from outside, interpreter and imports included, on the bundled `shapes` with `tiny`:

    featcache extract --dataset shapes --backbone tiny         15 draws, 10 views, all of val and test
    featcache fit --alpha-grid 0:1:0.1                         11 alphas on 3 draws of 16 shots, chosen on val, tested

as typed, and once more for the single draw that CoOp gets (--shots 16 --seeds 1); the next search on the same store
(the grid once more from another start); and one CoOp training as published (as_published.py) on that draw, test
included. featcache renders the images, CoOp reads the same pixels from PNG files written beforehand, which is cheaper.
They take turns. Accuracies stand beside, and no speed is claimed where CoOp's is the higher.

A last line takes RN50 on ImageNet, multiplied out, from what coop.py has written (--coop FILE).

Targets: at least 8x less than CoOp for extraction and grid, 40x for the next search, 80x for RN50 on ImageNet.
What was found: docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import common
import processes
from pictures import drawn_list, put_shape, shapes_files
from processes import Done, found

from featcache.datasets import load

COOP = "CoOp, as published"
SHOTS, SHOT_SEED = 16, 1
TARGETS, RN50_TARGET = {"extract + 11 alphas, one draw": 8, "the next search": 40}, 80
SHORT_EPOCHS = 5


def main() -> None:
    made = common.parser(__doc__ or "")
    common.add_repeats(made, 3)
    common.add_device(made)
    made.add_argument("--coop", type=Path, default=common.RESULTS / "coop.json", help="what coop.py has written")
    made.add_argument(
        "--least", action="store_true", help="run through as little as possible; the figures mean nothing"
    )
    asked = common.options(made)
    with common.observed(asked.device) as machine, tempfile.TemporaryDirectory() as folder:
        ways = Ways(asked, Path(folder))
        turns = [ways.turn(number) for number in range(asked.repeats)]
    result = {"ways": summarised(turns), "multiplied out": multiplied(asked.coop)}
    tell(result)
    common.judge(verdicts(result))
    common.write(asked, "whole_process", {**result, **machine})


class Ways:
    """What is timed, in the order of a turn."""

    def __init__(self, asked: argparse.Namespace, place: Path) -> None:
        self.place = place
        self.shots = 1 if asked.least else SHOTS
        epochs = 1 if asked.least else SHORT_EPOCHS if asked.short else None
        self.device = ["--device", asked.device.type]
        self.epochs = ["--epochs", str(epochs)] if epochs else []
        self.views = ["--views", "1"] if asked.least else []
        self.least = asked.least
        self.dataset, self.listed = self._few() if asked.least else self._shapes()

    def turn(self, number: int) -> dict[str, dict[str, Any]]:
        """Every way once: seconds, accuracy on test, and what the seconds are made of."""
        typed, one, alone = (self.place / f"{kind}{number}" for kind in ("typed", "one", "coop"))
        of_draw = ["--shots", str(self.shots), "--seeds", str(SHOT_SEED)]
        told = {
            "extract + 11 alphas, one draw": self._from_nothing(one, of_draw),
            "the next search": self._fit(one, ["--init-seeds", "2"]),
            COOP: self._coop(alone),
        }
        if not self.least:
            told["extract + 11 alphas, as typed: 3 draws"] = self._from_nothing(typed, [])
            told["the next search, 3 draws"] = self._fit(typed, ["--init-seeds", "4"])
        return told

    def _from_nothing(self, home: Path, draws: list[str]) -> dict[str, Any]:
        words = [*self.dataset, "--backbone", "tiny", *draws, *self.views, *self.device]
        extraction = processes.featcache(home, "extract", *words)
        fitted = self._fit(home, [])
        return {
            **fitted,
            "seconds": extraction.seconds + fitted["seconds"],
            "extract_s": extraction.seconds,
            "fit_s": fitted["seconds"],
        }

    def _fit(self, home: Path, more: list[str]) -> dict[str, Any]:
        words = ["--alpha-grid", "0:1:0.1", "--json", *self.epochs, *self.device, *more]
        done = processes.featcache(home, "fit", *words)
        told = found(done)
        return {"seconds": done.seconds, "accuracy": told.accuracy, "laps_s": told.laps}

    def _coop(self, home: Path) -> dict[str, Any]:
        words = ["coop", str(self.listed), "--shots", str(self.shots), *self.epochs, *self.device]
        done: Done = processes.script("as_published.py", *words, home=home)
        told = processes.last_json(done)
        return {"seconds": done.seconds, **told}

    def _shapes(self) -> tuple[list[str], Path]:
        """The data set as typed, and CoOp's list of the same images as files."""
        manifest = load("shapes", data=None)
        root = self.place / "shapes"
        file = drawn_list(self.place, manifest, root, shots=self.shots, shot_seed=SHOT_SEED)
        listed = json.loads(file.read_text(encoding="utf-8"))
        for path, _ in (*listed["train"], *listed["test"]):
            put_shape(root, path)
        return ["--dataset", "shapes"], file

    def _few(self) -> tuple[list[str], Path]:
        """The same of a few images, which both sides read from files."""
        pictures = shapes_files(self.place, num_classes=3, most=4)
        file = drawn_list(self.place, pictures.manifest(), pictures.root, shots=self.shots, shot_seed=SHOT_SEED)
        return ["--dataset", pictures.dataset, "--classnames", str(pictures.classnames)], file


def summarised(turns: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Of each way: seconds, accuracy, and times less than CoOp, turn by turn; none where CoOp is better."""
    theirs = median(turn[COOP]["accuracy"] for turn in turns)
    made = {}
    for name, last in turns[-1].items():
        accuracy = median(turn[name]["accuracy"] for turn in turns)
        own, coop = ([turn[way]["seconds"] for turn in turns] for way in (name, COOP))
        made[name] = {
            **last,
            "seconds": common.summary(own),
            "accuracy": accuracy,
            "times less than CoOp": common.ratios(coop, own) if accuracy >= theirs else None,
        }
    return made


def multiplied(file: Path) -> dict[str, Any] | None:
    """What coop.py found for RN50 on ImageNet; None where it has not been run."""
    if not file.is_file():
        return None
    written = json.loads(file.read_text(encoding="utf-8"))
    told = written.get("imagenet", {})
    kept = {name: value for name, value in told.items() if name.startswith(("times", "weights"))}
    return {"commit": written["commit"], **kept} if kept else None


def verdicts(result: dict[str, Any]) -> list[common.Verdict]:
    """Of whole processes with tiny, and of RN50 on ImageNet as coop.py has multiplied it out."""
    found = []
    for name, least in TARGETS.items():
        ratio = result["ways"].get(name, {}).get("times less than CoOp")
        cell = f"{common.spread(ratio)}x" if ratio else "CoOp's accuracy is the higher: no speed is claimed"
        reached = bool(ratio) and ratio["median"] >= least
        found.append(common.Verdict(f"{name}: at least {least}x less than CoOp", cell, reached))
    for name, value in (result["multiplied out"] or {}).items():
        if name.startswith("times"):
            found.append(
                common.Verdict(f"RN50, ImageNet, {name}: at least {RN50_TARGET}x", f"{value:g}x", value >= RN50_TARGET)
            )
    return found


def tell(result: dict[str, Any]) -> None:
    """The table, and what coop.py found for RN50."""
    withheld = "none claimed: CoOp is better"
    cells = [
        (
            name,
            common.spread(row["seconds"]),
            f"{100 * row['accuracy']:.2f}",
            common.spread(row["times less than CoOp"]) if row["times less than CoOp"] else withheld,
        )
        for name, row in result["ways"].items()
    ]
    columns = ("whole processes", "seconds", "accuracy %", "times less than CoOp")
    common.show(columns, cells, "tiny on shapes: median (range) over turns")
    if result["multiplied out"] is None:
        common.say("RN50 on ImageNet: run benchmarks/coop.py --write first")
        return
    for name, value in result["multiplied out"].items():
        common.say(f"RN50 on ImageNet, 16 shots, multiplied out: {name}: {value}")


if __name__ == "__main__":
    main()
