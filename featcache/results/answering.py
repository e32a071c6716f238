"""What chosen runs said of each test image, read back; and two searches set side by side by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from featcache.comparison import Comparison, compare
from featcache.errors import ConfigError
from featcache.predictions import Answers, Items, Predictions
from featcache.results.reading import fetch
from featcache.results.schema import CONFIDENCE, ROW, class_dtype, connect


class Answered(NamedTuple):
    """A search's test images and what its chosen runs say of them."""

    items: Items
    answers: tuple[Answers, ...]
    """In the order of the runs."""


def answered(path: Path, search_id: int) -> Answered | None:
    """What was kept of a search; None where it is not finished, or older than the keeping."""
    with connect(path) as database:
        rows = database.execute(
            "SELECT run.draw, run.shot_seed, run.init_seed, prediction.* FROM run"
            " JOIN prediction ON prediction.run = run.id WHERE run.search = ? ORDER BY run.id",
            (search_id,),
        ).fetchall()
        if not rows:
            return None
        items = database.execute("SELECT * FROM items WHERE digest = ?", (rows[0]["items"],)).fetchone()
    classes = tuple(json.loads(items["classes"]))
    width = class_dtype(len(classes))
    return Answered(
        items=Items(
            row=np.frombuffer(items["row"], ROW).astype(np.int64),
            label=np.frombuffer(items["label"], width).astype(np.int64),
            classes=classes,
            digest=items["digest"],
        ),
        answers=tuple(
            Answers(
                row["draw"],
                row["shot_seed"],
                row["init_seed"],
                Predictions(
                    predicted=np.frombuffer(row["predicted"], width).astype(np.int64),
                    confidence=np.frombuffer(row["confidence"], CONFIDENCE).astype(np.float32),
                ),
            )
            for row in rows
        ),
    )


def compare_results(path: Path, first: int, second: int) -> Comparison:
    """Result `second` over result `first`. Raises UnknownNameError; ConfigError where they saw different images."""
    if first == second:
        raise ConfigError(f"both are result {first}; `featcache results` lists others")
    whole = fetch(path, first), fetch(path, second)
    kept = _kept(path, whole[0]), _kept(path, whole[1])
    _check_items(whole, kept)
    _check_draws(whole)
    return compare(kept[0].items, kept[0].answers, kept[1].answers)


def _kept(path: Path, search: Mapping[str, Any]) -> Answered:
    found = answered(path, search["id"])
    if found is None:
        why = (
            "is not finished, so it has no test predictions"
            if search["state"] != "done"
            else "was made before predictions were kept"
        )
        command = " ".join(["featcache", *search["command"]])
        raise ConfigError(f"result {search['id']} {why}; make it again: {command}")
    return found


def _check_items(whole: tuple[Mapping[str, Any], Mapping[str, Any]], kept: tuple[Answered, Answered]) -> None:
    """Raises ConfigError unless both were tested on the same images in the same order, labelled alike."""
    a, b = (found.items for found in kept)
    if a.digest == b.digest:
        return
    differing = [
        f"{what}: {x} and {y}"
        for what, x, y in (
            ("data set", whole[0]["dataset"], whole[1]["dataset"]),
            ("part of the classes", whole[0]["classes"], whole[1]["classes"]),
            ("number of classes", len(a.classes), len(b.classes)),
            ("test images", f"{len(a.label):,}", f"{len(b.label):,}"),
        )
        if x != y
    ]
    raise ConfigError(
        f"results {whole[0]['id']} and {whole[1]['id']} were tested on different images, so they cannot be paired: "
        + ("; ".join(differing) or "their files, labels or splits differ, though their number does not")
    )


def _check_draws(whole: tuple[Mapping[str, Any], Mapping[str, Any]]) -> None:
    """Raises ConfigError unless both were fitted after the same draws."""
    draws = [{run["draw"]: _draw_words(run) for run in search["runs"] if run["chosen"]} for search in whole]
    if draws[0].keys() == draws[1].keys():
        return
    a, b = ("; ".join(found.values()) for found in draws)
    how = f"{a} and {b}" if a != b else f"both are {a}, but hold other images"
    protocols = " and ".join(str(search["protocol"]) for search in whole)
    raise ConfigError(
        f"results {whole[0]['id']} and {whole[1]['id']} have different draws, so they cannot be paired: {how} "
        f"(chosen on {protocols}); fit both with the same --shots, --seeds and --select"
    )


def _draw_words(run: Mapping[str, Any]) -> str:
    return f"{run['shots']} shots seed {run['shot_seed']}"
