"""Heads: what `featcache export` writes computes what the search did, and a file that is no head is one message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from featcache import registry, results
from featcache.digests import of_tensors
from featcache.errors import ConfigError, DataError, FeatcacheError, InputError, StoreError, UnknownNameError
from featcache.heads import files, keeping
from featcache.heads.exporting import head_of_result
from featcache.heads.files import load_module, save_head
from featcache.heads.head import Head
from featcache.heads.module import HeadModule, LinearHead
from featcache.importing import import_npz
from featcache.ops import normalise
from featcache.store.spec import canonical_json
from featcache.training import predict
from tests import synthetic
from tests.commandline import Run
from tests.recorded import METHODS, fitted, image_rows

LINEAR = {"zero_shot", "linear_probe", "lp_plus_plus", "cross_modal", "clap", "taskres", "gda"}
QUICK = ("--epochs", "3", "--lr", "0.02", "--shots", "4", "--seeds", "1,2")


@pytest.fixture
def toy(home: Path, tmp_path: Path) -> Path:
    return import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), name="toy")


def written(path: Path, tmp_path: Path, adapter: str = "clip_adapter", **settings: object) -> Path:
    """A head's file."""
    fitted(path, tmp_path / "results.sqlite", adapter, **settings)  # type: ignore[arg-type]
    file = tmp_path / "head.safetensors"
    save_head(file, head_of_result(tmp_path / "results.sqlite", 1).head)
    return file


@pytest.mark.parametrize("adapter", METHODS)
def test_every_method_says_from_its_file_what_the_search_recorded(toy: Path, tmp_path: Path, adapter: str) -> None:
    record = tmp_path / "results.sqlite"
    runs = fitted(toy, record, adapter)
    image, label = image_rows(toy)
    for seed, run in zip((1, 2), runs, strict=True):
        made = head_of_result(record, 1, seed=seed)
        assert not made.refitted
        assert made.agreement == (len(label), len(label))
        save_head(tmp_path / "head.safetensors", made.head)
        module = load_module(tmp_path / "head.safetensors")
        logits = module.logits(image)
        assert torch.equal(logits, predict(run.method, run.params, image, run.frozen))
        assert (logits.argmax(dim=1) == label).double().mean().item() == made.run["test_accuracy"]
        assert module.provenance["shot_seed"] == seed
        assert module.is_linear == (adapter in LINEAR)


@pytest.mark.parametrize("adapter", METHODS)
def test_a_head_that_was_not_kept_is_fitted_again_and_answers_alike(toy: Path, tmp_path: Path, adapter: str) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, adapter)
    kept = head_of_result(record, 1, seed=2)
    shutil.rmtree(keeping.folder_of(record))
    again = head_of_result(record, 1, seed=2)
    assert again.refitted
    assert again.agreement == kept.agreement
    assert again.head.fields == kept.head.fields
    for name, value in kept.head.params.items():
        torch.testing.assert_close(again.head.params[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", ["cross-validation", "train-holdout", "kshot-val", "full-val", "test-oracle"])
def test_a_refit_draws_what_the_protocol_drew(toy: Path, tmp_path: Path, protocol: str) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, "clip_adapter", {"alpha": (0.2, 0.6)}, protocol=protocol)
    shutil.rmtree(keeping.folder_of(record))
    made = head_of_result(record, 1)
    assert made.refitted
    assert made.agreement is not None
    assert made.agreement[0] == made.agreement[1]


def test_a_head_trained_once_and_blended_at_another_alpha_predicts_at_that_one(toy: Path, tmp_path: Path) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, "clip_adapter", {"alpha": (0.5,)}, post_hoc_alpha=(0.0, 0.9), init_seeds=(7, 8))
    for init_seed in (7, 8):
        kept = head_of_result(record, 1, init_seed=init_seed)
        assert kept.head.fields["alpha"] == kept.head.config["post_hoc_alpha"] in (0.0, 0.9)
        assert kept.run["init_seed"] == init_seed
    shutil.rmtree(keeping.folder_of(record))
    again = head_of_result(record, 1, init_seed=8)
    assert again.head.fields == kept.head.fields
    assert again.agreement == kept.agreement


