"""The batched search agrees with a slow search of one tree at a time on hundreds of random worlds."""

from __future__ import annotations

import pytest
import search_oracle as oracle
import torch
from table_world import random_mask, random_world

from xtra_rl.search import gumbel_search, puct_search
from xtra_rl.search.noise import dirichlet_noise, gumbel_noise

BATCH = 5


def assert_same_roots(result, roots, discount):
    num_actions = result.visit_counts.shape[1]
    for row, root in enumerate(roots):
        visits = [root.child_visits(action) for action in range(num_actions)]
        assert result.visit_counts[row].tolist() == visits
        assert result.root_value[row].item() == pytest.approx(root.value, abs=1e-9)
        for action, child in root.children.items():
            assert result.qvalues[row, action].item() == pytest.approx(root.q(action, discount), abs=1e-9)
            assert_same_node(result.tree, row, int(result.tree.children_index[row, 0, action]), child)


def assert_same_node(tree, row, index, node):
    assert index > 0
    assert tree.node_visits[row, index].item() == node.visits
    assert tree.node_values[row, index].item() == pytest.approx(node.value, abs=1e-9)
    assert tree.node_rewards[row, index].item() == pytest.approx(node.reward, abs=1e-9)
    for action in range(tree.num_actions):
        child = int(tree.children_index[row, index, action])
        assert (child != tree.UNVISITED) == (action in node.children)
        if action in node.children:
            assert_same_node(tree, row, child, node.children[action])


def search_settings(seed):
    """A world, its roots and settings that vary with the seed."""
    num_actions = 2 + seed % 4
    world, generator = random_world(seed, num_actions=num_actions)
    states = torch.randint(len(world.value), (BATCH,), generator=generator)
    invalid = random_mask(BATCH, num_actions, generator)
    num_simulations = (1, 7, 20, 33)[seed // 4 % 4]
    discount = (0.5, 1.0, 0.25)[seed % 3]
    return world, generator, states, invalid, num_simulations, discount


@pytest.mark.parametrize("normalization", ["tree", "siblings"])
@pytest.mark.parametrize("block", range(4))
def test_puct_visits_what_the_oracle_visits(normalization, block):
    for seed in range(16 * block, 16 * (block + 1)):
        world, generator, states, invalid, num_simulations, discount = search_settings(seed)
        noise = dirichlet_noise(~invalid, 0.3, generator).double() if seed % 2 else None
        options = {"pb_c_init": (1.25, 0.4)[seed % 2], "pb_c_base": (19652.0, 20.0)[seed // 2 % 2]}
        common = {"num_simulations": num_simulations, "discount": discount, **options}
        common["mask_below_root"] = seed // 16 % 2 == 1
        delta = (0.01, 1.0)[seed // 8 % 2]
        result = puct_search(
            *world.roots(states),
            invalid_actions=invalid,
            root_noise=noise,
            q_normalization=normalization,
            value_delta_max=delta,
            **common,
        )
        roots = [
            oracle.puct(
                world,
                int(state),
                invalid=invalid[row].tolist(),
                noise=None if noise is None else noise[row].tolist(),
                normalization=normalization,
                value_delta_max=delta,
                **common,
            )
            for row, state in enumerate(states)
        ]
        assert_same_roots(result, roots, discount)


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_value_prefix_search_equals_search_with_the_plain_rewards(horizon):
    # The prefix is a sum of plain rewards that starts anew at each reset, so its differences are these
    # rewards. Wrong resets give wrong rewards as soon as a tree is deeper than the horizon, which is
    # asserted.
    for seed in range(16):
        world, _, states, invalid, _, discount = search_settings(seed)
        common = {"num_simulations": 24, "discount": discount}
        result = puct_search(
            *world.prefix_roots(states, horizon),
            invalid_actions=invalid,
            value_prefix_horizon=horizon,
            **common,
        )
        roots = [
            oracle.puct(world, int(state), invalid=invalid[row].tolist(), **common)
            for row, state in enumerate(states)
        ]
        assert result.tree.node_depths.max() > horizon
        assert_same_roots(result, roots, discount)


@pytest.mark.parametrize("block", range(4))
def test_gumbel_visits_what_the_oracle_visits(block):
    for seed in range(16 * block, 16 * (block + 1)):
        world, generator, states, invalid, num_simulations, discount = search_settings(seed)
        noise = gumbel_noise(~invalid, generator).double()
        considered = (1, 2, 4, 16)[seed // 2 % 4]
        floor = (1e-8, 0.5)[seed % 2]
        horizon = (None, 2)[seed // 4 % 2]
        masked = seed // 16 % 2 == 1
        roots = world.roots(states) if horizon is None else world.prefix_roots(states, horizon)
        result = gumbel_search(
            *roots,
            num_simulations=num_simulations,
            discount=discount,
            invalid_actions=invalid,
            gumbel=noise,
            max_num_considered_actions=considered,
            rescale_floor=floor,
            mask_below_root=masked,
            value_prefix_horizon=horizon,
        )
        expected = [
            oracle.gumbel(
                world,
                int(state),
                num_simulations=num_simulations,
                discount=discount,
                invalid=invalid[row].tolist(),
                gumbel=noise[row].tolist(),
                max_considered=considered,
                floor=floor,
                mask_below_root=masked,
            )
            for row, state in enumerate(states)
        ]
        assert_same_roots(result, [root for root, _, _ in expected], discount)
        policies = torch.tensor([policy for _, policy, _ in expected], dtype=torch.float64)
        torch.testing.assert_close(result.action_weights, policies)
        assert result.action.tolist() == [action for _, _, action in expected]


def test_equal_priors_and_values_give_ties_to_the_lowest_action():
    world, _ = random_world(0, num_actions=4)
    world.prior_logits.zero_()
    world.value.zero_()
    world.reward.zero_()
    states = torch.arange(BATCH)
    result = puct_search(*world.roots(states), num_simulations=21, discount=1.0)
    roots = [
        oracle.puct(world, s, num_simulations=21, discount=1.0, invalid=[False] * 4) for s in range(BATCH)
    ]
    assert_same_roots(result, roots, 1.0)
    assert result.visit_counts.tolist() == [[6, 5, 5, 5]] * BATCH
