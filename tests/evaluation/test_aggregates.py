"""Aggregates over tasks and seeds: answers that can be worked out in the head, and other people's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from xtra_rl.evaluation.aggregates import (
    Interval,
    interquartile_mean,
    mean,
    median,
    optimality_gap,
    probability_of_improvement,
    relative_improvement,
    stratified_bootstrap,
)
from xtra_rl.evaluation.metrics import efficientzero_normalized_scores, human_normalized_scores

STATISTICS = (mean, median, interquartile_mean, optimality_gap)
#: Means 2, 4, 0, 10 of unequal numbers of runs.
RAGGED = {"alien": [1, 3], "amidar": [2, 4, 6], "pong": [0], "qbert": [8, 9, 11, 12]}


def test_mean_and_median_count_a_task_once():
    assert mean(RAGGED) == (2 + 4 + 0 + 10) / 4
    assert median(RAGGED) == (2 + 4) / 2
    # Pooled, four cheap runs would outvote the dear one.
    assert mean({"alien": [0, 0, 0, 0], "pong": [10]}) == 5


def test_interquartile_mean_pools_the_runs():
    assert interquartile_mean({"alien": [1, 2, 3, 4], "pong": [5, 6, 7, 8]}) == (3 + 4 + 5 + 6) / 4
    # Five runs: int(5 / 4) = 1 is left out at each end, whichever tasks they belong to.
    assert interquartile_mean({"alien": [1, 2, 3, 4], "pong": [100]}) == (2 + 3 + 4) / 3
    assert interquartile_mean({"alien": [1, 2], "pong": [9]}) == 4


def test_optimality_gap_gives_no_credit_above_gamma():
    # min(x, 1): alien 0 and 1, pong 0.5 and 0.5.
    assert optimality_gap({"alien": [0, 200], "pong": [0.5, 0.5]}) == 0.5
    assert optimality_gap({"alien": [-1, 200], "pong": [0.5]}, gamma=2) == 2 - (0.5 + 0.5) / 2
    assert optimality_gap({"alien": [0, 0, 0], "pong": [1]}) == 0.5


def test_probability_of_improvement_compares_every_pair():
    # 1 > 0, 1 < 3, 2 > 0, 2 < 3.
    assert probability_of_improvement({"pong": [1, 2]}, {"pong": [0, 3]}) == 0.5
    # One sure win and one tie.
    assert probability_of_improvement({"a": [2], "b": [1]}, {"a": [1], "b": [1]}) == (1 + 0.5) / 2
    # A task counts once: 1 of 1 pair, and 0 of 6.
    assert probability_of_improvement({"a": [1], "b": [0, 0]}, {"a": [0], "b": [1, 1, 1]}) == 0.5


def test_relative_improvement_is_the_gain_of_each_task_averaged():
    assert relative_improvement({"a": [3], "b": [5, 5]}, {"a": [1, 3], "b": [10]}) == (0.5 - 0.5) / 2


def test_leading_axes_are_kept():
    batch = {"a": [[1, 3], [5, 7]], "b": [[0], [2]]}
    assert mean(batch).tolist() == [1, 4]
    assert interquartile_mean(batch).tolist() == [(0 + 1 + 3) / 3, (2 + 5 + 7) / 3]
    assert probability_of_improvement(batch, {"a": [4], "b": [1]}).tolist() == [0, 1]


def test_draws_are_independent_in_each_task():
    # Four coins: the mean is 0 or 1 in a sixteenth of the draws each, 1/4 or 3/4 in a quarter each. Tasks drawn
    # together would give (0, 1).
    coins = {"alien": [0, 1], "pong": [0, 1]}
    assert stratified_bootstrap(mean, coins, level=0.8) == Interval(0.5, 0.25, 0.75)
    assert stratified_bootstrap(mean, coins) == Interval(0.5, 0, 1)
    assert stratified_bootstrap(mean, coins, level=0.2) == Interval(0.5, 0.5, 0.5)


def test_both_sides_of_a_comparison_are_drawn():
    sure, coin = {"pong": [1]}, {"pong": [0, 2]}
    assert stratified_bootstrap(probability_of_improvement, sure, coin) == Interval(0.5, 0, 1)
    assert stratified_bootstrap(probability_of_improvement, coin, sure) == Interval(0.5, 0, 1)
    assert stratified_bootstrap(probability_of_improvement, sure, sure) == Interval(0.5, 0.5, 0.5)


def test_seed_decides_the_interval():
    scores = {"alien": np.random.default_rng(0).normal(size=20)}
    first, again, other = (stratified_bootstrap(mean, scores, seed=seed, draws=200) for seed in (0, 0, 1))
    assert first == again != other


def test_human_normalised_runs():
    # (1294.6 - 222.4) / (742.0 - 222.4); the spelling of the paper is understood.
    scores = {"Assault": [222.4, 742.0, 1294.6]}
    assert human_normalized_scores(scores)["Assault"] == pytest.approx([0, 1, 2.0635], abs=1e-4)
    assert human_normalized_scores({"carnival": [700.8]}, third_party=True) == {"carnival": [0.0]}
    with pytest.raises(ValueError, match="without a published human score: carnival; leave them out, or"):
        human_normalized_scores({"carnival": [1.0], "assault": [1.0]})


def test_efficientzero_normalised_runs():
    assert efficientzero_normalized_scores({"a": [1, 3]}, {"a": 2, "b": 0}) == {"a": [0.5, 1.5]}
    with pytest.raises(ValueError, match="^efficientzero has no score for 'a'; it has b"):
        efficientzero_normalized_scores({"a": [1]}, {"b": 2})
    with pytest.raises(ValueError, match=r"^efficientzero\['a'\]=-21.0 must be positive"):
        efficientzero_normalized_scores({"a": [1]}, {"a": -21.0})


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "hold no task"),
        ({"pong": []}, "of 'pong' are empty; leave a task without runs out"),
        ({"pong": 3.0}, "of 'pong' are 3.0; expected a sequence"),
        ({"pong": [1.0, math.nan]}, "of 'pong' hold nan, which is not finite; leave a missing run out"),
        ({"alien": [1.0], "pong": [math.inf]}, "of 'pong' hold inf"),
    ],
)
def test_bad_scores_are_named(scores, message):
    for statistic in STATISTICS:
        with pytest.raises(ValueError, match=f"^scores {message}"):
            statistic(scores)


def test_bad_comparisons_and_options_are_named():
    a, ab = {"a": [1.0]}, {"a": [1.0], "b": [1.0]}
    for statistic in (probability_of_improvement, relative_improvement):
        with pytest.raises(ValueError, match="^x and y must have the same tasks; only one of them has b"):
            statistic(a, ab)
    with pytest.raises(ValueError, match="^y has a task with mean 0; .* use probability_of_improvement"):
        relative_improvement(a, {"a": [0.0]})
    with pytest.raises(ValueError, match="^level=95 must lie between 0 and 1"):
        stratified_bootstrap(mean, a, level=95)
    with pytest.raises(ValueError, match="^draws=0"):
        stratified_bootstrap(mean, a, draws=0)
    with pytest.raises(ValueError, match=r"of 'a' have shape \[1, 2\]; the bootstrap draws from \[runs\]"):
        stratified_bootstrap(mean, {"a": [[1.0, 2.0]]})


runs = st.lists(st.integers(-1000, 1000).map(lambda x: x / 16), min_size=1, max_size=6)
cells = st.dictionaries(st.sampled_from("abcdef"), runs, min_size=1)
pairs = st.dictionaries(st.sampled_from("abcdef"), st.tuples(runs, runs), min_size=1).map(
    lambda cells: tuple({task: both[side] for task, both in cells.items()} for side in (0, 1))
)


@settings(deadline=None)
@given(cells, st.randoms())
def test_order_of_tasks_and_runs_does_not_matter(scores, random):
    tasks = list(scores)
    random.shuffle(tasks)
    shuffled = {task: random.sample(scores[task], len(scores[task])) for task in tasks}
    for statistic in STATISTICS:
        assert statistic(shuffled) == pytest.approx(statistic(scores), abs=1e-9)
    intervals = [stratified_bootstrap(median, one, draws=20)[1:] for one in (scores, shuffled)]
    assert intervals[0] == intervals[1]


@settings(deadline=None)
@given(cells, st.data())
def test_a_better_run_never_hurts(scores, data):
    task = data.draw(st.sampled_from(sorted(scores)))
    place = data.draw(st.integers(0, len(scores[task]) - 1))
    better = {**scores, task: [x + 5 * (k == place) for k, x in enumerate(scores[task])]}
    for statistic in (mean, median, interquartile_mean):
        assert statistic(better) >= statistic(scores) - 1e-9
    assert optimality_gap(better) <= optimality_gap(scores) + 1e-9
    assert probability_of_improvement(better, scores) >= 0.5


@settings(deadline=None)
@given(cells)
def test_aggregates_lie_between_the_extremes(scores):
    pooled = [x for cell in scores.values() for x in cell]
    for statistic in (mean, median, interquartile_mean):
        assert min(pooled) - 1e-9 <= statistic(scores) <= max(pooled) + 1e-9
    assert max(0, 1 - max(pooled)) - 1e-9 <= optimality_gap(scores) <= 1 - min(*pooled, 1) + 1e-9


@settings(deadline=None)
@given(pairs)
def test_one_of_two_is_better(both):
    x, y = both
    forth, back = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert 0 <= forth <= 1
    assert forth + back == pytest.approx(1)
    assert probability_of_improvement(x, x) == pytest.approx(0.5)


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_intervals_of_means_and_probabilities_contain_their_value(both):
    for interval in (
        stratified_bootstrap(mean, both[0], draws=500),
        stratified_bootstrap(probability_of_improvement, *both, draws=500),
    ):
        assert interval.low - 1e-9 <= interval.value <= interval.high + 1e-9


@settings(deadline=None)
@given(cells)
def test_wider_levels_give_wider_intervals(scores):
    for statistic in STATISTICS:
        narrow, wide = (
            stratified_bootstrap(statistic, scores, level=level, draws=50) for level in (0.5, 0.9)
        )
        assert wide.low <= narrow.low <= narrow.high <= wide.high


@settings(deadline=None)
@given(pairs)
def test_scipy_agrees(both):
    x, y = both
    pooled = np.concatenate(list(x.values()))
    assert interquartile_mean(x) == pytest.approx(scipy.stats.trim_mean(pooled, 0.25), abs=1e-9)
    wins = [
        scipy.stats.mannwhitneyu(x[task], y[task], alternative="greater").statistic
        / (len(x[task]) * len(y[task]))
        for task in x
    ]
    assert probability_of_improvement(x, y) == pytest.approx(np.mean(wins))


@pytest.fixture
def rliable():
    """The paper's own library, where it is installed: ``pip install rliable "pandas<3"``."""
    try:
        from rliable import library, metrics
    except (ImportError, TypeError) as error:  # With pandas 3 its dependency ``arch`` raises a TypeError.
        pytest.skip(f"rliable cannot be imported: {error}")
    return library, metrics