def test_the_draw_is_the_best_on_what_the_protocol_chose_by_unless_said(toy: Path, tmp_path: Path) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, "clip_adapter")
    runs = [run for run in results.fetch(record, 1)["runs"] if run["chosen"]]
    best = min(runs, key=lambda run: (-run["selection_accuracy"], run["selection_loss"]))
    assert head_of_result(record, 1).run["id"] == best["id"]
    with pytest.raises(ConfigError, match=r"no run of --seed 9; it has seed 1 .*, seed 2"):
        head_of_result(record, 1, seed=9)
    with pytest.raises(UnknownNameError, match="unknown result '4'"):
        head_of_result(record, 4)


def test_what_was_kept_serves_when_the_store_is_gone(toy: Path, tmp_path: Path) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, "clip_adapter")
    toy.unlink()
    assert head_of_result(record, 1).agreement is None
    shutil.rmtree(keeping.folder_of(record))
    with pytest.raises(StoreError, match=r"its head is not kept, and its store toy .* is gone"):
        head_of_result(record, 1)


def test_the_folder_of_heads_is_bounded(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, "clip_adapter")
    folder = keeping.folder_of(record)
    size = max(path.stat().st_size for path in folder.iterdir())
    before = set(folder.iterdir())
    monkeypatch.setattr(keeping, "MAX_FOLDER_BYTES", 3 * size)
    fitted(toy, record, "clip_adapter", {"alpha": (0.35,)})
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3 * size
    assert set(folder.iterdir()) - before
    assert not head_of_result(record, 2).refitted
    monkeypatch.setattr(keeping, "MAX_HEAD_BYTES", 10)
    fitted(toy, record, "clip_adapter", {"alpha": (0.45,)})
    assert head_of_result(record, 3).refitted


@pytest.mark.parametrize("adapter", sorted(LINEAR))
def test_the_merged_form_is_one_matrix_and_a_bias(toy: Path, tmp_path: Path, adapter: str) -> None:
    file = written(toy, tmp_path, adapter)
    module = load_module(file)
    image, _ = image_rows(toy)
    expected = module.logits(image)
    linear = module.merged()
    torch.testing.assert_close(linear(image), expected, rtol=1e-5, atol=1e-4)
    with safe_open(file, framework="np") as raw:  # and by anyone, without featcache
        weight, bias = raw.get_tensor("linear.weight"), raw.get_tensor("linear.bias")
    unit = image.numpy() / np.linalg.norm(image.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ weight.T + bias, expected.numpy(), rtol=1e-5, atol=1e-4)


def test_what_is_linear_only_in_some_configurations_is_told_by_what_it_says(toy: Path, tmp_path: Path) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, "clip_adapter", {"alpha": (0.0,)}, protocol="fixed")
    fitted(toy, record, "clip_adapter", {"alpha": (0.01,)}, protocol="fixed")
    fitted(toy, record, "clip_adapter", {"where": ("text",), "beta": (0.5,)}, protocol="fixed")
    fitted(toy, record, "elevater", {"projections": (1,)}, protocol="fixed")
    fitted(toy, record, "elevater", {"projections": (2,)}, protocol="fixed")
    linear = [HeadModule(head_of_result(record, number).head).is_linear for number in range(1, 6)]
    assert linear == [True, False, True, True, False]
    with pytest.raises(ConfigError, match="not linear in the embedding"):
        HeadModule(head_of_result(record, 2).head).merged()


def test_a_head_is_a_torch_module(toy: Path, tmp_path: Path) -> None:
    module = load_module(written(toy, tmp_path, "clip_adapter"))
    image, _ = image_rows(toy)
    image.requires_grad_(True)
    module(image).sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    double = module.double()(image.detach().double())
    assert double.dtype == torch.float64
    assert set(module.state_dict()) == {"text", *(f"param{number}" for number in range(2))}


