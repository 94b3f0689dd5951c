"""The still picture behind a game, and frames as what differs from it."""

from __future__ import annotations

import functools

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Composite
from torchrl.envs import EnvBase
from torchrl.envs.transforms import Transform


class SubtractBackground(Transform):
    """Replaces each frame by half its difference from a still picture, plus 128, in uint8.

    Walls and ground are most of a frame and say nothing; without them what moves, or is gone, is all that a network
    sees, and frames of different games look more alike. Half the difference always fits a byte: one bit is lost.

    Args:
        background: ``[C, H, W]`` uint8, e.g. from :func:`measure_background`.
        key: the frame, ``[N, C, H, W]`` uint8. As it was, for people to look at, it stays as ``screen``.

    Example:
        >>> SubtractBackground(torch.full((1, 1, 2), 100, dtype=torch.uint8)).subtract(
        ...     torch.tensor([[[100, 255]]], dtype=torch.uint8))
        tensor([[[128, 205]]], dtype=torch.uint8)
    """

    def __init__(self, background: Tensor, *, key: NestedKey = "pixels") -> None:
        super().__init__(in_keys=[key], out_keys=[key])
        self.register_buffer("background", background)

    def subtract(self, frames: Tensor) -> Tensor:
        """``[..., C, H, W]`` uint8 to the same."""
        return ((frames.short() - self.background.short() + 256) // 2).to(torch.uint8)

    def _replace(self, tensordict: TensorDictBase) -> TensorDictBase:
        frames = tensordict.get(self.in_keys[0])
        return tensordict.set("screen", frames).set(self.out_keys[0], self.subtract(frames))

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return self._replace(next_tensordict)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._replace(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Spec of the observations after this transform."""
        observation_spec["screen"] = observation_spec[self.in_keys[0]].clone()
        return observation_spec


def measure_background(env: EnvBase, steps: int = 256, *, seed: int = 0) -> Tensor:
    """Median of each pixel, ``[C, H, W]`` uint8, over ``steps`` of random play in the N environments of a batch.

    An action is held for two steps on average, so that what moves does move. The same environment, seed and number of
    steps give the same picture.

    Example:
        >>> from xtra_rl.envs import make_env
        >>> picture = measure_background(make_env("Pong", 4, image_size=36, grayscale=True), steps=8)
        >>> picture.shape, picture.dtype
        (torch.Size([1, 36, 36]), torch.uint8)
    """
    generator = torch.Generator().manual_seed(seed)
    state, frames, action = env.reset(), [], None
    for _ in range(steps):
        frames.append(state["pixels"].clone())
        drawn = torch.multinomial(state["action_mask"].float(), 1, generator=generator).squeeze(-1)
        keep = torch.rand(len(drawn), generator=generator) < 0.5
        action = drawn if action is None else torch.where(keep, action, drawn)
        _, state = env.step_and_maybe_reset(state.clone(recurse=False).set("action", action.clone()))
    return torch.cat(frames).median(0).values


@functools.lru_cache(maxsize=64)
def atari_background(task: str, image_size: int, grayscale: bool, frame_skip: int) -> Tensor:
    """Background of an Atari game: 2,048 env steps of random play, the same for every process."""
    from xtra_rl.envs.atari import make_atari_env

    env = make_atari_env(
        task,
        8,
        image_size=image_size,
        grayscale=grayscale,
        frame_stack=1,
        frame_skip=frame_skip,
        num_threads=1,
    )
    try:
        return measure_background(env)
    finally:
        env.close()
