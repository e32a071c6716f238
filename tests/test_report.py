"""The report: its numbers are those of the results, and it works in a real browser, offline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from featcache import results
from featcache.reporting import page
from featcache.reporting.page.gather import gather
from featcache.reporting.page.references import fitting, paper_table, references
from featcache.store.places import home as cache_folder
from tests.browsing import Tab, browser
from tests.commandline import Run
from tests.reported import command, make_results

pytest.importorskip("vl_convert", reason="the extra `report` is not installed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a cache in `home` and its report in `out`."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        make_results(folder, patch)
        command(patch, "report", "-o", folder / "out")
        yield folder


@pytest.fixture(scope="module")
def tab_of(made: Path) -> Iterator[Any]:
    """Opens the report in a tab."""
    with browser() as started:
        yield lambda **options: Tab(started, made / "out" / "index.html", **options)


@pytest.fixture
def at_home(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATCACHE_HOME", str(made / "home"))
    return cache_folder() / "results.sqlite"


def text_of(made: Path) -> str:
    return (made / "out" / "index.html").read_text(encoding="utf-8")


# --- in a browser


@pytest.mark.parametrize("dark", [False, True])
def test_every_plot_is_drawn_without_a_complaint_or_a_request(tab_of: Any, made: Path, dark: bool) -> None:
    tab = tab_of(dark=dark)
    tab.draw()
    charts = [one.get_attribute("id") for one in tab.page.locator(".view:not([hidden]) .chart").all()]
    assert len(charts) >= 4
    assert all(tab.marks(chart) > 5 for chart in charts)
    assert tab.page.locator(".chart[data-failed]").count() == 0
    assert tab.errors == []
    assert tab.requests == [(made / "out" / "index.html").as_uri()]
    tab.close()


def test_names_that_look_like_markup_stay_text(tab_of: Any) -> None:
    tab = tab_of()
    tab.draw()
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.locator("img[src=x]").count() == 0
    assert tab.page.locator("script").count() == 3
    tab.close()


def test_every_view_can_be_chosen_and_is_drawn_then(tab_of: Any) -> None:
    tab = tab_of()
    for select in tab.page.locator("select").all():
        for option in select.locator("option").all():
            value = option.get_attribute("value")
            select.select_option(value)
            assert tab.page.locator(f"#{value}").is_visible()
            tab.draw()
            assert all(tab.marks(one.get_attribute("id")) > 3 for one in tab.page.locator(f"#{value} .chart").all())
    assert tab.errors == []
    tab.close()


def test_a_series_is_hidden_and_shown_again_by_its_button(tab_of: Any) -> None:
    tab = tab_of()
    tab.draw()
    button = tab.page.locator("#alpha .legend button").first
    lines = "#alpha-0-0 svg .mark-line path"
    assert tab.page.locator(lines).count() == 2
    button.press("Enter")
    tab.page.wait_for_function(f"document.querySelectorAll('{lines}').length === 1")
    assert button.get_attribute("aria-pressed") == "false"
    button.press("Enter")
    tab.page.wait_for_function(f"document.querySelectorAll('{lines}').length === 2")
    tab.close()


def test_what_was_chosen_on_is_shown_on_demand(tab_of: Any) -> None:
    tab = tab_of()
    tab.draw()
    lines = "#alpha-0-0 svg .mark-line path"
    tab.page.get_by_label("show accuracy on fewshot-val, which chose").first.check()
    tab.page.wait_for_function(f"document.querySelectorAll('{lines}').length === 4")
    tab.close()


def test_light_and_dark_are_chosen_by_button_and_plots_follow(tab_of: Any) -> None:
    tab = tab_of()
    tab.draw()
    ink = "getComputedStyle(document.body).backgroundColor"
    label = "document.querySelector('#alpha-0-0 svg text').getAttribute('fill')"
    before = tab.page.evaluate(ink), tab.page.evaluate(label)
    tab.page.get_by_role("button", name="dark", exact=True).click()
    tab.page.wait_for_function(f"{label} !== '{before[1]}'")
    assert tab.page.evaluate(ink) != before[0]
    tab.page.get_by_role("button", name="auto", exact=True).click()
    tab.page.wait_for_function(f"{label} === '{before[1]}'")
    assert (tab.page.evaluate(ink), tab.page.evaluate(label)) == before
    assert tab.errors == []
    tab.close()


def test_a_phone_scrolls_down_only(tab_of: Any) -> None:
    tab = tab_of(width=360)
    tab.draw()
    for details in tab.page.locator("details").all():
        details.evaluate("one => { one.open = true; }")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    tab.close()


def test_tables_sort_by_a_head_and_say_so(tab_of: Any) -> None:
    tab = tab_of()
    head = tab.page.locator("#methods .view:not([hidden]) details[open] th", has_text="test %").first
    column = "#methods .view:not([hidden]) details[open] tbody td:nth-child(4)"
    values = [float(text.split()[0]) for text in tab.page.locator(column).all_inner_texts()]
    head.get_by_role("button").press("Enter")
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    found = [float(text.split()[0]) for text in tab.page.locator(column).all_inner_texts()]
    assert found == sorted(values)
    tab.close()


def test_a_mark_tells_its_numbers_and_its_protocol(tab_of: Any) -> None:
    tab = tab_of()
    tab.draw()
    tab.page.locator("#alpha-0-0").scroll_into_view_if_needed()
    tab.page.locator("#alpha-0-0 svg .mark-symbol path").last.hover()
    tip = tab.page.locator("#tip")
    tip.wait_for(state="visible")
    assert "chosen on fewshot-val" in tip.inner_text()
    tab.page.keyboard.press("Escape")
    assert not tip.is_visible()
    tab.close()


def test_it_can_be_read_without_seeing_it(tab_of: Any) -> None:
    tab = tab_of()
    tab.draw()
    assert tab.page.locator(".chart:not([aria-label])").count() == 0
    assert tab.page.locator("select").count() == tab.page.locator("p.choice label[for]").count()
    assert tab.page.locator("h1").count() == 1
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.textContent") == "Skip to the figures"
    unnamed = "[...document.querySelectorAll('button')].filter(one => !one.textContent.trim()).length"
    assert tab.page.evaluate(unnamed) == 0
    tab.close()


# --- without one


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]


def test_nothing_in_it_leads_out(made: Path) -> None:
    links = _Links()
    links.feed(text_of(made))
    assert all(link.startswith(("#", "data:")) for link in links.found)
    assert "@import" not in text_of(made)


def test_its_numbers_are_those_of_the_results(made: Path, at_home: Path) -> None:
    text = text_of(made)
    for row in results.summaries(at_home):
        assert row.test_accuracy is not None
        assert f"{100 * row.test_accuracy:.2f}" in text
        assert row.protocol in text


def test_the_chosen_alpha_is_the_recorded_one(made: Path, at_home: Path) -> None:
    found = gather(at_home)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text_of(made), re.S)[1])  # type: ignore[index]
    drawn = {
        (row["shots"], row["alpha"])
        for row in data["charts"]["alpha-0-0"]["spec"]["data"]["values"]
        if row.get("times")
    }
    first = [
        one for one in found.found if one.store == "toy" and one.adapter == "clip_adapter" and "where" not in one.method
    ]
    assert drawn == {(f"{one.shots} shots", alpha) for one in first for alpha in one.alphas}


def test_a_newer_result_of_the_same_kind_replaces_the_older(made: Path, at_home: Path, run: Run) -> None:
    run.monkeypatch.setenv("FEATCACHE_HOME", str(made / "home"))
    before = gather(at_home)
    assert run("fit", "toy", "--adapter", "gda", "--shots", "2", "--seeds", "1,2").code == 0
    after = gather(at_home)
    assert len(after.found) == len(before.found)
    assert len(after.replaced) == len(before.replaced) + 1


def test_published_lines_need_the_same_data_backbone_and_preprocessing() -> None:
    assert {one.method for one in fitting({"dtd": 1692}, "RN50", "coop")} == {
        "zero-shot CLIP", "linear probe", "CoOp", "CLIP-Adapter",
    }  # fmt: skip
    [log] = fitting({"dtd": 1692}, "RN50", "clip")
    assert dict(log.points) == {1: 45.80, 2: 51.48, 4: 56.86, 8: 61.00, 16: 65.96}
    assert fitting({"dtd": 200}, "RN50", "coop") == []  # a part of the test split
    assert fitting({"dtd": 1692}, "ViT-B-32", "coop") == []
    assert fitting({"shapes": 1200}, "RN50", "coop") == []
    assert all(one.source and one.protocol for one in references())
    assert paper_table("imagenet", 50_000, "RN50", 16) is not None
    assert paper_table("imagenet", 50_000, "RN50", 8) is None
    assert paper_table("imagenet", 18, "RN50", 16) is None
    assert paper_table("imagenet", 50_000, "RN50 (untrained)", 16) is None


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plot_draws_the_same_for_papers(made: Path, run: Run, tmp_path: Path, ending: str) -> None:
    run.monkeypatch.setenv("FEATCACHE_HOME", str(made / "home"))
    said = run("plot", "shots", "1", "2", "-o", tmp_path / f"a.{ending}")
    assert said.code == 0, said.err
    data = (tmp_path / f"a.{ending}").read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}[ending])
    if ending == "svg":
        assert b"clip_adapter" in data
        assert b"chosen on fewshot-val" in data


def test_what_cannot_be_drawn_is_said(made: Path, run: Run, tmp_path: Path) -> None:
    assert "no results to report on yet" in run("report", "-o", tmp_path / "r").err
    assert not (tmp_path / "r").exists()
    run.monkeypatch.setenv("FEATCACHE_HOME", str(made / "home"))
    assert "unknown kind of plot 'shot'" in run("plot", "shot", "-o", tmp_path / "a.png").err
    assert "the ending says the format" in run("plot", "shots", "-o", tmp_path / "a.bmp").err
    assert "unknown result '99'" in run("report", "99", "-o", tmp_path / "r").err
    said = run("plot", "alpha", "7", "-o", tmp_path / "a.png")
    assert said.code == 2
    assert "featcache fit --alpha-grid 0:1:0.1" in said.err


def test_help_names_every_kind_of_plot(run: Run) -> None:
    told = " ".join(run("plot", "--help").out.replace("│", " ").split())
    assert ", ".join(page.kinds()) in told
