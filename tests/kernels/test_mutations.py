"""Bugs planted in the kernels: each of them must be caught, or the tests beside this file prove nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from worlds import Problem, assert_same_trees

from xtra_rl.kernels import search_kernels
from xtra_rl.search.triton_backend import gather_latents

SOURCE = Path(search_kernels.__file__).read_text()

#: Small branching and horizon make trees deep enough for a wrong reset to matter.
DEEP = {"batch": 4, "actions": 3, "simulations": 14, "horizon": 2, "masked": True}
MASKED = {"batch": 16, "actions": 3, "simulations": 14, "masked": True, "below": True, "seed": 1}
TIED = {"batch": 4, "actions": 4, "simulations": 8, "random_ties": True, "seed": 3}
#: Many visits of few actions, and values that are no small fractions.
MANY = {"batch": 16, "actions": 2, "simulations": 30, "rough": True, "random_ties": True}

#: What is replaced by what, where it shows.
MUTATIONS = {
    "the prefix restarts one step late": (
        "base = tl.where(depth % HORIZON == 0, 0.0, leaf_reward)",
        "base = tl.where(depth % HORIZON == 1, 0.0, leaf_reward)",
        ("puct_tree", DEEP),
    ),
    "the parent's prefix stays in the reward": (
        "leaf_reward -= tl.load(node_prefix_bases + nodes + up, mask=live, other=0)",
        "leaf_reward -= 0.0",
        ("puct_tree", DEEP),
    ),
    "the root's Q is among the bounds": (
        "exists = ((node > 0) & (node < num_nodes))",
        "exists = ((node >= 0) & (node < num_nodes))",
        ("puct_tree", DEEP),
    ),
    "the newest node's Q is not among the bounds": (
        "exists = ((node > 0) & (node < num_nodes))",
        "exists = ((node > 0) & (node < num_nodes - 1))",
        ("puct_tree", DEEP),
    ),
    "returns are not discounted": (
        "returns = reward + discount * returns",
        "returns = reward + returns",
        ("puct_tree", DEEP),
    ),
    "a node is not counted on the way up": (
        "visits = tl.load(node_visits + nodes + up, mask=climbs, other=0) + 1",
        "visits = tl.load(node_visits + nodes + up, mask=climbs, other=0) + 0",
        ("puct_siblings", DEEP),
    ),
    "the parent's mean does not count as a sample": (
        "share = divide(tl.full(count.shape, 1, count.dtype), count + 1)",
        "share = divide(tl.full(count.shape, 1, count.dtype), count + 2)",
        ("puct_tree", DEEP),
    ),
    "siblings are compared without their parent": (
        "low = tl.minimum(tl.min(completed, axis=1), node_value)",
        "low = tl.min(completed, axis=1)",
        ("puct_siblings", MANY),
    ),
    "one visit too many under the prior": (
        "scores = divide(prior * weight[:, None], visits + 1)",
        "scores = divide(prior * weight[:, None], visits + 2)",
        ("puct_tree", DEEP),
    ),
    "illegal actions are illegal everywhere": (
        "allowed = mask & ((illegal == 0) | (node > 0)[:, None])",
        "allowed = mask & (illegal == 0)",
        ("puct_tree", DEEP),
    ),
    "ties are drawn once for all simulations": (
        "+ num_nodes.to(tl.uint32) * 0x85EBCA77",
        "+ 0x85EBCA77",
        ("puct_tree", TIED),
    ),
    "ties go to the lowest key": (
        "candidate = key == tl.max(key, axis=1)[:, None]",
        "candidate = key == tl.min(tl.where(key < 0, 2147483647, key), axis=1)[:, None]",
        ("gumbel", TIED),
    ),
    "halving is a visit late": (
        "tl.where(visits == considered[:, None], at_root",
        "tl.where(visits == considered[:, None] + 1, at_root",
        ("gumbel", DEEP),
    ),
    "visits below the root do not count": (
        "below -= divide(visits, tl.zeros_like(visits) + node_visits[:, None])",
        "below -= 0.0",
        ("gumbel_soft", MANY),
    ),
    "the mixed value forgets a visit": (
        "mixed = divide(raw_value + (node_visits - 1) * mean, node_visits)",
        "mixed = divide(raw_value + (node_visits - 2) * mean, node_visits)",
        ("gumbel", DEEP),
    ),
    "the Q transform forgets the visits": (
        "most = tl.max(visits, axis=1)",
        "most = tl.max(visits * 0, axis=1)",
        ("gumbel_soft", MANY),
    ),
    "children of a new node are not marked unvisited": (
        "tl.store(children_index + own_edges, tl.zeros_like(logits).to(tl.int32) - 1, mask=within)",
        "tl.store(children_index + own_edges, tl.zeros_like(logits).to(tl.int32), mask=within)",
        ("puct_tree", DEEP),
    ),
    "Q values of a new node are not cleared": (
        "tl.store(children_qvalues + own_edges, tl.zeros_like(logits), mask=within)",
        "pass",
        ("puct_tree", DEEP),
    ),
    "visits of a new node are not cleared": (
        "tl.store(children_visits + own_edges, tl.zeros_like(logits), mask=within)",
        "pass",
        ("gumbel", DEEP),
    ),
    "what is illegal at the root is searched below it": (
        "if not MASK_BELOW_ROOT:",
        "if True:",
        ("puct_tree", MASKED),
    ),
    "a latent is read from another tree": (
        "tl.store(row + tree, (node * batch_size + tree).to(tl.int64), mask=live)",
        "tl.store(row + tree, (node * batch_size).to(tl.int64), mask=live)",
        ("puct_tree", DEEP),
    ),
}


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """``plant(source)``: let the backend use these kernels instead of its own."""

    def use(source: str) -> None:
        file = tmp_path / "planted_kernels.py"
        file.write_text(source)
        spec = importlib.util.spec_from_file_location("planted_kernels", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Triton looks for the source and the globals of a kernel in its module.
        monkeypatch.setitem(sys.modules, "planted_kernels", module)
        spec.loader.exec_module(module)
        monkeypatch.setattr("xtra_rl.kernels.search_kernels", module)

    return use


def compare(rule: str, settings: dict, device: torch.device) -> None:
    """Require the trees of the reference."""
    problem = Problem(rule, **settings)
    assert_same_trees(problem.run("triton", device), problem.run("reference"))


# A few of them always, all of them where there is time.
SOME = [pytest.param(name, marks=[] if i % 6 == 0 else pytest.mark.slow) for i, name in enumerate(MUTATIONS)]


@pytest.mark.interpreted
@pytest.mark.parametrize("name", SOME)
def test_a_planted_bug_is_caught(name, plant, device):
    old, new, (rule, settings) = MUTATIONS[name]
    assert SOURCE.count(old) == 1, "the kernels have changed: plant this bug anew"
    # Whatever garbage does is a catch too: other trees, a refused NaN, an index out of bounds.
    plant(SOURCE.replace(old, new))
    with pytest.raises((AssertionError, ValueError, IndexError, RuntimeError)):
        compare(rule, settings, device)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("rule", "settings"),
    [(rule, settings) for rule in ("puct_tree", "puct_siblings", "gumbel") for settings in (DEEP, TIED)],
)
def test_without_one_nothing_is_caught(rule, settings, plant, device):
    plant(SOURCE)
    compare(rule, settings, device)


def test_a_gather_that_resets_at_the_wrong_depth_is_seen(plant, device):
    depths = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32, device=device)
    pool = torch.ones(4, 8, device=device)

    def kept() -> list[bool]:
        out = torch.full((1, 8), torch.nan, device=device)
        found = []
        for node in range(4):
            place = torch.tensor([node], device=device)
            gather_latents(pool, out, place, place, depths, 2)
            found.append(bool(out.all()))
        return found

    old = "latent = tl.where(depth % HORIZON == 0"
    assert SOURCE.count(old) == 1
    assert kept() == [False, True, False, True]
    plant(SOURCE.replace(old, "latent = tl.where(depth % HORIZON == 1"))
    assert kept() == [True, False, True, False]
