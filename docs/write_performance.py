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
        "The next search hangs on how fast Python imports torch. On a slower machine (26 November 2026) it was 36.5 "
        "times: of its 6.6 s, 3 were the import, 2.2 training (2,400 very small steps), and the rest recording and "
        "ending the process. Where bytecode of torch is missing it takes 10 s ([Questions](faq.md))."
    ),
    "alpha_search": (
        "Why 55 % of the matrix rate is hard to reach at width 1024 and 100 classes (profiled on 26 November 2026, on "
        "a slower machine, where 11 runs came to 45 % and 33 to 47): a run's weights "
        "and momentum are 4.2 MB, and its step passes over 13.6 MB of them (forward 2.1, back through the second "
        "layer 1.0, momentum with the gradient's product 4.2, update 6.3): 136 MB for ten runs, more than the 32 MB "
        "cache holds. The step's products, 0.97 GFLOP, take 6 of its 13 ms at the full rate; the rest is memory. At "
        "1000 classes a step has 2.2 times the products and hardly more to pass over. Stacks small enough to stay in "
        "the cache lose more in calls than they save: a step takes 20 to 26 ms at 5 MB a stack, 18 to 21 at 10, 16 to "
        "18 at 20, 15 to 21 at 40. Updating run by run, while what the product wrote is still in the cache, changes "
        "nothing (27 November 2026: momentum and update of ten runs 4.6 to 5.9 ms whole, 4.5 to 6.5 run by run), nor "
        "do stacks of 4 to 20 MB on that day's machine: 1.0 to 1.3 ms a run and step for 11 runs as for 33. Whether a "
        "run among 33 is a few per cent slower or faster than among 11 changes from one measurement to the next. "
        "On a processor with AVX-512 and plain products at 350 to 390 GFLOP/s (30 November 2026, two turns, not in "
        "the table) the share was 39 to 41 % at width 1024 and 100 classes, the grid 3.01 to 5.21 times as fast as "
        "the loop at 11 runs and up to 100 classes, and a run among 33 took 0.82, 1.02, 0.90 and 1.00 of its time "
        "among 11. Products of the step's own shapes reach less there: 285 GFLOP/s forward, 200 back, 226 with the "
        "momentum; of 5.8 ms a step they would take 4, the update's passes 0.8."
    ),
    "extract": (
        "Freed memory is kept while images are encoded on a CPU, by featcache and by the bare loop, not by the others: "
        "page faults were a quarter of RN50's forward pass (30 November 2026: 13.4 images a second before, 20.1 "
        "since), and most of what made this figure wander before. What an extraction costs once, on that day's "
        "machine: 0.3 s for the sentences, 0.2 s until the first batch is decoded, 1.2 s more for the first batch "
        "than for others, 0.4 s for the plan and the store; at 256 images that came to 1.12 (1.04 to 1.25) of the "
        "floor. The case of RN50 in 10 views is from before. "
        "Why the loading stage is short of 3 times with PIL's pixels (26 November 2026): of 13.6 ms of processor an "
        "image in 10 views, 9.3 are PIL's own resize of the ten crops, 1.6 decoding and 0.6 cutting; decode-per-view "
        "takes 32 ms. Pixels that equal PIL's bit for bit leave nothing else to save; `--pixels torch` resizes "
        "otherwise."
    ),
    "tip_grid": (
        "The sweep is the loop's own work, and reaches the target on every machine tried. Scores add each point's "
        "cross-entropy, which the published loop does not take: seven to eight tenths of the sweep's own time (30 "
        "November 2026), on a processor whose products, of which the loop consists, are 2 to 3 times as fast as on "
        "that of 26 November, where sweep and scores came to 35 times."
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
