"""CoOp against a plain implementation, on the bundled backbone and on a random RN50; its text lent to other methods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from featcache import recipes, registry
from featcache.backbones import Backbone
from featcache.backbones.text_tower import TextTower
from featcache.errors import ConfigError
from featcache.task import Frozen, Task
from featcache.training import Run as Fit
from featcache.training import predict, train
from tests import synthetic
from tests.commandline import Run
from tests.references import coop as reference

CPU = torch.device("cpu")
NAMES = ("red circle", "sea star", "t-shirt", "big old fire engine")
CoOp = registry.load("coop")
FIELDS = [
    {"context": "16"},
    {"context": "4", "position": "middle"},
    {"context": "5", "position": "middle", "own": True},
    {"context": "4", "position": "front"},
    {"context": "a photo of a"},
    {"context": "a photo of a", "own": True},
    {"context": "2", "own": True, "position": "front"},
]


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return Backbone("tiny")


def task_of(backbone: Backbone, *, seed: int = 0) -> Task:
    """16 images whose embeddings lie near their class's text."""
    tower = TextTower(backbone.model, backbone.tokens, backbone.name)
    text = F.normalize(torch.from_numpy(backbone.encode_texts(NAMES, CPU)), dim=1)
    label = torch.arange(len(NAMES)).repeat_interleave(4)
    noise = torch.randn(len(label), 1, text.shape[1], generator=torch.Generator().manual_seed(seed))
    image = text[label][:, None] + noise / text.shape[1] ** 0.5
    scale = float(backbone.model.logit_scale.exp())  # type: ignore[operator]
    return Task(text=text, logit_scale=scale, names=NAMES, tower=tower, image=image, label=label)


def tokenizer_of(context: int) -> object:
    import open_clip

    return open_clip.tokenizer.SimpleTokenizer(context_length=context)


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_every_form_of_prompt_gives_the_plain_text_weights(tiny: Backbone, fields: dict[str, object]) -> None:
    task, method = task_of(tiny), CoOp(**fields)
    params = method.init(task, torch.Generator().manual_seed(1))
    params = {"context": params["context"] + 0.1 * torch.randn(params["context"].shape)}
    plain = reference.text(tiny.model, tokenizer_of(32), NAMES, params["context"], method.position)
    torch.testing.assert_close(method.text(params, task), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", FIELDS[:5], ids=str)
def test_the_steps_losses_equal_a_plain_implementations(tiny: Backbone, fields: dict[str, object]) -> None:
    """Each loss of 12 steps to 1e-5, by the engine's own training of 0, 1, .. 12 steps."""
    _check_losses(task_of(tiny), CoOp(**fields), tiny.model, tokenizer_of(32), steps=12)


def test_a_step_on_a_random_rn50_equals_a_plain_implementations() -> None:
    backbone = Backbone("RN50", "random:0")
    _check_losses(task_of(backbone), CoOp(context="4"), backbone.model, tokenizer_of(77), steps=1)


def _check_losses(task: Task, method: object, model: torch.nn.Module, tokenizer: object, *, steps: int) -> None:
    recipe = replace(recipes.make("coop", shots=4, dataset="any"), warmup_lr=None, schedule="constant", batch_size=16)
    image = task.image[:, 0]
    start = method.init(task, torch.Generator().manual_seed(3))["context"]  # type: ignore[attr-defined]
    plain, _ = reference.losses(
        model,
        tokenizer,
        NAMES,
        start,
        method.position,
        [(image, task.label)] * (steps + 1),
        lr=0.05,  # type: ignore[attr-defined]
    )
    fitted = [{"context": start}]
    for epochs in range(1, steps + 1):  # one step an epoch
        runs = [Fit(method=method, lr=0.05, draw=0, init_seed=3)]  # type: ignore[arg-type]
        fitted += train(runs, [task], replace(recipe, epochs=epochs))
    ours = [F.cross_entropy(predict(method, params, image, task), task.label).item() for params in fitted]  # type: ignore[arg-type]
    assert ours == pytest.approx(plain, abs=1e-5)
    assert abs(plain[-1] - plain[0]) > 1e-3, "the context moved, so the losses say something"


def test_runs_at_once_equal_runs_alone(tiny: Backbone) -> None:
    tasks = [task_of(tiny, seed=seed) for seed in (0, 1)]
    tasks[1] = replace(tasks[1], text=tasks[0].text, tower=tasks[0].tower)
    recipe = replace(recipes.make("coop", shots=4, dataset="any"), epochs=5, batch_size=8)
    runs = [Fit(method=CoOp(context="4"), lr=lr, draw=draw, init_seed=draw) for draw in (0, 1) for lr in (0.01, 0.1)]
    together = train(runs, tasks, recipe)
    for run, params in zip(runs, together, strict=True):
        (alone,) = train([run], tasks, recipe)
        torch.testing.assert_close(params["context"], alone["context"], rtol=1e-4, atol=1e-5)


def test_the_context_serves_classes_it_was_not_trained_on(tiny: Backbone) -> None:
    task = task_of(tiny)
    params = CoOp(context="4").init(task, torch.Generator())
    others = Frozen(text=task.text[:2], logit_scale=10.0, names=("blue square", "owl"), tower=task.tower)
    assert predict(CoOp(context="4"), params, task.image[:, 0], others).shape == (len(task.image), 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": "0"}, "from 1 to 64, or words"),
        ({"context": " "}, "from 1 to 64, or words"),
        ({"position": "back"}, "end, middle, front"),
    ],
)
def test_what_makes_no_prompt_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CoOp(**fields)


