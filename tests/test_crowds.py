"""Many processes at one store and one file of results: they share the work or repeat it, and nothing is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featcache.extraction import Request, shards
from featcache.fewshot import draw
from featcache.store import Store, claims, disks
from featcache.store.checking import verify
from featcache.store.claims import Claims, turn
from tests import synthetic
from tests.commandline import Run
from tests.crowd import ROOT, as_ranks, at_once
from tests.test_extraction import content, extract, plan_of

ALL = Request(shots=(1, 4), shot_seeds=(1, 2), num_views=2, all_train=True)
TINY = "--backbone tiny --weights random:0 --seeds 1,2 --views 2 --workers 0 --batch-size 16 --name pictures"


def command(pictures: Path, shots: str) -> list[str]:
    return ["extract", "--dataset", f"folder:{pictures}", *TINY.split(), "--template", "{}!", "--shots", shots]


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The content of the store of shots 1 and 4 made by one process in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_HOME", str(tmp_path_factory.mktemp("alone")))
        return content(extract(pictures))


@pytest.fixture(scope="module")
def alone_all(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same with every training image: some more shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_HOME", str(tmp_path_factory.mktemp("alone")))
        return content(extract(pictures, ALL))


def store_in(home: Path) -> Path:
    return home / "stores" / "pictures.h5"


def content_in(home: Path) -> str:
    assert not list((home / "parts").glob("*")), "parts or claims are left"
    assert not list((home / "stores").glob(".*")), "claims or temporary files are left"
    with Store(store_in(home)) as store:
        assert verify(store) == []
        return store.content


# --- extracting together


def test_two_extracts_of_one_store_share_the_work(pictures: Path, tmp_path: Path, alone_all: str) -> None:
    home = tmp_path / "home"
    ended = at_once([[*command(pictures, "1,4"), "--all-train"]] * 2, home, meet=True)
    assert [item.code for item in ended] == [0, 0], ended
    assert content_in(home) == alone_all
    wrote = [item.parts for item in ended]
    assert min(wrote) >= 1
    assert sum(wrote) <= 1.5 * num_shards(pictures)  # not the whole twice


def num_shards(pictures: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_VIEWS", 20)
        plan, _ = plan_of(pictures, ALL)
        return shards.Shards(plan.missing, plan.manifest).count


def test_two_extracts_of_different_shots_keep_each_others_rows(pictures: Path, tmp_path: Path, alone: str) -> None:
    home = tmp_path / "home"
    ended = at_once([command(pictures, "1"), command(pictures, "4"), command(pictures, "1,4")], home)
    assert [item.code for item in ended] == [0, 0, 0], ended
    assert content_in(home) == alone
    with Store(store_in(home)) as store:
        assert {tuple(pair) for pair in store.provenance["draws"]} == {(1, 1), (1, 2), (4, 1), (4, 2)}


def test_ranks_share_the_work_and_one_that_dies_is_survived(pictures: Path, tmp_path: Path, alone_all: str) -> None:
    home = tmp_path / "home"
    under = [*command(pictures, "1,4"), "--all-train", "--engine", "torchrun"]
    code, said, wrote = as_ranks(under, home, kill="0:2")
    assert code != 0, said
    assert wrote[0] == 2
    assert wrote[1] >= 1
    assert len(list(home.glob("parts/*/*.part"))) >= 2
    assert not store_in(home).exists()
    code, said, wrote = as_ranks(under, home)
    assert code == 0, said
    assert sum(wrote) < num_shards(pictures)  # what the first try had done is not done again
    assert content_in(home) == alone_all
    assert said.count("plan for pictures") == 1  # only the first rank speaks


def test_torchrun_without_torchrun_says_how_to_start_it(run: Run, pictures: Path) -> None:
    said = run(*command(pictures, "1"), "--engine", "torchrun")
    assert said.code == 2
    assert "torchrun --nproc-per-node 2 -m featcache extract" in said.err


def test_an_unknown_engine_is_refused(run: Run, pictures: Path) -> None:
    said = run(*command(pictures, "1"), "--engine", "rya")
    assert said.code == 2
    assert "did you mean ray?" in said.err


# --- a store that is replaced meanwhile


def test_a_writer_that_does_not_wait_for_its_turn_costs_no_row(
    home: Path, pictures: Path, alone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process replaces the store between the moment it is read and the moment it would be replaced."""
    first = extract(pictures, Request(shots=(1,), shot_seeds=(1, 2), num_views=2))
    from featcache.extraction import assemble

    plain, tries = assemble.write_store, 0

    def overtaken(*given: object, **named: object) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            monkeypatch.setattr("featcache.extraction.turn", lambda _: __import__("contextlib").nullcontext())
            extract(pictures)
        plain(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(assemble, "write_store", overtaken)
    extract(pictures, Request(shots=(2,), shot_seeds=(1, 2), num_views=2))
    with Store(first.plan.store) as store:
        held = set(store.rows("train").tolist())
        for shots in (1, 2, 4):
            for seed in (1, 2):
                assert set(draw(store.label("train"), None, shots=shots, shot_seed=seed).train.tolist()) <= held


def test_fits_see_a_snapshot_while_the_store_grows(pictures: Path, home: Path, run: Run) -> None:
    begun = run(*command(pictures, "1"))
    assert begun.code == 0, begun.err
    fit = ["fit", "pictures", "--shots", "1", "--adapter", "zero_shot"]
    trained = ["fit", "pictures", "--shots", "1", "--alpha-grid", "0:1:0.5", "--epochs", "3"]
    grow = [command(pictures, "2"), command(pictures, "4")]
    ended = at_once([*grow, fit, trained, trained, fit], home)
    assert [item.code for item in ended] == [0] * 6, ended
    after = run(*trained)
    assert after.code == 0, after.err
    with sqlite3.connect(home / "results.sqlite") as opened:
        rows = opened.execute(
            "SELECT adapter, alpha, shot_seed, test_accuracy, test_loss FROM run JOIN search ON search = search.id"
        ).fetchall()
    opened.close()
    by_run: dict[tuple[object, ...], set[tuple[object, ...]]] = {}
    for adapter, alpha, seed, *numbers in rows:
        by_run.setdefault((adapter, alpha, seed), set()).add(tuple(numbers))
    assert len(by_run) == 8
    assert all(len(found) == 1 for found in by_run.values()), by_run


@pytest.mark.parametrize("network", ["0", "1"])
def test_eight_processes_write_results_at_once_and_lose_none(
    run: Run, home: Path, tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATCACHE_NETWORK_DISK", network)
    made = run("import", synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), "--name", "toy")
    assert made.code == 0, made.err
    fit = ["fit", "toy", "--shots", "2,4", "--adapter", "zero_shot,gda"]
    ended = at_once([fit] * 8, home)
    assert [item.code for item in ended] == [0] * 8, ended
    with sqlite3.connect(home / "results.sqlite") as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = opened.execute("SELECT state, COUNT(*), SUM(zero_shot_rows) FROM search GROUP BY state").fetchall()
        unfinished = opened.execute("SELECT COUNT(*) FROM run WHERE test_accuracy IS NULL").fetchone()
    opened.close()
    assert found == [("done", 32, 32 * 90)]
    assert unfinished == (0,)
    assert [path.name for path in home.glob("*results*")] == ["results.sqlite"]


def test_results_move_from_a_disk_of_ones_own_to_a_network_disk_and_back(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    assert run("import", features, "--name", "toy").code == 0
    for count, network in enumerate(["0", "1", "0", "1"], start=1):
        monkeypatch.setenv("FEATCACHE_NETWORK_DISK", network)
        assert run("fit", "toy", "--shots", "1", "--adapter", "zero_shot").code == 0
        assert run("results", str(count)).code == 0
    assert run("results", "5").code == 2


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="only Linux tells")
def test_a_folder_of_this_machine_is_told_from_a_network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not disks.is_network_disk(Path("/dev/shm"))
    monkeypatch.setattr(disks, "_kind", lambda _: "nfs4")
    assert disks.is_network_disk(tmp_path)
    monkeypatch.setattr(disks, "_kind", lambda _: "")
    assert not disks.is_network_disk(tmp_path)


_NEW_FILE = """
import multiprocessing, pathlib, sys
from featcache.results.schema import connect

def open_it(path, together, told):
    together.wait()
    try:
        with connect(path):
            told.put("")
    except Exception as error:
        told.put(str(error))

crowd = multiprocessing.get_context("fork")
for number in range(30):
    together, told = crowd.Barrier(6), crowd.Queue()
    folder = pathlib.Path(sys.argv[1], str(number))
    folder.mkdir()
    mine = folder / "results.sqlite", together, told
    processes = [crowd.Process(target=open_it, args=mine) for _ in range(6)]
    for process in processes:
        process.start()
    said = [told.get() for _ in processes]
    for process in processes:
        process.join()
    assert not any(said), said
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the crowd is forked")
def test_a_new_results_file_is_opened_by_a_crowd_at_once(tmp_path: Path) -> None:
    # SQLite refuses two that change a new file's mode together at once, whatever they would wait.
    done = subprocess.run(
        [sys.executable, "-c", _NEW_FILE, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


# --- claims and turns


def claim_and_die(folder: Path) -> None:
    """A process that takes a claim and a turn, and is killed."""
    code = (
        "import os, signal, sys; from pathlib import Path; from featcache.store.claims import Claims, turn\n"
        "folder = Path(sys.argv[1]); claims = Claims(folder); assert claims.take('a')\n"
        "with turn(folder / 'store.h5'): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [".store.h5.claim", "a.claim"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    claim_and_die(tmp_path)
    with Claims(tmp_path) as mine:
        assert mine.take("a")
        with turn(tmp_path / "store.h5"):
            assert (tmp_path / ".store.h5.claim").exists()
    assert list(tmp_path.iterdir()) == []


def test_one_process_has_a_claim_at_a_time(tmp_path: Path) -> None:
    with Claims(tmp_path) as mine, Claims(tmp_path) as others:
        assert mine.take("a")
        assert not others.take("a")
        mine.release("a")
        assert others.take("a")
        assert not mine.take("a")


def test_a_claim_from_elsewhere_is_kept_while_it_is_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = tmp_path / "a.claim"
    claim.write_text("00000000-1-1")
    with Claims(tmp_path) as mine:
        assert not mine.take("a")
        monkeypatch.setattr(claims, "EXPIRES_S", 0.05)
        time.sleep(0.1)
        os.utime(claim)  # its process lives
        assert not mine.take("a")
        time.sleep(0.1)
        assert mine.take("a")  # nobody freshened it


def test_a_claim_that_nobody_signed_is_taken_over_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_UNWRITTEN_S", 0.05)
    (tmp_path / "a.claim").touch()
    with Claims(tmp_path) as mine:
        assert not mine.take("a")
        time.sleep(0.1)
        assert mine.take("a")


def test_an_old_claim_from_elsewhere_is_taken_over_at_once(tmp_path: Path) -> None:
    claim = tmp_path / "a.claim"
    claim.write_text("00000000-1-1")
    os.utime(claim, (0, 0))
    with Claims(tmp_path) as mine:
        assert mine.take("a")


def test_a_claim_is_freshened_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_FRESHEN_S", 0.01)
    with Claims(tmp_path) as mine:
        assert mine.take("a")
        os.utime(tmp_path / "a.claim", (0, 0))
        until = time.monotonic() + 10
        while (tmp_path / "a.claim").stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert (tmp_path / "a.claim").stat().st_mtime > 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_where_no_claim_can_be_made_the_work_is_done(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with Claims(tmp_path) as mine:
            assert mine.take("a")
    finally:
        tmp_path.chmod(0o700)


# --- an extra that is not there


def test_without_ray_the_message_says_how_to_get_it(run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    said = run(*command(pictures, "1"), "--engine", "ray")
    assert said.code == 2
    assert "pip install 'featcache[ray]'" in said.err
