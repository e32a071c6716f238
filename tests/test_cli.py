"""The command line: what each command prints, and one message with exit code 2 for whatever a user gets wrong."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from featcache import __version__
from featcache.importing import import_npz
from featcache.results.recording import Recorder
from featcache.store.gate import vouch
from tests import synthetic
from tests.commandline import Run, Said
from tests.conftest import put_picture
from tests.layouts import put

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--epochs", "2", "--shots", "2", "--seeds", "1,2")


@pytest.fixture
def stores(home: Path, tmp_path: Path) -> list[Path]:
    """Two imports: `first` and, newer, `second`."""
    made = []
    for index, name in enumerate(("first", "second")):
        file = synthetic.save(tmp_path / f"{name}.npz", synthetic.arrays(seed=index))
        made.append(import_npz(file, name=name))
        os.utime(made[-1], ns=(0, 10**18 + index))
        vouch(made[-1])
    return made


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder, with a digest of its bytes; not what is noted of stores that were read."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("results.sqlite") and path.parent.name != "known"
    }


def one_message(said: Said) -> bool:
    lines = said.err.strip().splitlines()
    return said.code == 2 and "Traceback" not in said.err and sum(line.startswith("error: ") for line in lines) == 1


TINY = ("--backbone", "tiny", "--weights", "random:0")
EXTRACT = ("extract", *TINY, "--views", "0", "--shots", "1", "--seeds", "1")


# --- what a user gets wrong


BAD_EXTRACTS = {
    "data set": (("--dataset", "nope"), "unknown data set 'nope'; known: caltech101, csv:FILE, dtd, eurosat,"),
    "near data set": (("--dataset", "eurosat2"), "did you mean eurosat?"),
    "backbone": (("--dataset", "folder:{pictures}", "--backbone", "RN51"), "unknown backbone 'RN51' (did you mean"),
    "weights": (("--dataset", "folder:{pictures}", "--weights", "nope"), "unknown weights of tiny 'nope'"),
    "seed": (("--dataset", "folder:{pictures}", "--weights", "random:x"), "random:SEED"),
    "checkpoint": (("--dataset", "folder:{pictures}", "--weights", "{text}"), "do not load into tiny"),
    "no folder": (("--dataset", "folder:{tmp}/none"), "no folder at"),
    "long path": (("--dataset", f"folder:{'a' * 300}"), "aaa': File name too long"),
    "long root": (("--dataset", "dtd", "--data", "a" * 300), "/dtd': File name too long"),
    "no data root": (("--dataset", "dtd"), "--data ROOT or FEATCACHE_DATA"),
    "no data set folder": (("--dataset", "dtd", "--data", "{tmp}"), "dtd, which is not there"),
    "split without file": (("--dataset", "dtd", "--data", "{coop}"), "1 of 4 images are listed"),
    "class without image": (("--dataset", "folder:{empty}"), "a class with no images"),
    "one class": (("--dataset", "folder:{single}"), "has 1 class folder, a; each class's images must lie in a folder"),
    "bad image": (("--dataset", "folder:{broken}", "--all-train"), "does not decode"),
    "template": (("--dataset", "folder:{pictures}", "--template", "a photo"), "exactly one {}"),
    "long template": (
        ("--dataset", "folder:{pictures}", "--template", "{}" + " word" * 40),
        "longer than the 32 tokens",
    ),
    "class names": (("--dataset", "folder:{pictures}", "--classnames", "{text}"), "has 1 lines, but"),
    "shots": (("--dataset", "folder:{pictures}", "--shots", "1,x"), "--shots 1,x: a comma-separated list"),
    "no shots": (("--dataset", "folder:{pictures}", "--shots", "0"), "shots are 1 or more"),
    "seeds": (("--dataset", "folder:{pictures}", "--seeds", "-1"), "seeds are 0 or more"),
    "views": (("--dataset", "folder:{pictures}", "--views", "-1"), "--views"),
    "style": (("--dataset", "folder:{pictures}", "--style", "nope"), "coop, coop-2021, clip"),
    "dtype": (("--dataset", "folder:{pictures}", "--dtype", "int8"), "--dtype int8 is not known"),
    "crop scale": (("--dataset", "folder:{pictures}", "--crop-scale", "0:2"), "--crop-scale 0:2: shares of the image"),
    "device": (("--dataset", "folder:{pictures}", "--device", "nope"), "--device nope cannot be used here"),
    "on bad image": (("--dataset", "folder:{pictures}", "--on-bad-image", "x"), "use fail or skip"),
    "name": (("--dataset", "folder:{pictures}", "--name", "../x"), "cannot name a store"),
    "name in use": (("--dataset", "folder:{pictures}", "--name", "first"), "exists and means something else"),
}


@pytest.fixture
def places(tmp_path: Path, pictures: Path) -> dict[str, Path]:
    """Data sets with one fault each."""
    folders = {name: tmp_path / name for name in ("empty", "single", "broken", "coop")}
    for name, classes in (("empty", "abc"), ("single", "a"), ("broken", "ab")):
        for label in classes:
            for number in range(4):
                put_picture(folders[name] / label / f"{number}.png", seed=f"{label}{number}")
    for file in (folders["empty"] / "b").iterdir():
        file.unlink()
    broken = folders["broken"] / "b" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    items = [[f"{label}/{number}.png", label, f"name {label}"] for label in (0, 1) for number in (0, 1)]
    for path, *_ in items[:-1]:
        put_picture(folders["coop"] / "dtd" / "images" / str(path), seed=str(path))
    (folders["coop"] / "dtd" / "images" / "1").mkdir(exist_ok=True)
    split = {"train": [items[0], items[2]], "val": [], "test": [items[1], items[3]]}
    (folders["coop"] / "dtd" / "split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    text = tmp_path / "text.txt"
    text.write_text("one line\n")
    return {**folders, "text": text, "tmp": tmp_path, "pictures": pictures}


@pytest.mark.parametrize("fault", BAD_EXTRACTS)
def test_a_bad_extract_says_so_and_writes_no_store(
    run: Run, home: Path, stores: list[Path], places: dict[str, Path], fault: str
) -> None:
    options, message = BAD_EXTRACTS[fault]
    filled = []
    for option in options:
        for name, place in places.items():
            option = option.replace(f"{{{name}}}", str(place))
        filled.append(option)
    before = listing(home / "stores")
    said = run(*EXTRACT, *filled)
    assert one_message(said), said.err
    assert message in said.err
    assert listing(home / "stores") == before
    assert not [path for path in home.rglob("*") if ".tmp" in path.name]


BAD_FITS = {
    "store": (("nope",), "unknown store 'nope'; known: first, second"),
    "no file": (("./nope.h5",), "there is no file ./nope.h5"),
    "adapter": (("--adapter", "nope"), "unknown adapter 'nope'; known: "),
    "empty grid": (("--alpha-grid", ""), "is empty"),
    "grid backwards": (("--alpha-grid", "1:0:0.1"), "did you mean 0:1:0.1?"),
    "grid without step": (("--alpha-grid", "0:1:0"), "a step is above 0"),
    "grid of words": (("--alpha-grid", "a,b"), "is not a number"),
    "grid without end": (("--alpha-grid", "0:1:1e-9999999"), "1e-9999999"),
    "alpha": (("--alpha-grid", "0.5,1.5"), "alpha"),
    "alpha below 0": (("--alpha-grid=-0.5,0.5",), "alpha"),
    "alpha NaN": (("--alpha-grid", "nan"), "not a finite number"),
    "preset": (("--preset", "nope"), "unknown preset 'nope'"),
    "protocol": (("--select", "nope"), "unknown selection protocol 'nope'"),
    "epochs": (("--epochs", "0"), "at least 1"),
    "lr": (("--lr", "-1"), "positive"),
    "shots": (("--shots", "0"), "shots are 1 or more"),
    "shots beyond all bounds": (("--shots", "9" * 20), "numbers go up to"),
    "seeds beyond all bounds": (("--seeds", "9" * 16), "numbers go up to"),
    "device without numbers": (("--device", "meta"), "cannot be used here"),
    "device": (("--device", "nope"), "cannot be used here"),
    "plot": (("--plot", "x.doc"), "x.doc"),
    "training what is not trained": (("--adapter", "zero_shot", "--lr", "0.1"), "would do nothing"),
    "init seeds of what is not trained": (("--adapter", "gda", "--init-seeds", "1,2"), "--init-seeds would do nothing"),
    "init seeds": (("--init-seeds", "1,-2"), "seeds are 0 or more"),
    "last batch": (("--last-batch", "some"), "unknown last batch 'some'; known: drop, keep"),
    "weight decay": (("--weight-decay", "-1"), "weight_decay is a number of at least 0; got -1"),
    "momentum": (("--momentum", "1"), "momentum is at least 0 and below 1; got 1"),
    "momentum under AdamW": (("--preset", "adamw", "--momentum", "0.5"), "--momentum would do nothing"),
    "momentum searched under AdamW": (("--preset", "adamw", "--grid", "momentum=0,0.9"), "no field momentum"),
    "lr twice": (("--lr", "0.1", "--grid", "lr=0.1,0.2"), "--lr would do nothing beside --grid lr=.."),
    "weight decay in the grid": (("--grid", "weight_decay=0,-1"), "weight_decay is a number of at least 0; got -1"),
}


@pytest.mark.parametrize("fault", BAD_FITS)
def test_a_bad_fit_says_so_and_records_nothing(run: Run, home: Path, stores: list[Path], fault: str) -> None:
    options, message = BAD_FITS[fault]
    before = listing(home)
    said = run("fit", *QUICK, *options)
    assert one_message(said), said.err
    assert message in said.err
    assert listing(home) == before
    assert "no results yet" in run("results").out


def test_a_truncated_or_foreign_store_says_so(run: Run, home: Path, stores: list[Path]) -> None:
    stores[0].write_bytes(stores[0].read_bytes()[:3000])
    with h5py.File(stores[1], "w") as file:
        file["x"] = 1
    before = listing(home)
    for name in ("first", "second"):
        for command in (("fit", name, *QUICK), ("cache", "verify", name), ("cache", "info", name)):
            said = run(*command)
            assert one_message(said), said.err
            assert stores[0].parent.name in said.err
    assert one_message(run("cache", "diff", "first", "second"))
    assert run("cache", "ls").out.count("unreadable") == 2
    assert listing(home) == before


def test_a_bad_import_says_so(run: Run, home: Path, stores: list[Path], tmp_path: Path) -> None:
    values = synthetic.arrays()
    values["val_features"] = np.full_like(values["val_features"], np.nan)
    bad = synthetic.save(tmp_path / "bad.npz", values)
    (tmp_path / "text.npz").write_text("text")
    before = listing(home)
    for file, name, message in (
        (bad, "x", "NaN"),
        (tmp_path / "text.npz", "x", "cannot be read"),
        (tmp_path / "none.npz", "x", "there is no file"),
        (bad, "a/b", "cannot name a store"),
    ):
        said = run("import", file, "--name", name)
        assert one_message(said), said.err
        assert message in said.err
    assert listing(home) == before


def test_a_cache_folder_that_cannot_be_written_says_so(
    run: Run, home: Path, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = synthetic.save(tmp_path / "good.npz", synthetic.arrays())
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "file" / "home"))
    for command in (("import", file, "--name", "x"), (*EXTRACT, "--dataset", f"folder:{pictures}")):
        said = run(*command)
        assert one_message(said), said.err
        assert "FEATCACHE_HOME" in said.err
    for command in (("cache", "ls"), ("results",)):
        assert run(*command).code == 0
    for command in (("fit",), ("results", "1"), ("cache", "info")):
        assert one_message(run(*command))


def test_a_results_file_that_cannot_be_written_says_so_before_training(
    run: Run, home: Path, stores: list[Path]
) -> None:
    (home / "results.sqlite").mkdir()
    said = run("fit", *QUICK, "--epochs", "100000")
    assert one_message(said), said.err
    assert "results.sqlite cannot be used" in said.err


def test_usage_errors_exit_with_2(run: Run) -> None:
    for command in (("extract",), ("fit", "--nope"), ("import", "x.npz"), ("nope",), ("cache", "nope")):
        said = run(*command)
        assert said.code == 2
        assert "Traceback" not in said.err


def test_debug_shows_the_trace(run: Run) -> None:
    from featcache.errors import UnknownNameError

    with pytest.raises(UnknownNameError):
        run("--debug", "extract", *TINY, "--dataset", "nope")
    assert one_message(run("extract", *TINY, "--dataset", "nope"))


# --- what the commands print


def test_the_version(run: Run) -> None:
    assert run("--version").out == f"featcache {__version__}\n"


def test_help_from_a_bare_checkout() -> None:
    done = subprocess.run(
        [sys.executable, "cli.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False, env={"PATH": ""}
    )
    assert done.returncode == 0, done.stderr
    for command in ("extract", "fit", "import", "results", "cache"):
        assert command in done.stdout


def test_an_import_is_summed_up(run: Run, tmp_path: Path) -> None:
    said = run("import", synthetic.save(tmp_path / "a.npz", synthetic.arrays()), "--name", "mine")
    assert said.code == 0
    assert "mine: train 120, val 36, test 90, width 24, 6 classes, text 6 x 24, raw rows, logit scale 40" in said.out


def test_a_data_set_that_is_here_in_part_is_said_to_be(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "eurosat"
    put(folder / "2750", "River/River_1.jpg", "Forest/Forest_1.jpg", "Forest/Forest_2.jpg", "Forest/Forest_3.jpg")
    lists = {"train": [["River/River_1.jpg", 0, "River"], ["Forest/Forest_1.jpg", 1, "Forest"]]}
    lists |= {split: [[f"Forest/Forest_{number}.jpg", 1, "Forest"]] for number, split in ((2, "val"), (3, "test"))}
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(lists))
    said = run("extract", "--dataset", "eurosat", "--data", tmp_path, "--backbone", "tiny", "--shots", "1", "--plan")
    assert said.code == 0, said.err
    assert "eurosat is not here as published: classes 2 instead of 10; train 2 instead of 13,500" in said.err
    assert "as published" not in run("extract", "--dataset", "shapes", "--backbone", "tiny", "--plan").err


def test_extract_plan_then_extract_then_nothing_to_do(run: Run, home: Path, pictures: Path) -> None:
    command = (*EXTRACT, "--dataset", f"folder:{pictures}", "--shots", "1,16", "--workers", "0")
    planned = run(*command, "--plan")
    assert planned.code == 0
    assert "images to decode" in planned.out
    assert "1 classes have fewer than 16 training images (fewest: 3)" in planned.err
    assert not (home / "stores").exists()
    done = run(*command)
    assert done.code == 0, done.err
    assert "images/s" in done.out
    before = listing(home)
    again = run(*command)
    assert "nothing to do" in again.out
    assert listing(home) == before


def test_skipped_images_are_named(run: Run, places: dict[str, Path]) -> None:
    command = (*EXTRACT, "--dataset", f"folder:{places['broken']}", "--all-train", "--on-bad-image", "skip")
    said = run(*command)
    assert said.code == 0, said.err
    assert "b/2.png" in said.err
    fitted = run("fit", "--epochs", "1", "--select", "train-holdout", "--alpha-grid", "0,0.5")
    assert fitted.code == 0, fitted.err
    assert "1 images could not be read and are left out" in fitted.err
    assert "b/2.png" in fitted.err
    assert "b/2.png" in run("results", "1").out


def test_the_default_shots_leave_images_to_choose_on(run: Run, tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for label in "ab":
            for number in range(count):
                put_picture(tmp_path / "own" / split / label / f"{number}.png", seed=f"{split}{label}{number}")
    said = run("extract", *TINY, "--views", "0", "--dataset", f"folder:{tmp_path / 'own'}")
    assert said.code == 0, said.err
    fitted = run("fit", "--alpha-grid", "0,0.5", "--epochs", "1")
    assert fitted.code == 0, fitted.err
    assert "2 shots" in fitted.out
    assert "4, 8, 16 shots are extracted too" in " ".join(fitted.err.split())
    largest = run("fit", "--alpha-grid", "0,0.5", "--epochs", "1", "--shots", "16")
    assert "uses up every train image" in largest.err


def test_fit_takes_the_newest_store_and_results_remember(run: Run, stores: list[Path]) -> None:
    assert "no results yet" in run("results").out
    said = run("fit", *QUICK)
    assert said.code == 0, said.err
    assert "store: second (the newest with training rows)" in said.err
    assert "test % (not used to choose)" in said.out
    listed = run("results").out
    assert "second" in listed
    assert "fewshot-val" in listed
    whole = json.loads(run("results", "1", "--json").out)
    assert whole["state"] == "done"
    assert len(whole["runs"]) == 22
    assert whole["command"][0] == "fit"
    assert run("results", "1").code == 0
    for unknown in ("2", "0", "99999999999999999999"):
        missing = run("results", unknown)
        assert one_message(missing), missing.err
        assert "known: 1" in missing.err


def test_a_result_holds_how_it_was_trained(run: Run, stores: list[Path]) -> None:
    training = ("--last-batch", "keep", "--momentum", "0.5", "--grid", "weight_decay=0,0.1", "--init-seeds", "7,8")
    said = run("fit", "first", *QUICK, "--alpha-grid", "0.5", *training)
    assert said.code == 0, said.err
    assert "2 shots, seeds 1, 2, each from init seeds 7, 8" in said.out
    assert "of 4 fits" in said.out
    whole = json.loads(run("results", "1", "--json").out)
    recipe = whole["recipe"]
    assert (recipe["last_batch"], recipe["momentum"], recipe["weight_decay"]) == ("keep", 0.5, 5e-4)
    assert [run["config"]["weight_decay"] for run in whole["runs"]] == [0.0, 0.1] * 4
    assert [run["init_seed"] for run in whole["runs"]] == [7, 7, 8, 8] * 2
    assert "first" in run("results").out


def test_fit_json_is_json(run: Run, stores: list[Path]) -> None:
    outcome = json.loads(run("fit", "first", *QUICK, "--json").out)
    assert outcome["store"] == "first"
    assert len(outcome["runs"]) == 22


def test_an_unfinished_search_is_not_listed(run: Run, home: Path, stores: list[Path]) -> None:
    Recorder(home / "results.sqlite", [])
    assert "no results yet" in run("results").out
    assert json.loads(run("results", "--json").out) == []


def test_cache_ls(run: Run, stores: list[Path]) -> None:
    lines = run("cache", "ls").out
    assert lines.index("second") < lines.index("first")
    assert "120 x 1" in lines


def test_cache_ls_of_nothing(run: Run, home: Path) -> None:
    assert "no stores in" in run("cache", "ls").out
    assert not home.exists()


def test_cache_info(run: Run, stores: list[Path]) -> None:
    facts = json.loads(run("cache", "info", "first", "--json").out)
    assert (facts["name"], facts["width"], facts["splits"]["train"]["stored"]) == ("first", 24, 120)
    assert facts["key"][:8] in run("cache", "info", facts["key"][:8]).out
    assert "second" in run("cache", "info").out


def test_cache_verify(run: Run, stores: list[Path]) -> None:
    assert "first is sound: 246 embeddings" in run("cache", "verify", "first").out
    with h5py.File(stores[0], "r+") as file:
        file["train/image"][5] += 1
    said = run("cache", "verify", "first")
    assert one_message(said), said.err
    assert "1 rows differ from their checksum, first train/0000005" in said.err


def test_cache_diff(run: Run, stores: list[Path], tmp_path: Path) -> None:
    differing = run("cache", "diff", "first", "second")
    assert differing.code == 1
    assert "checkpoint" in differing.out
    import_npz(tmp_path / "first.npz", name="same")
    assert "hold the same" in run("cache", "diff", "first", "same").out


def test_cache_rm(run: Run, home: Path, stores: list[Path], tmp_path: Path) -> None:
    refused = run("cache", "rm", "first")
    assert one_message(refused), refused.err
    assert "--yes" in refused.err
    assert stores[0].is_file()
    own = tmp_path / "mine.txt"
    own.write_text("not yours")
    assert one_message(run("cache", "rm", "--yes", "first", str(own)))
    assert one_message(run("cache", "rm", "--yes", "first", "nope"))
    assert own.is_file()
    assert stores[0].is_file()
    assert run("cache", "rm", "--yes", "first", "first").code == 0
    assert not stores[0].exists()
    stores[1].write_bytes(b"damaged")
    assert run("cache", "rm", "--yes", "second").code == 0
    assert listing(home / "stores") == {}


# --- Ctrl-C


def test_ctrl_c_ends_in_one_line_and_the_rerun_goes_on(run: Run, home: Path, pictures: Path) -> None:
    options = ["extract", *TINY, "--dataset", f"folder:{pictures}", "--views", "4", "--all-train", "--batch-size", "8"]
    code = (
        "import sys; from featcache import cli; from featcache.extraction import shards\n"
        "shards.SHARD_VIEWS = 20; sys.argv[0] = 'featcache'; cli.main()\n"
    )
    # A session of its own: the signal goes to all its processes, as from a terminal.
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options, "--workers", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(home.glob("parts/*/*.part"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.count("stopped; images that are encoded are kept") == 1
    assert not (home / "stores").exists() or not list((home / "stores").iterdir())
    resumed = run(*options, "--workers", "0")
    assert resumed.code == 0, resumed.err
    assert ", 0 already there" not in resumed.out
    assert run("cache", "verify").code == 0
    assert not list(home.glob("parts/*"))


def test_all_fits_every_method_that_the_store_has_what_it_needs_for(run: Run, tmp_path: Path) -> None:
    arrays = synthetic.arrays()
    del arrays["text_features"]
    assert run("import", synthetic.save(tmp_path / "f.npz", arrays), "--name", "f").code == 0
    said = run("fit", "f", "--adapter", "all", "--shots", "2", "--seeds", "1", "--epochs", "1")
    assert said.code == 0, said.err
    told = " ".join(said.err.split())
    assert "f: zero_shot is left out, for it needs text" in told
    assert "f: coop is left out, for it needs text and tower" in told
    assert "f, elevater, 2 shots is left out: start=language needs text weights" in told
    fitted = [row["adapter"] for row in json.loads(run("results", "--json").out)]
    assert sorted(fitted) == ["gda", "linear_probe", "proker", "tip_adapter", "tip_adapter_f"]


def test_all_without_a_method_that_can_be_fitted_is_a_failure(run: Run, tmp_path: Path) -> None:
    assert run("import", synthetic.save(tmp_path / "f.npz", synthetic.arrays()), "--name", "f").code == 0
    said = run("fit", "f", "--adapter", "all", "--select", "nonsense")
    assert said.code == 2
    assert "unknown selection protocol 'nonsense'" in said.err
