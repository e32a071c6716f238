"""Many data sets at once: lists on the command line, plan files that go on where they were left, means."""

from __future__ import annotations

from pathlib import Path

import pytest

from featcache.commands import plan_file
from featcache.errors import InputError
from featcache.store.places import list_stores
from tests.commandline import Run
from tests.conftest import put_picture

QUICK = ("--views", "0", "--shots", "1,2", "--seeds", "1,2")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two small data sets."""
    roots = tmp_path / "first", tmp_path / "second"
    for root in roots:
        for name in ("ant", "bee"):
            for number in range(12):
                put_picture(root / name / f"{number:02d}.bmp", seed=f"{root.name}{name}{number}")
    return roots


def words(*roots: Path) -> str:
    return ",".join(f"folder:{root}" for root in roots)


def test_lists_of_data_sets_end_in_their_means(run: Run, two: tuple[Path, Path]) -> None:
    said = run("extract", "--dataset", words(*two), "--backbone", "tiny", *QUICK)
    assert said.code == 0, said.err
    assert {path.stem for path in list_stores()} == {"folder-first-tiny-coop", "folder-second-tiny-coop"}
    assert "next: featcache fit --alpha-grid 0:1:0.1 --all" in said.out
    said = run("fit", "--all", "--adapter", "zero_shot,clip_adapter", "--shots", "1,2", "--epochs", "1")
    assert said.code == 0, said.err
    means = said.out[said.out.index("zero_shot, tiny, prompts default: test %") :]
    assert "clip_adapter, tiny, prompts default: test %, chosen on fewshot-val" in means
    lines = [line.split() for line in means.splitlines() if "folder:first" in line or "folder:second" in line]
    assert len(lines) == 4
    mean = next(line for line in means.splitlines() if "mean over 2" in line)
    numbers = [float(word) for word in mean.replace("│", " ").split() if "." in word]
    firsts = [float(line[3]) for line in lines[:2]]
    assert numbers[0] == pytest.approx(sum(firsts) / 2, abs=0.011)
    assert len(numbers) == 3  # zero-shot, 1 shot, 2 shots


def test_every_data_set_is_read_before_the_first_is_encoded(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    said = run("extract", "--dataset", words(two[0], tmp_path / "absent"), "--backbone", "tiny", *QUICK)
    assert said.code == 2
    assert "absent" in said.err
    assert list_stores() == []


def test_one_that_fails_is_named_and_the_others_go_on(run: Run, two: tuple[Path, Path]) -> None:
    (two[0] / "ant" / "00.bmp").write_bytes(b"no picture")
    said = run("extract", "--dataset", words(*two), "--backbone", "tiny", *QUICK, "--all-train")
    assert said.code == 2
    assert "folder-first-tiny-coop: image ant/00.bmp" in " ".join(said.err.split())
    assert "1 of 2 failed" in said.err
    assert [path.stem for path in list_stores()] == ["folder-second-tiny-coop"]


def test_a_name_for_several_stores_is_refused(run: Run, two: tuple[Path, Path]) -> None:
    assert "names one store" in run("extract", "--dataset", words(*two), "--backbone", "tiny", "--name", "x").err


TRAINING = """epochs = 1
init_seeds = [3, 4]
last_batch = "keep"
weight_decay = 0.1
momentum = 0
select = "cross-validation"
"""


def test_how_a_plan_trains_decides_what_is_done(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    """Every one of the options makes another search of it."""
    text = plan_text(two).replace("shots = [1, 2]\nepochs", "shots = [2]\nepochs")
    file = put_plan(tmp_path / "plan.toml", text.replace("epochs = 1\n", TRAINING))
    assert run("run", file).code == 0
    assert run("run", file, "--plan").out.count("done: result") == 6
    for was, now in (("[3, 4]", "[3]"), ("keep", "drop"), ("0.1", "0.2"), ("= 0\n", "= 0.5\n"), ("cross-", "train-")):
        other = TRAINING.replace(was, now).replace("train-validation", "train-holdout")
        assert other != TRAINING
        put_plan(file, text.replace("epochs = 1\n", other))
        assert run("run", file, "--plan").out.count("done: result") == 2, now


def put_plan(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def plan_text(two: tuple[Path, Path]) -> str:
    return f"""
[extract]
datasets = ["folder:{two[0]}", "folder:{two[1]}"]
backbones = ["tiny"]
shots = [1, 2]
seeds = [1]
views = 0
prompts = ["paper-7"]

[[fit]]
adapters = ["clip_adapter"]
grid = ["alpha=0,0.5"]
shots = [1, 2]
epochs = 1
prompts = ["default", "paper-7"]

