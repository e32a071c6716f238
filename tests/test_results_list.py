"""`featcache results`: which searches are listed, how they are grouped, and in which form."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, stdev

import pytest

from featcache import results
from featcache.errors import ConfigError
from featcache.reporting.formats import as_csv, as_latex, as_markdown
from featcache.reporting.groups import group_of
from featcache.results import Filters
from featcache.store.places import results_path
from tests import synthetic
from tests.commandline import Run

FITS = (
    ("one", "--adapter", "gda", "--shots", "2,4", "--seeds", "1,2"),
    ("one", "--adapter", "zero_shot", "--shots", "2,4", "--seeds", "1,2"),
    ("two", "--adapter", "gda", "--shots", "4", "--seeds", "1,2"),
    ("one", "--adapter", "gda", "--grid", "alpha=1", "--shots", "4", "--seeds", "1", "--select", "fixed"),
)
"""Six results: 1 and 2 gda, 3 and 4 zero_shot, 5 gda on the other data set, 6 chosen on nothing."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file with the six."""
    from featcache import fit_options
    from featcache.commands import fitting
    from featcache.commands.stores import stores_named
    from featcache.importing import import_npz

    folder = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_HOME", str(folder))
        for seed, name in enumerate(("one", "two")):
            values = synthetic.arrays()
            values["test_features"] = values["test_features"][:, ::-1].copy() if seed else values["test_features"]
            import_npz(synthetic.save(folder / f"{name}.npz", values), name=name)
        for store, *words in FITS:
            said = dict(zip(words[::2], words[1::2], strict=True))
            options = fit_options.FitOptions(
                adapters=(said["--adapter"],),
                grid=(said["--grid"],) if "--grid" in said else (),
                shots=tuple(int(word) for word in said["--shots"].split(",")),
                shot_seeds=tuple(int(word) for word in said["--seeds"].split(",")),
                select=said.get("--select"),
            )
            fitting.fit(stores_named([store]), options, plot=None, as_json=True)
    return folder / "results.sqlite"


@pytest.fixture
def six(run: Run, filled: Path) -> Run:
    results_path().parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(filled, results_path())
    return run


def ids(run: Run, *arguments: str) -> list[int]:
    said = run("results", *arguments, "--json")
    assert said.code == 0, said.err
    return [row["id"] for row in json.loads(said.out)]


def test_filters_sort_and_limit(six: Run) -> None:
    assert ids(six) == [6, 5, 4, 3, 2, 1]
    assert ids(six, "--limit", "2") == [6, 5]
    assert ids(six, "--adapter", "gda", "--dataset", "one", "--protocol", "fewshot-val") == [2, 1]
    assert ids(six, "--shots", "2,4", "--adapter", "gda,zero_shot", "--store", "two") == [5]
    assert sorted(ids(six, "--sort", "seconds")) == [1, 2, 3, 4, 5, 6]
    tested = [row.test_accuracy for row in results.in_order(results.select(results_path(), Filters()), "-test")]
    assert tested == sorted(tested, reverse=True)
    assert ids(six, "--sort", "-val")[-1] == 6  # without a selection accuracy: last, whichever way
    assert ids(six, "--since", "1h") == [6, 5, 4, 3, 2, 1]
    assert ids(six, "--since", "2999-01-01") == []


def test_unequal_draws_in_a_group_are_said(run: Run, tmp_path: Path) -> None:
    assert run("import", synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), "--name", "toy").code == 0
    run("fit", "toy", "--adapter", "gda", "--shots", "2", "--seeds", "1,2,3")
    assert "unequal draws" not in run("results", "--by", "adapter").err
    run("fit", "toy", "--adapter", "gda", "--shots", "2", "--seeds", "1")
    said = run("results", "--by", "adapter", "--format", "csv")
    assert "1 groups hold results of unequal draws" in " ".join(said.err.split())
    assert "gda,2,1,1,3," in said.out
    assert "those are the newest" not in run("results", "99").err


def test_since_counts_from_now(six: Run) -> None:
    late = datetime(2999, 1, 10, tzinfo=UTC)
    assert results.select(results_path(), Filters(since="3d"), now=late) == []
    assert len(results.select(results_path(), Filters(since="60000w"), now=late)) == 6


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--adapter", "gdb"), "did you mean gda"),
        (("--since", "yesterday"), "30m, 6h, 2d"),
        (("--by", "colour"), "unknown field"),
        (("--sort", "colour"), "unknown field"),
        (("--format", "yaml"), "unknown format"),
        (("--shots", "few"), "whole numbers"),
        (("--across", "dataset"), "--by"),
        (("--by", "adapter", "--sort", "test"), "leave one"),
        (("--by", "adapter", "--across", "adapter"), "already"),
        (("--sql", "SELECT 1", "--adapter", "gda"), "WHERE"),
        (("--best-per", "dataset"), "chosen on nothing"),
    ],
)
def test_what_cannot_be_shown_says_why(six: Run, arguments: tuple[str, ...], word: str) -> None:
    if "chosen" in word:  # a second result that was chosen on nothing
        with sqlite3.connect(results_path()) as database:
            database.execute("UPDATE search SET protocol = 'fixed' WHERE id = 2")
            database.execute("UPDATE run SET selection_accuracy = NULL WHERE search = 2")
    said = six("results", *arguments)
    assert said.code == 2
    assert word in said.err


