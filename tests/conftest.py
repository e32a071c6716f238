"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from featcache import registry
from tests.commandline import Run

# A busy machine makes any example slow now and then; that is no fault of the code.
settings.register_profile("featcache", deadline=None)
settings.load_profile("featcache")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The optional folder of real data: images/ in CoOp's layout, features/*.npz, splits/coop_fewshot/.

    FEATCACHE_REAL_DATA names it; without that, shared/real beside the checkout is tried.
    """
    named = os.environ.get("FEATCACHE_REAL_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip(f"needs the real data: {folder} is not there; FEATCACHE_REAL_DATA can name another folder")
    return folder


@pytest.fixture(autouse=True)
def no_methods_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of methods that a test names is looked into until its end: `--adapter all` would find them later."""
    monkeypatch.setattr(registry, "_user_folders", [])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of one test: empty, and not the user's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FEATCACHE_HOME", str(folder))
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, on an empty cache."""
    monkeypatch.delenv("FEATCACHE_DATA", raising=False)
    return Run(monkeypatch, capsys)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/, val/ and test/ of 3 classes, 90 images in all; the class `few` has 3 for training."""
    root = tmp_path_factory.mktemp("pictures")
    counts = {"train": {"ant": 30, "bee fly": 30, "few": 3}, "val": dict.fromkeys(("ant", "bee fly", "few"), 4)}
    counts["test"] = dict.fromkeys(("ant", "bee fly", "few"), 5)
    for split, classes in counts.items():
        for name, count in classes.items():
            for number in range(count):
                put_picture(root / split / name / f"{number:03d}.bmp", seed=f"{split}/{name}/{number}")
    return root


def put_picture(file: Path, *, seed: str) -> None:
    """Write a smooth random image of a size that the seed alone decides."""
    generator = np.random.default_rng(list(seed.encode()))
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    width, height = generator.integers(40, 90, 2).tolist()
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(file)
