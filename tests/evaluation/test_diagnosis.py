"""The diagnosis of agents whose faults are known: a perfect model of a line, and models that are wrong in one way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from xtra_rl.data import TrajectoryReplayBuffer
from xtra_rl.evaluation.diagnosis import Diagnosis, examine, other_actions
from xtra_rl.evaluation.diagnosis_figure import draw_diagnosis
from xtra_rl.evaluation.diagnosis_tables import (
    beats,
    by_unroll_step,
    clustered_interval,
    explained_variance,
    in_words,
    summary,
)
from xtra_rl.search import MCTSPlanner
from xtra_rl.search.types import InitialOutput, RecurrentOutput

CELLS, K, HORIZON, DISCOUNT = 9, 2, 3, 0.5


class Line(torch.nn.Module):
    """A walker on a ring of cells: action 1 goes one on, 0 stays, 2 is illegal; a step into cell 0 is worth 1.

    The latent is the cell, one-hot, and the value what walking on and on would bring: all of it is right.
    """

    num_actions, value_prefix_horizon, projection = 3, None, None

    class support:  # noqa: N801
        @staticmethod
        def decode(scalar):
            return scalar

    def represent(self, stack):
        # A frame is the cell's number everywhere.
        return torch.nn.functional.one_hot(stack[:, -1, 0, 0].long(), CELLS).float()

    def initial_state(self, latent):
        return None

    def step(self, latent, action, state):
        following = torch.where((action == 1)[:, None], latent.roll(1, 1), latent)
        return following, following[:, 0] * (action == 1), state

    def predict(self, latent):
        # Steps until cell 0 comes next, then a reward every CELLS steps.
        cell = latent.argmax(1)
        distance = (CELLS - cell) % CELLS
        distance = torch.where(distance == 0, CELLS, distance)
        value = DISCOUNT ** (distance - 1.0) / (1 - DISCOUNT**CELLS)
        return torch.zeros(len(latent), 3), value

    def initial_inference(self, observation):
        latent = self.represent(observation)
        logits, value = self.predict(latent)
        return InitialOutput(logits, value, TensorDict({"latent": latent}, latent.shape[:1]))

    def recurrent_inference(self, action, embedding):
        latent, reward, _ = self.step(embedding["latent"], action, None)
        logits, value = self.predict(latent)
        return RecurrentOutput(reward, value, logits), TensorDict({"latent": latent}, latent.shape[:1])


class Blind(Line):
    """Its dynamics does not see the action."""

    def step(self, latent, action, state):
        return super().step(latent, torch.ones_like(action), state)


class Inverted(Line):
    """Its dynamics takes every action for the other one."""

    def step(self, latent, action, state):
        return super().step(latent, 1 - action.clamp(max=1), state)


def walk(steps=60, games=3):
    """Replay of walkers that mostly go on; games end by truncation."""
    buffer = TrajectoryReplayBuffer(1000, num_actions=3, alpha=0.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    for game in range(games):
        action = (torch.rand(steps, generator=generator) < 0.8).long()
        cell = (torch.cat([torch.zeros(1).long(), action.cumsum(0)]) + game) % CELLS
        reward = ((cell[1:] == 0) & (action == 1)).float()
        rows = {
            "pixels": cell.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
            "action": torch.cat([action, action[:1]]),
            "reward": torch.cat([reward, torch.zeros(1)]),
        }
        buffer.extend_trajectory(TensorDict(rows, [steps + 1]))
    return buffer


def diagnosis(model, positions=120):
    windows = walk().sample_windows(positions, unroll_steps=K, bootstrap_steps=HORIZON, frame_stack=1)
    planner = MCTSPlanner(model, num_simulations=20, discount=DISCOUNT, backend="reference")
    legal = torch.tensor([True, True, False])
    return examine(
        planner,
        model,
        windows,
        windows["index"].numpy() // 61,
        other_actions(windows["action"][:, :K], legal, torch.Generator().manual_seed(1)),
        action_mask=legal,
        unroll_steps=K,
        frame_stack=1,
        horizon=HORIZON,
    )


def test_a_perfect_model_is_found_perfect():
    found = diagnosis(Line())
    known = np.isfinite(found.similar_true)
    assert known.mean() > 0.9
    assert (found.similar_true[known] == 1).all()
    assert (found.similar_random[known] == 0).all()
    rewarded = np.isfinite(found.reward_target)
    np.testing.assert_allclose(found.reward[rewarded], found.reward_target[rewarded])
    numbers = summary(found)
    assert numbers["action/true_beats_random"] == 1
    assert numbers["reward/explained"] == 1
    assert numbers["search/improvement"] > 0  # the prior is uniform, walking is better than standing
    assert numbers["policy/prior_entropy_share"] == pytest.approx(1)
    assert numbers["games"] == 3


def test_a_model_blind_to_the_action_is_found_out():
    numbers = summary(diagnosis(Blind()))
    assert numbers["action/true_beats_random"] == 0.5
    assert numbers["action/effect"] == 0
    assert numbers["action/interval"] == [0.5, 0.5]


def test_a_model_that_takes_actions_for_others_is_worse_than_chance():
    assert summary(diagnosis(Inverted()))["action/true_beats_random"] == 0


def test_returns_are_the_rewards_up_to_the_horizon_and_the_network_s_value_behind_it():
    found, model = diagnosis(Line()), Line()
    windows = walk().sample_windows(120, unroll_steps=K, bootstrap_steps=HORIZON, frame_stack=1)
    for i in range(120):
        there = int(windows["transition_mask"][i].sum())
        for k in range(min(K + 1, there)):
            steps = min(HORIZON, there - k)
            value = model.predict(model.represent(windows["pixels"][i, k + steps][None]))[1].item()
            expected = sum(DISCOUNT**j * windows["reward"][i, k + j].item() for j in range(steps))
            assert found.value_target[i, k] == pytest.approx(expected + DISCOUNT**steps * value)


def test_what_lies_behind_the_end_of_a_game_is_not_judged():
    found = diagnosis(Line(), positions=180)  # all of them
    last = np.isnan(found.similar_true).all(1)
    assert not last.any()  # every position has at least its own transition
    assert np.isnan(found.similar_true[:, K - 1]).sum() == 3  # one in each game has no second
    assert np.isnan(found.reward_target).sum() == 3
    assert np.isnan(found.value_target).sum() == 3 * (1 + 2)


def test_one_legal_action_leaves_nothing_to_compare():
    with pytest.raises(ValueError, match="one legal action"):
        other_actions(torch.zeros(1, 1).long(), torch.tensor([True, False, False]), torch.Generator())


def test_intervals_know_that_positions_of_a_game_are_alike():
    values, group = np.repeat([0.0, 1.0, 2.0], 100), np.repeat([0, 1, 2], 100)
    mean, low, high = clustered_interval(values, group)
    assert (mean, low, high) == (1.0, 0.0, 2.0)
    _, low, high = clustered_interval(values, np.arange(300))
    assert 0.85 < low < high < 1.15
    assert math.isnan(clustered_interval(np.array([np.nan]), np.zeros(1))[0])


def test_one_game_has_no_interval_and_no_verdict(tmp_path):
    mean, low, high = clustered_interval(np.array([0.0, 1.0, 1.0]), np.array([4, 4, 4]))
    assert mean == pytest.approx(2 / 3)
    assert math.isnan(low)
    assert math.isnan(high)
    found = diagnosis(Line())
    one = replace(found, group=np.zeros(120, int), differs=np.repeat([0.0, 1.0], 60))
    numbers = summary(one)
    for name in ("action/interval", "action/where_it_differs_interval", "search/improvement_interval"):
        assert numbers[name] == [None, None]
    text = in_words(numbers)
    assert text.startswith(
        "Whether the next latent depends on the action is open, since one game has no interval: "
    )
    assert "at 100.0% of the positions\n(one game, no interval; 50 %" in text
    assert "95 %" not in text
    assert draw_diagnosis(one, tmp_path / "diagnosis.png", title="a line").stat().st_size > 20_000
    # Three games, but another action brings another frame in one of them only.
    some = replace(found, differs=(found.group == 1).astype(float))
    assert "is open, since one game has no interval" in in_words(summary(some))


def test_positions_that_the_emulator_could_not_answer_are_counted():
    found = diagnosis(Line())
    numbers = summary(replace(found, differs=np.repeat([0.0, 1.0], 60)))
    assert numbers["action/answered"] == 120
    assert "The emulator shows another frame after the other action at 50.0% of them" in in_words(numbers)
    numbers = summary(replace(found, differs=np.repeat([0.0, 1.0, np.nan], 40)))
    assert numbers["action/answered"] == 80
    assert "The emulator, which could answer at 80 of 120 positions, shows another" in in_words(numbers)


def test_explained_variance_and_ties():
    true = np.array([0.0, 1.0, 2.0, 3.0])
    assert explained_variance(true, true) == 1
    assert explained_variance(np.full(4, 1.5), true) == 0
    assert explained_variance(3 - true, true) == -3
    assert math.isnan(explained_variance(true, np.ones(4)))
    assert beats(np.array([1.0, 0.0, 0.5, np.nan]), np.array([0.0, 1.0, 0.5, 0.0]))[:3].tolist() == [
        1.0,
        0.0,
        0.5,
    ]


def test_parts_join_and_the_picture_is_drawn(tmp_path):
    one = diagnosis(Line(), positions=20)
    both = Diagnosis.join([one, diagnosis(Blind(), positions=30)])
    assert len(both.group) == 50
    assert [row["step"] for row in by_unroll_step(both)] == [0, 1, 2]
    picture = draw_diagnosis(both, tmp_path / "new" / "diagnosis.png", title="a line")
    assert picture.stat().st_size > 20_000


def test_a_model_is_judged_where_another_action_brings_another_frame():
    found = diagnosis(Line())
    assert np.isnan(found.differs).all()
    numbers = summary(found)
    assert numbers["action/differs"] is numbers["action/where_it_differs"] is None
    assert numbers["action/where_it_differs_interval"] == [None, None]
    assert "The emulator" not in in_words(numbers)
    # The second model is blind, and only its positions differ.
    both = Diagnosis.join([found, diagnosis(Blind())])
    both = replace(both, differs=np.repeat([0.0, 1.0], 120))
    numbers = summary(both)
    assert numbers["action/differs"] == 0.5
    assert numbers["action/true_beats_random"] == 0.75
    assert numbers["action/where_it_differs"] == 0.5
    text = in_words(numbers)
    assert "does NOT clearly depend on the action" in text
    assert "another frame after the other action at 50.0% of them" in text
