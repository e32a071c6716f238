"""On a real Ray cluster of this machine: shards and searches as tasks, and workers that die."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from featcache.datasets import FileReader, SourceInfo
from featcache.engines import engine_named
from featcache.errors import DataError
from featcache.extraction import carry_out, shards
from featcache.extraction.encode import Machine
from featcache.extraction.parts import read_parts
from tests import synthetic
from tests.commandline import Run
from tests.conftest import put_picture
from tests.test_extraction import Done, content, extract, parts_of, plan_of

ray = pytest.importorskip("ray", reason="needs the extra featcache[ray]")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.xdist_group("ray"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two slots on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_HOME", str(tmp_path_factory.mktemp("workers")))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[1]))
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The content of the store made by this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_HOME", str(tmp_path_factory.mktemp("alone")))
        return content(extract(pictures))


@dataclass(frozen=True)
class DeadlyReader(FileReader):
    """Kills the process that reads one image for the first time."""

    flag: Path = Path()
    path: str = ""
    always: bool = False

    def read(self, path: str) -> tuple[Image.Image, SourceInfo]:
        """The image, if the process lives."""
        if path == self.path and (self.always or not self.flag.exists()):
            with self.flag.open("a") as file:
                file.write(f"{os.getpid()}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(path)


def extract_on_ray(pictures: Path, reader: FileReader | None = None) -> Done:
    plan, backbone = plan_of(pictures, template="{}!")
    if reader is not None:
        plan = replace(plan, manifest=replace(plan.manifest, reader=reader))
    engine = engine_named("ray")
    device, workers = engine.place("cpu", None)
    machine = Machine(device=device, batch_size=16, workers=workers)
    done = 0

    def progress(embeddings: int) -> None:
        nonlocal done
        done += embeddings

    provenance = {"command": "featcache extract ..."}
    carry_out(plan, backbone, machine, engine=engine, provenance=provenance, progress=progress)
    return Done(plan, backbone, done)


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_VIEWS", 20)


def test_a_cluster_makes_the_same_store(
    cluster: None, home: Path, pictures: Path, alone: str, small_shards: None
) -> None:
    done = extract_on_ray(pictures)
    assert content(done) == alone
    assert done.encoded == done.plan.num_missing
    assert parts_of(done.plan) == []


def test_a_worker_killed_in_a_shard_costs_that_try_alone(
    cluster: None, home: Path, pictures: Path, alone: str, small_shards: None, tmp_path: Path
) -> None:
    plan, _ = plan_of(pictures)
    flag, path = tmp_path / "killed", plan.manifest.splits["test"].path[7]
    root = plan.manifest.reader.root
    done = extract_on_ray(pictures, DeadlyReader(root, upright=True, flag=flag, path=path))
    killed = flag.read_text().split()
    assert len(killed) == 1
    assert int(killed[0]) != os.getpid()
    assert content(done) == alone


def test_a_shard_that_kills_every_worker_is_told_and_the_rest_is_kept(
    cluster: None, home: Path, pictures: Path, alone: str, small_shards: None, tmp_path: Path
) -> None:
    from featcache.errors import InputError

    plan, _ = plan_of(pictures)
    flag, path = tmp_path / "killed", plan.manifest.splits["test"].path[7]
    deadly = DeadlyReader(plan.manifest.reader.root, upright=True, flag=flag, path=path, always=True)
    with pytest.raises(InputError, match="failed on the cluster, after 3 more tries"):
        extract_on_ray(pictures, deadly)
    assert len(flag.read_text().split()) == 4
    assert len(list(read_parts(plan.spec.key))) >= 3
    assert content(extract(pictures)) == alone  # another engine goes on there


def test_an_image_that_does_not_decode_stops_the_extraction(cluster: None, home: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            put_picture(tmp_path / "own" / split / name / "0.bmp", seed=f"{split}{name}")
    (tmp_path / "own/test/bee/0.bmp").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"test/bee/0\.bmp"):
        extract_on_ray(tmp_path / "own")


def test_searches_on_a_cluster_give_the_same_results(cluster: None, run: Run, home: Path, tmp_path: Path) -> None:
    features = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    assert run("import", features, "--name", "toy").code == 0
    assert run("import", features, "--name", "toy2").code == 0
    asked = ["fit", "toy", "toy2", "--shots", "1,2", "--adapter", "zero_shot,clip_adapter", "--epochs", "2"]
    here = run(*asked, "--json")
    there = run(*asked, "--json", "--engine", "ray")
    assert (here.code, there.code) == (0, 0), there.err

    def numbers(text: str) -> list[object]:
        return [[item["store"], item["adapter"], item["runs"]] for item in json.loads(text)]

    assert len(numbers(there.out)) == 8
    assert numbers(there.out) == numbers(here.out)
    with sqlite3.connect(home / "results.sqlite") as opened:
        states = opened.execute("SELECT state, COUNT(*) FROM search GROUP BY state").fetchall()
        commands = opened.execute("SELECT DISTINCT command FROM search").fetchall()
    opened.close()
    assert states == [("done", 16)]
    assert len(commands) == 2


def test_a_plan_on_a_cluster_is_the_plan_made_here(
    cluster: None, run: Run, home: Path, pictures: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f"""
        [extract]
        datasets = ["folder:{pictures}"]
        backbones = ["tiny"]
        weights = "random:0"
        shots = [1, 2]
        seeds = [1, 2]
        views = 1
        [[fit]]
        adapters = ["zero_shot", "gda"]
        shots = [1, 2]
        """
    )
    on_ray = run("run", plan, "--engine", "ray")
    assert on_ray.code == 0, on_ray.err
    again = run("run", plan)
    assert again.code == 0, again.err
    assert "4 of 4 searches are done already" in again.err
    assert run("run", plan, "--engine", "torchrun").code == 2


def test_a_search_that_cannot_be_is_named_and_the_others_go_on(
    cluster: None, run: Run, home: Path, tmp_path: Path
) -> None:
    features = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    assert run("import", features, "--name", "toy").code == 0
    said = run(
        "fit",
        "toy",
        "--shots",
        "2,500",
        "--seeds",
        "1,2",
        "--adapter",
        "zero_shot,tip_adapter",
        "--select",
        "fixed",
        "--engine",
        "ray",
    )
    assert said.code == 2
    assert "of 4 failed" in said.err
    assert "zero_shot" in said.out


def test_the_clerk_answers_for_text_that_a_result_learnt(cluster: None, run: Run, home: Path, tmp_path: Path) -> None:
    features = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    assert run("import", features, "--name", "toy").code == 0
    said = run("fit", "toy", "--shots", "1", "--text", "99", "--engine", "ray")
    assert said.code == 2
    assert "unknown result '99'" in said.err
    assert run("fit", "toy", "--engine", "torchrun").code == 2
