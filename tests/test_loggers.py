"""Trackers are told what the result says: each is asked with its own reader, and no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featcache.errors import FeatcacheError
from featcache.loggers import open_loggers
from featcache.results import frame, run_frame, summaries
from featcache.store.places import results_path
from tests import synthetic
from tests.commandline import Run

FIT = ("fit", "toy", "--shots", "4", "--seeds", "1,2", "--alpha-grid", "0,0.5,1", "--epochs", "3", "--lr", "0.02")


@pytest.fixture
def toy(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    assert run("import", synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), "--name", "toy").code == 0
    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the trackers' own
def test_tensorboard(toy: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    assert toy(*FIT, "--log", f"tensorboard:{tmp_path / 'logs'}").code == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (tmp_path / "logs").iterdir()
    assert folder.name == "00001-clip_adapter-toy-4shot"
    events = EventAccumulator(str(folder))
    events.Reload()
    told = summaries(results_path())[0]
    assert [scalar.value for scalar in events.Scalars("grid/alpha")] == [0.0, 0.5, 1.0]
    assert events.Scalars("test_accuracy")[0].value == pytest.approx(told.test_accuracy)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_with_a_local_store(toy: Run, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    place = _mlflow_place(tmp_path)
    said = toy(*FIT, "--log", f"mlflow:{place}")
    assert said.code == 0, said.err
    client = mlflow.MlflowClient(tracking_uri=place)
    (run,) = client.search_runs([client.get_experiment_by_name("featcache").experiment_id])
    told = summaries(results_path())[0]
    assert run.data.metrics["test_accuracy"] == pytest.approx(told.test_accuracy)
    assert run.data.params["adapter"] == "clip_adapter"
    assert run.data.params["result"] == "1"
    alphas = client.get_metric_history(run.info.run_id, "grid/alpha")
    assert sorted(point.value for point in alphas) == [0.0, 0.5, 1.0]
    assert run.info.status == "FINISHED"


def _mlflow_place(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_offline(toy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("WANDB_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    said = toy(*FIT, "--log", "wandb:mine")
    assert said.code == 0, said.err
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    kept = b"".join(file.read_bytes() for file in folder.glob("run-*.wandb"))
    told = summaries(results_path())[0]
    for word in (b"test_accuracy", b"00001-clip_adapter-toy-4shot", json.dumps(told.test_accuracy).encode()[:8]):
        assert word in kept


def test_nothing_is_told_to_anybody_unless_asked(toy: Run, tmp_path: Path) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    assert toy(*FIT).code == 0
    assert {path.name for path in tmp_path.iterdir()} - before <= {"home"}


@pytest.mark.parametrize(
    ("asked", "word"), [("sacred", "unknown logger"), ("tensorboard", "--log tensorboard:logs"), ("wandb", "tracking")]
)
def test_what_cannot_be_told_is_said_before_any_fit(
    toy: Run, monkeypatch: pytest.MonkeyPatch, asked: str, word: str
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("featcache.loggers.import_module", absent)
    with pytest.raises(FeatcacheError, match=word):
        open_loggers([asked])
    assert toy(*FIT, "--log", asked).code == 2
    assert summaries(results_path()) == []


def test_a_tracker_that_fails_costs_no_result(toy: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").touch()
    said = toy(*FIT, "--log", f"tensorboard:{tmp_path / 'file'}")
    assert said.code == 2
    assert "result 1 is recorded, but tensorboard was not told" in said.err
    assert len(summaries(results_path())) == 1


def test_frames_hold_what_is_recorded(toy: Run) -> None:
    pytest.importorskip("pandas")
    assert len(frame()) == len(run_frame()) == 0
    toy(*FIT)
    told = summaries(results_path())[0]
    found, runs = frame(), run_frame()
    assert found["test_accuracy"].tolist() == [told.test_accuracy]
    assert found["gain"].tolist() == [pytest.approx((told.test_accuracy or 0) - (told.zero_shot_accuracy or 0))]
    assert str(found["created"].dtype).startswith("datetime64")
    assert runs["config.alpha"].tolist() == [0.0, 0.5, 1.0] * 2
    assert runs[runs["chosen"]]["test_accuracy"].mean() == pytest.approx(told.test_accuracy)
