"""Gumbel search: sequential halving and the improved policy, worked by hand."""

from __future__ import annotations

import pytest
import torch
from table_world import random_world

from xtra_rl.search import RecurrentOutput, gumbel_search
from xtra_rl.search.gumbel import considered_visits

LOGITS = torch.zeros(1, 4)
GUMBEL = torch.tensor([[3.0, 2.0, 1.0, 0.0]])


def one_step_bandit(action, embedding):
    """Arm 1 pays 1, the others 0."""
    return RecurrentOutput((action == 1).float(), torch.zeros(1), LOGITS), embedding


def search(**options):
    return gumbel_search(LOGITS, torch.zeros(1), torch.zeros(1, 1), one_step_bandit, gumbel=GUMBEL, **options)


def test_sequential_halving_spends_equal_visits_in_each_phase():
    # 16 simulations, 4 actions, log2(4) = 2 phases: 16 / (2 * 4) = 2 visits each, then 16 / (2 * 2) = 4 for
    # two.
    assert considered_visits(4, 16) == [0] * 4 + [1] * 4 + [2, 2, 3, 3, 4, 4, 5, 5]
    assert considered_visits(1, 3) == [0, 1, 2]


def test_two_simulations_with_two_candidates_worked_by_hand():
    # The two largest g + logits are arms 0 and 1; each is visited once, Q = 0 and 1.
    # Mixed value of the unvisited arms: (v + 2 * (.25 * 0 + .25 * 1) / .5) / 3 = 1/3.
    # sigma = (50 + 1) * 0.1 * q = 5.1 q, so arm 1 wins: 2 + 5.1 > 3 + 0.
    result = search(num_simulations=2, max_num_considered_actions=2)
    assert result.visit_counts.tolist() == [[1, 1, 0, 0]]
    assert result.action.item() == 1
    expected = torch.softmax(5.1 * torch.tensor([[0.0, 1.0, 1 / 3, 1 / 3]]), dim=-1)
    torch.testing.assert_close(result.action_weights, expected)


def test_rescale_floor_keeps_small_differences_small():
    # The Q range is 1, so a floor of 4 divides sigma by 4: arm 1 still wins, 2 + 1.275 > 3. A floor of 10: 2
    # + .51 < 3.
    quarter = search(num_simulations=2, max_num_considered_actions=2, rescale_floor=4.0)
    expected = torch.softmax(5.1 / 4 * torch.tensor([[0.0, 1.0, 1 / 3, 1 / 3]]), dim=-1)
    torch.testing.assert_close(quarter.action_weights, expected)
    assert quarter.action.item() == 1
    assert search(num_simulations=2, max_num_considered_actions=2, rescale_floor=10.0).action.item() == 0


def test_only_the_candidates_with_most_noise_and_prior_are_visited():
    result = search(num_simulations=12, max_num_considered_actions=2)
    assert result.visit_counts[0, 2:].tolist() == [0, 0]


def test_no_noise_means_the_largest_logits():
    logits = torch.tensor([[0.0, 1.0, 3.0, 2.0]])
    result = gumbel_search(
        logits,
        torch.zeros(1),
        torch.zeros(1, 1),
        one_step_bandit,
        num_simulations=2,
        max_num_considered_actions=2,
    )
    assert result.visit_counts.tolist() == [[0, 0, 1, 1]]


def test_improved_policy_is_better_than_the_prior_under_its_own_values():
    # With exact values (rewards only, no bootstrap) the expected reward may not fall, whatever the noise.
    world, generator = random_world(3, num_states=64, num_actions=6)
    world.value.zero_()
    world.prior_logits.div_(2)
    states = torch.arange(32)
    gumbel = -torch.empty(32, 6, dtype=torch.float64).exponential_(generator=generator).log()
    result = gumbel_search(*world.roots(states), num_simulations=8, discount=0.0, gumbel=gumbel)
    reward = world.reward[states]
    before = (world.prior_logits[states].softmax(-1) * reward).sum(-1)
    after = (result.action_weights * reward).sum(-1)
    assert after.mean() > before.mean() + 0.1
    chosen = reward.gather(1, result.action.unsqueeze(1)).mean()
    assert chosen > before.mean() + 0.1


def test_action_weights_of_illegal_actions_are_zero():
    invalid = torch.tensor([[True, False, False, True]])
    result = search(num_simulations=6, invalid_actions=invalid)
    assert result.action_weights[0, [0, 3]].tolist() == [0.0, 0.0]
    assert result.visit_counts[0, [0, 3]].tolist() == [0, 0]
    assert result.action_weights.sum().item() == pytest.approx(1.0)


def test_a_legal_action_without_prior_is_visited_before_an_illegal_one():
    # Both score -1e9, the floor of root scores; only the mask keeps illegal action 0 from winning the tie.
    logits = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]])
    invalid = torch.tensor([[True, False, False, True]])
    result = gumbel_search(
        logits,
        torch.zeros(1),
        torch.zeros(1, 1),
        one_step_bandit,
        num_simulations=2,
        invalid_actions=invalid,
    )
    assert result.visit_counts.tolist() == [[0, 1, 1, 0]]