def user_method(folder: Path, body: str = "image @ frozen.text.mT") -> None:
    """A method file of a user's whose logits are `body`."""
    folder.mkdir(exist_ok=True)
    source = (registry.adapters_folder() / "zero_shot.py").read_text()
    changed = source.replace("return cosine_logits(image, frozen.text, frozen.logit_scale)", f"return {body}")
    assert changed != source
    (folder / "mine.py").write_text(changed.replace("class ZeroShot", "class Mine"))


def test_a_users_method_is_exported_and_its_linear_form_stands_in_where_its_file_is_not(
    toy: Path, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "methods"
    user_method(folder, "normalise(image) @ frozen.text.mT * 7 + 1")
    source = (folder / "mine.py").read_text()
    (folder / "mine.py").write_text(source.replace("import cosine_logits", "import normalise"))
    assert run("fit", "toy", "--adapter", "mine", "--adapters-dir", folder, *QUICK[-4:]).code == 0
    file = tmp_path / "head.safetensors"
    assert run("export", "1", "-o", file, "--adapters-dir", folder).code == 0
    image, _ = image_rows(toy)
    with_file = load_module(file)
    expected = with_file.logits(image)
    registry._user_folders.clear()
    without = load_module(file)
    assert without.method is None
    assert with_file.method is not None
    torch.testing.assert_close(without.logits(image), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(without.merged(), LinearHead)


def test_a_method_that_computes_otherwise_than_when_the_head_was_written_is_noticed(
    toy: Path, tmp_path: Path, run: Run
) -> None:
    folder = tmp_path / "methods"
    user_method(folder)
    assert run("fit", "toy", "--adapter", "mine", "--adapters-dir", folder, *QUICK[-4:]).code == 0
    file = tmp_path / "head.safetensors"
    assert run("export", "1", "-o", file).code == 0
    other = tmp_path / "others"
    user_method(other, "3 * image @ frozen.text.mT")
    registry.add_folder(other)
    with pytest.raises(DataError, match="computed other logits from it than the one installed here"):
        load_module(file)
    registry._user_folders.clear()
    with pytest.raises(UnknownNameError, match="unknown adapter 'mine'"):
        load_module(file)  # not linear in the unit embedding, so nothing stands in


@pytest.mark.parametrize("where", range(0, 100, 4))
def test_a_flipped_byte_anywhere_is_noticed(toy: Path, tmp_path: Path, where: int) -> None:
    file = written(toy, tmp_path, "taskres")
    data = bytearray(file.read_bytes())
    data[len(data) * where // 100] ^= 0x20
    file.write_bytes(data)
    with pytest.raises(InputError, match="no head that featcache can use, or is damaged"):
        load_module(file)


@pytest.mark.parametrize("kept", [0, 7, 8, 200, -1])
def test_a_file_cut_short_is_no_head(toy: Path, tmp_path: Path, kept: int) -> None:
    file = written(toy, tmp_path, "taskres")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match="no head that featcache can use"):
        load_module(file)


def forged(file: Path, tmp_path: Path, change) -> Path:
    """The head's file with `change` made to its JSON and tensors, under a digest that fits."""
    with safe_open(file, framework="pt") as raw:
        content = json.loads(raw.metadata()["head"])
        tensors = {name: raw.get_tensor(name) for name in raw.keys()}  # noqa: SIM118
    changed = change(content, tensors) or content  # None and False: only the tensors have changed
    text = changed if isinstance(changed, str) else canonical_json(changed)
    metadata = {"format": files.FORMAT, "head": text, "digest": of_tensors(tensors, text)}
    save_file(tensors, tmp_path / "forged.safetensors", metadata)
    return tmp_path / "forged.safetensors"


def put(**values):
    return lambda content, _: {**content, **values}


def says(text: str):
    return lambda _content, _tensors: text


def encoder(**values):
    return lambda content, _: {**content, "encoder": {**content["encoder"], **values}}


def tensors(change):
    """A change of the tensors alone."""
    return lambda _, held: change(held) and None


HOSTILE = {
    "not JSON": says("{"),
    "deep JSON": says("[" * 100_000),
    "no object": says("[]"),
    "lacking": says('{"adapter": "taskres"}'),
    "a path for a method": lambda content, held: {
        **content,
        "predictor": "../evil",
        "x": held.pop("linear.weight").dim(),
    },
    "an unknown field": put(fields={"alpha": 0.5, "code": "import os"}),
    "a field of another kind": put(fields={"alpha": "os.system"}),
    "a field out of range": put(fields={"alpha": -1}),
    "a tower": put(predictor="coop", fields={}),
    "another scale": put(logit_scale=1e300),
    "no number": put(logit_scale="NaN"),
    "more classes": lambda content, _: {**content, "classes": content["classes"] * 2},
    "no class": put(classes=[]),
    "no dim": encoder(dim=10**9),
    "another dtype": encoder(dtype="object"),
    "no encoder": put(encoder=None),
    "NaN": tensors(lambda held: held["text"].fill_(float("nan")) is None),
    "no text": tensors(lambda held: held.pop("text") is None),
    "no probe": tensors(lambda held: held.pop("probe") is None),
    "no residual": tensors(lambda held: held.pop("param.residual") is None),
    "other shapes": tensors(lambda held: held.update({"param.residual": torch.zeros(3, 3)})),
    "other numbers": tensors(lambda held: held["param.residual"].add_(1) is None),
    "integers": tensors(lambda held: held.update({"param.residual": torch.ones(6, 24, dtype=torch.int64)})),
    "many tensors": tensors(lambda held: held.update({f"param.{n}": torch.zeros(1) for n in range(99)})),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_ill_meaning_file_is_one_message(toy: Path, tmp_path: Path, what: str) -> None:
    file = forged(written(toy, tmp_path, "taskres"), tmp_path, HOSTILE[what])
    with pytest.raises(FeatcacheError) as caught:
        load_module(file)
    assert len(str(caught.value)) < 2000


def test_the_forgery_itself_is_sound(toy: Path, tmp_path: Path) -> None:
    assert load_module(forged(written(toy, tmp_path, "taskres"), tmp_path, put())).classes


def test_other_files_are_no_heads(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.truncate(files.MAX_BYTES + 1)
    for name in ("other", "text", "huge"):
        with pytest.raises(DataError, match=rf"{name}.safetensors is no head"):
            load_module(tmp_path / f"{name}.safetensors")
    with pytest.raises(DataError, match="not a file"):
        load_module(tmp_path)
    with pytest.raises(InputError, match=r"no head at .*; `featcache export ID"):
        load_module(tmp_path / "absent.safetensors")


def test_export_says_what_it_wrote_and_of_which_draw(toy: Path, tmp_path: Path, run: Run) -> None:
    assert run("fit", "toy", "--alpha-grid", "0.2,0.6", *QUICK).code == 0
    file = tmp_path / "head.safetensors"
    said = run("export", "1", "-o", file)
    assert said.code == 0, said.err
    assert "the best on fewshot-val; 6 classes" in said.out
    assert "the same answer on all 90" in said.out
    head: Head = load_module(file).head
    assert head.provenance["result"] == 1
    assert normalise(head.text).shape == (6, 24)
    plain = json.loads(run("export", "1", "-o", file, "--seed", "2", "--json").out)
    assert (plain["answers_as_recorded"], plain["answers_compared"], plain["refitted"]) == (90, 90, False)
    assert plain["provenance"]["shot_seed"] == 2
    assert file.stat().st_mode & 0o077 == (tmp_path / "toy.npz").stat().st_mode & 0o077
    assert "fitted again" in run_without_kept(run, file).err
    for wrong, words in ((tmp_path / "head.bin", "the ending says"), (tmp_path / "no" / "h.safetensors", "no folder")):
        failed = run("export", "1", "-o", wrong)
        assert failed.code == 2
        assert words in failed.err


def run_without_kept(run: Run, file: Path):
    from featcache.store.places import results_path

    shutil.rmtree(keeping.folder_of(results_path()))
    return run("export", "1", "-o", file, "--seed", "1")


def test_normalised_text_is_kept_to_the_bit(toy: Path, tmp_path: Path) -> None:
    (run, _) = fitted(toy, tmp_path / "results.sqlite", "zero_shot")
    head = head_of_result(tmp_path / "results.sqlite", 1, seed=1).head
    assert torch.equal(head.text, run.frozen.text)
