"""Golden figures: `tests/golden.py` says what they are and how a commit may change them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests import golden

CASES = golden.cases()
REWRITE = "if that is meant: python -m tests.golden --write, and say in the commit why each number moved"


def test_every_method_has_golden_figures() -> None:
    assert sorted(golden.read()) == sorted(CASES), REWRITE


@pytest.mark.parametrize("name", CASES)
def test_figures_are_as_they_were(name: str) -> None:
    assert golden.differences(golden.figures(CASES[name]), golden.read()[name]) == [], REWRITE


@pytest.mark.parametrize("name", ["clip_adapter", "gda"])
def test_a_moved_figure_is_told(name: str) -> None:
    figures = golden.read()[name]

    def moved(change: Any) -> list[str]:
        other = copy.deepcopy(figures)
        change(other)
        return golden.differences(other, figures)

    assert moved(lambda _: None) == []
    assert moved(lambda other: other.update(val=figures["val"] + 1)) == []
    assert moved(lambda other: other.update(val=figures["val"] + 2)) != []
    what, key = ("loss", 1) if "loss" in figures else ("length", "bias")
    assert moved(lambda other: other[what].__setitem__(key, figures[what][key] * (1 + 0.5e-4))) == []
    assert moved(lambda other: other[what].__setitem__(key, figures[what][key] * (1 + 2e-4))) != []
    assert moved(lambda other: other[what].__setitem__(key, float("nan"))) != []
