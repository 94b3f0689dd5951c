"""pUCT search on bandits small enough to be followed by hand."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.search import RecurrentOutput, puct_search


def bandit(rewards, *, prior_logits=None, value=0.0):
    """Roots and model of a bandit: the root's arms pay ``rewards``, after that everything is worth 0."""
    rewards = torch.tensor([rewards])
    logits = torch.zeros_like(rewards) if prior_logits is None else torch.tensor([prior_logits])

    def step(action, embedding):
        reward = torch.where(embedding[:, 0] == 0, rewards[0, action], torch.zeros(1))
        return RecurrentOutput(reward, torch.zeros(1), torch.zeros_like(rewards)), embedding + 1

    return logits, torch.tensor([value]), torch.zeros(1, 1), step


def test_better_arm_is_left_only_when_its_exploration_term_has_fallen_by_one():
    # Two arms with prior 1/2 pay 0 and 1, c is about 1.25, and N counts the root's own expansion.
    # Simulation 1: no Q yet, equal priors, so the tie goes to arm 0.  Simulation 2: arm 1 has fewer visits.
    # From then on normalised Q is 0 and 1, and arm 0 (one visit) is chosen again once
    #   c / 2 * sqrt(N) * (1 / 2 - 1 / (1 + n_1)) > 1   with   N = n_1 + 2.
    # n_1 = 12, N = 14: 0.625 * 3.742 * (1/2 - 1/13) = 0.990;  n_1 = 13, N = 15: 0.625 * 3.873 * (1/2 - 1/14)
    # = 1.037. (the logarithm in c adds 0.0008, too little to matter.)
    after_14 = puct_search(*bandit([0.0, 1.0]), num_simulations=14, discount=1.0)
    after_15 = puct_search(*bandit([0.0, 1.0]), num_simulations=15, discount=1.0)
    assert after_14.visit_counts.tolist() == [[1, 13]]
    assert after_15.visit_counts.tolist() == [[2, 13]]
    # 13 returns of 1, one of 0, and the network value 0.
    assert after_14.root_value.item() == pytest.approx(13 / 15)
    assert after_14.qvalues.tolist() == [[0.0, 1.0]]
    assert after_14.action.item() == 1
    assert after_14.action_weights[0].tolist() == pytest.approx([1 / 14, 13 / 14])


def test_prior_decides_the_first_choice_in_every_new_node():
    # EfficientZero's code would choose at random: its exploration term is 0 in a node that was just expanded.
    logits, value, embedding, _ = bandit([0.0, 0.0, 0.0], prior_logits=[0.0, 0.0, 2.0])

    def step(action, embedding):
        return RecurrentOutput(torch.zeros(1), torch.zeros(1), torch.tensor([[0.0, 3.0, 0.0]])), embedding

    result = puct_search(logits, value, embedding, step, num_simulations=2)
    # Simulation 1 takes action 2. Simulation 2 has prior .787 / 2 against .107: again 2, then the node's
    # action 1.
    assert result.tree.action_from_parent[0, 1:].tolist() == [2, 1]
    assert result.tree.parents[0, 1:].tolist() == [0, 1]


def test_root_value_includes_the_network_value_of_the_root():
    # Network value 3 and one return of 1: EfficientZero's code reports (0 + 1) / 2.
    result = puct_search(*bandit([1.0], value=3.0), num_simulations=1, discount=1.0)
    assert result.root_value.item() == 2.0


def test_noise_replaces_a_quarter_of_the_prior_and_none_of_it_reaches_illegal_actions():
    invalid = torch.tensor([[False, False, True]])
    noise = torch.tensor([[0.0, 1.0, 9.0]])
    result = puct_search(
        *bandit([0.0, 0.0, 0.0]), num_simulations=1, invalid_actions=invalid, root_noise=noise
    )
    # The prior over the two legal actions is 1/2 each: 3/4 * 1/2 = 0.375, and 0.375 + 1/4 = 0.625.
    assert result.tree.children_prior[0, 0].tolist() == pytest.approx([0.375, 0.625, 0.0])
    assert result.visit_counts.tolist() == [[0, 1, 0]]


def test_values_are_stretched_to_the_range_of_the_tree():
    # Arms pay 0, 0, 0.02. Simulations 1-3 visit each arm once: unvisited arms count as the mean and explore
    # more. Then arm 2 has normalised Q 1 and leads: 4. 1 + .417 * sqrt(4) / 2 against .417 * sqrt(4) / 2;
    # 5. 1 + .417 * sqrt(5) / 3 = 1.31 against .417 * sqrt(5) / 2 = .47.
    result = puct_search(*bandit([0.0, 0.0, 0.02]), num_simulations=5, discount=1.0)
    assert result.visit_counts.tolist() == [[1, 1, 3]]


def test_value_range_below_value_delta_max_is_not_stretched():
    # With a range of at least 100, arm 2 leads by 0.0002 only: enough for simulation 4, where all arms have
    # equal visits, but not for 5: .417 * sqrt(5) / 3 = .31 against .417 * sqrt(5) / 2 = .47, a tie that arm 0
    # wins.
    result = puct_search(*bandit([0.0, 0.0, 0.02]), num_simulations=5, discount=1.0, value_delta_max=100.0)
    assert result.visit_counts.tolist() == [[2, 1, 2]]


def test_visits_do_not_depend_on_the_scale_of_rewards():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, generator=generator).tolist()
    scaled = [16 * x for x in base]
    counts = [puct_search(*bandit(r), num_simulations=40, discount=1.0).visit_counts for r in (base, scaled)]
    assert torch.equal(*counts)
