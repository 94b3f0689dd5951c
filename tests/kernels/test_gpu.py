"""What only a GPU can show: CUDA graphs, large batches, no wait for the device."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from worlds import RULES, Problem, assert_same_trees

from xtra_rl.models import InferenceModel, make_world_model
from xtra_rl.search import GumbelMCTSPlanner, MCTSPlanner
from xtra_rl.search.cuda_graph import SearchGraphs
from xtra_rl.search.simulation import Simulation

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("horizon", [None, 5])
def test_2048_trees_equal_the_reference(rule, horizon):
    problem = Problem(rule, 2048, 18, 50, horizon=horizon, masked=True)
    assert_same_trees(problem.run("triton", "cuda"), problem.run("reference"))


@pytest.mark.parametrize("rule", RULES)
def test_replayed_graphs_equal_the_reference(rule):
    graphs = SearchGraphs()
    first = Problem(rule, 37, 6, 20, horizon=3, masked=True, random_ties=True, seed=1)
    world, states, invalid = first.world()
    # One recurrent_fn for all roots: the same world, other states, masks and seeds of the ties.
    device_world = type(world)(*(part.cuda() for part in vars(world).values()))
    search, options = RULES[rule]
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        states = torch.randint(len(world.value), (37,), generator=generator)
        expected, found = (
            search(
                *some_world.prefix_roots(some_states, 3)[:3],
                step,
                num_simulations=20,
                discount=0.5,
                invalid_actions=mask,
                value_prefix_horizon=3,
                generator=torch.Generator().manual_seed(seed),
                backend=backend,
                **options,
                **extra,
            )
            for some_world, some_states, mask, backend, step, extra in (
                (world, states, invalid, "reference", _step(world), {}),
                (
                    device_world,
                    states.cuda(),
                    invalid.cuda(),
                    "triton",
                    _step(device_world),
                    {"graphs": graphs},
                ),
            )
        )
        assert_same_trees(found, expected)
    assert len(graphs) == 1


_STEPS: dict[int, object] = {}


def _step(world):
    """The same function for the same world, as a graph asks for."""
    if id(world) not in _STEPS:
        _STEPS[id(world)] = world.prefix_roots(
            torch.zeros(1, dtype=torch.int64, device=world.value.device), 3
        )[3]
    return _STEPS[id(world)]


def test_graphs_are_kept_by_shape_and_dropped_when_there_are_too_many():
    graphs = SearchGraphs(max_graphs=2)
    for batch in (1, 2, 3, 3):
        Problem("puct_tree", batch, 3, 4).run("triton", "cuda", graphs=graphs)
    assert len(graphs) == 2
    graphs.clear()
    assert len(graphs) == 0


@pytest.mark.parametrize("planner_class", [MCTSPlanner, GumbelMCTSPlanner])
def test_graphs_over_the_folded_model_equal_eager_and_follow_its_weights(planner_class):
    sizes = {"image_size": 48, "image_channels": 1, "channels": 16, "lstm_hidden": 32, "support_size": 10}
    model, other = (make_world_model(**sizes).cuda().eval() for _ in range(2))
    for part in (model, other):
        for parameter in part.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, 0, 0.3)
    frames = torch.randint(0, 256, (33, 4, 48, 48), dtype=torch.uint8, device="cuda")
    engine = InferenceModel(model, external_reset=True)
    eager = planner_class(engine, num_simulations=20)
    graphed = planner_class(engine, num_simulations=20, cuda_graph=True)
    for weights in (model, other, model):
        model.load_state_dict(copy.deepcopy(weights.state_dict()))
        for _ in range(2):
            expected, found = (planner.search(frames, noise=False) for planner in (eager, graphed))
            assert torch.equal(found.visit_counts, expected.visit_counts)
            torch.testing.assert_close(found.root_value, expected.root_value)


@contextmanager
def no_wait_for_the_device() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("rule", RULES)
def test_the_loop_never_waits_for_the_device(rule, monkeypatch):
    run = Simulation.run

    def watched(self, recurrent_fn):
        with no_wait_for_the_device():
            run(self, recurrent_fn)

    problem = Problem(rule, 8, 6, 10, horizon=2)
    problem.run("triton", "cuda")
    monkeypatch.setattr(Simulation, "run", watched)
    assert_same_trees(problem.run("triton", "cuda"), problem.run("reference"))


def test_that_watch_catches_a_wait():
    with pytest.raises(RuntimeError), no_wait_for_the_device():
        torch.ones(1, device="cuda").item()