[[fit]]
adapters = ["zero_shot"]
shots = [1]
"""


def test_a_plan_is_carried_out_once(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    file = put_plan(tmp_path / "plan.toml", plan_text(two))
    said = run("run", file, "--plan")
    assert said.code == 0, said.err
    assert said.out.count("to do, after its extraction") == 10
    said = run("run", file)
    assert said.code == 0, said.err
    assert "0 of 10 searches are done already" in said.err
    assert "mean over 2" in said.out
    again = run("run", file)
    assert "10 of 10 searches are done already" in again.err
    assert said.out[said.out.index("clip_adapter, tiny, prompts default: test %") :] == again.out
    left = run("run", file, "--plan").out
    assert left.count("done: result") == 10
    assert left.count("│ done ") == 2


def test_a_plan_goes_on_where_it_was_left(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    file = put_plan(tmp_path / "plan.toml", plan_text(two))
    assert run("run", file).code == 0
    file.write_text(
        plan_text(two).replace('adapters = ["zero_shot"]\nshots = [1]', 'adapters = ["zero_shot"]\nshots = [1, 2]')
    )
    said = run("run", file)
    assert "10 of 12 searches are done already" in said.err
    # What is trained otherwise is another search; rows added to a store change no number of the old ones.
    file.write_text(plan_text(two).replace("epochs = 1", "epochs = 2").replace("seeds = [1]", "seeds = [1, 2]"))
    said = run("run", file, "--plan")
    assert said.out.count("done: result") == 2
    assert said.out.count("to do") == 8


def short_plan(*datasets: Path, fit: str = "", shots: str = "[1]") -> str:
    listed = ", ".join(f'"folder:{root}"' for root in datasets)
    return f"""
[extract]
datasets = [{listed}]
backbones = ["tiny", "tiny"]
shots = {shots}
seeds = [1]
views = 0

[[fit]]
adapters = ["zero_shot"]
{fit}
"""


def test_a_data_set_that_fails_does_not_stop_the_others(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    for image in two[0].glob("*/*.bmp"):
        image.write_bytes(b"no picture")
    said = run("run", put_plan(tmp_path / "plan.toml", short_plan(*two)))
    assert said.code == 2
    assert "1 of 3 failed, for the reasons above: folder-first-tiny-coop" in " ".join(said.err.split())
    assert "zero_shot on folder:second" in said.out


def test_a_search_that_cannot_be_yet_is_shown_with_the_reason(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    file = put_plan(tmp_path / "plan.toml", short_plan(two[0]))
    assert run("run", file).code == 0
    put_plan(file, short_plan(*two, fit='also = ["folder:second"]'))
    said = run("run", file, "--plan")
    assert said.code == 0, said.err
    assert "to do, but not as things are: unknown store 'folder:second'" in " ".join(said.out.replace("│", " ").split())
    assert run("run", file).code == 0
    assert run("run", file, "--plan").out.count("done: result") == 2


def test_draws_left_open_are_those_of_the_store_as_it_is(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    file = put_plan(tmp_path / "plan.toml", short_plan(two[0]))
    assert run("run", file).code == 0
    assert "1 of 1 searches are done already" in run("run", file, "--device", "cpu").err
    put_plan(file, short_plan(two[0], shots="[1, 2]"))
    said = run("run", file)
    assert "0 of 1 searches are done already" in said.err
    assert "2 shots" in said.out


def test_what_a_plan_asks_twice_is_done_once(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    file = put_plan(
        tmp_path / "plan.toml", short_plan(two[0], two[0], fit='shots = [1, 1]\n[[fit]]\nadapters=["zero_shot"]')
    )
    said = run("run", file)
    assert said.code == 0, said.err
    assert "0 of 1 searches" in said.err
    assert said.out.count("plan for") == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[extract", "cannot be read as TOML"),
        ("", "there must be a table [extract]"),
        ("[extract]\n", "must list datasets and backbones"),
        ('[extract]\ndatasets = ["a"]\nbackbones = ["tiny"]\nshotz = 1\n', "unknown key 'shotz'"),
        ('[extract]\ndatasets = "a"\nbackbones = ["tiny"]\n', "datasets must be a list, [..], of one text or more"),
        (
            '[extract]\ndatasets = ["a"]\nbackbones = ["tiny"]\nshots = [1.5]\n',
            "shots must be a list, [..], of one whole number",
        ),
        ('[extract]\ndatasets = ["a"]\nbackbones = ["tiny"]\nviews = true\n', "views must be a whole number"),
        ('[extract]\ndatasets = ["a"]\nbackbones = ["tiny"]\n[[fit]]\nadapters = ["none"]\n', "unknown adapter 'none'"),
        (
            '[extract]\ndatasets = ["a"]\nbackbones = ["tiny"]\n[fit]\nshots = [1]\n',
            "fit must be a list of tables, each [[fit]]",
        ),
        ('[extract]\ndatasets = ["a"]\nbackbones = ["tiny"]\ncrop_scale = [0.5]\n', "two shares of the image"),
        ('[extract]\ndatasets = ["a"]\nbackbones = ["tiny"]\nseeds = [99999999999]\n', "up to 2147483647"),
        ('[extract]\ndatasets = ["a"]\nbackbones = ["tiny"]\n[[fit]]\ngrid = 1\n', "grid must be a list"),
    ],
)
def test_faulty_plans_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_file.read(put_plan(tmp_path / "plan.toml", text), data=None, device="cpu")
    assert says in str(caught.value)


def test_an_absent_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no plan file"):
        plan_file.read(tmp_path / "plan.toml", data=None, device="cpu")
