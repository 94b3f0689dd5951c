"""What is remembered of the target network is what it would say again, bit for bit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from xtra_rl.models import InferenceModel, make_world_model
from xtra_rl.objectives import LaggingTarget
from xtra_rl.search import GumbelMCTSPlanner, InitialOutput
from xtra_rl.targets import RootMemory


class Echo:
    """A planner whose value of a stack is the number in it; it counts the stacks it sees."""

    world_model = SimpleNamespace(value_prefix_horizon=5)

    def __init__(self):
        self.seen = []

    def initial_inference(self, stacks):
        self.seen += stacks.tolist()
        value = stacks.float()
        embedding = {
            "latent": value.view(-1, 1, 1, 1).expand(-1, 2, 3, 3).clone(),
            "hidden": torch.zeros(len(value), 7),
        }
        return InitialOutput(value[:, None].repeat(1, 4), value, embedding)


def ask(memory, keys, numbers):
    """Answers for ``numbers`` under ``keys``, checked in all their parts."""
    numbers = torch.tensor(numbers)
    answer = memory.infer(torch.tensor(keys), lambda places: numbers[places])
    expected = numbers.float()
    assert torch.equal(answer.value, expected)
    assert torch.equal(answer.prior_logits, expected[:, None].repeat(1, 4))
    assert torch.equal(answer.embedding["latent"], expected.view(-1, 1, 1, 1).expand(-1, 2, 3, 3))
    assert torch.equal(answer.embedding["hidden"], torch.zeros(len(numbers), 7))
    return answer


def test_a_stack_is_inferred_once_until_the_weights_change():
    planner, version = Echo(), [0]
    memory = RootMemory(planner, 10, version=lambda: version[0], chunk=4)
    ask(memory, [3, 5, 3], [30, 50, 30])
    assert planner.seen == [30, 50, 50, 50]
    ask(memory, [5, 3, 7], [50, 30, 70])
    assert planner.seen[4:] == [70] * 4
    assert (memory.asked, memory.missed) == (6, 3)
    version[0] = 1
    ask(memory, [5], [51])
    assert planner.seen[-1] == 51
    assert memory.missed == 4


def test_a_latent_that_is_called_as_an_lstm_state_is_not_taken_for_zeros():
    class Named(Echo):
        def initial_inference(self, stacks):
            value = stacks.float()
            return InitialOutput(
                value[:, None].repeat(1, 4), value, {"hidden": value[:, None], "depth": value}
            )

    memory = RootMemory(Named(), 10, version=lambda: 0)
    for _ in range(2):
        answer = memory.infer(torch.tensor([3, 5]), lambda places: torch.tensor([30, 50])[places])
        assert answer.embedding["hidden"].tolist() == [[30.0], [50.0]]
        assert answer.embedding["depth"].tolist() == [30.0, 50.0]


def test_states_of_a_model_of_one_s_own_need_not_be_zero():
    class Started(Echo):
        def initial_inference(self, stacks):
            output = super().initial_inference(stacks)
            output.embedding["hidden"] = output.value[:, None].repeat(1, 7)
            return output._replace(embedding=TensorDict(output.embedding, [len(stacks)]))

    memory = RootMemory(Started(), 10, version=lambda: 0)
    for _ in range(2):
        answer = memory.infer(torch.tensor([3, 5]), lambda places: torch.tensor([30, 50])[places])
        assert answer.embedding["hidden"].tolist() == [[30.0] * 7, [50.0] * 7]


def test_a_row_that_was_written_anew_is_another_stack():
    memory = RootMemory(Echo(), 10, version=lambda: 0)
    ask(memory, [3, 13], [1, 2])
    ask(memory, [23, 13], [3, 2])
    ask(memory, [3, 23], [1, 3])


def test_embeddings_of_other_models_are_kept_too():
    class Other(Echo):
        def initial_inference(self, stacks):
            output = super().initial_inference(stacks)
            state = {"belief": output.value[:, None].repeat(1, 5)}
            return output._replace(embedding=TensorDict(state, [len(stacks)]))

    memory = RootMemory(Other(), 10, version=lambda: 0)
    for _ in range(2):
        answer = memory.infer(torch.tensor([3, 5]), lambda places: torch.tensor([30, 50])[places])
        assert answer.embedding["belief"].tolist() == [[30.0] * 5, [50.0] * 5]
    assert memory.missed == 2

    class Bare(Echo):
        def initial_inference(self, stacks):
            return super().initial_inference(stacks)._replace(embedding=stacks.float())

    with pytest.raises(ValueError, match="TensorDict"):
        RootMemory(Bare(), 10, version=lambda: 0).infer(torch.tensor([3]), lambda places: torch.tensor([30]))


def test_what_has_no_name_is_inferred_each_time_and_apart():
    planner = Echo()
    memory = RootMemory(planner, 10, version=lambda: 0, chunk=1)
    ask(memory, [-1, -1, 4], [1, 2, 40])
    ask(memory, [-1, 4, -1], [3, 40, 1])
    assert planner.seen == [2, 1, 40, 1, 3]


@settings(max_examples=100, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(-1, 60), min_size=1, max_size=20), min_size=1, max_size=8),
    max_bytes=st.integers(1, 2000),
    chunk=st.integers(1, 9),
)
def test_too_little_room_costs_inferences_and_nothing_else(batches, max_bytes, chunk):
    memory = RootMemory(Echo(), 20, version=lambda: 0, max_bytes=max_bytes, chunk=chunk)
    for keys in batches:
        ask(memory, keys, [key if key >= 0 else 1000 + place for place, key in enumerate(keys)])
    used = sum(leaf.numel() * leaf.element_size() for leaf in memory._leaves.values())
    assert not used or used <= max(max_bytes, 120)


@pytest.mark.parametrize("options", [{"rows": 0}, {"chunk": 0}, {"max_bytes": 0}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="expected at least 1"):
        RootMemory(**({"planner": Echo(), "rows": 3, "version": lambda: 0} | options))


@pytest.mark.parametrize("value_prefix", [True, False])
@pytest.mark.parametrize("stem", ["published", "patch"])
def test_neighbours_do_not_matter_to_the_last_bit(value_prefix, stem):
    """Exact resume rests on it: a run that goes on without its memory infers its stacks among others than before."""
    model = make_world_model(
        image_size=48, image_channels=1, channels=16, stem=stem, lstm_hidden=32, support_size=10,
        value_prefix=value_prefix,
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    target = LaggingTarget(model, interval=1, lag=False)
    planner = GumbelMCTSPlanner(InferenceModel(target.module, external_reset=True), num_simulations=2)
    stacks = torch.randint(256, (100, 4, 48, 48), dtype=torch.uint8)

    def fresh():
        return RootMemory(planner, 100, version=lambda: target.version)

    whole = fresh().infer(torch.arange(100), lambda places: stacks[places])
    memory = fresh()
    for _ in range(8):
        keys = torch.randint(100, (37,))
        found = memory.infer(keys, lambda places, keys=keys: stacks[keys[places]])
        assert torch.equal(found.value, whole.value[keys])
        assert torch.equal(found.prior_logits, whole.prior_logits[keys])
        assert found.embedding.keys() == whole.embedding.keys()
        for name, leaf in whole.embedding.items():
            assert torch.equal(found.embedding[name], leaf[keys]), name
    assert memory.missed < memory.asked / 2
    assert set(memory._leaves) == {"prior_logits", "value", "latent"}  # zeros take no room
    # The plain inference of all stacks at once may round differently, and no more.
    plain = planner.initial_inference(stacks)
    torch.testing.assert_close(whole.value, plain.value)
    for name, leaf in plain.embedding.items():
        torch.testing.assert_close(whole.embedding[name], leaf)
    with torch.no_grad():
        next(model.representation.parameters()).mul_(1.5)
    target.step()
    changed = memory.infer(torch.arange(5), lambda places: stacks[places])
    assert not torch.equal(changed.embedding["latent"], whole.embedding["latent"][:5])
