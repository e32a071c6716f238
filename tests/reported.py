"""Results to report on, with class names meant to break out of a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featcache import cli
from featcache.importing import import_npz
from tests import synthetic

NAMES = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror=alert(1)>',
    "</script>",
    "<!--",
    "bee & fly",
    "{{x}}",
)
QUICK = ("--epochs", "3", "--lr", "0.02", "--seeds", "1,2")


def command(patch: pytest.MonkeyPatch, *arguments: object) -> None:
    """One command of featcache, whose faults are raised."""
    patch.setattr("sys.argv", ["featcache", *map(str, arguments)])
    cli.app(standalone_mode=False)


def make_results(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """A cache with the stores `toy` and `other` and nine results; the environment names it. Gives the results file."""
    patch.setenv("FEATCACHE_HOME", str(folder / "home"))
    for seed, name in enumerate(("toy", "other")):
        arrays = {**synthetic.arrays(seed=seed), "class_names": np.array(NAMES)}
        import_npz(synthetic.save(folder / f"{name}.npz", arrays), name=name)
        command(patch, "fit", name, "--shots", "2,4", "--alpha-grid", "0:1:0.25", *QUICK)
    command(patch, "fit", "toy", "--adapter", "gda,zero_shot", "--shots", "2,4", "--seeds", "1,2")
    command(patch, "fit", "toy", "--grid", "where=text", "--grid", "beta=0.5,1", "--shots", "4", *QUICK)
    return folder / "home" / "results.sqlite"
