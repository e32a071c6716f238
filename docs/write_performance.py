"""Writes docs/performance.md from benchmarks/results/: every claim of speed, what was measured, and what is missing.

    make bench-full
    python docs/write_performance.py

No figure is written here by hand but in the paragraphs on what was missed, which say when they were found.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"
TARGET = HERE / "performance.md"
sys.path.insert(0, str(BENCHMARKS))

import common  # noqa: E402

SECTIONS = {
    "whole_process": "From nothing to a searched alpha",
    "coop": "The columns of Table 1",
    "alpha_search": "The alpha grid, stacked and one by one",
    "paper_grid": "The whole of Fig. 3",
    "scaling": "Cost against size",
    "extract": "Extraction",
    "tip_grid": "Tip-Adapter's grid",
    "linear_probe": "Linear probe",
}
WHY = {
    "whole_process": (
        "The next search hangs on how fast Python imports torch, on 2,400 very small steps, and on what else the "
        "machine's host does (30 November 2026): of its 3.2 s here some 1.3 are imports and 1.0 to 1.9 training. "
        "Earlier that day the same script had come to 34.2 and 37.0 times, in slower hours and before two changes: a "
        "command's imports go without the garbage collector, and small steps take fewer calls of torch (side by side, "
        "nine turns: 2.85 s before, 2.62 after). On an AMD EPYC (27 November 2026) it was 41.1 times. "
        "Where bytecode of torch is missing it takes 10 s ([Questions](faq.md))."
    ),
    "alpha_search": (
        "Why 55 % of the matrix rate is missed on this processor (profiled on 30 November 2026, on a quiet machine: "
        "width 1024, 100 classes, ten runs in two stacks, each on a core): a run's weights and momentum are 4.2 MB, "
        "and its step passes over 13.6 MB of them (forward 2.1, back through the second layer 1.0, momentum with the "
        "gradient's product 4.2, update 6.3), with 2 MB of cache to a core. Plain products ran at 333 GFLOP/s; of the "
        "step's own shapes they reach 260 in the first layer, 236 in the second, 180 back and 200 to 208 with the "
        "momentum, 3.9 ms together instead of 2.5; the update's passes take 0.8 to 0.9, the classifier 0.5, the rest "
        "0.5 to 0.9: a step is 6.1 to 6.5 ms, of which products at the plain rate would be 2.9, or 47 %. In slower "
        "hours of the same virtual machine, the table's among them, the same step takes 9 to 10.8. The table's times, "
        "of 100 steps, also hold what a fit does once: 4 % are starting weights, 3 shuffling. Tried "
        "without gain: the way back transposed (1 to 2 %), other layouts of weights, one product for all alphas' "
        "first layers, oneDNN's products (135 to 187 GFLOP/s), flushing denormals, updating run by run or in blocks "
        "of rows, and, on other machines on 26 and 27 November, stacks of 4 to 40 MB; several steps' updates at once "
        "would double the products (reckoned, not run). torch has no kernel that updates momentum and weights in one "
        "pass with the gradient's product. One was written in C for this processor's AVX-512, for trial alone: for "
        "five runs on a core it took 2.4 ms where torch takes 2.6 to 2.8. The bare passes over that memory take 0.8 "
        "ms and its arithmetic at the plain rate 1.0, so a kernel that overlapped the two wholly would bring the step "
        "of 6.2 ms to about 4.6, 63 %; featcache has no compiled part, and this gain was not thought worth one. "
        "On an AMD EPYC, whose plain products are slower, 11 runs came to 59 % and 33 to 48 (27 November 2026), and "
        "the grid to 5.0 to 12.6 times the loop at up to 100 classes. At width 1024 a run among 33 costs what it "
        "costs among 11, for the stacks are the same five runs: in three runs of this script that day the ratio was "
        "0.95 to 1.05, on both sides of 1."
    ),
    "extract": (
        "Freed memory is kept while images are encoded on a CPU, by featcache and by the bare loop, not by the others: "
        "page faults were a quarter of RN50's forward pass (30 November 2026), and most of what made this figure "
        "wander before. What is left of its wandering is the host's: the same case went through 20.1 images a second "
        "that morning. What an extraction costs once, on that day's "
        "machine: 0.3 s for the sentences, 0.2 s until the first batch is decoded, 1.2 s more for the first batch "
        "than for others, 0.4 s for the plan and the store; at 256 images that came to 1.12 (1.04 to 1.25) of the "
        "floor. "
        "Why the loading stage is short of 3 times with PIL's pixels (26 November 2026): of 13.6 ms of processor an "
        "image in 10 views, 9.3 are PIL's own resize of the ten crops, 1.6 decoding and 0.6 cutting; decode-per-view "
        "takes 32 ms. Those three alone would be 2.8 times, and pixels that equal PIL's bit for bit need all three; "
        "`--pixels torch` resizes otherwise. It was 3.48 times that morning, 2.93 in the slowest hour and 3.12 in the "
        "next, which is the table's."
    ),
    "tip_grid": (
        "The sweep is the loop's own work. In quiet hours it has reached the target on every machine tried (34.1 and "
        "32.9 times on the morning of 30 November 2026); the table is of a slow hour of the same machine, in which the "
        "commit that had reached those came to 23.0 and 19.9 as well. Scores add each point's cross-entropy, which the "
        "published loop does not take: half to eight tenths of the sweep's own time, on a processor whose products, of "
        "which the loop consists, are 2 to 3 times as fast as on that of 26 November, where sweep and scores came to "
        "35 times."
    ),
    "linear_probe": (
        "The last reading sets unequal work side by side: scikit-learn's default stops up to 2.4 points from a "
        "strength's minimum, and ours, at its default tolerance of 0.01, within 0.1 at every strength, so that "
        "results hang on the data and not on when a solver stopped."
    ),
}
"""By benchmark: why a target is missed, and how close it comes to what the machine can do."""
HEAD = """# Speed

