"""`featcache rerun`: a result made once more from its row alone."""

from __future__ import annotations

import json as jsonlib

import typer

from featcache import console
from featcache.commands.running import stoppable
from featcache.rerunning import Again
from featcache.rerunning import rerun as made_again
from featcache.store.places import results_path


def rerun(result: int, *, device: str | None, as_json: bool) -> None:
    """Search again and say how the numbers compare; exit code 1 where they differ by more than one item."""
    with (
        stoppable("nothing is recorded by a rerun"),
        console.progress("fitting", "run-epochs", rate="run-epochs") as at,
    ):
        again = made_again(results_path(), result, device=device, progress=at)
    if as_json:
        console.raw(jsonlib.dumps(_plain(again), indent=2))
    else:
        _show(again)
    if again.verdict == "different":
        raise typer.Exit(1)


def _plain(again: Again) -> dict[str, object]:
    return {
        "result": again.result,
        "verdict": again.verdict,
        "runs": len(again.outcome.runs),
        "unequal_runs": again.num_unequal,
        "most_items": again.most_items,
        "same_choice": again.same_choice,
        "changes": list(again.changes),
        "test_accuracy": again.outcome.test_accuracy[0],
        "seconds": sum(again.outcome.seconds.values()),
    }


def _show(again: Again) -> None:
    outcome, num_runs = again.outcome, len(again.outcome.runs)
    for change in again.changes:
        console.warn(change)
    seconds = f"{num_runs} runs in {console.seconds(sum(outcome.seconds.values()))} on {outcome.device}"
    if again.verdict == "bit-equal":
        console.say(
            f"result {again.result} again: bit-equal, every accuracy and loss of all runs, and every prediction and "
            f"confidence of the chosen; {seconds}"
        )
        return
    choice = "the same configurations were chosen" if again.same_choice else "other configurations were chosen"
    images = "1 image" if again.most_items == 1 else f"{again.most_items} images"
    console.say(
        f"result {again.result} again: {again.verdict}; {again.num_unequal} of {num_runs} runs are not bit-equal, the "
        f"number of right images differs by at most {images}, {choice}; {seconds}"
    )
