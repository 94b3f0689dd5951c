"""The folded model computes what the world model computes in eval mode, and keeps up with it."""

from __future__ import annotations

import copy
import logging
import pickle
import shutil

import pytest
import torch
from small_models import small_model
from torch import nn

from xtra_rl.models import Support, WorldModel, folding, make_world_model
from xtra_rl.models.folded_layers import scale_and_shift
from xtra_rl.models.inference import InferenceModel
from xtra_rl.search import GumbelMCTSPlanner, MCTSPlanner, puct_search

VARIANTS = {
    "published": {},
    "embedding": {"action_encoding": "embedding"},
    "patch stem": {"stem": "patch", "downsample": 4},
    "plain rewards": {"value_prefix": False},
    "no prediction blocks": {"prediction_blocks": 0},
    "deep": {"num_blocks": 2, "dynamics_blocks": 2, "prediction_blocks": 2},
    "horizon 2": {"value_prefix_horizon": 2},
    "uneven heads": {"reduced_channels": 3, "head_hidden": 7},
}

VECTOR = {"latent": "vector", "image_size": 36, "value_prefix": False}


def disturbed(seed=0, **overrides):
    """A model of which no weight and no statistic is left at its initial value."""
    torch.manual_seed(seed)
    model = small_model(**overrides)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 2.0)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, 0, 0.3)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, 0, 0.5)
    return model.eval()


def frames(model, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    config = small_model().config | model.config  # a model with a part of one's own has none
    shape = (
        batch,
        config["image_channels"] * config["frame_stack"],
        config["image_size"],
        config["image_size"],
    )
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@torch.no_grad()
def unroll(model, observation, steps=4):
    """Everything that a search sees on a walk of some steps."""
    root = model.initial_inference(observation)
    seen, embedding = [root.prior_logits, root.value, root.embedding["latent"]], root.embedding
    for step in range(steps):
        action = (torch.arange(len(observation)) + step) % model.num_actions
        output, embedding = model.recurrent_inference(action, embedding)
        seen += [*output, embedding["latent"]]
    return seen


def assert_agree(engine, model, batch=3, atol=1e-4):
    observation = frames(model, batch)
    expected, found = unroll(model, observation), unroll(engine, observation)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=atol)
    assert expected[0].std() > 0.05  # not merely zeros


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_it_agrees_with_the_world_model_in_eval_mode(overrides):
    model = disturbed(**overrides)
    for batch in (1, 3):
        assert_agree(InferenceModel(model), model, batch)


def test_values_are_decoded_by_a_support_of_one_s_own():
    class Linear(Support):
        def decode(self, logits):
            atoms = torch.arange(-self.size, self.size + 1.0)
            return (logits.softmax(-1) * atoms).sum(-1)

    model = disturbed()
    model.support = Linear(model.support.size)
    assert_agree(InferenceModel(model), model)


def test_a_reward_head_that_does_not_begin_with_zeros_is_refused():
    """Searches restart it from zeros, so it would be trained from one state and searched from another."""

    class Ones(type(small_model().dynamics.reward_head)):
        def initial_state(self, latent):
            return tuple(torch.ones_like(part) for part in super().initial_state(latent))

    class Learnt(type(small_model().dynamics.reward_head)):
        def initial_state(self, latent):
            start = self.out[0].weight.sum() * 0
            return tuple(part + start for part in super().initial_state(latent))

    for kind in (Ones, Learnt):
        model = disturbed()
        model.dynamics.reward_head.__class__ = kind
        with pytest.raises(ValueError, match="initial_state is not zero"):
            model.initial_inference(frames(model, 2))
    engine = InferenceModel(disturbed())
    engine._parts["reward_head"].initial_state = lambda latent: (torch.ones(len(latent), 8),) * 2
    with pytest.raises(ValueError, match="initial_state is not zero"):
        engine.initial_inference(frames(model, 2))


def test_the_published_network_agrees_too():
    model = make_world_model().eval()
    for head in (model.prediction.policy[1], model.prediction.value[1], model.dynamics.reward_head.out):
        nn.init.normal_(head[3].weight, 0, 0.5)
    assert_agree(InferenceModel(model), model)


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_search_that_resets_the_lstm_finds_what_the_model_that_resets_it_finds(horizon):
    model = disturbed(value_prefix_horizon=horizon)
    results = []
    for engine in (InferenceModel(model), InferenceModel(model, external_reset=True)):
        root = engine.initial_inference(frames(model, 3))
        results.append(
            puct_search(
                *root,
                engine.recurrent_inference,
                num_simulations=24,
                value_prefix_horizon=horizon,
                reset_entries=engine.reset_entries,
            )
        )
    assert "depth" not in root.embedding.keys()
    assert results[0].tree.max_depth > horizon
    assert torch.equal(results[0].visit_counts, results[1].visit_counts)


