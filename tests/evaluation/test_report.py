"""The table at the end of a run."""

from __future__ import annotations

from xtra_rl.evaluation.report import format_table


def test_columns_are_aligned_and_missing_cells_marked():
    rows = [
        {"task": "assault", "random": 222.4, "score at end": 507.25, "HNS": 0.548},
        {"task": "pooyan", "random": None, "score at end": 1007.0, "HNS": float("nan")},
    ]
    assert format_table(rows).splitlines() == [
        "task     random  score at end    HNS",
        "-------  ------  ------------  -----",
        "assault   222.4         507.2  0.548",
        "pooyan        -        1007.0      -",
    ]


def test_columns_can_be_chosen_and_integers_stay_whole():
    rows = [{"episodes": 32, "x": 1}, {"episodes": 8, "y": -3.5}]
    assert format_table(rows, columns=["y", "episodes"]).splitlines()[2:] == [
        "     -        32",
        "-3.500         8",
    ]


def test_no_rows_give_a_sentence_not_a_crash():
    assert format_table([]) == "(no results)"
