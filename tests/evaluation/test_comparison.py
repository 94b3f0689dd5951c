"""Agents side by side."""

from __future__ import annotations

import pytest

from xtra_rl.evaluation.comparison import agent_bars, bootstrap_interval


def test_interval_of_equal_scores_is_a_point_and_of_two_values_spans_them():
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert bootstrap_interval([0.0, 10.0]) == (0.0, 10.0)


def test_interval_covers_the_mean_about_as_often_as_it_says():
    import numpy as np

    rng = np.random.default_rng(1)
    hits = [
        low <= 5.0 <= high for low, high in (bootstrap_interval(rng.normal(5, 2, 30)) for _ in range(300))
    ]
    # 93 % are expected of 30 scores; 300 trials scatter by 1.5 %.
    assert 0.88 < sum(hits) / len(hits) < 0.98


def test_picture_is_written_with_missing_agents(tmp_path):
    scores = [
        {"task": task, "agent": agent, "mode": "greedy", "return": value}
        for task, agent, value in (
            ("alien", "teacher", 1.0),
            ("alien", "teacher", 2.0),
            ("amidar", "student", "4.5"),
        )
    ]
    picture = agent_bars(scores, tmp_path / "deep" / "bars.png", scale="smoke", seed=0)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="could not convert"):
        agent_bars([{**scores[0], "return": "none"}], tmp_path / "bars.png", scale="smoke", seed=0)
