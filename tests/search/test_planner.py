"""The planners as TorchRL policies and as the engine of reanalysis, over a small table model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from table_env import LEGAL, NUM_ACTIONS, NUM_STATES, TableEnv, TableModel
from table_world import TableWorld
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type

from xtra_rl.search import (
    GumbelMCTSPlanner,
    InitialOutput,
    MCTSPlanner,
    gumbel_search,
    puct_search,
    search_bytes,
)
from xtra_rl.search import planner as planner_module


def observations(states=None):
    states = torch.arange(NUM_STATES) if states is None else states
    return states.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()


def tensordict(batch=NUM_STATES):
    return TensorDict(
        {"observation": observations(torch.arange(batch)), "action_mask": LEGAL.expand(batch, -1)}, [batch]
    )


@pytest.fixture(params=[MCTSPlanner, GumbelMCTSPlanner], name="planner_class")
def _planner_class(request):
    return request.param


def test_the_environment_of_these_tests_is_sound():
    check_env_specs(TableEnv())


def test_rollout_and_collector_get_legal_actions_and_all_search_keys(planner_class):
    planner = planner_class(TableModel(), num_simulations=6)
    rollout = TableEnv().rollout(4, planner)
    collector = Collector(TableEnv(), planner, frames_per_batch=12, total_frames=24)
    for data in (rollout, *collector):
        assert data["action"].shape == (3, 4)
        assert data["action"].dtype == torch.int64
        assert LEGAL[data["action"]].all()
        assert data["search", "policy"].shape == (3, 4, NUM_ACTIONS)
        assert data["search", "visit_counts"].dtype == torch.int64
        assert (data["search", "visit_counts"].sum(-1) == 6).all()
        assert not data["search", "visit_counts"][..., ~LEGAL].any()
        assert not data["search", "policy"][..., ~LEGAL].any()
        torch.testing.assert_close(data["search", "policy"].sum(-1), torch.ones(3, 4))
        assert data["search", "value"].shape == data["search", "raw_value"].shape == (3, 4)
        states = data["observation"][..., 0, 0, 0].long()
        torch.testing.assert_close(data["search", "raw_value"], planner.world_model.world.value[states])
    collector.shutdown()


def test_keys_can_be_selected_and_renamed(planner_class):
    planner = planner_class(TableModel(), num_simulations=4).select_out_keys("action")
    assert set(planner(tensordict()).keys(include_nested=True, leaves_only=True)) == {
        *tensordict().keys(),
        "action",
    }
    planner = planner_class(TableModel(), num_simulations=4)
    planner.in_keys, planner.out_keys = ["frames", "legal"], ["move", *planner.out_keys[1:]]
    data = tensordict().rename_key_("observation", "frames").rename_key_("action_mask", "legal")
    assert LEGAL[planner(data)["move"]].all()


def test_without_a_mask_it_says_where_one_comes_from(planner_class):
    planner = planner_class(TableModel(), num_simulations=4)
    with pytest.raises(
        KeyError, match=r"of \['observation'\]; for the mask append xtra_rl.envs.LegalActions"
    ):
        planner(tensordict().select("observation"))


def test_a_tensordict_without_batch_dimension_is_planned_too(planner_class):
    planner = planner_class(TableModel(), num_simulations=4)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        single = planner(tensordict()[3])
        batch = planner(tensordict())
        grid = planner(tensordict().reshape(4, 6))
    assert single["action"].shape == ()
    assert single["search", "policy"].shape == (NUM_ACTIONS,)
    for key in planner.out_keys:
        assert torch.equal(single[key], batch[key][3])
        assert torch.equal(grid[key].flatten(0, 1), batch[key])


@pytest.mark.parametrize("options", [{}, {"mask_below_root": False}])
def test_deterministic_mode_takes_the_searched_action_without_noise(planner_class, options):
    planner = planner_class(TableModel(), num_simulations=12, **options)
    before = planner.rng_state()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        first, second = planner(tensordict()), planner(tensordict())
    assert torch.equal(planner.rng_state(), before)
    assert torch.equal(first["action"], second["action"])
    state = torch.arange(NUM_STATES)
    roots = planner.world_model.world.roots(state)
    search = puct_search if planner_class is MCTSPlanner else gumbel_search
    rule = {"mask_below_root": True} | options
    expected = search(*roots, num_simulations=12, invalid_actions=~LEGAL.expand(NUM_STATES, -1), **rule)
    assert torch.equal(first["action"], expected.action)
    assert torch.equal(first["search", "visit_counts"], expected.visit_counts)
    if planner_class is MCTSPlanner:
        assert torch.equal(first["action"], first["search", "visit_counts"].max(-1).indices)


def test_same_seed_same_actions_other_seed_other_actions(planner_class):
    def run(seed):
        planner = planner_class(TableModel(), num_simulations=4, seed=seed)
        return torch.stack([planner(tensordict())["action"] for _ in range(4)])

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    assert not torch.equal(*run(1)[:2])


def test_saved_rng_state_continues_the_random_numbers(planner_class):
    planner = planner_class(TableModel(), num_simulations=4)
    planner(tensordict())
    state = planner.rng_state()
    expected = planner(tensordict())["action"]
    other = planner_class(TableModel(), num_simulations=4, seed=99)
    other.set_rng_state(state)
    assert torch.equal(other(tensordict())["action"], expected)
    assert torch.equal(copy.deepcopy(planner)(tensordict())["action"], planner(tensordict())["action"])


def test_global_random_state_is_neither_used_nor_changed(planner_class):
    before = torch.get_rng_state()
    planner_class(TableModel(), num_simulations=4)(tensordict())
    assert torch.equal(torch.get_rng_state(), before)


def test_actions_follow_visit_counts_to_the_power_of_one_over_temperature():
    batch = 4000
    model = TableModel()
    planner = MCTSPlanner(model, num_simulations=12, exploration_fraction=0.0)
    td = TensorDict(
        {"observation": observations(torch.full((batch,), 2)), "action_mask": LEGAL.expand(batch, -1)},
        [batch],
    )
    for temperature in (1.0, 0.5):
        planner.temperature = temperature
        out = planner(td.clone())
        weights = out["search", "visit_counts"][0].double() ** (1 / temperature)
        frequency = out["action"].bincount(minlength=NUM_ACTIONS) / batch
        # Standard error at most sqrt(0.25 / 4000) = 0.008.
        assert ((frequency - weights / weights.sum()).abs() < 0.04).all()
    planner.temperature = 0.0
    assert (planner(td)["action"] == weights.argmax()).all()


def test_temperature_scales_the_noise_of_gumbel_planning():
    planner = GumbelMCTSPlanner(TableModel(), num_simulations=4, temperature=0.0)
    noisy = planner(tensordict())["action"]
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(planner(tensordict())["action"], noisy)


def test_root_logit_scale_flattens_the_policy_target():
    def entropy(scale):
        planner = GumbelMCTSPlanner(TableModel(), root_logit_scale=scale, value_scale=0.0)
        policy = planner.search(observations(), noise=False).action_weights
        return -(policy * policy.log()).sum(-1)

    assert (entropy(0.5) > entropy(1.0)).all()
    torch.testing.assert_close(entropy(0.0), torch.full((NUM_STATES,), 5.0).log())


def test_statistics_of_the_search_are_written_beside_its_result(planner_class):
    planner = planner_class(TableModel(), num_simulations=6)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        found = planner(tensordict())["search"]
    result = planner.search(observations(), LEGAL.expand(NUM_STATES, -1), noise=False)
    torch.testing.assert_close(found["depth"], result.tree.node_depths[:, 1:].float().mean(1))
    torch.testing.assert_close(
        found["entropy"], torch.distributions.Categorical(result.action_weights).entropy()
    )
    assert found["depth"].min() >= 1
    assert found["entropy"].max() > 0


def test_a_temperature_schedule_moves_with_the_training_step(planner_class):
    planner = planner_class(TableModel(), temperature=lambda step: 1.0 if step < 100 else 0.25)
    assert planner.temperature == 1.0
    planner.set_train_step(100)
    assert planner.temperature == 0.25
    fixed = planner_class(TableModel(), temperature=0.5)
    fixed.set_train_step(100)
    assert fixed.temperature == 0.5


def test_cuda_graphs_need_the_triton_backend(planner_class):
    planner = planner_class(TableModel(), num_simulations=2, backend="reference", cuda_graph=True)
    with pytest.raises(ValueError, match="graphs work with the backend 'triton'"):
        planner.search(observations(), noise=False)


# A bound on the roots holds for the fillers too.
@pytest.mark.parametrize(("max_roots", "searched"), [(None, [32]), (13, [13, 8]), (30, [30])])
def test_roots_are_filled_up_for_graphs_and_the_fillers_leave_no_trace(
    planner_class, monkeypatch, max_roots, searched
):
    roots = observations(torch.arange(19) % NUM_STATES)
    expected = planner_class(TableModel(), num_simulations=6).search(roots, noise=False)
    planner = planner_class(TableModel(), num_simulations=6, cuda_graph=True, max_roots=max_roots)
    sizes, search = [], planner._search

    def without_graphs(initial, noise, **options):
        sizes.append(len(initial.value))
        return search(initial, noise, **{**options, "graphs": None})

    monkeypatch.setattr(planner, "_search", without_graphs)
    found = planner.search(roots, noise=False)
    assert sizes == searched
    for name, part in zip(found._fields[:-1], found[:-1], strict=False):
        assert torch.equal(part, getattr(expected, name)), name
    assert found.tree is None


def test_search_explores_only_with_noise(planner_class):
    planner = planner_class(TableModel(), num_simulations=8)
    quiet = [planner.search(observations(), noise=False).visit_counts for _ in range(2)]
    noisy = [planner.search(observations(), noise=True).visit_counts for _ in range(2)]
    assert torch.equal(*quiet)
    assert not torch.equal(*noisy)


def test_noise_only_reaches_the_root_prior_of_legal_actions():
    planner = MCTSPlanner(TableModel(), num_simulations=2, exploration_fraction=1.0)
    mask = LEGAL.expand(NUM_STATES, -1)
    prior = planner.search(observations(), mask, noise=True).tree.children_prior
    assert not prior[:, 0, ~LEGAL].any()
    torch.testing.assert_close(prior[:, 0].sum(-1), torch.ones(NUM_STATES))
    assert (prior[:, 1:][..., LEGAL] > 0).all()
    assert not prior[:, 1:][..., ~LEGAL].any()


def test_what_a_game_lacks_is_nowhere_in_the_tree(planner_class):
    """Two actions of three are legal; in the state behind the second one only the third, illegal one pays."""
    logits, value = torch.zeros(3, 3), torch.zeros(3)
    reward = torch.tensor([[0.25, 0.0, 0.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    world = TableWorld(logits, value, reward, torch.tensor([[2, 1, 2], [2, 2, 2], [2, 2, 2]]))
    model, mask = TableModel(), torch.tensor([[True, True, False]])
    model.world, model.num_actions = world, 3
    for below, best in ((True, 0), (False, 1)):
        planner = planner_class(model, num_simulations=200, discount=1.0, mask_below_root=below)
        result = planner.search(observations(torch.tensor([0])), mask, noise=False)
        assert result.action.item() == best
        searched = result.tree.action_from_parent[0, 1:]
        assert bool((searched == 2).any()) != below


@pytest.mark.parametrize("max_roots", [1, 7, 100])
@pytest.mark.parametrize("noise", [False, True])
def test_chunks_bound_the_batch_and_do_not_change_the_result(planner_class, max_roots, noise):
    model = TableModel()
    planner = planner_class(model, num_simulations=6, max_roots=max_roots)
    mask = LEGAL.expand(NUM_STATES, -1)
    result = planner.search(observations(), mask, noise=noise)
    whole = planner_class(TableModel(), num_simulations=6).search(observations(), mask, noise=noise)
    assert max(model.batch_sizes) == min(max_roots, NUM_STATES)
    for name in ("visit_counts", "root_value", "qvalues", "action_weights", "action"):
        torch.testing.assert_close(getattr(result, name), getattr(whole, name), msg=name)


def test_an_empty_batch_is_named(planner_class):
    planner = planner_class(TableModel(), num_simulations=2)
    with pytest.raises(ValueError, match="observation has no rows"):
        planner.search(observations()[:0], noise=False)
    with pytest.raises(ValueError, match="observation has no rows"):
        planner(tensordict()[:0])


def test_a_mask_that_is_not_boolean_is_named(planner_class):
    planner = planner_class(TableModel(), num_simulations=2)
    with pytest.raises(ValueError, match="action_mask has dtype torch.uint8, expected torch.bool"):
        planner.search(observations(), LEGAL.expand(NUM_STATES, -1).to(torch.uint8), noise=True)


def test_a_copied_planner_continues_the_random_numbers(planner_class):
    planner = planner_class(TableModel(), num_simulations=6, seed=5)
    planner.search(observations(), noise=True)
    twin = pickle.loads(pickle.dumps(planner))
    first, second = (one.search(observations(), noise=True) for one in (planner, twin))
    assert torch.equal(first.visit_counts, second.visit_counts)


def test_a_bound_on_memory_bounds_the_roots_searched_at_once(planner_class, monkeypatch):
    batches = []
    for name in ("puct_search", "gumbel_search"):
        search = getattr(planner_module, name)

        def counted(logits, *arguments, search=search, **options):
            batches.append(len(logits))
            return search(logits, *arguments, **options)

        monkeypatch.setattr(planner_module, name, counted)
    whole = planner_class(TableModel(), num_simulations=6, seed=3)
    expected = whole.search(observations(), noise=True)
    one = search_bytes(1, NUM_ACTIONS, 6, torch.zeros(1, dtype=torch.int64))
    for max_bytes, roots in ((1, 1), (3 * one + 1, 3), (10**9, NUM_STATES)):
        batches.clear()
        bounded = planner_class(TableModel(), num_simulations=6, seed=3, max_bytes=max_bytes)
        found = bounded.search(observations(), noise=True)
        assert max(batches) == roots
        assert torch.equal(found.visit_counts, expected.visit_counts)


def test_search_from_a_ready_inference_equals_search(planner_class):
    planner = planner_class(TableModel(), num_simulations=6)
    with torch.no_grad():
        initial = planner.world_model.eval().initial_inference(observations())
    left = planner.search_from(initial, None, noise=False)
    right = planner.search(observations(), torch.ones(NUM_STATES, NUM_ACTIONS, dtype=torch.bool), noise=False)
    assert torch.equal(left.visit_counts, right.visit_counts)


def test_model_runs_in_eval_mode_and_gets_its_modes_back(planner_class):
    planner = planner_class(TableModel(), num_simulations=4)
    model = planner.world_model
    model.train()
    model.frozen.eval()
    # Dropout of 0.9 would zero most network values if the model were in train mode.
    values = planner(tensordict())["search", "raw_value"]
    torch.testing.assert_close(values, model.world.value)
    assert model.training
    assert model.dropout.training
    assert not model.frozen.training
    with pytest.raises(ValueError, match="action_mask"):
        planner.search(observations(), torch.ones(1, 2, dtype=torch.bool), noise=False)
    assert model.dropout.training


def test_value_prefix_horizon_of_the_model_is_used(planner_class):
    class PrefixModel(TableModel):
        value_prefix_horizon = 2

        def initial_inference(self, observation):
            state = observation.flatten(1)[:, 0].long()
            return InitialOutput(*self.world.prefix_roots(state, 2)[:3])

        def recurrent_inference(self, action, embedding):
            return self.world.prefix_roots(embedding["state"], 2)[3](action, embedding)

    plain = planner_class(TableModel(), num_simulations=24).search(observations(), noise=False)
    prefix = planner_class(PrefixModel(), num_simulations=24).search(observations(), noise=False)
    assert plain.tree.max_depth > 2
    assert torch.equal(plain.visit_counts, prefix.visit_counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": 0}, "num_simulations is 0"),
        ({"max_roots": 0}, "max_roots is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"backend": "gpu"}, "backend is 'gpu'"),
    ],
)
def test_planner_refuses_wrong_options_when_it_is_built(planner_class, options, message):
    with pytest.raises(ValueError, match=message):
        planner_class(TableModel(), **options)


def test_a_finished_environment_without_legal_action_is_named(planner_class):
    mask = LEGAL.expand(NUM_STATES, -1).clone()
    mask[3] = False
    with pytest.raises(ValueError, match=r"rows \[3\]"):
        planner_class(TableModel(), num_simulations=2).search(observations(), mask, noise=True)
