"""Human-normalised scores."""

from __future__ import annotations

import pytest

from xtra_rl.evaluation.metrics import human_normalized, task_human_normalized


def test_random_is_zero_and_human_is_one():
    assert human_normalized(222.4, random=222.4, human=742.0) == 0.0
    assert human_normalized(742.0, random=222.4, human=742.0) == 1.0


def test_assault_of_the_paper():
    # (1294.6 - 222.4) / (742.0 - 222.4) = 1072.2 / 519.6 = 2.0635
    assert human_normalized(1294.6, random=222.4, human=742.0) == pytest.approx(2.0635, abs=1e-4)


def test_negative_scores_are_fine():
    # Pong is 20.7 points above random play out of the 35.3 between random and human.
    assert human_normalized(0.0, random=-20.7, human=14.6) == pytest.approx(20.7 / 35.3)


@pytest.mark.parametrize(
    ("score", "random", "human", "name"),
    [
        (float("nan"), 0.0, 1.0, "score"),
        (0.0, None, 1.0, "random"),
        (0.0, 0.0, float("inf"), "human"),
        (0.0, 1.0, 1.0, "human"),
    ],
)
def test_bad_input_is_named(score, random, human, name):
    with pytest.raises(ValueError, match=f"^{name}="):
        human_normalized(score, random, human)


def test_only_scores_that_published_work_uses_are_human_normalised():
    assert task_human_normalized("Assault", 742.0) == 1.0
    # Their human scores come from a table that nobody normalises with.
    assert task_human_normalized("carnival", 22870.0) is None
    assert task_human_normalized("pooyan", 3004.3) is None
    assert task_human_normalized("a game of another process", 1.0) is None