def test_the_best_is_by_what_chose_and_never_by_test(six: Run) -> None:
    with sqlite3.connect(results_path()) as database:  # the better one was on val, the worse it is on test
        database.execute("UPDATE run SET selection_accuracy = 0.5 + 0.01 * search WHERE selection_accuracy IS NOT NULL")
        database.execute("UPDATE run SET test_accuracy = 0.5 - 0.01 * search")
    rows = results.select(results_path(), Filters(dataset=("one",), protocol=("fewshot-val",)))
    (best,) = results.best_per(rows, ["dataset"])
    assert best.id == 4
    assert [row.id for row in results.best_per(rows[::-1], ["dataset"])] == [best.id]
    # Result 6 was chosen on nothing: it is not compared with the others, and stands alone.
    assert 6 in ids(six, "--best-per", "dataset,shots")


def test_groups_are_means_over_searches_and_spreads_over_draws(six: Run) -> None:
    two, five = (results.summaries(results_path(), ids=[number])[0] for number in (2, 5))
    group = group_of([two, five])
    draws = [(dict(two.by_seed)[seed] + dict(five.by_seed)[seed]) / 2 for seed in (1, 2)]
    assert group.test == (fmean(draws), stdev(draws))
    assert group.interval[0] < group.test[0] < group.interval[1]
    assert (group.seeds, group.num_datasets) == ((1, 2), 2)
    (told,) = json.loads(
        six("results", "--adapter", "gda", "--protocol", "fewshot-val", "--shots", "4", "--by", "shots", "--json").out
    )
    assert told["test_accuracy"] == pytest.approx(group.test[0])
    assert told["num_results"] == 2


def test_one_field_side_by_side(six: Run) -> None:
    said = six(
        "results",
        "--protocol",
        "fewshot-val",
        "--shots",
        "4",
        "--by",
        "adapter",
        "--across",
        "dataset",
        "--format",
        "csv",
    )
    gda, zero = csv.DictReader(io.StringIO(said.out))
    assert list(gda) == ["adapter", "one", "two", "mean"]
    assert float(gda["mean"]) == pytest.approx((float(gda["one"]) + float(gda["two"])) / 2)
    assert zero["two"] == zero["mean"] == ""


def test_groups_of_mixed_protocols_are_named(six: Run) -> None:
    assert "--by protocol" in six("results", "--by", "adapter").err
    assert "--by protocol" not in six("results", "--by", "adapter,protocol").err


def test_formats_escape_what_would_break_them() -> None:
    cells = ["a|b", "50 % & 3_4 ± 1", "\\x^{~}"]
    assert as_markdown(["c|1", "n", "t"], [cells]).splitlines()[2] == "| a\\|b | 50 % & 3_4 ± 1 | \\\\x^{~} |"
    latex = as_latex(["a_b", "n", "t"], [cells])
    assert r"a\_b & n & t \\" in latex
    assert r"a|b & 50 \% \& 3\_4 $\pm$ 1 & \textbackslash{}x\textasciicircum{}\{\textasciitilde{}\} \\" in latex
    (row,) = csv.DictReader(
        io.StringIO(as_csv([{"a": 'x,"y"', "b": (1, 2), "c": None, "d": float("nan"), "e": b"12"}]))
    )
    assert row == {"a": 'x,"y"', "b": "[1, 2]", "c": "", "d": "", "e": "<2 bytes>"}


def test_sql_reads_and_does_nothing_else(six: Run, tmp_path: Path) -> None:
    said = six("results", "--sql", "SELECT adapter, count(*) AS n FROM search GROUP BY adapter", "--format", "csv")
    assert said.out == "adapter,n\ngda,4\nzero_shot,2\n"
    for statement in (
        "DELETE FROM search",
        f"ATTACH '{tmp_path / 'other.db'}' AS other",
        f"VACUUM INTO '{tmp_path / 'copy.db'}'",
        "PRAGMA journal_mode = DELETE",
        "SELECT 1; SELECT 2",
        "SELECT nothing FROM nowhere",
    ):
        said = six("results", "--sql", statement)
        assert said.code == 2, statement
        assert "search" in said.err
    assert ids(six) == [6, 5, 4, 3, 2, 1]
    assert not list(tmp_path.glob("*.db"))
    assert "<" in six("results", "--sql", "SELECT predicted FROM prediction LIMIT 1").out


def test_rm_removes_all_that_belongs_to_a_result(six: Run) -> None:
    assert six("results", "rm", "1", "2").code == 2  # nobody said yes
    assert ids(six) == [6, 5, 4, 3, 2, 1]
    assert six("results", "rm", "1", "99", "--yes").code == 2
    assert ids(six) == [6, 5, 4, 3, 2, 1]  # all or none
    assert six("results", "rm", "5", "--yes").code == 0
    left = results.ask(
        results_path(), "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM run WHERE search = 5)"
    )
    assert left.rows == [(1, 0)]
    assert six("results", "rm", "1", "2", "3", "4", "6", "--yes").code == 0
    counts = " + ".join(f"(SELECT count(*) FROM {table})" for table in ("search", "run", "prediction", "items"))
    assert results.ask(results_path(), f"SELECT {counts}").rows == [(0,)]
    assert "no results yet" in six("results").out


def test_an_option_s_value_is_no_result(six: Run) -> None:
    assert ids(six, "--shots", "2") == [3, 1]
    assert json.loads(six("results", "--json", "2").out)["id"] == 2
    with pytest.raises(ConfigError, match="SELECT"):
        results.ask(results_path(), "DROP TABLE run")
