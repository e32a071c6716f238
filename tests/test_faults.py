"""Methods that misbehave: each fault is told with method, file and stage, and ends nothing but what it must."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from featcache import faults, fits, recipes, registry, vetting
from featcache.errors import MethodError, SpoiltError
from featcache.importing import import_npz
from featcache.outcome import Outcome
from featcache.preparing import Settings
from featcache.search import search
from featcache.store import Store
from tests import synthetic
from tests.commandline import Run

HEAD = '''"""A method that misbehaves (arXiv 0000.00000)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from featcache.errors import ConfigError
from featcache.ops import cosine_logits


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One."""

    needs = frozenset({"text"})
    transfers = True
    views = "mean"
    post_hoc = ()
    grid = {"alpha": "0.5,1"}
    preset = "coop"
    constant = ()
    inert = False

    alpha: float = 0.5
    """A ratio."""

    def __post_init__(self):
        # fields
        pass
'''
TRAINED = (
    HEAD
    + """
    def init(self, task, generator):
        params = {"map": torch.randn(task.dim, task.dim, generator=generator) / task.dim}
        # init
        return params

    def logits(self, params, image, frozen, hyper):
        # before
        moved = image + hyper["alpha"] * (image @ params["map"])
        scores = cosine_logits(moved, frozen.text, frozen.logit_scale)
        # logits
        return scores
"""
)
LOSS = """
    def loss(self, params, image, label, frozen, hyper):
        value = F.cross_entropy(self.logits(params, image, frozen, hyper), label)
        # loss
        return value
"""
BY_HAND = """
    by_hand = True

    def gradient_factors(self, params, image, label, frozen, hyper):
        found = {"map": (image, image)}
        # factors
        return found
"""
SOLVED = (
    HEAD.replace("inert = False", "")
    + """
    def solve(self, task, hyper):
        params = {"scale": torch.ones(())}
        # solve
        return params

    def logits(self, params, image, frozen, hyper):
        scores = hyper["alpha"] * params["scale"] * cosine_logits(image, frozen.text, frozen.logit_scale)
        # logits
        return scores
"""
)
TOGETHER = """
    def solve_runs(self, runs):
        made = [self.solve(*run) for run in runs]
        # together
        return made
"""
SWEPT = """
    def sweep(self, params, image, frozen, hypers):
        for hyper in hypers:
            scores = self.logits(params, image, frozen, hyper)
            # sweep
            yield scores
