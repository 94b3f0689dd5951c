"""Every policy goes to the workers of a collector, with its random numbers."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.multiprocessing  # teaches ForkingPickler to share tensors
from small_models import small_model
from tensordict import TensorDict

from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.models import PriorPolicy, RainbowNetwork, RainbowPolicy
from xtra_rl.search import GumbelMCTSPlanner

POLICIES = {
    "random": lambda generator: RandomPolicy(generator),
    "prior": lambda generator: PriorPolicy(small_model(), generator=generator),
    "rainbow": lambda generator: RainbowPolicy(
        RainbowNetwork(image_size=32, num_actions=3), generator=generator
    ),
    "planner": lambda generator: GumbelMCTSPlanner(small_model(), num_simulations=2, generator=generator),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_arrives_with_its_random_numbers(name):
    policy = POLICIES[name](torch.Generator().manual_seed(3))
    sent = pickle.loads(ForkingPickler.dumps(policy))
    for _ in range(2):
        numbers = [torch.rand(4, generator=each.generator) for each in (policy, sent)]
        assert torch.equal(*numbers)
    state = policy.rng_state()
    first = torch.rand(4, generator=policy.generator)
    policy.set_rng_state(state)
    assert torch.equal(torch.rand(4, generator=policy.generator), first)
    assert not holds_generator(policy.__getstate__())  # nor a tensor of its state: neither reaches a worker


def holds_generator(state):
    return any(isinstance(value, torch.Generator) for value in state.values())


def test_random_play_goes_on_where_it_was_sent():
    policy = RandomPolicy(torch.Generator().manual_seed(0))
    mask = TensorDict({"action_mask": torch.ones(64, 18, dtype=torch.bool)}, [64])
    sent = pickle.loads(ForkingPickler.dumps(policy))
    assert torch.equal(policy(mask.clone())["action"], sent(mask.clone())["action"])