What each claim of speed comes to, written by `docs/write_performance.py` from the JSON in `benchmarks/results/`, which
`make bench-full` writes. Nothing else ran on the machine. Medians, with their range over turns that the ways took one
after the other. Speed is told only where both ways reach the same: the scripts end in an error, or withhold the ratio,
where they do not.

On your own store and machine:

```sh
featcache bench --shots 1 --repeats 1 --products bf16
```

The last option trains the whole search under bf16 products too (`tf32` on a GPU), and tells what they gain and what
accuracy they cost; `fit --products bf16` then uses them.

No GPU has been at hand for these figures yet: what is said of one is a target, the scripts are ready, and the code that
a GPU takes (recorded steps, `--products tf32`, `--pixels device`) is exercised by the tests on a CPU.
"""


def main() -> None:
    parts = [HEAD, "## Targets\n"]
    told, judged = [], []
    for name, title in SECTIONS.items():
        file = common.RESULTS / f"{name}.json"
        if not file.is_file():
            judged.append([f"[{title}](#{anchor(title)})", "", "not measured yet", ""])
            told.append(f"## {title}\n\nNot measured yet: `python benchmarks/{name}.py --write`.\n")
            continue
        script = runpy.run_path(str(BENCHMARKS / f"{name}.py"))
        result = json.loads(file.read_text(encoding="utf-8"))
        link = f"[{title}](#{anchor(title)})"
        judged += [
            [link, each.target, each.found, "reached" if each.reached else "**missed**"]
            for each in script["verdicts"](result)
        ]
        told.append(section(name, title, script, result))
    rows = [["", "target", "found", ""], ["---"] * 4, *judged]
    parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n")
    TARGET.write_text("\n".join([*parts, *told]), encoding="utf-8")


def section(name: str, title: str, script: dict[str, Any], result: dict[str, Any]) -> str:
    """A benchmark's claim, its tables, and what they were measured on."""
    claim = script["__doc__"].split("\n\n")[0].removeprefix("Claim: ")
    with common.as_markdown() as blocks:
        script["tell"](result)
    why = [WHY[name]] if name in WHY else []
    return "\n\n".join([f"## {title}", f"The claim: {claim}", *blocks, *why, machine(name, result)]) + "\n"


def machine(name: str, result: dict[str, Any]) -> str:
    """Which script, machine and commit; where parts were run apart, each of them."""
    parts = result.get("cases") or {part: result[part] for part in ("tiny", "imagenet") if part in result}
    lines = [f"{part}: {_machine(told, told['machine'])}" for part, told in parts.items()]
    lines = lines or [_machine(result, result)]
    return f"`python benchmarks/{name}.py --write`.\n\n" + "\n".join(f"- {line}" for line in lines)


def _machine(told: dict[str, Any], facts: dict[str, Any]) -> str:
    load = "{} and {}".format(*facts["load average, before and after"])
    rate = "{:g} and {:g}".format(*facts["matrix product, GFLOP/s, before and after"])
    turns = f"{told['repeats']} turns, " if "repeats" in told else ""
    return (
        f"{turns}commit `{told.get('commit', 'unknown')}`, {facts['cpu']}, {facts['cores']} cores, torch "
        f"{facts['torch']}; float32 products at {rate} GFLOP/s before and after, load average {load}"
    )


def anchor(title: str) -> str:
    """As MkDocs makes it of a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "-".join(kept.split())


if __name__ == "__main__":
    main()