def matrices() -> tuple[np.ndarray, np.ndarray]:
    """``[runs, tasks]`` of two systems, on a coarse grid so that there are ties."""
    rng = np.random.default_rng(3)
    return rng.gamma(2, 0.5, (5, 10)).round(1), rng.gamma(2, 0.4, (7, 10)).round(1)


def by_task(matrix: np.ndarray) -> dict[str, np.ndarray]:
    return {f"task{column}": matrix[:, column] for column in range(matrix.shape[1])}


def counterparts(metrics) -> tuple:
    """Our aggregates and rliable's."""
    theirs = ("mean", "median", "iqm", "optimality_gap")
    return tuple(zip(STATISTICS, (getattr(metrics, f"aggregate_{name}") for name in theirs)))


def test_rliable_agrees_on_values(rliable):
    _, metrics = rliable
    x, y = matrices()
    for ours, theirs in counterparts(metrics):
        assert ours(by_task(x)) == pytest.approx(theirs(x), abs=1e-12)
    expected = metrics.probability_of_improvement(x, y)
    assert probability_of_improvement(by_task(x), by_task(y)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
def test_rliable_agrees_on_intervals(rliable):
    library, metrics = rliable
    x, y = matrices()
    _, bounds = library.get_interval_estimates(
        {"x": x},
        lambda one: np.array([theirs(one) for _, theirs in counterparts(metrics)]),
        reps=20_000,
        random_state=np.random.RandomState(0),
    )
    intervals = [stratified_bootstrap(ours, by_task(x), draws=20_000) for ours, _ in counterparts(metrics)]
    bounds_of_ours = np.array([interval[1:] for interval in intervals]).T
    # Quantiles of 20,000 draws of spread 0.07 scatter by 0.0015; two of them, four sigma.
    np.testing.assert_allclose(bounds_of_ours, bounds["x"], atol=0.009)
    _, bounds = library.get_interval_estimates(
        {"xy": (x, y)},
        lambda *both: np.array([metrics.probability_of_improvement(*both)]),
        reps=2000,
        random_state=np.random.RandomState(0),
    )
    ours = stratified_bootstrap(probability_of_improvement, by_task(x), by_task(y), draws=20_000)
    np.testing.assert_allclose(ours[1:], bounds["xy"][:, 0], atol=0.012)


@pytest.mark.slow
@pytest.mark.parametrize(("num_runs", "expected"), [(5, 0.913), (30, 0.945)])
def test_intervals_cover_as_often_as_their_docs_say(num_runs, expected):
    """Draws of ten normal tasks spread by sqrt(1 - 1/n) of what runs do, known from 10 (n - 1) residuals."""
    student = scipy.stats.t(10 * (num_runs - 1))
    assert 2 * student.cdf(1.96 * math.sqrt(1 - 1 / num_runs)) - 1 == pytest.approx(expected, abs=1e-3)
    rng = np.random.default_rng(num_runs)
    centres, trials = np.linspace(-2, 2, 10), 1000
    hits = np.zeros(2)
    for _ in range(trials):
        x, y = (by_task(rng.normal(centres + shift, 1.0, (num_runs, 10))) for shift in (1.0, 0.0))
        of_mean = stratified_bootstrap(mean, x, draws=500)
        of_wins = stratified_bootstrap(probability_of_improvement, x, y, draws=500)
        # Two normals of spread 1, one of them 1 higher.
        truth = scipy.stats.norm.cdf(1 / math.sqrt(2))
        hits += of_mean.low <= 1.0 <= of_mean.high, of_wins.low <= truth <= of_wins.high
    # 1000 trials scatter by 0.9 %.
    assert hits[0] / trials == pytest.approx(expected, abs=0.027)
    assert 0.85 < hits[1] / trials < 0.98