"""
FEW = ("--shots", "2", "--seeds", "1,2", "--json")
QUICK = ("--epochs", "2", *FEW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    return made


@pytest.fixture
def toy(run: Run, tmp_path: Path) -> str:
    assert run("import", synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), "--name", "toy").code == 0
    return "toy"


def write(folder: Path, source: str, mark: str = "", line: str = "") -> Path:
    """The method `bad`, with a line of its own at one of the marks."""
    assert not mark or f"# {mark}\n" in source
    file = folder / "bad.py"
    file.write_text(source.replace(f"# {mark}\n", f"{line}\n") if mark else source, encoding="utf-8")
    return file


def quick(source: str) -> tuple[str, ...]:
    """Options that keep a fit short."""
    return QUICK if "def init" in source else FEW


def fit(store: Store, grid: dict[str, tuple[Any, ...]], **settings: Any) -> Outcome:
    chosen = Settings(adapter="bad", grid=grid, shots=2, shot_seeds=(1, 2), **settings)
    return search(store, chosen, lambda shots: replace(recipes.make("coop", shots=shots, dataset="any"), epochs=2))


@pytest.mark.parametrize("source", [TRAINED, TRAINED + LOSS, SOLVED, SOLVED + TOGETHER, SOLVED + SWEPT])
def test_the_methods_these_tests_spoil_are_sound(source: str, run: Run, toy: str, folder: Path) -> None:
    write(folder, source)
    said = run("fit", toy, "--adapter", "bad", "--adapters-dir", folder, *quick(source))
    assert said.code == 0, said.err


FAULTS = [
    (TRAINED, "fields", "self.alpha.nothing", ["raised AttributeError in __post_init__, line", "no attribute"]),
    (TRAINED, "init", "raise ValueError('no such thing')", ["raised ValueError in init, line", "no such thing"]),
    (TRAINED, "init", "params = list(params.values())", ["gives a list from init", "a dict of tensors"]),
    (TRAINED, "init", "params = {'map': 1.0}", ["gives a dict from init", "a dict of tensors"]),
    (TRAINED, "init", "params = {}", ["no parameter to train from init"]),
    (TRAINED, "init", "params['map'] = params['map'].double()", ["map as float64 from init", "must be float32"]),
    (TRAINED, "init", "params['map'][0] = float('nan')", ["map with NaN or infinite values from init"]),
    (TRAINED, "init", "params[f'map{self.alpha}'] = params['map']", ["unequal parameters from init"]),
    (TRAINED, "init", "params['map'] = torch.randn(task.dim, task.dim)", ["other parameters from init", "generator"]),
    (TRAINED, "init", "task.image.mul_(2)", ["changes task.image in place", "work on a copy"]),
    (TRAINED, "init", "task.label[0] = 0", ["changes task.label in place"]),
    (TRAINED, "init", "task.text.neg_()", ["changes frozen.text in place"]),
    (TRAINED, "logits", "return scores / 0 + [][0]", ["raised IndexError in logits, line"]),
    (TRAINED, "logits", "return scores[:, :-1]", ["a tensor (3, 5) from logits", "must give (3, 6)"]),
    (TRAINED, "logits", "return scores.squeeze(0)", ["a tensor (6,) from logits", "must give (1, 6)"]),
    (TRAINED, "logits", "return scores.double()", ["gives float64 from logits", "must give float32"]),
    (TRAINED, "logits", "return None", ["gives a NoneType from logits"]),
    (TRAINED, "logits", "return scores * float('nan')", ["NaN or infinite scores from logits"]),
    (TRAINED, "logits", "return scores.detach()", ["no step can change by map", "training would do nothing"]),
    (TRAINED, "logits", "params = {}; scores = image @ frozen.text.mT", ["no step can change by map"]),
    (TRAINED, "logits", "len(params['nothing'])", ["raised KeyError in logits"]),
    (TRAINED, "logits", "float(scores[0, 0])", ["raised RuntimeError in logits"]),
    (TRAINED, "logits", "len(frozen.image)", ["raised AttributeError in logits", "image"]),
    (TRAINED, "before", "image.mul_(2)", ["changes its rows in place"]),
    (TRAINED, "before", "image.numpy()[:] = 0", ["changes its rows in place"]),
    (TRAINED, "before", "params['map'].data.add_(1); params['map'].add_(0)", ["in place"]),
    (TRAINED, "before", "frozen.text[0] = 0", ["changes frozen.text in place"]),
    (TRAINED, "before", "hyper = {'alpha': self.alpha}", ["another gradient of map", "alpha from `hyper`"]),
    (TRAINED + LOSS, "loss", "return 1 / 0", ["raised ZeroDivisionError in loss, line"]),
    (TRAINED + LOSS, "loss", "return value.item()", ["gives a float from loss", "one number, a tensor ()"]),
    (TRAINED + LOSS, "loss", "return value[None]", ["gives a tensor (1,) from loss"]),
    (TRAINED + LOSS, "loss", "return value.detach()", ["value from loss that no step can change by map"]),
    (TRAINED + LOSS, "loss", "return value * float('inf')", ["a loss of inf from loss at its start"]),
    (TRAINED + BY_HAND, "factors", "return {}", ["one gradient for each parameter from gradient_factors", "not: map"]),
    (TRAINED + BY_HAND, "factors", "pass", ["another gradient of map from gradient_factors than autograd"]),
    (SOLVED, "solve", "raise OSError", ["raised OSError in solve, line"]),
    (SOLVED, "solve", "return None", ["gives a NoneType from solve"]),
    (SOLVED, "solve", "task.image.zero_()", ["changes task.image in place"]),
    (SOLVED, "solve", "task.label.numpy()[:] = 0", ["changes task.label in place"]),
    (SOLVED, "solve", "task.image.data.zero_()", ["changes task.image in place"]),
    (SOLVED, "solve", "raise SystemExit(3)", ["raised SystemExit in solve, line"]),
    # what shows on more rows than are tried
    (SOLVED, "logits", "return scores[:, :3] if len(image) > 3 else scores", ["a tensor (12, 3) from logits"]),
    (SOLVED, "logits", "return scores[:7] if len(image) > 7 else scores", ["a tensor (7, 6) from logits for 12"]),
    (SOLVED, "logits", "return None if len(image) > 3 else scores", ["gives a NoneType from logits for 12 images"]),
    (SOLVED, "logits", "frozen.text.data.mul_(len(image) < 12)", ["changes frozen.text in place"]),
    (
        SOLVED.replace("post_hoc = ()", "post_hoc = ('alpha',)") + SWEPT,
        "sweep",
        "scores = scores[:, :3] if len(image) > 3 else scores",
        ["a tensor (12, 3) from sweep"],
    ),
    (SOLVED, "logits", "return scores.mT", ["a tensor (6, 3) from logits"]),
    (SOLVED, "logits", "params['scale'].mul_(2)", ["changes params['scale'] in place"]),
    (SOLVED + TOGETHER, "together", "return made[:1]", ["gives a list from solve_runs", "one dict for each run"]),
    (SOLVED + SWEPT, "sweep", "raise KeyError(1)", ["raised KeyError in sweep"]),
    (SOLVED + SWEPT, "sweep", "scores = scores[0]", ["a tensor (6,) from sweep"]),
]


@pytest.mark.parametrize(("source", "mark", "line", "says"), FAULTS)
def test_a_fault_is_named_and_the_other_methods_go_on(
    source: str, mark: str, line: str, says: list[str], run: Run, toy: str, folder: Path
) -> None:
    file = write(folder, source, mark, line)
    said = run("fit", toy, "--adapter", "bad,zero_shot", "--adapters-dir", folder, *quick(source))
    told = " ".join(said.err.split())
    assert said.code == 2, told
    assert "Traceback" not in said.err
    assert f"the method bad ({file})" in told.replace("- ", "-")
    for words in says:
        assert words in told
    assert "1 of 2 failed, for the reasons above: toy, bad" in told
    assert [outcome["adapter"] for outcome in json.loads(said.out)] == ["zero_shot"]
    assert [row["adapter"] for row in json.loads(run("results", "--json").out)] == ["zero_shot"]


def test_it_is_told_alone_as_among_others_and_debug_shows_the_trace(run: Run, toy: str, folder: Path) -> None:
    write(folder, TRAINED, "logits", "return scores / 0 + [][0]")
    said = run("fit", toy, "--adapter", "bad", "--adapters-dir", folder, *QUICK)
    assert (said.code, "raised IndexError in logits" in " ".join(said.err.split())) == (2, True)
    with pytest.raises(MethodError) as caught:
        run("--debug", "fit", toy, "--adapter", "bad", "--adapters-dir", folder, *QUICK)
    assert isinstance(caught.value.__cause__, IndexError)
    run("results")  # sets --debug back


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "MemoryError", "ConfigError('alpha is not for today')"])
def test_what_is_no_fault_of_the_methods_passes_as_it_is(error: str, home: Path, tmp_path: Path, folder: Path) -> None:
    registry.add_folder(folder)
    with Store(import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), name="toy")) as store:
        for source, mark in ((TRAINED, "init"), (TRAINED, "logits"), (SOLVED, "solve"), (SOLVED, "logits")):
            write(folder, source, mark, f"raise {error}")
            forget()
            with pytest.raises(BaseException, match="today" if "today" in error else None) as caught:
                fit(store, {})
            assert type(caught.value).__name__ == error.split("(")[0]


def forget() -> None:
    """Loads the method anew: the file of that name has changed."""
    import sys

    sys.modules.pop("featcache._methods.bad", None)


@pytest.fixture
def store(home: Path, tmp_path: Path, folder: Path) -> Store:
    registry.add_folder(folder)
    forget()
    return Store(import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), name="toy"))


AT_ONE = [
    (TRAINED, "init", "if self.alpha == 1: raise ValueError('not at one')"),
    (TRAINED, "logits", "if not torch.is_grad_enabled() and self.alpha == 1: raise ValueError('not at one')"),
    (SOLVED, "solve", "if hyper['alpha'] == 1: raise ValueError('not at one')"),
    (SOLVED + TOGETHER, "together", "if any(run[1]['alpha'] == 1 for run in runs): raise ValueError('not at one')"),
    (SOLVED, "logits", "if hyper['alpha'] == 1: raise ValueError('not at one')"),
    (
        SOLVED.replace("post_hoc = ()", "post_hoc = ('alpha',)"),
        "logits",
        "if self.alpha == 1: raise ValueError('not at one')",
    ),
]


@pytest.mark.parametrize("protocol", ["fewshot-val", "cross-validation"])
@pytest.mark.parametrize(("source", "mark", "line"), AT_ONE)
def test_a_point_that_fails_is_named_marked_and_never_chosen(
    source: str, mark: str, line: str, protocol: str, store: Store, folder: Path
) -> None:
    values = (1.0, 0.25, 0.5, 0.75)
    write(folder, source)
    whole = fit(store, {"alpha": values}, protocol=protocol)
    forget()
    write(folder, source, mark, line)
    outcome = fit(store, {"alpha": values}, protocol=protocol)
    failed = [run for run in outcome.runs if run.fault]
    assert [(run.alpha, run.shot_seed) for run in failed] == [(1.0, 1), (1.0, 2)]
    assert all("not at one" in run.fault and "the method bad" in run.fault for run in failed)
    assert not any(run.chosen for run in failed)
    assert all(run.test is not None and math.isnan(run.test.accuracy) for run in failed)
    note = next(note for note in outcome.notes if "2 of 8 runs failed" in note)
    assert "alpha 1 seed 1, alpha 1 seed 2" in note
    assert "not at one" in note
    for run, same in zip(outcome.runs, whole.runs, strict=True):
        if not run.fault:
            assert run.test is not None
            assert same.test is not None
            assert run.test.accuracy == same.test.accuracy
            assert run.test.loss == pytest.approx(same.test.loss, rel=1e-5)


def test_a_failed_point_is_marked_in_table_json_and_record(run: Run, toy: str, folder: Path, tmp_path: Path) -> None:
    write(folder, TRAINED, "init", "if self.alpha == 1: raise ValueError('not at one')")
    asked = ("fit", toy, "--adapter", "bad", "--adapters-dir", folder, "--alpha-grid", "0.5,0.75,1", *QUICK[:-1])
    said = run(*asked, "--plot", tmp_path / "curve.svg")
    assert said.code == 0, said.err
    assert any("failed" in line for line in said.out.splitlines() if line.split()[1:2] == ["1"]), said.out
    assert "2 of 6 runs failed" in " ".join(said.err.split())
    assert (tmp_path / "curve.svg").stat().st_size > 1000
    made = json.loads(run(*asked, "--json").out)
    assert [bool(each["fault"]) for each in made["runs"]] == [False, False, True] * 2
    assert made["runs"][2]["test"]["accuracy"] is None
    newest = json.loads(run("results", "--json").out)[0]["id"]
    kept = json.loads(run("results", str(newest), "--json").out)
    assert [bool(each["fault"]) for each in kept["runs"]] == [False, False, True] * 2
    assert "not at one" in kept["runs"][2]["fault"]
    assert run("results", str(newest)).code == 0


def test_where_a_draw_has_no_point_left_the_search_fails_with_the_methods_error(store: Store, folder: Path) -> None:
    write(folder, TRAINED, "init", "if generator.initial_seed() == 2 and task.label.sum(): raise ValueError('not two')")
    with pytest.raises(MethodError, match="not two"):
        fit(store, {"alpha": (0.5, 1.0)})


def test_a_fault_on_test_rows_alone_ends_the_search(store: Store, folder: Path) -> None:
    write(folder, SOLVED, "logits", "if len(image) == 90: raise ValueError('too many')")
    with pytest.raises(MethodError, match="too many"):
        fit(store, {})


def test_after_a_change_in_place_nothing_goes_on(store: Store, folder: Path) -> None:
    write(folder, SOLVED, "solve", "if hyper['alpha'] == 1: task.image.zero_()")
    with pytest.raises(SpoiltError, match=r"task\.image in place"):
        fit(store, {"alpha": (0.5, 1.0)})


def test_a_look_costs_a_handful_of_calls_and_none_a_step(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, TRAINED)
    kind: Any = registry.load("bad")
    calls = {"init": 0, "logits": 0}

    def count(name: str) -> None:
        plain = getattr(kind, name)

        def counted(self: Any, *given: Any) -> Any:
            calls[name] += 1
            return plain(self, *given)

        monkeypatch.setattr(kind, name, counted)

    count("init")
    count("logits")
    configs = fits.expand("bad", {"alpha": tuple(index / 10 for index in range(1, 11))})
    task = synthetic.task(views=1)
    vetting.vet([config.method for config in configs], [configs[0].method], task)
    assert calls == {"init": 3, "logits": 5}  # 10 points; training calls init 11 times a draw and logits at every step
    calls.update(init=0, logits=0)
    recipe = replace(recipes.make("coop", shots=8, dataset="any"), epochs=30)
    torch.set_num_threads(1)
    fits.fit(configs, [task], [1], recipe, lambda *_: None)
    steps = 30 * math.ceil(40 / recipe.batch_size) if recipe.last_batch == "keep" else 30
    assert calls == {"init": 3 + 11, "logits": 5 + steps}


def test_our_own_bugs_are_not_called_the_methods() -> None:
    method = registry.load("clip_adapter")()
    with pytest.raises(ZeroDivisionError), faults.blame(method, "training"):
        _ = 1 / 0
    with (
        pytest.raises(MethodError, match=r"the method test_faults \(.*raised ZeroDivisionError in "),
        faults.blame(_Own(), "a"),
    ):  # type: ignore[arg-type]
        _ = 1 / 0


class _Own:
    """A method of somebody else's."""