def test_a_context_beyond_the_tower_is_told_before_training(tiny: Backbone) -> None:
    with pytest.raises(ConfigError, match="40 context vectors and the longest of the class names are more than"):
        CoOp(context="40").init(task_of(tiny), torch.Generator())


def test_a_tower_built_otherwise_is_refused(tiny: Backbone) -> None:
    class Other(torch.nn.Module):
        def encode_text(self, tokens: Tensor, *, normalize: bool) -> Tensor:
            return tokens.float() / (1 + normalize)

    with pytest.raises(ConfigError, match=r"the text tower of odd is not built as CLIP's \(.*take a CLIP backbone"):
        TextTower(Other(), tiny.tokens, "odd")


@pytest.fixture
def learnt(run: Run, home: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command line over a store of small pictures, with result 1 a CoOp run. Images can no longer be encoded."""
    extract = ("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "1", "--shots", "1,2")
    assert run(*extract, "--seeds", "1,2", "--name", "pics").code == 0

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an image was encoded")

    import open_clip

    monkeypatch.setattr(open_clip.model.CLIP, "encode_image", refuse)
    monkeypatch.setattr(open_clip.modified_resnet.ModifiedResNet, "forward", refuse)
    said = run("fit", "pics", "--adapter", "coop", "--shots", "2", "--epochs", "3", "--grid", "context=4")
    assert said.code == 0, said.err
    return run


def test_text_of_a_run_serves_other_methods(learnt: Run) -> None:
    coop = _outcome(learnt, "--adapter", "coop", "--grid", "context=4", "--epochs", "3")
    same = _outcome(learnt, "--adapter", "zero_shot", "--text", "1")
    assert [run["test"] for run in same["runs"]] == [run["test"] for run in coop["runs"]], "zero-shot with CoOp's text"
    assert same["text_set"] == "run:1"
    assert same["zero_shot"] == coop["zero_shot"], "which is told with the written prompts"
    adapted = _outcome(learnt, "--text", "1", "--alpha-grid", "0,0.5", "--epochs", "1")
    assert [run["test"] for run in adapted["runs"] if run["config"]["alpha"] == 0] == [r["test"] for r in coop["runs"]]


def test_the_mixture_is_the_mean_of_hard_and_soft(learnt: Run, home: Path) -> None:
    from featcache.loading import load_frozen, load_rows
    from featcache.ops import cosine_logits, normalise
    from featcache.results import learnt_for
    from featcache.selection import score
    from featcache.store import Store
    from featcache.store.places import resolve, results_path

    mixed = _outcome(learnt, "--adapter", "zero_shot", "--text", "1+default")
    with Store(resolve("pics")) as store:
        hard, rows = load_frozen(store, "default", CPU), load_rows(store, "test", CPU)
        draws = [_draw(store, seed) for seed in (1, 2)]
        found = []
        for drawn in draws:
            soft = torch.from_numpy(learnt_for(results_path(), store.key, "all")(1, drawn))
            logits = cosine_logits(rows.image, normalise(hard.text + soft), hard.logit_scale)
            found.append(score(logits, rows.label).loss)
    assert [run["test"]["loss"] for run in mixed["runs"]] == pytest.approx(found, rel=1e-5)
    assert found[0] != found[1], "each draw has its own"


def _draw(store, seed: int):  # type: ignore[no-untyped-def]
    from featcache.fewshot import draw

    return draw(store.label("train"), store.label("val"), shots=2, shot_seed=seed)


def _outcome(run: Run, *options: str) -> dict[str, object]:
    said = run("fit", "pics", "--shots", "2", "--json", *options)
    assert said.code == 0, said.err
    return json.loads(said.out)  # type: ignore[no-any-return]


def test_text_that_is_not_there_or_would_leak_is_refused(learnt: Run) -> None:
    refused = [
        (("--shots", "1", "--text", "1"), "result 1 learnt no text on the draw of 1 shots, seed 1; it has 2 shots"),
        (("--shots", "2", "--text", "9"), "unknown result '9'"),
        (("--shots", "2", "--text", "default"), "give the id of a result that learnt text"),
        (("--shots", "2", "--text", "run:x"), "followed by the id of a result"),
        (("--shots", "2", "--text", "1", "--prompts", "default"), "for their mean, --text 1+default"),
        (("--shots", "2", "--text", "1+none"), "unknown text set of pics 'none'"),
        (("--shots", "2", "--text", "1", "--classes", "base"), "was fitted on pics, all classes"),
        (("--shots", "2", "--text", "1", "--select", "cross-validation"), "holds out images that result 1 learnt"),
    ]
    for options, message in refused:
        said = learnt("fit", "pics", *options)
        assert said.code == 2, options
        assert message in " ".join(said.err.split())


def test_a_run_that_learnt_no_text_cannot_lend_any(learnt: Run) -> None:
    assert learnt("fit", "pics", "--shots", "2", "--epochs", "1", "--alpha-grid", "0.2").code == 0
    said = learnt("fit", "pics", "--shots", "2", "--text", "2")
    assert said.code == 2
    assert "result 2 (clip_adapter) learnt no text" in " ".join(said.err.split())


def test_an_import_has_no_tower(run: Run, home: Path, tmp_path: Path) -> None:
    assert run("import", synthetic.save(tmp_path / "f.npz", synthetic.arrays()), "--name", "f").code == 0
    said = run("fit", "f", "--adapter", "coop")
    assert said.code == 2
    assert "was imported, so the text tower that belongs to its images is not known" in " ".join(said.err.split())
