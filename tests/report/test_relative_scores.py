"""Scores relative to a system that was run: its own spread is in every interval, worked out by hand."""

from __future__ import annotations

import math
import shutil

import pytest
from report_samples import SCORES, SYSTEMS, fast_manifests, write_sample

from xtra_rl.evaluation import aggregates
from xtra_rl.report.collect import collect
from xtra_rl.report.curves import aggregate_bar_rows, aggregate_rows
from xtra_rl.report.efficiency import efficiency_table
from xtra_rl.report.measures import Normalisation
from xtra_rl.report.paper_tables import paper_tables
from xtra_rl.report.tables import aggregates_table

# Two seeds drawn anew are 100 100, 100 300 or 300 300: a mean of 100 in a quarter of the draws, 200 in a half of them,
# 300 in a quarter. XTRA's 200 is then 2, 1 or 2/3 of it, so that 95 % of the draws reach from 2/3 to 2.
SPREAD = {"efficientzero": {"alien": (100.0, 300.0)}, "xtra": {"alien": (200.0, 200.0)}}
WIDE = (pytest.approx(1.0), pytest.approx(2 / 3), pytest.approx(2.0))


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    fast_manifests(monkeypatch)


def sample(folder, **options):
    write_sample(folder, **options)
    (group,) = collect([folder])
    return group


def interval(row):
    return row["mean"], row["low"], row["high"]


def test_every_table_and_picture_draws_the_seeds_of_both_sides(tmp_path):
    group = sample(tmp_path, scores=SPREAD)
    places = {
        "aggregates": [
            row
            for row in aggregates_table(group).numbers
            if row["statistic"].endswith("relative to EfficientZero")
        ],
        "bars": [row for row in aggregate_bar_rows(group) if row["normalised"] != "human-normalised"],
        "curve": [
            row
            for row in aggregate_rows(group)
            if row["normalised"] != "human-normalised" and row["env_step"] == 400
        ],
        "efficiency": [
            row
            for row in efficiency_table(group).numbers
            if (row["statistic"], row.get("part")) == ("IQM ratio", "the whole")
        ],
        "table1": [row for row in paper_tables(group)[0].numbers if row["game"] == "mean, overall"],
    }
    for name, rows in places.items():
        own = [row for row in rows if row["system"] in ("XTRA", "xtra")]
        assert own, name
        for row in own:
            assert interval(row) == WIDE, (name, row)


def test_the_reference_is_exactly_one_and_has_no_interval(tmp_path):
    group = sample(tmp_path, scores=SPREAD)
    rows = [row for row in aggregate_bar_rows(group) if row["normalised"] != "human-normalised"]
    rows = [row for row in rows if row["system"] == "EfficientZero"]
    assert [row["statistic"] for row in rows] == ["mean", "median", "interquartile mean"]
    assert [interval(row) for row in rows] == [(1.0, None, None)] * 3
    # At half of the budget each seed has half of its end: the ratio is 1/2 in whatever seeds are drawn.
    half = next(row for row in aggregate_rows(group) if row["env_step"] == 200 and row["system"] == "EfficientZero"
                and row["normalised"] != "human-normalised")  # fmt: skip
    assert interval(half) == (0.5, None, None)


def test_seeds_of_the_reference_are_drawn_together_with_their_own_units():
    # 100 and 200 at the end, 100 and 0 before. Drawn 100 100: 100 / 100; 100 200: 50 / 150; 200 200: 0 / 200.
    way = Normalisation({"alien": [100.0, 200.0]})
    found = way.aggregate(aggregates.mean, {"alien": [100.0, 0.0]}, own=True)
    assert found == (pytest.approx(1 / 3), 0.0, 1.0, 2)


def test_a_reference_of_one_seed_gives_no_interval():
    found = Normalisation({"alien": [100.0]}).aggregate(aggregates.mean, {"alien": [100.0, 300.0]})
    assert found[::3] == (2.0, 1)
    assert math.isnan(found.low)


def test_a_reference_that_may_be_zero_gives_no_interval():
    found = Normalisation({"alien": [0.0, 100.0]}).aggregate(aggregates.mean, {"alien": [100.0, 300.0]})
    assert found[::3] == (4.0, 2)
    assert math.isnan(found.low)


def test_published_constants_have_no_spread():
    # Pong: random play has -20.7 and a human 14.6, so the interval is that of the two seeds.
    found = Normalisation().aggregate(aggregates.mean, {"pong": [-20.7, 14.6]})
    assert found == (0.5, 0.0, 1.0, 2)


def test_systems_that_share_the_reference_s_runs_are_one_too(tmp_path):
    study = write_sample(tmp_path, scores=SPREAD)
    large = SYSTEMS[0].__class__("large", "EfficientZero-L", "xtra_finetune", ("pretrained=false",))
    plans = [
        plan.__class__(**(vars(plan) | {"system": "large"}))
        for plan in study.runs
        if plan.system == "efficientzero"
    ]
    from xtra_rl.studies import write_study

    write_study(
        tmp_path,
        study.__class__(**(vars(study) | {"systems": (*SYSTEMS, large), "runs": (*study.runs, *plans)})),
    )
    (group,) = collect([tmp_path])
    rows = [row for row in aggregate_bar_rows(group) if row["normalised"] != "human-normalised"]
    assert {interval(row) for row in rows if row["system"] == "EfficientZero-L"} == {(1.0, None, None)}


def test_games_that_the_reference_has_not_played_are_lacking(tmp_path):
    # EfficientZero has not run on Amidar: of two games one is compared.
    write_sample(tmp_path)
    for seed in range(3):
        shutil.rmtree(tmp_path / "runs" / "efficientzero" / f"amidar-s{seed}")
    (group,) = collect([tmp_path])
    table = aggregates_table(group)
    for row in table.rows:
        cells = dict(zip(table.columns, row.cells))
        for statistic in ("mean", "median", "interquartile mean"):
            cell = cells[f"{statistic}, relative to EfficientZero"]
            assert cell.state == "partial", (row.title, statistic)
            assert "1 of 2 games" in cell.note


def test_games_where_the_reference_scores_nothing_are_not_lacking(tmp_path):
    # A ratio to nothing is not defined on Amidar, whoever runs: one of one game is compared, and Table 1 has 10 - 1.
    scores = {name: tasks | {"amidar": (0.0, 0.0, 0.0)} for name, tasks in SCORES.items()}
    group = sample(tmp_path, scores=scores)
    table = aggregates_table(group)
    cells = dict(zip(table.columns, table.rows[1].cells))
    assert cells["mean, relative to EfficientZero"].state == ""
    assert cells["mean, human-normalised"].state == ""
    table1 = paper_tables(group)[0]
    row = next(row for row in table1.rows if row.title == "mean, overall")
    assert "1 of 9 games" in dict(zip(table1.columns, row.cells))["XTRA"].note
