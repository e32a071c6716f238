"""Heads as ONNX models compute what torch does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.heads import onnx_files
from featcache.heads.exporting import head_of_result
from featcache.heads.module import HeadModule
from featcache.importing import import_npz
from tests import synthetic
from tests.commandline import Run
from tests.recorded import METHODS, fitted, image_rows

onnxruntime = pytest.importorskip("onnxruntime", reason="needs featcache[onnx]")
onnx = pytest.importorskip("onnx", reason="needs featcache[onnx]")
pytest.importorskip("onnxscript", reason="needs featcache[onnx]")


@pytest.fixture
def toy(home: Path, tmp_path: Path) -> Path:
    return import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), name="toy")


def answers(file: Path, **inputs: np.ndarray) -> np.ndarray:
    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(["logits"], inputs)[0]


@pytest.mark.parametrize("adapter", METHODS)
def test_every_method_says_the_same_in_onnx(toy: Path, tmp_path: Path, adapter: str) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, adapter)
    head = head_of_result(record, 1).head
    file = tmp_path / "head.onnx"
    assert onnx_files.save_onnx(file, head) <= 1e-4
    image, _ = image_rows(toy)
    expected = HeadModule(head).logits(image).numpy()
    for rows in (image.numpy(), image[:1].numpy()):
        found = answers(file, image=rows)
        np.testing.assert_allclose(found, expected[: len(rows)], rtol=1e-4, atol=1e-4 * max(1, np.abs(expected).max()))
    notes = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(notes["classes"]) == list(head.classes)
    assert notes["adapter"] == adapter


def test_with_its_tower_it_says_of_pixels_what_predict_says(run: Run, pictures: Path, tmp_path: Path) -> None:
    from featcache import views
    from featcache.heads.predicting import Predictor

    source = f"folder:{pictures}"
    done = run("extract", "--dataset", source, "--backbone", "tiny", "--shots", "3", "--seeds", "1", "--views", "1",
               "--workers", "0", "--batch-size", "16")  # fmt: skip
    assert done.code == 0, done.err
    assert run("fit", "--shots", "3", "--epochs", "2", "--alpha-grid", "0.4").code == 0
    head = tmp_path / "head.safetensors"
    whole = tmp_path / "whole.onnx"
    assert run("export", "1", "-o", head).code == 0
    said = run("export", "1", "-o", whole, "--with-tower")
    assert said.code == 0, said.err
    assert "pixels (N, 3, 64, 64)" in said.out
    from featcache.heads.files import load_module

    module = load_module(head)
    predictor = Predictor(module)
    files = sorted((pictures / "test").rglob("*.bmp"))
    pixels = [
        views.view(views.decode(file.read_bytes()), predictor.transform, number=0, path="", seed=0)[0] for file in files
    ]
    found = answers(whole, pixels=np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255)
    image = predictor._encode(pixels)
    expected = module.logits(image).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert (found.argmax(axis=1) == predictor.module.logits(predictor.embed(pixels)).argmax(dim=1).numpy()).all()


def test_what_onnx_cannot_do_is_told(
    toy: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, "zero_shot")
    head = head_of_result(record, 1).head
    with pytest.raises(ConfigError, match="imported embeddings"):
        onnx_files.save_onnx(tmp_path / "whole.onnx", head, with_tower=True)
    said = run("export", "1", "-o", tmp_path / "head.safetensors", "--with-tower")
    assert said.code == 2
    assert "--with-tower" in said.err
    monkeypatch.setattr(onnx_files, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ConfigError, match=r"ONNX needs onnxscript: pip install 'featcache\[onnx\]'"):
        onnx_files.save_onnx(tmp_path / "head.onnx", head)


def test_a_difference_is_no_success(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "results.sqlite"
    fitted(toy, record, "taskres")
    head = head_of_result(record, 1).head
    kind = registry.load("taskres")
    calls = []
    logits = kind.logits

    def drifting(self, params, image, frozen, hyper):
        calls.append(1)
        return logits(self, params, image, frozen, hyper) * (1 if torch.compiler.is_exporting() else 1.01)

    monkeypatch.setattr(kind, "logits", drifting)
    with pytest.raises(onnx_files.DataError, match="computes taskres otherwise than torch"):
        onnx_files.save_onnx(tmp_path / "head.onnx", head)
    assert calls
    assert not (tmp_path / "head.onnx").exists()
