"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

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