def test_two_observations_do_not_influence_each_other():
    model = disturbed()
    engine, both = InferenceModel(model), frames(model, 2)
    for one, other in zip(unroll(engine, both), unroll(engine, both[:1]), strict=True):
        torch.testing.assert_close(one[:1], other, rtol=1e-5, atol=1e-5)


def step_of_training(model, optimizer):
    model.train()
    latent = model.represent(frames(model, 4, seed=1).float() / 255)
    policy, value = model.predict(latent)
    latent, reward, _ = model.step(latent, torch.zeros(4, dtype=torch.int64), model.initial_state(latent))
    loss = policy.square().mean() + value.square().mean() + reward.square().mean() + latent.square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("overrides", [{}, VECTOR], ids=["map", "vector"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_it_follows_a_model_that_learns(optimizer, fused, overrides):
    # No statistic of a vector network moves here, and fused optimisers do not count their writes.
    model = disturbed(**overrides)
    engine, before = InferenceModel(model), InferenceModel(copy.deepcopy(model))
    optimiser = optimizer(model.parameters(), lr=0.003, fused=fused)
    for _ in range(2):
        step_of_training(model, optimiser)
        assert_agree(engine, model)
    with pytest.raises(AssertionError):
        assert_agree(before, model)


def test_it_follows_statistics_that_move_without_an_optimiser():
    model = disturbed()
    engine = InferenceModel(model)
    with torch.no_grad():
        model.train().represent(frames(model, 4))
    model.eval()
    assert_agree(engine, model)


def test_it_follows_a_loaded_state_dict_and_keeps_its_memory():
    model, other = disturbed(), disturbed(seed=1)
    engine = InferenceModel(model)
    places = [buffer.data_ptr() for buffer in engine.buffers()]
    model.load_state_dict(other.state_dict())
    assert_agree(engine, other)
    assert [buffer.data_ptr() for buffer in engine.buffers()] == places


def test_without_following_it_stays_until_it_is_refreshed():
    model = disturbed()
    old = copy.deepcopy(model)
    engine = InferenceModel(model, follow=False)
    model.load_state_dict(disturbed(seed=1).state_dict())
    assert_agree(engine, old)
    engine.refresh()
    assert_agree(engine, model)
    engine.refresh(old)
    assert_agree(engine, old)


def test_nothing_is_folded_anew_while_the_weights_stand_still(monkeypatch):
    model = disturbed()
    engine = InferenceModel(model)
    monkeypatch.setattr(InferenceModel, "refresh", lambda self: pytest.fail("refreshed"))
    unroll(engine, frames(model, 2))


def test_the_source_is_neither_changed_nor_owned():
    model = disturbed().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = InferenceModel(model)
    unroll(engine, frames(model, 2))
    assert all(part.training for part in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not list(engine.parameters())
    assert not any(module is model for module in engine.modules())


class OwnTransition(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 1)

    def forward(self, latent, action):
        return torch.tanh(self.layer(latent) + action.view(-1, 1, 1, 1))


def test_a_part_of_an_unknown_type_runs_as_it_is_and_follows(caplog, monkeypatch):
    monkeypatch.setattr(folding, "_announced", set())
    model = disturbed(value_prefix=False)
    model.dynamics.transition = OwnTransition()
    with caplog.at_level(logging.INFO, "xtra_rl"):
        engine, _ = InferenceModel(model), InferenceModel(model)
    assert [record.getMessage() for record in caplog.records] == [
        "inference: OwnTransition is not folded but runs as it is"
    ]
    assert_agree(engine, model)
    nn.init.normal_(model.dynamics.transition.layer.weight)
    assert_agree(engine, model)


class OwnRepresentation(nn.Module):
    """Scales frames as if they were bytes, whatever it is given."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 8, 8, stride=8)

    def forward(self, observation):
        return torch.tanh(self.layer(observation.float() / 255))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_representation_of_ones_own_gets_frames_as_the_world_model_gives_them(dtype):
    model = disturbed(value_prefix=False)
    model.representation = OwnRepresentation()
    observation = frames(model, 3)
    found = InferenceModel(model, dtype=dtype).initial_inference(observation)
    expected = model.initial_inference(observation)
    bound = 1e-5 if dtype is torch.float32 else 0.02
    assert found.embedding["latent"].dtype is dtype
    assert (found.embedding["latent"] - expected.embedding["latent"]).abs().max() < bound
    assert expected.embedding["latent"].std() > 0.05
    if dtype is torch.float32:
        assert_agree(InferenceModel(model), model)


def test_flat_latents_are_refused_by_name():
    model = disturbed(value_prefix=False)
    engine = InferenceModel(model)
    engine._represent = lambda observation: torch.zeros(len(observation), 8)
    with pytest.raises(ValueError, match=r"latents \[2, 8\]; an InferenceModel takes \[B, C, h, w\]"):
        engine.initial_inference(frames(model, 2))


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [{}, {"value_prefix": False}], ids=["value prefix", "plain rewards"])
@pytest.mark.parametrize("batch", [1, 9])
def test_a_nan_in_any_weight_is_seen_wherever_the_world_model_shows_it(overrides, batch):
    model = disturbed(**overrides)
    engine, observation = InferenceModel(model), frames(model, batch)
    for name, parameter in model.named_parameters():
        before = parameter.detach().clone()
        with torch.no_grad():
            parameter[(0,) * parameter.ndim] = torch.nan
        spoilt = [
            [part.isnan().any() for part in unroll(part_of, observation, 1)] for part_of in (engine, model)
        ]
        # Heads that share a product share a NaN too.
        assert any(spoilt[1]) == any(spoilt[0]), name
        assert all(one or not other for one, other in zip(*spoilt, strict=True)), name
        with torch.no_grad():
            parameter.copy_(before)


def test_bfloat16_is_close_and_decodes_in_float32():
    model = disturbed()
    engine = InferenceModel(model, dtype=torch.bfloat16)
    found, expected = unroll(engine, frames(model, 3)), unroll(model, frames(model, 3))
    assert found[1].dtype == torch.float32
    assert found[2].dtype == torch.bfloat16
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert (one - other).abs().max() < 0.1 * (1 + other.abs().max())


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
def test_a_copy_is_an_engine_of_its_own(duplicate):
    model = disturbed()
    engine = InferenceModel(model)
    unroll(engine, frames(model, 2))
    twin, before = duplicate(engine), copy.deepcopy(model)
    model.load_state_dict(disturbed(seed=1).state_dict())
    assert_agree(engine, model)
    assert_agree(twin, before)


@pytest.mark.parametrize(
    "use", [copy.deepcopy, lambda engine: engine.to("cpu"), lambda engine: engine.eval()]
)
def test_weights_that_changed_before_a_copy_or_a_move_are_not_forgotten(use):
    model = disturbed()
    engine = InferenceModel(model)
    assert_agree(engine, model)
    model.load_state_dict(disturbed(seed=1).state_dict())
    assert_agree(use(engine), model)


def test_its_own_state_dict_can_be_loaded():
    first, second = disturbed(), disturbed(seed=1)
    engine = InferenceModel(first, follow=False)
    assert_agree(engine, first)
    engine.load_state_dict(InferenceModel(second).state_dict())
    assert_agree(engine, second)


@pytest.mark.parametrize(
    "use",
    [
        copy.deepcopy,
        lambda engine: engine.to("cpu"),
        lambda engine: pickle.loads(pickle.dumps(engine)),
        lambda engine: copy.deepcopy(GumbelMCTSPlanner(engine, num_simulations=2)).world_model,
    ],
    ids=["copied", "moved", "sent", "copied in a planner"],
)
def test_loaded_weights_stay_until_the_source_changes(use):
    first, second = disturbed(), disturbed(seed=1)
    engine = InferenceModel(first)
    engine.load_state_dict(InferenceModel(second).state_dict())
    engine = use(engine)
    assert_agree(engine, second)
    source = engine._source[0]
    source.load_state_dict(disturbed(seed=2).state_dict())
    assert_agree(engine, source)


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


def rescale(module, arguments, output):
    return 0.5 * output


def changed(model, change):
    """A model in which one thing is not as the library makes it."""
    block, head = model.dynamics.transition.blocks[0], model.prediction.value[1]
    if change == "activation of a block":
        block.relu = nn.GELU()
    elif change == "activation of a head":
        head[2] = nn.Tanh()
    elif change == "one layer more in a head":
        model.dynamics.reward_head.out.append(nn.Linear(head[3].out_features, head[3].out_features))
    elif change == "own convolution":
        own = Scaled(4, 4, 3, stride=2, padding=1, bias=False).to(memory_format=torch.channels_last)
        own.load_state_dict(model.representation.stem[0].state_dict())
        model.representation.stem[0] = own
    elif change == "padding":
        block.conv1.padding_mode = "circular"
        block.conv1._reversed_padding_repeated_twice = [1, 1, 1, 1]
    elif change == "hook":
        model.dynamics.transition.register_forward_hook(rescale)
    elif change == "other norm":
        model.dynamics.transition.norm = nn.GroupNorm(2, 8)
    elif change == "lstm without bias":
        lstm = model.dynamics.reward_head.lstm
        model.dynamics.reward_head.lstm = nn.LSTMCell(lstm.input_size, lstm.hidden_size, bias=False)
    return model


@pytest.mark.parametrize(
    "change",
    [
        "activation of a block",
        "activation of a head",
        "one layer more in a head",
        "own convolution",
        "padding",
        "hook",
        "other norm",
        "lstm without bias",
    ],
)
def test_what_is_not_as_the_library_makes_it_is_not_folded(change):
    torch.manual_seed(0)
    model = changed(disturbed(), change)
    assert_agree(InferenceModel(model), model)


class OwnStep(WorldModel):
    def represent(self, observation):
        return 2 * super().represent(observation)


def test_a_world_model_with_an_inference_of_its_own_is_refused():
    model = disturbed()
    own = OwnStep(
        model.representation, model.dynamics, model.prediction, support=model.support, value_prefix_horizon=5
    )
    with pytest.raises(ValueError, match="OwnStep has a represent of its own"):
        InferenceModel(own)


def test_it_stays_in_eval_mode_and_in_its_dtype():
    engine = InferenceModel(disturbed())
    assert not any(part.training for part in engine.train().modules())
    with pytest.raises(ValueError, match="the dtype of an InferenceModel is chosen when it is built"):
        engine.double()


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_refused_dtype_changes_nothing(overrides):
    model = disturbed(**overrides)
    engine = InferenceModel(model)
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        with pytest.raises(ValueError, match="the dtype of an InferenceModel"):
            engine.to(dtype)
    assert_agree(engine, model)


def test_use_in_inference_mode_does_not_spoil_it():
    model = disturbed(channels=12)
    engine = InferenceModel(model)
    with torch.inference_mode():
        unroll(engine, frames(model, 2))
    model.load_state_dict(disturbed(seed=1, channels=12).state_dict())
    assert_agree(engine, model)


def child(planner, observation, answers, go):
    """Search as often as ``go`` says so."""
    while go.get():
        answers.put(planner.search(observation, noise=False).root_value.tolist())


@pytest.mark.slow
def test_processes_search_in_memory_of_their_own_and_see_new_weights():
    model = disturbed(value_prefix=False).share_memory()
    planner = GumbelMCTSPlanner(InferenceModel(model, external_reset=True), num_simulations=8)
    observations = [frames(model, 2, seed) for seed in range(2)]
    planner.search(observations[0], noise=False)
    context = torch.multiprocessing.get_context("spawn")
    answers, commands = ([context.Queue() for _ in range(2)] for _ in range(2))
    workers = [
        context.Process(target=child, args=(planner, *arguments), daemon=True)
        for arguments in zip(observations, answers, commands, strict=True)
    ]
    for worker in workers:
        worker.start()
    for seed in (0, 1):
        model.load_state_dict(disturbed(seed=seed, value_prefix=False).state_dict())
        expected = [planner.search(observation, noise=False).root_value for observation in observations]
        for _ in range(10):
            for command in commands:
                command.put(True)
        for queue, value in zip(answers, expected, strict=True):
            for _ in range(10):
                torch.testing.assert_close(torch.tensor(queue.get(timeout=120)), value, rtol=1e-4, atol=1e-4)
    for command, worker in zip(commands, workers, strict=True):
        command.put(False)
        worker.join(60)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_engine_agrees_and_follows():
    model = disturbed()
    engine = InferenceModel(model, compile=True)
    assert_agree(engine, model)
    model.load_state_dict(disturbed(seed=1).state_dict())
    assert_agree(engine, model)


def test_other_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"dtype is torch.float16; expected torch.float32 or torch.bfloat16"):
        InferenceModel(disturbed(), dtype=torch.float16)


def test_a_norm_without_statistics_is_named():
    with pytest.raises(ValueError, match="track_running_stats=True"):
        scale_and_shift(nn.BatchNorm2d(3, track_running_stats=False))


@pytest.mark.parametrize("planner_class", [MCTSPlanner, GumbelMCTSPlanner])
def test_planners_take_it_in_place_of_the_world_model(planner_class):
    model = disturbed(value_prefix_horizon=2)
    engine = InferenceModel(model, external_reset=True)
    for batch in (3, 5, 2):  # the pool's memory is used again for other sizes
        expected, found = (
            planner_class(part, num_simulations=20).search(frames(model, batch), noise=False)
            for part in (model, engine)
        )
        assert expected.tree.max_depth > 2
        assert torch.equal(found.visit_counts, expected.visit_counts)
        torch.testing.assert_close(found.root_value, expected.root_value, rtol=1e-4, atol=1e-4)
