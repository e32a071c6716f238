"""The benchmarks of CoOp, whole processes and extraction run through and write what they promise; no time is tested.

They run in this process, and so do the processes they start: importing torch a dozen times is all that would add.
"""

from __future__ import annotations

import io
import json
import runpy
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from featcache import cli

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
Written = Callable[..., Any]


def run_here(command: list[str], environment: Mapping[str, str]) -> str:
    """What a command prints that a benchmark would start."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        for name, value in environment.items():
            patch.setenv(name, value)
        if command[1:3] == ["-m", "featcache"]:
            patch.setattr(sys, "argv", command[2:])
            try:
                cli.main()
            except SystemExit as end:
                if end.code:
                    raise
        else:
            patch.setattr(sys, "argv", command[1:])
            runpy.run_path(command[1], run_name="__main__")
    return out.getvalue()


@pytest.fixture
def written(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Runs a script as little as it can and gives what it writes."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr("featcache.timing._PRODUCT", {"cpu": 64})
    import common
    import processes

    def timed(command: list[str], environment: Mapping[str, str]) -> Any:
        return processes.Done(seconds=1.0, peak_mb=None, out=run_here(command, environment))

    def apart(script: Path, *arguments: str) -> Any:
        return json.loads(run_here([sys.executable, str(script), *arguments], {}).splitlines()[-1])

    monkeypatch.setattr(processes, "timed", timed)
    monkeypatch.setattr(common, "apart", apart)

    def run(script: str, *more: str) -> Any:
        file = tmp_path / "out.json"
        run_here(["python", str(BENCHMARKS / script), "--least", "--repeats", "1", "--write", str(file), *more], {})
        told = json.loads(file.read_text(encoding="utf-8"))
        assert told.keys() >= {"commit", "repeats"}
        # extract.py measures case by case, each on a machine of its own.
        for machine in [case["machine"] for case in told["cases"].values()] if "cases" in told else [told]:
            assert machine.keys() >= {"torch", "cpu", "matrix product, GFLOP/s, before and after"}
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), "no path of the machine"
        return told

    return run


def test_every_row_of_table_1_with_tiny(written: Written) -> None:
    result = written("coop.py", "--only", "tiny")["tiny"]
    rows = result["rows"]
    assert len(rows) == 6
    for name, row in rows.items():
        assert row["seconds"]["median"] >= 0, name
        assert row["inference_ms"]["median"] > 0
        assert 0 <= row["accuracy"] <= 1
    coop, ours = rows["CoOp, as published"], rows["featcache, extraction and 11 alphas"]
    assert coop["num_params"] == rows["CoOp, on cached images"]["num_params"] == 16 * 56
    assert ours["num_params"] == rows["CLIP-Adapter, as published, alpha 0.2"]["num_params"] == 2 * 128 * 32
    claimed = "times less than CoOp as published" in result
    assert claimed == (ours["accuracy"] >= coop["accuracy"])
    assert claimed != ("no speed is claimed" in result)


def test_no_speed_is_claimed_where_coop_is_better(written: Written) -> None:
    from coop import COOP, GRID, claim

    ratio = {"median": 9.0, "min": 9.0, "max": 9.0}
    better = {COOP: {"accuracy": 0.7}, GRID: {"accuracy": 0.6}}
    assert "70.00 against 60.00" in claim(better, ratio)["no speed is claimed"]
    assert claim({COOP: {"accuracy": 0.6}, GRID: {"accuracy": 0.6}}, ratio).popitem()[1] == ratio


def test_imagenet_is_multiplied_out(written: Written) -> None:
    result = written("coop.py", "--only", "imagenet")["imagenet"]
    each = result["seconds each, of an image, a sentence or a step"]
    assert all(value > 0 for value in each.values())
    rows = result["rows"]
    assert rows["CoOp, as published"]["seconds"] > 0.98 * 25_000 * 1000 * each["text"]
    assert rows["featcache, extraction and 11 alphas"]["num_params"] == 2 * 1024 * 256
    assert rows["linear probe"]["seconds"] is None
    assert "random" in result["weights"]


def test_whole_processes(written: Written, tmp_path: Path) -> None:
    other = {"imagenet": {"weights": "random", "times less than CoOp as published": 7.0}, "commit": "abc"}
    (tmp_path / "coop.json").write_text(json.dumps(other), encoding="utf-8")
    result = written("whole_process.py", "--coop", str(tmp_path / "coop.json"))
    ways = result["ways"]
    theirs = ways["CoOp, as published"]["accuracy"]
    for way in ways.values():
        assert (way["times less than CoOp"] is None) == (way["accuracy"] < theirs)
    first = ways["extract + 11 alphas, one draw"]
    assert first["seconds"]["median"] == first["extract_s"] + first["fit_s"] == 2
    assert ways["the next search"]["seconds"]["median"] == 1
    assert result["multiplied out"]["times less than CoOp as published"] == 7.0


def test_extraction_does_the_same_work_as_a_plain_loop(written: Written) -> None:
    result = written("extract.py", "--backbones", "tiny")["cases"]
    assert len(result) == 4
    for name, case in result.items():
        assert all(rate["median"] > 0 for rate in case["images a second"].values()), name
        assert case["loading, times decode per view"]["median"] > 0
        if name.endswith(" 1 views"):
            assert case["largest difference of an embedding, relative"] < 1e-2


def test_coop_as_published_is_coop_on_cached_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both write the same text weights from one context: what is compared is the way, not the method."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import torch
    from as_published import CoOp

    from featcache import registry
    from featcache.backbones import Backbone
    from featcache.backbones.text_tower import TextTower
    from featcache.task import Frozen

    backbone, names = Backbone("tiny"), ("star of stripes", "ring")
    theirs = CoOp(backbone.model, backbone.tokens, names, "")
    tower = TextTower(backbone.model, backbone.tokens, "tiny")
    frozen = Frozen(text=torch.zeros(2, 128), logit_scale=100.0, names=names, tower=tower)
    ours: Any = registry.load("coop")()
    torch.testing.assert_close(ours.text({"context": theirs.context}, frozen), theirs.text(), rtol=1e-4, atol=1e-5)


def test_a_process_is_timed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import processes

    done = processes.timed([sys.executable, "-c", "import time; time.sleep(0.3); print('{\"a\": 1}')"], {})
    assert processes.last_json(done) == {"a": 1}
    assert done.seconds > 0.3
    with pytest.raises(SystemExit, match="failed"):
        processes.timed([sys.executable, "-c", "raise ValueError"], {})
