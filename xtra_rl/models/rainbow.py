"""Data-efficient Rainbow with CURL's contrastive head: the network, and the policy that acts with it."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase, set_interaction_type
from tensordict.nn.probabilistic import interaction_type
from torch import Tensor, nn
from torchrl.modules import MLP, NoisyLinear

from xtra_rl.modules import OwnGenerator

_CHANNELS = (32, 64)
_KERNEL = 5  # and the stride of both convolutions


class RainbowNetwork(nn.Module):
    r"""Return distributions of every action by dueling noisy streams, and the projection that CURL contrasts.

    Two 5x5 convolutions of stride 5 (data-efficient Rainbow, arXiv 1906.05243), then a value and an advantage stream of
    noisy layers (arXiv 1706.10295) over a categorical support (arXiv 1707.06887); beside them CURL's projection
    (arXiv 2004.04136). One head serves tasks of different action sets: the advantages are centred over the *legal*
    actions, so illegal outputs change nothing and the network is that of a task's own action set.

    The noise of the linear layers is on under ``ExplorationType.RANDOM`` alone, and drawn by :class:`RainbowPolicy`
    and :class:`~xtra_rl.objectives.CurlLoss` from their own generators.

    Args:
        image_size: height and width of a frame in pixels, at least 25; 84 as published.
        image_channels: 1 for grey frames, as published; 3 for RGB.
        frame_stack: F.
        num_actions: A, outputs of the head; 18 for Atari.
        hidden: width of both streams and of the projection.
        noise_std: initial scale of the noise, 0.1 as published.
        atoms: N of the return distribution.
        value_limit: the support reaches from ``-value_limit`` to ``value_limit``, in clipped, discounted reward.
        projection_out: width of what is contrasted.

    Attributes:
        support: ``[N]`` returns.
        similarity: ``[P, P]`` of the bilinear product that compares anchors with keys.
        config: the arguments, for :func:`~xtra_rl.training.model_files.save_model`.

    Raises:
        ValueError: if the frames are too small for the convolutions.

    Example:
        >>> network = RainbowNetwork(image_size=84, num_actions=3)
        >>> observation, mask = torch.zeros(2, 4, 84, 84, dtype=torch.uint8), torch.ones(2, 3, dtype=torch.bool)
        >>> features = network.features(observation)
        >>> features.shape, network.log_probabilities(features, mask).shape
        (torch.Size([2, 576]), torch.Size([2, 3, 51]))
        >>> network.action_values(observation, mask).shape
        torch.Size([2, 3])
    """

    support: Tensor

    def __init__(
        self,
        *,
        image_size: int = 84,
        image_channels: int = 1,
        frame_stack: int = 4,
        num_actions: int = 18,
        hidden: int = 256,
        noise_std: float = 0.1,
        atoms: int = 51,
        value_limit: float = 10.0,
        projection_out: int = 128,
    ) -> None:
        super().__init__()
        side = (image_size // _KERNEL) // _KERNEL
        if side < 1:
            raise ValueError(
                f"image_size is {image_size}; expected at least {_KERNEL**2}, what two convolutions of stride"
                f" {_KERNEL} need"
            )
        self.config: dict[str, Any] = {
            "image_size": image_size,
            "image_channels": image_channels,
            "frame_stack": frame_stack,
            "num_actions": num_actions,
            "hidden": hidden,
            "noise_std": noise_std,
            "atoms": atoms,
            "value_limit": value_limit,
            "projection_out": projection_out,
        }
        first, second = _CHANNELS
        self.convolutions = nn.Sequential(
            nn.Conv2d(frame_stack * image_channels, first, _KERNEL, stride=_KERNEL),
            nn.ReLU(),
            nn.Conv2d(first, second, _KERNEL, stride=_KERNEL),
            nn.ReLU(),
            nn.Flatten(),
        )
        width = second * side**2
        self.value, self.advantage = (
            MLP(
                in_features=width,
                out_features=torch.Size((rows, atoms)),
                num_cells=[hidden],
                activation_class=nn.ReLU,
                layer_class=NoisyLinear,
                layer_kwargs={"std_init": noise_std},
            )
            for rows in (1, num_actions)
        )
        self.projection = nn.Sequential(
            nn.Linear(width, hidden),
            nn.LayerNorm(hidden, elementwise_affine=False),
            nn.ReLU(),
            nn.Linear(hidden, projection_out),
            nn.LayerNorm(projection_out, elementwise_affine=False),
        )
        self.similarity = nn.Parameter(torch.rand(projection_out, projection_out))
        self.register_buffer("support", torch.linspace(-value_limit, value_limit, atoms), persistent=False)

    def features(self, observation: Tensor) -> Tensor:
        """Features ``[B, D]`` of frame stacks ``[B, F*C, H, W]``, uint8 or float in [0, 1]."""
        return self.convolutions(to_float(observation))

    def encoder(self) -> nn.Sequential:
        """What CURL keeps a slow copy of: convolutions and projection, sharing this network's weights."""
        return nn.Sequential(self.convolutions, self.projection)

    def log_probabilities(self, features: Tensor, action_mask: Tensor) -> Tensor:
        """Log-probabilities ``[B, A, N]`` of the returns of each action, with ``action_mask [B, A]`` (True = legal)."""
        advantage = self.advantage(features)  # [B, A, N]
        legal = action_mask.unsqueeze(-1).to(advantage.dtype)
        centre = (advantage * legal).sum(-2, keepdim=True) / legal.sum(-2, keepdim=True)
        return (self.value(features) + advantage - centre).float().log_softmax(-1)

    def expectation(self, log_probabilities: Tensor) -> Tensor:
        """Mean return ``[...]`` of log-probabilities ``[..., N]``."""
        # Not a matrix product, which automatic mixed precision would round.
        return (log_probabilities.exp() * self.support).sum(-1)

    def action_values(self, observation: Tensor, action_mask: Tensor) -> Tensor:
        """Mean return of each action ``[B, A]``, minus infinity where it is illegal."""
        values = self.expectation(self.log_probabilities(self.features(observation), action_mask))
        return values.masked_fill(~action_mask, -torch.inf)


