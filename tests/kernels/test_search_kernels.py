"""The Triton backend grows the trees of the reference and of a node-by-node oracle, and writes all it must."""

from __future__ import annotations

from functools import partialmethod

import pytest
import search_oracle as oracle
import torch
from worlds import RULES, Problem, assert_same_trees

from xtra_rl.search import RecurrentOutput, puct_search
from xtra_rl.search.backends import why_unavailable
from xtra_rl.search.embeddings import EmbeddingPool
from xtra_rl.search.puct import PuctRule
from xtra_rl.search.ties import tie_keys
from xtra_rl.search.tree import tree_from_root
from xtra_rl.search.triton_backend import TritonSteps, gather_latents

ODD_SIZES = [
    Problem("puct_tree", batch=1, actions=2, simulations=1),
    Problem("puct_tree", batch=257, actions=2, simulations=5, masked=True),
    Problem("puct_tree", batch=3, actions=18, simulations=50, masked=True),
    Problem("puct_tree", batch=3, actions=3, simulations=14, horizon=2),
    Problem("puct_tree", batch=3, actions=40, simulations=6),
    Problem("puct_siblings", batch=1, actions=2, simulations=2),
    Problem("puct_siblings", batch=257, actions=3, simulations=4, horizon=2),
    Problem("puct_siblings", batch=3, actions=3, simulations=20, masked=True),
    Problem("gumbel", batch=1, actions=2, simulations=1),
    Problem("gumbel", batch=257, actions=2, simulations=5),
    Problem("gumbel", batch=3, actions=18, simulations=20, masked=True),
    Problem("gumbel", batch=3, actions=3, simulations=14, horizon=2),
    *(Problem(rule, batch=16, actions=3, simulations=14, masked=True, below=True, seed=1) for rule in RULES),
]
TIED = [Problem(rule, 3, 5, 14, random_ties=True, seed=3, masked=True) for rule in RULES]
# Small ones always, all of them where there is a GPU or time.
SIZES = [
    pytest.param(
        problem,
        marks=[pytest.mark.interpreted] if problem.batch * problem.simulations > 50 else [],
        id=str(problem),
    )
    for problem in ODD_SIZES
] + [pytest.param(problem, marks=pytest.mark.interpreted, id=str(problem)) for problem in TIED]


@pytest.mark.parametrize("problem", SIZES)
def test_trees_equal_the_reference(problem, device):
    assert_same_trees(problem.run("triton", device), problem.run("reference"))


class Follow:
    """Picks what the kernel picked, and requires that it was the best or nearly so."""

    def __init__(self, actions):
        self.actions = iter(actions)
        self.exact = self.picks = 0

    def __call__(self, scores):
        action = next(self.actions)
        assert scores[action] >= max(scores) - 2e-5, (action, scores)
        self.picks += 1
        self.exact += action == oracle.best(scores)
        return action


