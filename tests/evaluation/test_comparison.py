"""Agents side by side."""

from __future__ import annotations

import numpy as np
import pytest

from xtra_rl.evaluation import comparison
from xtra_rl.evaluation.comparison import agent_bars, bootstrap_interval
from xtra_rl.evaluation.figures import Series


def test_interval_of_equal_scores_is_a_point_and_of_two_values_spans_them():
    assert bootstrap_interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    assert bootstrap_interval([0.0, 10.0]) == (0.0, 10.0)


def test_interval_covers_the_mean_about_as_often_as_it_says():
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


def test_runs_keep_their_colour_over_a_panel_for_each_task(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(comparison, "save_figure", lambda figure, path: saved.append(figure) or path)
    steps = np.arange(3.0)
    pairs = (("a", "alien"), ("b", "alien"), ("b", "pong"))
    curves = [comparison.Curve(label, task, Series(10 * steps, steps, steps)) for label, task in pairs]
    comparison.learning_curves(curves, tmp_path / "x.png")
    alien, pong = saved[0].axes
    assert [axes.get_title(loc="left") for axes in (alien, pong)] == ["alien", "pong"]
    assert alien.lines[0].get_color() != alien.lines[1].get_color() == pong.lines[0].get_color()
    assert pong.lines[0].get_xdata().tolist() == [0.0, 10.0, 20.0]
    with pytest.raises(ValueError, match="there is no curve to draw"):
        comparison.learning_curves([], tmp_path / "x.png")