def to_float(observation: Tensor) -> Tensor:
    """Frames of any shape as the convolutions want them: uint8 becomes float in [0, 1]."""
    return observation if observation.is_floating_point() else observation.to(torch.float32).div_(255)


@torch.no_grad()
def resample_noise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the factorised noise of all noisy layers anew, as ``NoisyLinear.reset_noise`` but from ``generator``.

    A run that goes on, or an agent that plays beside one that learns, needs noise that no one else draws from.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, NoisyLinear)]
    sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
    noise = torch.randn(sum(sizes), generator=generator, device=generator.device)
    noise = (noise.sign() * noise.abs().sqrt()).to(layers[0].weight_epsilon.device)
    parts = iter(noise.split(sizes))
    for layer in layers:
        incoming, outgoing = next(parts), next(parts)
        torch.outer(outgoing, incoming, out=layer.weight_epsilon)
        layer.bias_epsilon.copy_(outgoing)


class RainbowPolicy(OwnGenerator, TensorDictModuleBase):
    """Take the legal action of the highest mean return.

    Reads ``observation [N, F*C, H, W]`` and ``action_mask [N, A]`` bool, writes ``action [N]`` int64. Under
    ``ExplorationType.DETERMINISTIC`` without noise, a random legal action with probability ``epsilon`` in its place
    (CURL's evaluation); else with noise drawn anew for each row, which is all the exploration that training has. With
    noise in common, games played side by side would be one and the same where no-op starts change nothing, as in Ms.
    Pac-Man.

    Args:
        network: a :class:`RainbowNetwork`.
        epsilon: of deterministic play, 0.001 as published.
        generator: source of the draws; default: an own one with seed 0, on the CPU.

    Example:
        >>> from tensordict import TensorDict
        >>> policy = RainbowPolicy(RainbowNetwork(image_size=32, num_actions=3))
        >>> observation, mask = torch.zeros(1, 4, 32, 32, dtype=torch.uint8), torch.tensor([[False, True, False]])
        >>> policy(TensorDict({"observation": observation, "action_mask": mask}, [1]))["action"]
        tensor([1])
    """

    in_keys = ["observation", "action_mask"]
    out_keys = ["action"]

    def __init__(
        self, network: RainbowNetwork, *, epsilon: float = 0.001, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.epsilon = epsilon
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator

    def set_train_step(self, train_step: int) -> None:
        """Nothing here follows a schedule."""

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``.

        Raises:
            ValueError: if a row of ``action_mask`` has no legal action.
        """
        mask = tensordict["action_mask"]
        if not bool(mask.any(-1).all()):
            raise ValueError("a row of action_mask has no legal action; expected at least one True in each")
        greedy = interaction_type() is InteractionType.DETERMINISTIC
        device = self.network.support.device
        observation, legal = tensordict["observation"].to(device), mask.to(device)
        with set_interaction_type(InteractionType.DETERMINISTIC if greedy else InteractionType.RANDOM):
            values = (
                self.network.action_values(observation, legal) if greedy else self._noisy(observation, legal)
            )
        action = values.argmax(-1).to(mask.device)
        if greedy and self.epsilon > 0:
            action = torch.where(self._strays(len(action)).to(mask.device), self._random(mask), action)
        return tensordict.set("action", action)

    def _noisy(self, observation: Tensor, mask: Tensor) -> Tensor:
        """Action values ``[N, A]``, each row with noise of its own."""
        values = []
        for features, legal in zip(self.network.features(observation).split(1), mask.split(1), strict=True):
            resample_noise(self.network, self.generator)
            values.append(self.network.expectation(self.network.log_probabilities(features, legal)))
        return torch.cat(values).masked_fill(~mask, -torch.inf)

    def _strays(self, size: int) -> Tensor:
        return torch.rand(size, generator=self.generator, device=self.generator.device) < self.epsilon

    def _random(self, mask: Tensor) -> Tensor:
        chances = mask.float().to(self.generator.device)
        return torch.multinomial(chances, 1, generator=self.generator).squeeze(-1).to(mask.device)
