"""Facts that hold for every search: counts, symmetry, independence of the rows, ties, embeddings."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_world import TableWorld, random_mask, random_world
from tensordict import TensorDict

from xtra_rl.search import gumbel_search, puct_search

SEARCHES = {
    "tree": partial(puct_search, q_normalization="tree"),
    "siblings": partial(puct_search, q_normalization="siblings"),
    "gumbel": gumbel_search,
}


@pytest.fixture(params=SEARCHES, name="search")
def _search(request):
    return SEARCHES[request.param]


def assert_same(left, right, rows=slice(None)):
    """Equal in all fields; ``rows`` picks rows of the left result."""
    for name in ("visit_counts", "root_value", "qvalues", "action_weights", "action"):
        torch.testing.assert_close(getattr(left, name)[rows], getattr(right, name), msg=name)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(SEARCHES)),
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 5),
    num_actions=st.integers(1, 7),
    num_simulations=st.integers(1, 24),
    random_ties=st.booleans(),
)
def test_visits_add_up_in_every_node(kind, seed, batch, num_actions, num_simulations, random_ties):
    world, generator = random_world(seed, num_actions=num_actions, dtype=torch.float32)
    states = torch.randint(len(world.value), (batch,), generator=generator)
    invalid = random_mask(batch, num_actions, generator)
    result = SEARCHES[kind](
        *world.roots(states),
        num_simulations=num_simulations,
        invalid_actions=invalid,
        generator=generator if random_ties else None,
    )
    tree = result.tree
    assert torch.equal(result.visit_counts.sum(-1), torch.full((batch,), num_simulations))
    assert not result.visit_counts[invalid].any()
    assert not result.action_weights[invalid].any()
    assert not invalid.gather(1, result.action.unsqueeze(1)).any()
    torch.testing.assert_close(result.action_weights.sum(-1), torch.ones(batch))
    assert torch.equal(tree.node_visits, 1 + tree.children_visits.sum(-1))
    assert torch.equal(tree.children_visits > 0, tree.children_index != tree.UNVISITED)
    assert (tree.parents[:, 1:] < torch.arange(1, num_simulations + 1)).all()
    assert tree.max_depth == tree.node_depths.max()
    reached = tree.edges(tree.children_index).gather(1, tree.parent_edges[:, 1:])
    assert torch.equal(reached, torch.arange(1, num_simulations + 1).expand(batch, -1))


def test_rows_do_not_influence_each_other(search):
    world, generator = random_world(1, num_actions=5)
    states = torch.arange(12)
    invalid = random_mask(12, 5, generator)
    together = search(*world.roots(states), num_simulations=20, invalid_actions=invalid)
    order = torch.randperm(12, generator=generator)
    permuted = search(*world.roots(states[order]), num_simulations=20, invalid_actions=invalid[order])
    assert_same(together, permuted, order)
    for row in range(12):
        alone = search(
            *world.roots(states[row : row + 1]), num_simulations=20, invalid_actions=invalid[row : row + 1]
        )
        assert_same(together, alone, slice(row, row + 1))


def test_permuting_the_actions_permutes_the_result(search):
    world, generator = random_world(2, num_actions=6)
    order = torch.randperm(6, generator=generator)
    renamed = TableWorld(
        world.prior_logits[:, order], world.value, world.reward[:, order], world.next_state[:, order]
    )
    states = torch.arange(10)
    plain = search(*world.roots(states), num_simulations=25)
    other = search(*renamed.roots(states), num_simulations=25)
    assert torch.equal(plain.visit_counts[:, order], other.visit_counts)
    torch.testing.assert_close(plain.qvalues[:, order], other.qvalues)
    assert torch.equal(plain.action, order[other.action])


def test_illegal_actions_at_the_root_do_not_influence_the_others(search):
    world, generator = random_world(4, num_actions=5)
    invalid = random_mask(8, 5, generator)
    changed = TableWorld(*(table.clone() for table in vars(world).values()))
    # Roots are states of their own here, so that their rows may be changed without touching the rest of the
    # tree.
    world.next_state.clamp_(min=8)
    changed.next_state.clamp_(min=8)
    changed.prior_logits[:8][invalid] += 5
    changed.reward[:8][invalid] += 100
    states = torch.arange(8)
    assert_same(
        search(*world.roots(states), num_simulations=20, invalid_actions=invalid),
        search(*changed.roots(states), num_simulations=20, invalid_actions=invalid),
    )


def test_ties_are_broken_evenly_by_a_generator_and_reproducibly(search):
    world, _ = random_world(0, num_states=1, num_actions=5)
    world.prior_logits.zero_()
    batch = 2000
    invalid = torch.tensor([False, True, False, False, False]).expand(batch, -1)
    roots = world.roots(torch.zeros(batch, dtype=torch.int64))

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        return search(*roots, num_simulations=1, invalid_actions=invalid, generator=generator).visit_counts

    # 2000 draws over 4 legal actions: 500 each, standard deviation sqrt(2000 * 3/16) = 19.4.
    counts = run(7).sum(0)
    assert counts[1] == 0
    assert ((counts[[0, 2, 3, 4]] - 500).abs() < 5 * 19.4).all()
    assert torch.equal(run(7), run(7))
    assert not torch.equal(run(7), run(8))


def test_random_ties_do_not_matter_without_ties(search):
    world, generator = random_world(5, num_actions=6)
    invalid = random_mask(10, 6, generator)
    roots = world.roots(torch.arange(10))
    plain = search(*roots, num_simulations=30, invalid_actions=invalid)
    random = search(*roots, num_simulations=30, invalid_actions=invalid, generator=generator)
    assert_same(plain, random)
    for name in ("children_index", "children_visits", "children_prior", "parents", "parent_edges"):
        torch.testing.assert_close(
            getattr(plain.tree, name)[:, 1:], getattr(random.tree, name)[:, 1:], msg=name
        )


def test_tensordict_embeddings_give_the_same_search_as_tensors(search):
    world, _ = random_world(6, num_actions=4)
    states = torch.arange(9)
    logits, value, _, _ = world.roots(states)

    def step(action, embedding):
        output, nxt = world.step(action, embedding["inner", "state"])
        picture = nxt.float().view(-1, 1, 1).expand(-1, 2, 3)
        return output, TensorDict({"inner": {"state": nxt}, "picture": picture}, batch_size=nxt.shape)

    embedding = TensorDict({"inner": {"state": states}, "picture": torch.zeros(9, 2, 3)}, batch_size=[9])
    assert_same(
        search(logits, value, embedding, step, num_simulations=20),
        search(*world.roots(states), num_simulations=20),
    )


def test_inputs_are_left_as_they_were_and_no_gradient_is_recorded(search):
    world, generator = random_world(8, num_actions=3)
    world.prior_logits.requires_grad_()
    logits, value, states, step = world.roots(torch.arange(4))
    before = [logits.clone(), value.clone(), states.clone()]
    result = search(logits, value, states, step, num_simulations=5, generator=generator)
    assert not result.action_weights.requires_grad
    for left, right in zip(before, (logits, value, states), strict=True):
        assert torch.equal(left, right)


def test_half_precision_inputs_are_searched_in_float32(search):
    world, _ = random_world(9, dtype=torch.float32)
    logits, value, states, step = world.roots(torch.arange(4))
    result = search(logits.bfloat16(), value.bfloat16(), states, step, num_simulations=3)
    assert result.root_value.dtype == torch.float32
