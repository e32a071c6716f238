"""The report's panels: their numbers against those worked out another way, and what they say when something lacks."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.reporting.page import (
    alphas,
    calibration,
    classes,
    domains,
    embeddings,
    hardest,
    layouts,
    methods,
    model,
    refitting,
    rendering,
    shots,
    variants,
)
from featcache.reporting.page.gather import Found, Gathered, gather
from featcache.reporting.page.images import SIDE, Images
from featcache.reporting.page.stores import Stores
from featcache.reporting.page.stores import test_rows as rows_of
from featcache.store.places import key_of
from featcache.training import single_hyper
from tests.commandline import Run
from tests.reported import NAMES, make_results


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The results file, in a cache that the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        yield make_results(tmp_path_factory.mktemp("panels"), patch)


@pytest.fixture
def home(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # in place of an empty cache
    monkeypatch.setenv("FEATCACHE_HOME", str(file.parent))
    return file.parent


@pytest.fixture
def gathered(home: Path) -> Gathered:
    return gather(home / "results.sqlite")


def values(chart: model.Chart) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = chart.spec["data"]["values"]
    return rows


def one_of(gathered: Gathered, adapter: str = "clip_adapter", store: str = "toy", shots: int = 4) -> Found:
    return next(
        one
        for one in gathered.found
        if (one.adapter, one.store, one.shots, one.method.count("where")) == (adapter, store, shots, 0)
    )


# --- numbers


def test_an_adapter_fitted_again_says_what_the_recorded_run_said(gathered: Gathered) -> None:
    one = one_of(gathered)
    kept = gathered.answered(one)
    assert kept is not None
    with gathered.stores.open(one.store_key, one.store) as store:
        image = rows_of(store, "all").image
        for run, answer in zip(one.chosen, kept.answers, strict=True):
            again = refitting.refit(store, gathered.path, one, run)
            hyper = single_hyper(again.method, image.device)
            logits = again.method.logits(again.params, image, again.frozen, hyper)
            assert logits.argmax(dim=1).tolist() == answer.predictions.predicted.tolist()
            left = refitting.fitted_as_recorded(store, gathered.path, one, run)
            torch.testing.assert_close(left.method.logits(left.params, image, left.frozen, hyper), logits)
            moved = again.method.embedding(again.params, image, again.frozen, hyper)  # type: ignore[attr-defined]
            by_hand = again.frozen.logit_scale * torch.nn.functional.normalize(moved, dim=1) @ again.frozen.text.T
            torch.testing.assert_close(by_hand, logits, rtol=1e-4, atol=1e-4)


def test_a_refit_that_takes_too_long_is_refused(gathered: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refitting, "MOST_WORK", 1e3)
    [*_, blank] = embeddings.panel(gathered).blanks
    assert "too much for a report" in blank.why


def test_confusions_of_a_class_are_all_of_its_images(gathered: Gathered) -> None:
    panel = classes.confusion_panel(gathered)
    for view in panel.views:
        shares: dict[str, float] = {}
        for row in values(view.charts[0]):
            shares[row["true"]] = shares.get(row["true"], 0.0) + row["share"]
        assert set(shares) == set(NAMES)
        assert all(math.isclose(share, 100, abs_tol=0.1) for share in shares.values())
        diagonal = np.mean([row["share"] for row in values(view.charts[0]) if row["true"] == row["taken for"]])
        assert view.name.count("·") == 2
        matching = [one for one in gathered.found if f"{one.method} · {one.protocol}" in view.name]
        assert any(abs(100 * one.test[0] - diagonal) < 0.1 for one in matching)  # its classes are of equal size


def test_gains_by_class_average_to_the_gain(gathered: Gathered) -> None:
    one = one_of(gathered)
    view = next(view for view in classes.gains_panel(gathered).views if f"· {one.method} ·" in view.name)
    mean = np.mean([row["gain"] for row in values(view.charts[0])])
    assert mean == pytest.approx(100 * (one.test[0] - (one.zero_shot or 0)), abs=0.02)


def test_bins_hold_every_answer_and_the_error_is_the_measured_one(gathered: Gathered, run: Run) -> None:
    view = next(view for view in calibration.panel(gathered).views if view.name.startswith("toy"))
    one = one_of(gathered)
    series = shots.series_of(one)
    assert sum(row["images"] for row in values(view.charts[0]) if row.get("series") == series) == 2 * one.num_test
    table = view.charts[0].table
    assert table is not None
    told = next(row[3] for row in table.rows if row[:2] == (one.method, one.protocol))
    measured = json.loads(run("results", str(one.id), "--json").out)["measures"]["calibration_error"]
    assert told == f"{100 * measured:.2f}"


def test_shots_and_their_mean_over_data_sets(gathered: Gathered) -> None:
    [view] = shots.panel(gathered).views
    mean, *own = view.charts
    assert mean.title.startswith("mean over 2 data sets")
    at = {
        (chart.title, row["series"], row["shots"]): row["accuracy"]
        for chart in (mean, *own)
        for row in values(chart)
        if "series" in row
    }
    series = shots.series_of(one_of(gathered))
    for k in (2, 4):
        each = [at[chart.title, series, k] for chart in own]
        assert at[mean.title, series, k] == pytest.approx(np.mean(each), abs=0.01)
    assert "gda · fewshot-val" in view.notes[0]  # one data set lacks it, so the mean leaves it out


def test_published_lines_are_drawn_where_all_fits_and_nowhere_else(gathered: Gathered) -> None:
    one = one_of(gathered)
    runs = [{**run, "test_rows": 1692} for run in one.runs]
    like = replace(one, dataset="dtd", backbone="RN50", style="coop", search={**one.search, "runs": runs})
    [view] = shots.panel(replace(gathered, found=(like,))).views
    published = {row["published"] for row in values(view.charts[0]) if "published" in row}
    assert "CLIP-Adapter, CLIP-Adapter paper, Fig. 3 (read off the figure, ±0.5)" in published
    for other in (replace(like, style="clip"), replace(like, backbone="RN101"), replace(like, text_set="paper-7")):
        [view] = shots.panel(replace(gathered, found=(other,))).views
        assert not any("Fig. 3" in row.get("published", "") for row in values(view.charts[0]))


def test_results_that_differ_in_their_seeds_are_two_lines_with_two_names(gathered: Gathered) -> None:
    one = next(item for item in gathered.found if item.searched == ("alpha",) and item.shots == 4)
    again = replace(one, id=99, search={**one.search, "id": 99})
    both = replace(gathered, found=(one, again))
    (view,) = alphas.panel(both).views
    assert view.charts[0].series == (f"4 shots, result {one.id}", "4 shots, result 99")
    (view,) = methods.panel(both).views
    assert len({row["method"] for row in values(view.charts[0]) if "method" in row}) == 2
    assert alphas.panel(replace(gathered, found=(one,))).views[0].charts[0].series == ("4 shots",)


def test_of_stores_that_share_a_key_the_one_of_the_name_is_meant(home: Path, tmp_path: Path) -> None:
    toy = home / "stores" / "toy.h5"
    twin = toy.with_name("a-twin.h5")
    shutil.copy2(toy, twin)
    try:
        key = key_of(toy)
        assert key is not None
        for name in ("toy", "a-twin"):
            with Stores().open(key, name) as store:
                assert store.name == name
        with Stores().open(key, "renamed since") as store:
            assert store.name in ("toy", "a-twin")
    finally:
        twin.unlink()


def test_methods_table_holds_every_method_once_with_its_protocol(gathered: Gathered) -> None:
    view = next(
        view for view in methods.panel(gathered).views if view.name.startswith("toy") and "4 shots" in view.name
    )
    rows = view.tables[0].rows
    fitted = [one.method for one in gathered.found if one.store == "toy" and one.shots == 4]
    assert sorted(row[1] for row in rows) == sorted(fitted)
    assert all(row[2] == "fewshot-val" for row in rows)


def test_visual_and_text_stand_side_by_side(gathered: Gathered) -> None:
    [view] = variants.sides_panel(gathered).views
    assert view.charts[0].series == ("visual", "text")


def test_two_preprocessings_stand_side_by_side(gathered: Gathered) -> None:
    one = one_of(gathered)
    two = (replace(one, style="coop"), replace(one, style="clip"))
    [view] = variants.styles_panel(replace(gathered, found=two)).views
    assert view.charts[0].series == ("coop", "clip")
    assert {row["series"] for row in values(view.charts[0])} == {"coop", "clip"}
    assert variants.styles_panel(gathered).blanks[0].command.endswith("--style clip && featcache fit")


def test_the_gap_is_measured_on_the_stored_rows(gathered: Gathered) -> None:
    view = next(view for view in domains.gap_panel(gathered).views if "4 shots" in view.name)
    by_gap = {row["data"]: row for row in values(view.charts[0])}
    assert set(by_gap) == {"toy", "other"}
    one = one_of(gathered)
    assert by_gap["toy"]["alpha"] == pytest.approx(np.mean(one.alphas), abs=1e-4)
    with gathered.stores.open(one.store_key, one.store) as store:
        rows, text = rows_of(store, "all"), store.text("default").embedding
    unit = rows.image.numpy() / np.linalg.norm(rows.image.numpy(), axis=1, keepdims=True)
    own = (text / np.linalg.norm(text, axis=1, keepdims=True))[rows.label.numpy()]
    assert by_gap["toy"]["cosine"] == pytest.approx(float((unit * own).sum(axis=1).mean()), abs=1e-3)


def test_the_hardest_image_is_wrong_most_often(gathered: Gathered) -> None:
    view = next(view for view in hardest.panel(gathered).views if view.name.startswith("toy"))
    shares = [float(row[4]) for row in view.tables[0].rows]
    assert shares == sorted(shares, reverse=True)
    assert 0 < shares[0] <= 100
    assert view.tables[0].is_open  # an import has no images to show


# --- embeddings


def test_embeddings_are_laid_out_before_and_after_the_adapter(gathered: Gathered) -> None:
    panel = embeddings.panel(gathered)
    assert {view.name.split(",")[0] for view in panel.views} == {"toy", "other"}
    for view in panel.views:
        titles = [chart.title for chart in view.charts]
        assert titles[0] == "CLIP, zero-shot · nothing chosen"
        assert "without residual, alpha 1 · not chosen" in titles[1]
        assert all(len(values(chart)) == 90 for chart in view.charts)
    assert any("CoOp's logits on toy" in blank.why and "--adapter coop" in blank.command for blank in panel.blanks)


def test_no_more_than_a_thousand_points(gathered: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embeddings.MOST == 1000
    monkeypatch.setattr(embeddings, "MOST", 20)
    assert all(len(values(chart)) == 20 for view in embeddings.panel(gathered).views for chart in view.charts)


def test_a_layout_is_made_once_and_again_where_its_file_is_damaged(home: Path) -> None:
    rows, calls = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), []

    def made() -> np.ndarray:
        calls.append(1)
        return rows

    first = layouts.laid_out(["a"], made)
    assert first.shape == (30, 2)
    assert np.array_equal(layouts.laid_out(["a"], made), first)
    assert len(calls) == 1
    layouts.laid_out(["b"], made)
    assert len(calls) == 2
    for kept in (home / "report").glob("layout-*.npy"):
        kept.write_bytes(b"damaged")
    assert np.array_equal(layouts.laid_out(["a"], made), first)
    assert len(calls) == 3


# --- what lacks


def test_a_store_that_is_gone_costs_only_what_needs_it(
    gathered: Gathered, home: Path, run: Run, tmp_path: Path
) -> None:
    place = home / "stores" / "other.h5"
    kept = place.read_bytes()
    place.unlink()
    try:
        said = run("report", "-o", tmp_path / "out")
    finally:
        place.write_bytes(kept)
    assert said.code == 0, said.err
    assert "the store other is gone from the cache" in said.err
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "the store is gone" in text
    for one in gathered.found:
        assert f"{100 * one.test[0]:.2f}" in text


def test_images_at_hand_become_thumbnails_and_stay_out_on_demand(
    run: Run, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "own"))
    data = ("--dataset", f"folder:{pictures}", "--backbone", "tiny", "--weights", "random:0", "--workers", "0")
    assert run("extract", *data, "--views", "0", "--shots", "1", "--seeds", "1").code == 0
    assert run("fit", "--adapter", "clip_adapter", "--alpha-grid", "0,1", "--epochs", "1").code == 0
    assert run("report", "-o", tmp_path / "with").code == 0
    assert run("report", "-o", tmp_path / "without", "--no-images").code == 0
    uri = "data:image/jpeg;base64,"
    assert (tmp_path / "with" / "index.html").read_text(encoding="utf-8").count(uri) >= 15
    assert uri not in (tmp_path / "without" / "index.html").read_text(encoding="utf-8")
    store = gather(tmp_path / "own" / "results.sqlite", images=Images()).stores
    [found] = gather(tmp_path / "own" / "results.sqlite").found
    with store.open(found.store_key, found.store) as opened:
        assert set(Images().thumbnails(opened, range(3))) == {0, 1, 2}
        assert Images(wanted=False).thumbnails(opened, range(3)) == {}
    assert SIDE <= 64


def test_every_panel_says_what_it_lacks_and_how_to_get_it(gathered: Gathered) -> None:
    bare = replace(gathered, found=(one_of(gathered, "zero_shot"),))
    assert alphas.panel(bare).blanks[0].command == "featcache fit --alpha-grid 0:1:0.1"
    for make in (variants.sides_panel, variants.styles_panel, embeddings.panel, shots.panel, methods.panel):
        assert make(bare).blanks[0].command.startswith("featcache ")
    text = rendering.page("t", "s", [alphas.panel(bare)])
    assert "<code>featcache fit --alpha-grid 0:1:0.1</code> makes it." in text
