"""A thousand random searches: the compiled backend visits what the reference visits."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from table_world import TableWorld, random_mask, random_world

from xtra_rl.search import backends, gumbel_search, puct_search
from xtra_rl.search.noise import dirichlet_noise, gumbel_noise

SEARCHES = 1000
BLOCKS = 20


def random_search(seed):
    """Everything that a search can be told, drawn by the seed; dyadic numbers, so that every tie is a true one."""
    rng = np.random.default_rng(seed)
    num_actions = int(rng.choice([2, 3, 5, 9, 18]))
    dtype = [torch.float32, torch.float64][rng.integers(2)]
    world, generator = random_world(seed, num_actions=num_actions, dtype=dtype)
    if rng.random() < 0.3:
        world.prior_logits.zero_()  # ties everywhere
    batch = int(rng.choice([1, 3, 7, 65]))
    states = torch.randint(len(world.value), (batch,), generator=generator)
    invalid = random_mask(batch, num_actions, generator)
    horizon = [None, 1, 2, 5][rng.integers(4)]
    roots = world.roots(states) if horizon is None else world.prefix_roots(states, horizon)
    options = {
        "num_simulations": int(rng.choice([1, 2, 8, 25, 50])),
        "discount": float(rng.choice([0.5, 1.0])),
        "invalid_actions": invalid if rng.random() < 0.5 else None,
        "value_prefix_horizon": horizon,
    }
    kind = ["tree", "siblings", "gumbel"][rng.integers(3)]
    if kind == "gumbel":
        options["max_num_considered_actions"] = int(rng.choice([1, 2, 4, 16]))
        options["rescale_floor"] = float(rng.choice([1e-8, 0.5]))
        if rng.random() < 0.5:
            options["gumbel"] = gumbel_noise(~invalid, generator)
    else:
        options["q_normalization"] = kind
        options["pb_c_init"] = float(rng.choice([0.5, 1.25]))
        options["pb_c_base"] = float(rng.choice([50.0, 19652.0]))
        options["value_delta_max"] = float(rng.choice([0.01, 1.0]))
        if rng.random() < 0.5:
            options["root_noise"] = dirichlet_noise(~invalid, 0.3, generator)
    ties = int(seed) if rng.random() < 0.5 else None
    options["mask_below_root"] = rng.random() < 0.5
    return (gumbel_search if kind == "gumbel" else puct_search), roots, options, ties


def run(backend, search, roots, options, ties):
    generator = None if ties is None else torch.Generator().manual_seed(ties)
    return search(*roots, backend=backend, generator=generator, **options)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_numba_visits_what_the_reference_visits(block):
    per_block = SEARCHES // BLOCKS
    for seed in range(block * per_block, (block + 1) * per_block):
        drawn = random_search(seed)
        found, expected = run("numba", *drawn), run("reference", *drawn)
        for name in ("children_index", "children_visits", "parents", "node_depths"):
            assert torch.equal(getattr(found.tree, name), getattr(expected.tree, name)), (seed, name)
        for name in ("visit_counts", "action"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), (seed, name)
        for name in ("root_value", "qvalues", "action_weights", "depth", "entropy"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), msg=f"{seed} {name}")


def test_the_searches_of_this_file_are_not_all_alike():
    drawn = [random_search(seed) for seed in range(100)]
    assert {search for search, *_ in drawn} == {puct_search, gumbel_search}
    for key in ("num_simulations", "invalid_actions", "value_prefix_horizon", "mask_below_root"):
        assert len({str(options[key]) for _, _, options, _ in drawn}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("search", [puct_search, gumbel_search])
def test_trees_do_not_depend_on_the_number_of_threads(search, threads):
    world, generator = random_world(3, num_actions=6, dtype=torch.float32)
    states = torch.randint(len(world.value), (130,), generator=generator)
    expected = search(*world.roots(states), num_simulations=30, backend="reference")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = search(*world.roots(states), num_simulations=30, backend="numba")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.visit_counts, expected.visit_counts)


def test_the_choice_of_auto_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(backends, "_announced", set())
    world, _ = random_world(0, num_actions=3, dtype=torch.float32)
    with caplog.at_level(logging.INFO, "xtra_rl"):
        for _ in range(3):
            puct_search(*world.roots(torch.arange(2)), num_simulations=2)
    assert [record.getMessage() for record in caplog.records] == ["search on cpu: backend 'numba'"]


def test_auto_falls_back_to_the_reference_and_says_why(caplog, monkeypatch):
    monkeypatch.setattr(backends, "_announced", set())
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "xtra_rl"):
        assert backends.resolve_backend("auto", torch.device("cpu")) == "reference"
    assert "needs the package numba: pip install numba" in caplog.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cuda",
            r"backend is 'cuda', which does not exist: choose one of 'auto', 'reference', 'numba', 'triton'",
        ),
        ("Numba", "which does not exist"),
    ],
)
def test_an_unknown_backend_is_named(name, message):
    world: TableWorld = random_world(0, dtype=torch.float32)[0]
    with pytest.raises(ValueError, match=message):
        puct_search(*world.roots(torch.arange(2)), num_simulations=2, backend=name)
