"""Acting by the policy head alone: greedy, sampled, and never against the rules."""

from __future__ import annotations

import pytest
import torch
from small_models import SMALL, small_model
from tensordict import TensorDict
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from xtra_rl.models import InferenceModel, PriorPolicy
from xtra_rl.search.types import InitialOutput

A = SMALL["num_actions"]
DETERMINISTIC, RANDOM = ExplorationType.DETERMINISTIC, ExplorationType.RANDOM


class Logits(nn.Module):
    """A model whose prior logits are its observation."""

    def initial_inference(self, observation):
        return InitialOutput(observation, observation[:, 0], TensorDict({}, [len(observation)]))


def act(policy, observation, mask, how):
    data = TensorDict({"observation": observation, "action_mask": mask}, batch_size=mask.shape[:-1])
    with set_exploration_type(how):
        return policy(data)["action"]


def model_with_opinions():
    model = small_model()
    for parameter in model.parameters():
        if (parameter == 0).all() and parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    return model


def frames(*batch):
    return torch.randint(256, (*batch, 4, 32, 32), dtype=torch.uint8)


def test_greedy_is_the_argmax_over_the_legal_actions():
    logits = torch.tensor([[9.0, 1.0, 2.0, 0.0, -1.0], [-9.0, -3.0, -2.0, -8.0, -4.0]])
    mask = torch.tensor([[False, True, True, True, True], [True, True, False, True, True]])
    assert act(PriorPolicy(Logits()), logits, mask, DETERMINISTIC).tolist() == [2, 1]


def test_sampled_frequencies_are_the_softmax_over_the_legal_actions():
    logits, mask = torch.tensor([0.0, 1.0, 5.0, -1.0, 0.5]), torch.tensor([True, True, False, True, True])
    draws, policy = 40_000, PriorPolicy(Logits())
    action = act(policy, logits.expand(draws, A), mask.expand(draws, A), RANDOM)
    share = torch.bincount(action, minlength=A) / draws
    expected = torch.where(mask, logits.exp(), 0.0) / logits.exp()[mask].sum()
    # Four standard errors of a share of one half.
    torch.testing.assert_close(share, expected, rtol=0, atol=0.01)
    assert share[2] == 0


@pytest.mark.parametrize("how", [DETERMINISTIC, RANDOM])
def test_illegal_actions_are_never_taken_however_likely(how):
    mask = torch.rand(2000, A) < 0.4
    mask[torch.arange(2000), torch.randint(A, (2000,))] = True
    logits = torch.where(mask, -1e4, 1e4) + torch.randn(2000, A)
    action = act(PriorPolicy(Logits()), logits, mask, how)
    assert mask.gather(1, action[:, None]).all()


@pytest.mark.parametrize("how", [DETERMINISTIC, RANDOM])
def test_world_model_and_its_engine_act_alike_in_eval_mode(how):
    model = model_with_opinions()
    model.train()
    observation, mask = frames(16), torch.ones(16, A, dtype=torch.bool)
    with torch.no_grad():
        logits = model.eval().initial_inference(observation).prior_logits
    model.train()
    before = [buffer.clone() for buffer in model.buffers()]
    one = act(PriorPolicy(model), observation, mask, how)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers()))
    two = act(PriorPolicy(InferenceModel(model)), observation, mask, how)
    assert torch.equal(one, two)
    if how is DETERMINISTIC:
        assert torch.equal(one, logits.argmax(-1))


def test_draws_come_from_its_own_generator():
    logits, mask = torch.zeros(50, A), torch.ones(50, A, dtype=torch.bool)
    state = torch.get_rng_state()
    one, two, other = (
        act(PriorPolicy(Logits(), generator=torch.Generator().manual_seed(seed)), logits, mask, RANDOM)
        for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_any_batch_shape(batch):
    action = act(PriorPolicy(model_with_opinions()), frames(*batch), torch.ones(*batch, A).bool(), RANDOM)
    assert action.shape == batch
    assert action.dtype == torch.int64


def test_impossible_rows_are_named():
    with pytest.raises(ValueError, match="no legal action"):
        act(PriorPolicy(Logits()), torch.zeros(1, A), torch.zeros(1, A, dtype=torch.bool), RANDOM)
    with pytest.raises(ValueError, match="not finite"):
        act(PriorPolicy(Logits()), torch.full((1, A), torch.nan), torch.ones(1, A).bool(), DETERMINISTIC)


def test_each_part_of_the_model_gets_its_own_mode_back():
    model = small_model().train()
    model.representation.eval()
    act(PriorPolicy(model), frames(2), torch.ones(2, A, dtype=torch.bool), RANDOM)
    assert model.training
    assert model.prediction.training
    assert not any(part.training for part in model.representation.modules())
