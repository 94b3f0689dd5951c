"""How much sooner a system learns, on scores whose ratios are worked out by hand."""

from __future__ import annotations

import math

import pytest
from report_samples import SCORES, SYSTEMS, fast_manifests, write_sample

from xtra_rl.recipes.report import main
from xtra_rl.report.collect import collect
from xtra_rl.report.efficiency import Pair, _compared, ablation_table, efficiency_table
from xtra_rl.studies import System


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    fast_manifests(monkeypatch)


def numbers(group):
    return {(row["statistic"], row.get("part")): row["mean"] for row in efficiency_table(group).numbers}


def test_ratios_are_those_worked_out_by_hand(tmp_path):
    write_sample(tmp_path)
    (group,) = collect([tmp_path])
    found = numbers(group)
    # Over EfficientZero's means, 200 and 50: its runs are at 0.5 1 1 1 1 1.5, XTRA's at 1.25 1.5 1.6 1.75 2 2.4.
    # The middle four have means 1 and 1.7125. All were at half of that after 200 of 400 env steps.
    assert found["IQM ratio", "the whole"] == pytest.approx(1.7125)
    assert found["IQM ratio", "a half"] == pytest.approx(1.7125)
    assert found["IQM ratio", "a quarter"] is None
    # Alien: 250 > 100, 200; 300 > 100, 200 and ties; 350 > all: 7.5 of 9. Amidar: all.
    assert found["P(better)", "the whole"] == pytest.approx((7.5 / 9 + 1) / 2)
    # XTRA's mean over games: 0.875 after 200, 1.75 after 400.
    assert found["steps", None] == 400


def test_scores_may_average_several_evaluations(tmp_path):
    write_sample(tmp_path)
    (group,) = collect([tmp_path], last=2)
    # Play before the first env step is not among them: (0.5 + 1) / 2 of the final score.
    assert group.by_task("xtra")["alien"] == [187.5, 225.0, 262.5]
    assert numbers(group)["IQM ratio", "the whole"] == pytest.approx(1.7125)
    assert group.evaluations == "the last 2 evaluations"
    (group,) = collect([tmp_path], last=50)
    assert group.evaluations == "all evaluations (2, fewer than the 50 that were asked for)"
    with pytest.raises(ValueError, match="last is 0"):
        collect([tmp_path], last=0)


def test_a_score_that_is_never_reached_is_said(tmp_path):
    low = {"efficientzero": {"alien": (100.0, 200.0)}, "xtra": {"alien": (10.0, 20.0)}}
    write_sample(tmp_path, scores=low)
    (group,) = collect([tmp_path])
    (row,) = efficiency_table(group).rows
    assert row.cells[-1].text == "not reached"
    assert math.isinf(row.cells[-1].value)
    assert numbers(group)["steps", None] is None


def test_a_baseline_that_is_below_zero_at_first_has_no_ratio_there():
    """As Pong's -21: one cell is empty, the page is not lost."""
    ours = {"pong": {200: [-10.0, -9.0, -8.0], 400: [12.0, 12.0, 12.0]}}
    theirs = {"pong": {200: [-20.0, -20.0, -20.0], 400: [6.0, 6.0, 6.0]}}
    pair = Pair(ours, theirs, [200, 400])
    early, late = _compared(pair, 200), _compared(pair, 400)
    assert early["IQM ratio"] is None
    assert early["P(better)"].mean == 1
    assert late["IQM ratio"].mean == 2


def test_games_on_which_nothing_is_comparable_are_left_out(tmp_path):
    zero = {"efficientzero": {"alien": (0.0, 0.0)}, "xtra": {"alien": (10.0, 20.0)}}
    write_sample(tmp_path, scores=zero)
    (group,) = collect([tmp_path])
    assert efficiency_table(group) is None


def test_games_that_share_no_step_of_training_are_not_compared(tmp_path, monkeypatch):
    write_sample(tmp_path)
    (group,) = collect([tmp_path])
    ends = {"alien": 10, "amidar": 20}
    monkeypatch.setattr(
        "xtra_rl.report.efficiency.curve",
        lambda group, system, target: {0: [1.0, 2.0], ends[target]: [2.0, 3.0]},
    )
    assert efficiency_table(group) is None


def test_the_whole_method_is_compared_with_what_lacks_a_part_of_it(tmp_path):
    part = System(
        "no_cross_task", "XTRA, no cross-task", "xtra_finetune", ("pretrained=true",), "no_cross_task"
    )
    clones = System("bc", "Behaviour cloning", "behaviour_cloning", (), "bc_finetuned")
    scores = {"no_cross_task": {"alien": (200.0, 200.0, 200.0), "amidar": (110.0, 100.0, 90.0)}}
    scores |= SCORES | {"bc": SCORES["xtra"]}
    write_sample(tmp_path, systems=(*SYSTEMS, part, clones), scores=scores)
    (group,) = collect([tmp_path])
    table = ablation_table(group)
    assert [row.title for row in table.rows] == ["XTRA, no cross-task"]
    found = {(row["statistic"], row["part"]): row["mean"] for row in table.numbers}
    # Over its means, 200 and 100: XTRA is at 0.8 1 1.2 1.25 1.5 1.75, the part at 0.9 1 1 1 1 1.1.
    assert found["IQM ratio", "the whole"] == pytest.approx((1 + 1.2 + 1.25 + 1.5) / 4)
    # Alien: always. Amidar: 80 beats none, 100 beats 90 and ties, 120 beats all.
    assert found["P(better)", "the whole"] == pytest.approx((1 + 4.5 / 9) / 2)


def test_without_an_ablation_there_is_no_such_table(tmp_path):
    write_sample(tmp_path)
    (group,) = collect([tmp_path])
    assert ablation_table(group) is None


def test_the_page_has_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr("xtra_rl.report.page.pictures", lambda group: [])
    write_sample(tmp_path / "study")
    assert main([str(tmp_path / "study"), "--out", str(tmp_path / "out"), "--last", "2", "--no-videos"]) == 0
    assert (tmp_path / "out" / "tables" / "efficiency.csv").is_file()
    assert "Sample efficiency" in (tmp_path / "out" / "index.html").read_text()
