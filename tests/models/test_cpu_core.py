"""The compiled core computes what the engine computes with PyTorch, for every network that it accepts."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from test_inference import VARIANTS, OwnTransition, assert_agree, disturbed, frames
from torch import nn

from xtra_rl.models import cpu_core, cpu_kernels, make_world_model
from xtra_rl.models.cpu_core import CpuCore
from xtra_rl.models.cpu_elementwise import exp, sigmoid, tanh
from xtra_rl.models.inference import InferenceModel

BATCHES = (1, 2, 3, 5, 40)
SIZES = VARIANTS | {
    "wide": {"channels": 72, "num_actions": 18},
    "not square by six": {"image_size": 48, "channels": 16},
    "one action, lone lstm unit": {"num_actions": 1, "lstm_hidden": 1},
    "no blocks": {"dynamics_blocks": 0, "prediction_blocks": 0},
    "embedding, plain rewards": {"action_encoding": "embedding", "value_prefix": False},
}


def core_of(engine):
    return CpuCore.build(engine._parts, engine._support.num_bins)


def inputs(engine, batch, seed=0):
    """Action, latent and state of a node somewhere in a tree."""
    generator = torch.Generator().manual_seed(seed)
    root = engine.initial_inference(frames(engine._source[0], batch, seed))
    latent = root.embedding["latent"]
    action = torch.randint(engine.num_actions, (batch,), generator=generator)
    state = None
    if engine.value_prefix_horizon is not None:
        units = engine._parts["reward_head"].lstm_hidden
        state = tuple(torch.randn(batch, units, generator=generator).clamp(-1, 1) for _ in range(2))
    return action, latent, state


def flat(outputs):
    *tensors, state = outputs
    return [*tensors, *(state or ())]


@torch.no_grad()
def assert_same(engine, batch, core=None):
    arguments = inputs(engine, batch)
    expected = flat(engine._recurrent_core(*arguments))
    found = flat((core or core_of(engine))(*arguments))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)
        assert one.is_contiguous(
            memory_format=torch.channels_last if one.ndim == 4 else torch.contiguous_format
        )
    assert expected[1].abs().max() > 0.01


@pytest.mark.parametrize("overrides", SIZES.values(), ids=SIZES.keys())
def test_it_computes_what_pytorch_computes(overrides):
    engine = InferenceModel(disturbed(**overrides))
    for batch in BATCHES:
        assert_same(engine, batch)


def test_of_the_published_network_too():
    model = make_world_model().eval()
    for head in (model.prediction.policy[1], model.prediction.value[1], model.dynamics.reward_head.out):
        nn.init.normal_(head[3].weight, 0, 0.5)
    engine = InferenceModel(model)
    for batch in BATCHES:
        assert_same(engine, batch)


def test_a_row_does_not_depend_on_the_rest_of_its_batch():
    engine = InferenceModel(disturbed())
    core, (action, latent, state) = core_of(engine), inputs(engine, 9)
    together = flat(core(action, latent, state))
    for row in range(9):
        part = slice(row, row + 1)
        alone = flat(core(action[part], latent[part], tuple(entry[part] for entry in state)))
        assert all(torch.equal(one[part], other) for one, other in zip(together, alone, strict=True))


def test_threads_may_share_it_and_each_keeps_its_outputs():
    engine = InferenceModel(disturbed())
    core, problems = core_of(engine), [inputs(engine, 1 + seed % 9, seed) for seed in range(12)]
    expected = [flat(core(*problem)) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda problem: flat(core(*problem)), problems * 20))
    for number, outputs in enumerate(found):
        reference = expected[number % len(problems)]
        assert all(torch.equal(one, other) for one, other in zip(outputs, reference, strict=True))


def test_any_memory_order_of_the_inputs_will_do():
    engine = InferenceModel(disturbed())
    core, (action, latent, state) = core_of(engine), inputs(engine, 2)
    expected = flat(core(action, latent, state))
    wide = tuple(torch.cat([entry, entry], 1)[:, : entry.shape[1]] for entry in state)
    found = flat(core(action.to(torch.int32), latent.contiguous(), wide))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block", [2, 3, 32])
def test_neither_threads_nor_blocks_change_a_bit(monkeypatch, threads, block):
    engine = InferenceModel(disturbed())
    core, arguments = core_of(engine), [inputs(engine, batch) for batch in (1, 2, 7, 13)]
    expected = [flat(core(*problem)) for problem in arguments]
    monkeypatch.setattr(cpu_core, "BLOCK", block)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = [flat(core(*problem)) for problem in arguments]
    finally:
        torch.set_num_threads(before)
    for outputs, reference in zip(found, expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(outputs, reference, strict=True))


@pytest.mark.parametrize("batch", [1, 33])
def test_the_engine_uses_it_on_the_cpu(monkeypatch, batch):
    engine = InferenceModel(disturbed())
    calls, call = [], CpuCore.__call__

    def counted(self, *arguments):
        calls.append(len(arguments[0]))
        return call(self, *arguments)

    monkeypatch.setattr(CpuCore, "__call__", counted)
    assert_agree(engine, engine._source[0], batch)
    assert set(calls) == {batch}


def test_it_follows_the_weights():
    model, other = disturbed(), disturbed(seed=1)
    engine = InferenceModel(model)
    assert_agree(engine, model, batch=1)
    model.load_state_dict(other.state_dict())
    assert_agree(engine, other, batch=1)
    before = disturbed(seed=2)
    engine.refresh(before)
    assert_same(engine, 1, engine._cpu)


class OwnScale(nn.Module):
    def forward(self, observation):
        return observation / 255


class OwnBlock(nn.Module):
    def forward(self, latent):
        return torch.relu(latent - 0.1)


def with_own_transition(model):
    model.dynamics.transition = OwnTransition()


def with_own_block(model):
    model.prediction.blocks.append(OwnBlock())


def with_dilation(model):
    model.prediction.blocks[0].conv1 = nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False)


@pytest.mark.parametrize("change", [with_own_transition, with_own_block, with_dilation])
def test_parts_that_it_does_not_know_are_left_to_pytorch(change):
    model = disturbed(value_prefix=False)
    change(model)
    engine = InferenceModel(model)
    assert engine._cpu is None
    assert_agree(engine, model, batch=1)


def test_any_representation_will_do():
    model = disturbed()
    model.representation = nn.Sequential(
        OwnScale(), nn.AvgPool2d(8), nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.Sigmoid()
    )
    engine = InferenceModel(model)
    engine._parts["representation"].register_buffer("count", torch.zeros(1, dtype=torch.int64))
    assert_same(engine, 1, engine._cpu)
    assert engine._cpu is not None


def test_half_precision_compiled_engines_and_odd_widths_are_left_to_pytorch():
    assert InferenceModel(disturbed(), dtype=torch.bfloat16)._cpu is None
    assert InferenceModel(disturbed(), compile=True)._cpu is None
    odd = disturbed(channels=12)
    assert InferenceModel(odd)._cpu is None
    assert_agree(InferenceModel(odd), odd, batch=1)


def test_what_it_does_not_suit():
    engine = InferenceModel(disturbed())
    core, (action, latent, _) = core_of(engine), inputs(engine, 1)
    assert core.suits(action, latent)
    assert not core.suits(action[:0], latent[:0])
    assert not core.suits(action, latent.double())
    assert not core.suits(action, latent.clone().requires_grad_())
    assert not core.suits(action, latent.to("meta"))


def test_shapes_and_actions_are_checked():
    engine = InferenceModel(disturbed())
    core, (action, latent, state) = core_of(engine), inputs(engine, 2)
    for wrong in (
        (action[:1], latent, state),
        (action, latent[:, :4], state),
        (action, latent[:, :, 1:], state),
        (action, latent, (state[0][:1], state[1])),
        (action, latent, None),
    ):
        with pytest.raises(ValueError, match=r"expected \[B\], \[B, 8, h, w\] with h w = 16 and \[B, 16\]"):
            core(*wrong)
    for outside in (-1, 5):
        with pytest.raises(IndexError, match="expected 0 to 4"):
            core(torch.tensor([0, outside]), latent, state)


def test_not_a_number_is_not_hidden():
    engine = InferenceModel(disturbed())
    core, (action, latent, state) = core_of(engine), inputs(engine, 2)
    latent = latent.clone()
    latent[1, 3, 2, 1] = math.nan
    outputs = flat(core(action, latent, state))
    assert all(output[0].isfinite().all() for output in outputs)
    assert all(output[1].isnan().any() for output in outputs)


def test_heads_at_their_initial_values_decode_to_zero():
    engine = InferenceModel(
        make_world_model(image_size=32, image_channels=1, channels=8, lstm_hidden=16).eval()
    )
    reward, value, policy_logits, *_ = core_of(engine)(*inputs(engine, 3))
    assert not reward.any()
    assert not value.any()
    assert not policy_logits.any()


def test_exp_is_exact_to_float32():
    x = np.linspace(-87, 88, 20_001, dtype=np.float32)
    found = np.array([exp(number) for number in x])
    expected = np.exp(x.astype(np.float64))
    assert np.abs(found / expected - 1).max() < 2e-7
    assert exp(np.float32(0)) == 1
    assert 0 <= exp(np.float32(-1000)) < 1e-37
    assert exp(np.float32(1000)) > 1e38
    assert math.isnan(exp(np.float32(math.nan)))


@pytest.mark.parametrize(
    ("found", "expected"),
    [(tanh, np.tanh), (sigmoid, lambda x: 1 / (1 + np.exp(-x)))],
    ids=["tanh", "sigmoid"],
)
def test_tanh_and_sigmoid_are_exact_to_float32(found, expected):
    x = np.concatenate([np.linspace(-20, 20, 4001), [-1e4, -90, 1e-6, 90, 1e4]]).astype(np.float32)
    values = np.array([found(number) for number in x])
    assert np.abs(values - expected(x.astype(np.float64).clip(-700, 700))).max() < 2e-7
    assert math.isnan(found(np.float32(math.nan)))


@pytest.mark.slow
def test_numba_is_imported_only_when_a_batch_comes():
    code = "import sys, xtra_rl.models.inference; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_cache_on_disk_is_renewed_with_every_source():
    """Numba looks at the date of ``cpu_kernels.py`` only: a number there must change with the files it imports."""
    folder = Path(cpu_core.__file__).parent
    sources = [folder / f"cpu_{name}.py" for name in ("convolution", "elementwise", "tile")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    assert digest == cpu_kernels.SOURCES, f'set SOURCES = "{digest}" in cpu_kernels.py'
