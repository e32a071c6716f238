"""`featcache export`: a result's chosen run as a file that classifies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from featcache import console
from featcache.commands.running import stoppable
from featcache.heads.exporting import Exported, head_of_result
from featcache.heads.module import HeadModule
from featcache.heads.writing import check_output, write
from featcache.store.places import results_path


def export(
    result: int, output: Path, *, seed: int | None, init_seed: int | None, with_tower: bool, as_json: bool
) -> None:
    """Write the head of one of the result's draws, and say which, and that it answers as it was recorded."""
    check_output(output, with_tower=with_tower)
    with stoppable("nothing was written"), console.progress("fitting", "run-epochs", rate="run-epochs") as advance:
        made = head_of_result(results_path(), result, seed=seed, init_seed=init_seed, progress=advance)
    difference = write(output, made.head, with_tower=with_tower)
    if as_json:
        console.raw(json.dumps(_plain(made, output, difference), indent=2))
        return
    _tell(made, output, chosen=seed is None and init_seed is None)
    if difference is not None:
        size = made.head.encoder.transform.get("size")
        takes = (
            f"pixels (N, 3, {size}, {size}), RGB from 0 to 1" if with_tower else f"image (N, {made.head.encoder.dim})"
        )
        console.say(f"ONNX: {takes} -> logits; onnxruntime's differ from torch's by {difference:.0e} of the largest")


def _plain(made: Exported, output: Path, difference: float | None) -> dict[str, Any]:
    same, total = made.agreement or (None, None)
    return {
        "file": str(output),
        "bytes": output.stat().st_size,
        "adapter": made.head.adapter,
        "config": made.head.config,
        "linear": HeadModule(made.head).is_linear,
        "refitted": made.refitted,
        "answers_as_recorded": same,
        "answers_compared": total,
        "onnx_difference": difference,
        "provenance": made.head.provenance,
    }


def _tell(made: Exported, output: Path, *, chosen: bool) -> None:
    head, run = made.head, made.run
    why = f", the best on {head.provenance['protocol']}" if chosen and run["selection_accuracy"] is not None else ""
    place = f"{head.provenance['dataset']}, {head.encoder.backbone}, {run['shots']} shots, seed {run['shot_seed']}{why}"
    size = f"{len(head.classes)} classes, {console.size(output.stat().st_size)}"
    console.say(f"{output}: {head.adapter} on {place}; {size}")
    if output.suffix.lower() != ".onnx" and HeadModule(head).is_linear:
        console.say("linear in the unit embedding: linear.weight and linear.bias are in it too")
    if made.refitted:
        console.note("it was not kept, so it was fitted again from its record")
    if made.agreement is None:
        console.note("its store is gone or has changed, so its answers could not be compared with the recorded ones")
        return
    same, total = made.agreement
    said = f"test accuracy as recorded: {100 * run['test_accuracy']:.2f} % of {run['test_rows']} images"
    if same == total:
        console.say(f"{said}; the same answer on all {total:,}")
    else:
        console.warn(f"{said}, but another answer on {total - same:,} of {total:,}: another machine or other versions")