def paths(tree, row):
    """Actions of all simulations of one tree, one after the other."""
    found = []
    for leaf in range(1, tree.num_nodes):
        path, node = [], leaf
        while node:
            path.append(int(tree.parent_edges[row, node]) % tree.num_actions)
            node = int(tree.parents[row, node])
        found += reversed(path)
    return found


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("horizon", [None, 2])
def test_every_pick_is_the_best_by_the_oracle(rule, horizon, device):
    problem = Problem(rule, 4, 4, 16, horizon=horizon, masked=True, rough=True, seed=7)
    result = problem.run("triton", device)
    world, states, invalid = problem.world(torch.float64)
    picks = exact = 0
    for row, state in enumerate(states):
        follow = Follow(paths(result.tree, row))
        common = {
            "num_simulations": problem.simulations,
            "discount": 0.5,
            "invalid": invalid[row].tolist(),
            "pick": follow,
        }
        if rule == "gumbel":
            root, _, _ = oracle.gumbel(world, int(state), gumbel=[0.0] * 4, max_considered=16, **common)
        else:
            root = oracle.puct(world, int(state), normalization=rule.removeprefix("puct_"), **common)
        assert next(follow.actions, None) is None
        assert result.root_value[row].item() == pytest.approx(root.value, abs=1e-5)
        for action, child in root.children.items():
            assert result.visit_counts[row, action].item() == child.visits
            assert result.qvalues[row, action].item() == pytest.approx(root.q(action, 0.5), abs=1e-5)
        picks, exact = picks + follow.picks, exact + follow.exact
    assert picks > 4 * 16
    assert exact / picks > 0.98


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("trees_per_program", [1, 2])
def test_trees_do_not_depend_on_how_many_share_a_program(rule, trees_per_program, device, monkeypatch):
    problem = Problem(rule, 3, 4, 7, horizon=2, random_ties=True)
    expected = problem.run("reference")
    monkeypatch.setattr(
        TritonSteps, "__init__", partialmethod(TritonSteps.__init__, trees_per_program=trees_per_program)
    )
    assert_same_trees(problem.run("triton", device), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("horizon", [0, 2])
def test_gather_reads_rows_and_resets(dtype, horizon, device):
    generator = torch.Generator().manual_seed(0)
    nodes, batch = 5, 3
    pool = torch.randn(nodes, batch, 7, 5, generator=generator).to(device, dtype)
    depths = torch.tensor([[0, 1, 2, 3, 4]] * batch, dtype=torch.int32, device=device)
    for parent in ([0, 0, 0], [4, 3, 2], [1, 4, 0]):
        node = torch.tensor(parent, device=device)
        row = node * batch + torch.arange(batch, device=device)
        out = torch.full((batch, 7, 5), torch.nan, dtype=dtype, device=device)
        gather_latents(pool.flatten(0, 1), out, node, row, depths, horizon)
        expected = pool[node, torch.arange(batch, device=device)]
        if horizon:
            expected = expected * (node % horizon != 0).view(-1, 1, 1)
        assert torch.equal(out, expected.to(dtype))


def test_a_large_latent_takes_several_blocks(device):
    pool = torch.randn(4, 3000, device=device)
    out = torch.full((2, 3000), torch.nan, device=device)
    depths = torch.zeros(2, 2, dtype=torch.int32, device=device)
    zero, rows = torch.tensor([1, 0], device=device), torch.tensor([2, 1], device=device)
    gather_latents(pool, out, zero, rows, depths, 0)
    assert torch.equal(out, pool[[2, 1]])


@pytest.mark.parametrize("layout", ["plain", "channels_last"])
def test_the_pool_reads_the_same_with_and_without_the_kernel(layout, device):
    latent = torch.randn(3, 4, 2, 2, device=device)
    if layout == "channels_last":
        latent = latent.contiguous(memory_format=torch.channels_last)
    logits = torch.zeros(3, 2, device=device)
    tree = tree_from_root(
        logits,
        logits.softmax(-1),
        logits[:, 0],
        logits.bool(),
        num_simulations=3,
        discount=1.0,
        value_prefix_horizon=None,
    )
    steps = TritonSteps(tree, PuctRule())
    pools = [EmbeddingPool(latent, 3, backend=backend) for backend in ("reference", "triton")]
    selection = steps.select()
    first, second = (pool.read(selection, tree) for pool in pools)
    assert torch.equal(first, latent)
    assert torch.equal(second, latent)
    assert second.stride() == latent.stride()


def test_the_hash_has_the_bits_of_the_reference(device):
    """With equal scores everywhere, the first picks of many trees are the arg max of the keys."""
    batch, actions = 64, 7
    generator = torch.Generator().manual_seed(5)
    seeds = torch.randint(2**31, (batch,), generator=generator)
    logits = torch.zeros(batch, actions, device=device)
    tree = tree_from_root(
        logits,
        logits.softmax(-1),
        logits[:, 0],
        logits.bool(),
        num_simulations=2,
        discount=1.0,
        value_prefix_horizon=None,
        tie_seeds=seeds.to(device),
    )
    picked = TritonSteps(tree, PuctRule()).select().action.cpu()
    assert torch.equal(picked, tie_keys(seeds, 1, actions)[:, 0].argmax(-1))
    assert len(picked.unique()) == actions


@pytest.mark.parametrize("rule", RULES)
def test_a_nan_from_the_model_is_refused_and_leads_no_index_astray(rule, device):
    search, options = RULES[rule]
    world, states, _ = Problem(rule, 3, 3, 6).world()
    world.value[:] = torch.nan
    world.value[states] = 0.0
    roots = world.roots(states)
    roots = (*(part.to(device) for part in roots[:3]), roots[3])

    def step(action, state):
        output, following = roots[3](action.cpu(), state.cpu())
        return type(output)(*(part.to(device) for part in output)), following.to(device)

    with pytest.raises(ValueError, match="returned by recurrent_fn contains NaN"):
        search(*roots[:3], step, num_simulations=6, backend="triton", **options)


def test_half_precision_outputs_are_read_as_they_are(device):
    def step(action, embedding):
        reward = (action == 2).to(torch.float16)
        output = (reward, torch.zeros_like(reward), torch.zeros(2, 3, dtype=torch.float16, device=device))
        return RecurrentOutput(*output), embedding

    zeros = torch.zeros(2, 3, device=device)
    result = puct_search(zeros, zeros[:, 0], zeros, step, num_simulations=9, backend="triton")
    assert result.action.tolist() == [2, 2]


def test_without_a_gpu_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    reason = why_unavailable("triton", torch.device("cpu"))
    assert reason is not None
    assert "use 'numba' or 'auto'" in reason
    zeros = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="the backend 'triton' searches on a GPU, but the roots are on cpu"):
        puct_search(zeros, zeros[:, 0], zeros, lambda a, e: None, backend="triton")


def test_torch_compile_passes_through_the_operators(device):
    """The kernels are operators with declared effects, so that a compiled function holds them whole."""
    problem = Problem("puct_tree", 3, 4, 6, masked=True)
    world, states, invalid = problem.world()
    logits = world.prior_logits[states].to(device)
    trees = [
        tree_from_root(
            logits,
            logits.softmax(-1),
            world.value[states].to(device),
            invalid.to(device),
            num_simulations=3,
            discount=0.5,
            value_prefix_horizon=None,
        )
        for _ in range(2)
    ]
    pool = torch.randn(4 * 3, 5, device=device)

    def two_simulations(steps, tree):
        selection = steps.select()
        for leaf in (1, 2):
            latent = torch.empty(3, 5, device=device)
            gather_latents(pool, latent, selection.parent, selection.row, tree.node_depths, 0)
            value = latent.sum(-1)
            output = RecurrentOutput(value / 8, value, latent[:, :4].contiguous())
            selection = steps.update_and_select(output, leaf)
        return latent

    compiled = torch.compile(two_simulations, backend="aot_eager", fullgraph=True)
    for tree in trees:
        for name in ("node_value_sums", "children_visits", "children_qvalues"):
            getattr(tree, name)[:, 1:] = 0
    results = [
        run(TritonSteps(tree, PuctRule()), tree) for run, tree in zip((two_simulations, compiled), trees)
    ]
    torch.testing.assert_close(results[1], results[0])
    for name in ("children_index", "children_visits", "node_visits"):
        first, second = (getattr(tree, name)[:, :3] for tree in trees)
        assert torch.equal(first, second), name
