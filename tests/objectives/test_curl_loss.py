"""CURL's loss against definitions, slow float64 references and TorchRL's own loss."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.data.tensor_specs import Categorical
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import DistributionalQValueActor
from torchrl.objectives import DistributionalDQNLoss

from xtra_rl.models import RainbowNetwork
from xtra_rl.objectives import CurlLoss, CurlTarget
from xtra_rl.objectives.curl import info_nce, project_distribution

A, B, F, SIDE, ATOMS = 4, 6, 4, 32, 11
SUPPORT = torch.linspace(-10, 10, ATOMS)
LEGAL = torch.tensor([True, False, True, True])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network_of(seed=0, **changes):
    torch.manual_seed(seed)
    return RainbowNetwork(**{"image_size": SIDE, "num_actions": A, "hidden": 16, "atoms": ATOMS, **changes})


def batch_of(mask=LEGAL, size=B, **entries):
    frames = torch.randint(256, (2, size, F, SIDE, SIDE), dtype=torch.uint8, generator=generator())
    legal = mask.nonzero().squeeze(-1)
    batch = {
        "observation": frames[0], "bootstrap_observation": frames[1], "action_mask": mask.expand(size, A),
        "action": legal[torch.arange(size) % len(legal)], "return": torch.linspace(-3, 3, size),
        "bootstrap_discount": torch.linspace(0, 1, size),
    }  # fmt: skip
    return TensorDict({**batch, **entries}, [size])


def loss_of(network=None, slow=None, **options):
    network = network or network_of()
    target = CurlTarget(network)
    if slow is not None:
        target.module.load_state_dict(slow.state_dict())
    return CurlLoss(network, target, generator=generator(), **options)


def slow_projection(probabilities, returns, discount):
    """Algorithm 1 of arXiv 1707.06887, one atom at a time, in float64."""
    out = torch.zeros_like(probabilities, dtype=torch.float64)
    low, high, count = float(SUPPORT[0]), float(SUPPORT[-1]), len(SUPPORT)
    step = (high - low) / (count - 1)
    for b, row in enumerate(probabilities.double().tolist()):
        for j, mass in enumerate(row):
            place = (
                min(max(float(returns[b]) + float(discount[b]) * (low + j * step), low), high) - low
            ) / step
            below, above = math.floor(place), math.ceil(place)
            if below == above:
                out[b, below] += mass
            else:
                out[b, below] += mass * (above - place)
                out[b, above] += mass * (place - below)
    return out


def test_projection_by_hand():
    """Atoms -1, 0, 1; return 0.5 and discount 0.5 put them at 0, 0.5 and 1."""
    found = project_distribution(
        torch.tensor([[0.2, 0.4, 0.4]]), torch.tensor([0.5]), torch.tensor([0.5]), torch.tensor([-1.0, 0, 1])
    )
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.2 + 0.2, 0.2 + 0.4]]))


def test_projection_is_the_published_loop():
    probabilities = torch.rand(40, ATOMS).softmax(-1)
    returns, discount = torch.randn(40) * 8, torch.rand(40)
    discount[:8], returns[:8] = 0.0, torch.linspace(-12, 12, 8)  # terminals: all mass at the return, clamped
    returns[8:12], discount[8:12] = torch.tensor([0.0, 2.0, -4.0, 20.0]), 1.0  # exactly on atoms
    found = project_distribution(probabilities, returns, discount, SUPPORT)
    expected = slow_projection(probabilities, returns, discount)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones(40))


def test_info_nce_is_its_definition():
    anchors, keys, similarity = torch.randn(5, 3), torch.randn(5, 3), torch.rand(3, 3)
    found = info_nce(anchors, keys, similarity)
    for i in range(5):
        scores = [math.exp(0.1 * float(anchors[i] @ similarity @ keys[j])) for j in range(5)]
        assert found[i].item() == pytest.approx(-math.log(scores[i] / sum(scores)), rel=1e-4)
    alike = info_nce(anchors, keys[:1].expand(5, 3), similarity)
    torch.testing.assert_close(alike, torch.full((5,), math.log(5)))
    large = info_nce(1e3 * anchors, 1e3 * keys, similarity)
    assert large.isfinite().all()


def test_keys_get_no_gradient_and_anchors_and_similarity_do():
    anchors, keys, similarity = (torch.randn(3, 3, requires_grad=True) for _ in range(3))
    info_nce(anchors, keys, similarity).sum().backward()
    assert keys.grad is None
    assert anchors.grad.abs().sum() > 0
    assert similarity.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_value_loss_is_torchrl_s_where_every_action_is_legal():
    """Without noise, which TorchRL's losses switch off; it wants log-probabilities as ``[atoms, actions]``."""
    everything = torch.ones(A, dtype=torch.bool)
    network, slow = network_of(0), network_of(1)
    loss = loss_of(network, slow)
    batch = batch_of(everything, bootstrap_discount=torch.full((B,), 0.5**3) * (torch.arange(B) % 3 > 0))

    class Transposed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, observation):
            mask = everything.expand(len(observation), A)
            return self.network.log_probabilities(self.network.features(observation), mask).mT

    actor = DistributionalQValueActor(
        Transposed(), spec=Categorical(A), support=SUPPORT, action_space="categorical"
    )
    oracle = DistributionalDQNLoss(actor, gamma=0.5, reduction="none")
    slow_state = loss.target.module.state_dict()
    with oracle.target_value_network_params.to_module(actor):
        for name, value in actor[0].module.network.state_dict().items():
            value.copy_(slow_state[name])
    ended = batch["bootstrap_discount"][:, None] == 0
    data = TensorDict(
        {
            "observation": batch["observation"], "action": batch["action"][:, None],
            "steps_to_next_obs": torch.full((B, 1), 3.0),
            "next": {
                "observation": batch["bootstrap_observation"], "reward": batch["return"][:, None],
                "done": ended, "terminated": ended,
            },
        }, [B],
    )  # fmt: skip
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = oracle(data)["loss"]
        wanted = loss.target_distribution(batch)
        taken = network.log_probabilities(network.features(batch["observation"]), batch["action_mask"])
    found = -(wanted * taken[torch.arange(B), batch["action"]]).sum(-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_value_loss_is_the_slow_reference_and_priorities_are_the_total():
    network, slow = network_of(0), network_of(1)
    loss, batch = loss_of(network, slow, contrastive_coef=0.5), batch_of()
    samples = loss.per_sample(batch)
    with set_exploration_type(ExplorationType.RANDOM), torch.no_grad():
        here, there = (
            net.log_probabilities(net.features(batch[key]), batch["action_mask"])
            for net, key in ((network, "observation"), (loss.target.module, "bootstrap_observation"))
        )
        ahead = network.log_probabilities(
            network.features(batch["bootstrap_observation"]), batch["action_mask"]
        )
    for i in range(B):
        means = [float(ahead[i, a].double().exp() @ SUPPORT.double()) for a in range(A)]
        best = max((a for a in range(A) if LEGAL[a]), key=lambda a: means[a])
        wanted = slow_projection(
            there[i, best].exp()[None], batch["return"][i : i + 1], batch["bootstrap_discount"][i : i + 1]
        )
        expected = -float((wanted[0] * here[i, batch["action"][i]].double()).sum())
        assert samples["value"][i].item() == pytest.approx(expected, rel=1e-4)
    total = samples["value"] + 0.5 * samples["contrastive"]
    torch.testing.assert_close(batch["td_error"], total.detach())
    assert set(batch["sample_loss"].keys()) == {"value", "contrastive"}


def test_illegal_outputs_change_nothing_and_get_no_gradient():
    network = network_of()
    batch = batch_of()
    before = loss_of(network).per_sample(batch)["value"]
    last = network.advantage[-1]
    rows = slice(ATOMS, 2 * ATOMS)  # action 1
    with torch.no_grad():
        last.bias_mu[rows] += torch.linspace(0, 30, ATOMS)
    after = loss_of(network).per_sample(batch)["value"]
    torch.testing.assert_close(before, after)
    after.sum().backward()
    assert (last.weight_mu.grad[rows] == 0).all()
    assert (last.weight_mu.grad[:ATOMS] != 0).any()


def test_weights_of_priority_and_task_multiply_each_sample():
    weights = torch.rand(B), torch.rand(B)
    batch = batch_of(priority_weight=weights[0], task_weight=weights[1])
    out = loss_of(contrastive_coef=0.25)(batch)
    expected = {
        name: (batch["sample_loss", name] * weights[0] * weights[1]).mean()
        for name in ("value", "contrastive")
    }
    torch.testing.assert_close(out["loss_value"].detach(), expected["value"])
    torch.testing.assert_close(out["loss_contrastive"].detach(), 0.25 * expected["contrastive"])
    losses, logs = loss_of().task_losses(batch_of(task_id=torch.tensor([0, 0, 2, 2, 2, 2])), 3)
    assert losses[1] == 0
    torch.testing.assert_close(
        (2 * losses[0] + 4 * losses[2]).detach() / 6, logs["loss_value"] + logs["loss_contrastive"]
    )


def test_contrast_trains_no_value_stream_and_value_no_projection():
    for name, trained, idle in (
        ("loss_value", "value", "projection"),
        ("loss_contrastive", "projection", "value"),
    ):
        network = network_of()
        loss_of(network)(batch_of())[name].backward()
        assert all(
            p.grad.abs().sum() > 0
            for n, p in network.named_parameters()
            if n.startswith(f"{trained}.0.weight")
        )
        assert all(p.grad is None for n, p in network.named_parameters() if n.startswith(f"{idle}."))
        assert network.convolutions[0].weight.grad.abs().sum() > 0


def test_keys_follow_as_a_moving_average_and_values_are_copied_every_interval():
    network = network_of()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    target = CurlTarget(network, interval=3, momentum=0.9)
    first = "convolutions.0.weight"
    expected = start[first].clone()
    for step in range(1, 5):
        with torch.no_grad():
            network.convolutions[0].weight += step
        target.step()
        expected = 0.9 * expected + 0.1 * network.convolutions[0].weight.detach()
        torch.testing.assert_close(target.keys.module[0][0].weight, expected)
        copied = start[first] + (0 if step < 3 else 6)
        torch.testing.assert_close(target.module.convolutions[0].weight, copied)
    assert not any(p.requires_grad for p in [*target.keys.parameters(), *target.module.parameters()])
    other = CurlTarget(network_of(5), interval=3, momentum=0.9)
    other.load_state_dict(target.state_dict())
    torch.testing.assert_close(other.keys.module[0][0].weight, expected)
    target.synchronise()
    torch.testing.assert_close(target.keys.module[0][0].weight, network.convolutions[0].weight)


def test_a_negative_coefficient_is_refused():
    with pytest.raises(ValueError, match="contrastive_coef is -1"):
        loss_of(contrastive_coef=-1)


@pytest.mark.parametrize("key", ["action", "priority_weight"])
def test_a_dimension_of_one_is_refused(key):
    batch = batch_of(priority_weight=torch.ones(B))
    batch[key] = batch[key][:, None]
    with pytest.raises(ValueError, match=rf"'{key}' has shape \[{B}, 1\]; expected \[{B}\]"):
        loss_of()(batch)
