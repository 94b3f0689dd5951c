"""Atari games at the settings of EfficientZero and XTRA, on ale-py's vectorised emulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs.common import EnvBase
from torchrl.envs.transforms import Compose, Transform, TransformedEnv

from xtra_rl.envs.background import SubtractBackground, atari_background
from xtra_rl.envs.tasks import TaskSpec, get_task, list_tasks
from xtra_rl.envs.transforms import LifeLoss, StackFrames


class AtariEnv(EnvBase):
    """N copies of one game: single frames, raw rewards, ALE action ids, true ends of games.

    A thin TorchRL environment around ale-py's ``AtariVectorEnv``, which owns frame skip, max-pooling,
    resizing and the step cap. TorchRL's own ``GymWrapper`` is not used because no-op starts need a look at
    each reset (``_redraw_empty_starts``) and because it reports the lives of the *next* game at the
    end of a game.

    Root keys: ``pixels [N, C, H, W]`` uint8, ``lives [N]`` int32, ``action_mask [N, 18]`` bool. After a
    game's last step ``("next", "pixels")`` is its true final frame and ``("next", "lives")`` is 0 if the game
    was over.

    Use :func:`make_atari_env`, which adds life loss and frame stack and checks the arguments.
    """

    def __init__(
        self,
        task: TaskSpec,
        num_envs: int,
        *,
        image_size: int,
        grayscale: bool,
        frame_skip: int,
        sticky: float,
        noop_max: int,
        max_frames: int,
        seed: int,
        num_threads: int,
    ) -> None:
        super().__init__(device=None, batch_size=[num_envs])
        self.task = task
        self.noop_max = noop_max
        self._engine = AtariVectorEnv(
            task.ale_name or task.name,
            num_envs,
            num_threads=num_threads,
            max_num_frames_per_episode=max_frames,
            repeat_action_probability=sticky,
            full_action_space=True,
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=image_size,
            img_width=image_size,
            grayscale=grayscale,
            stack_num=1,
            frameskip=frame_skip,
            maxpool=True,
            # ale-py draws from 0..noop_max - 1; a start without any no-op is drawn again below.
            noop_max=noop_max + 1,
            episodic_life=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self._mask = task.action_mask.expand(num_envs, -1)
        self._make_specs((3, 1)[grayscale], image_size)
        self._fresh = torch.zeros(num_envs, dtype=torch.bool)
        self._state: tuple[Tensor, Tensor] | None = None
        self._frames = np.zeros(num_envs, dtype=np.int64)
        self._set_seed(seed)

    def _make_specs(self, channels: int, image_size: int) -> None:
        num_envs = self.batch_size[0]
        num_actions = self.task.num_actions
        self.observation_spec = Composite(
            pixels=Bounded(0, 255, shape=(num_envs, channels, image_size, image_size), dtype=torch.uint8),
            lives=Unbounded(shape=(num_envs,), dtype=torch.int32),
            action_mask=Binary(shape=(num_envs, num_actions), dtype=torch.bool),
            shape=(num_envs,),
        )
        # The mask makes TorchRL's random actions legal ones, as in the published scores of random play.
        self.action_spec = Categorical(
            num_actions, shape=(num_envs,), dtype=torch.int64, mask=self._mask.clone()
        )
        self.reward_spec = Unbounded(shape=(num_envs, 1), dtype=torch.float32)
        done = Binary(shape=(num_envs, 1), dtype=torch.bool)
        self.done_spec = Composite(
            done=done, terminated=done.clone(), truncated=done.clone(), shape=(num_envs,)
        )

    @property
    def episode_frames(self) -> Tensor:
        """Emulator frames since each running game's start, no-ops included, ``[N]`` int64."""
        return torch.from_numpy(self._frames.copy())

    def _set_seed(self, seed: int | None) -> None:
        """Seed the next full reset; a copy's stream does not depend on how many copies there are."""
        if seed is None or seed < 0:
            raise ValueError(f"seed must be a non-negative integer, got {seed}; pass for example seed=0.")
        words = np.random.SeedSequence(seed).generate_state(self.batch_size[0])
        self._pending_seeds: np.ndarray | None = (words >> 1).astype(np.int64)

    def _frames_to_tensor(self, frames: np.ndarray) -> Tensor:
        """``[N, 1, H, W]`` or ``[N, 1, H, W, 3]`` to ``[N, C, H, W]``."""
        tensor = torch.from_numpy(frames)
        return tensor.squeeze(1).permute(0, 3, 1, 2).contiguous() if tensor.ndim == 5 else tensor

    def _redraw_empty_starts(
        self, frames: np.ndarray, info: dict, started: np.ndarray
    ) -> tuple[np.ndarray, dict]:
        """Reset copies that began without a no-op until all have 1..noop_max, still uniformly drawn."""
        while self.noop_max > 0:
            empty = started & (info["episode_frame_number"] == 0)
            if not empty.any():
                break
            frames, info = self._engine.reset(options={"reset_mask": empty})
        return frames, info

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        reseeded = self._pending_seeds is not None and mask is not None and bool(mask.all())
        if mask is None or reseeded or self._state is None:
            needed = torch.ones(self.batch_size, dtype=torch.bool)
        else:
            # A game that has just ended was already restarted by the emulator in its last step.
            needed = mask.reshape(self.batch_size) & ~self._fresh
        if bool(needed.any()):
            self._restart(needed.numpy())
            self._fresh |= needed
        assert self._state is not None
        pixels, lives = self._state
        false = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return TensorDict(
            {
                "pixels": pixels.clone(),
                "lives": lives.clone(),
                "action_mask": self._mask.clone(),
                "done": false,
                "terminated": false.clone(),
                "truncated": false.clone(),
            },
            batch_size=self.batch_size,
        )

    def _restart(self, needed: np.ndarray) -> None:
        if needed.all() and self._pending_seeds is not None:
            frames, info = self._engine.reset(seed=self._pending_seeds)
            self._pending_seeds = None
        else:
            frames, info = self._engine.reset(options={"reset_mask": needed})
        frames, info = self._redraw_empty_starts(frames, info, needed)
        self._keep(frames, info)

    def _keep(self, frames: np.ndarray, info: dict) -> tuple[Tensor, Tensor]:
        """Remember what the emulators show now, which a later reset of an ended game returns."""
        self._state = (self._frames_to_tensor(frames), torch.from_numpy(info["lives"]))
        self._frames = info["episode_frame_number"].astype(np.int64)
        return self._state

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get("action").numpy()
        # The emulator's worker threads never answer to an unknown action, which would hang the process.
        if action.min() < 0 or action.max() >= self.task.num_actions:
            raise ValueError(
                f"action must be ids in 0..{self.task.num_actions - 1}, got {action.tolist()}; "
                "pass ALE's ids, not indices into a game's minimal action set."
            )
        frames, rewards, terminations, truncations, info_of_step = self._engine.step(action)
        info = info_of_step
        ended = terminations | truncations
        lives_before = tensordict.get("lives", None)
        if ended.any():
            frames, info = self._redraw_empty_starts(frames, info, ended)
        started = self._keep(frames, info)
        self._fresh = torch.from_numpy(ended)
        pixels, lives = started
        if ended.any():
            final = self._frames_to_tensor(info_of_step["final_obs"])
            pixels = torch.where(self._fresh[:, None, None, None], final, pixels)
            kept = lives if lives_before is None else lives_before
            lives = torch.where(self._fresh, kept, lives).masked_fill(torch.from_numpy(terminations), 0)
        terminated = torch.from_numpy(terminations).unsqueeze(-1)
        truncated = torch.from_numpy(truncations).unsqueeze(-1)
        return TensorDict(
            {
                "pixels": pixels,
                "lives": lives,
                "action_mask": self._mask.clone(),
                "reward": torch.from_numpy(rewards).to(torch.float32).unsqueeze(-1),
                "done": terminated | truncated,
                "terminated": terminated,
                "truncated": truncated,
            },
            batch_size=self.batch_size,
        )


def _check(name: str, value: float, *, at_least: float) -> None:
    if value < at_least:
        raise ValueError(
            f"{name} must be at least {at_least}, got {value}; make_atari_env documents its unit and default."
        )


def make_atari_env(
    task: str | TaskSpec,
    num_envs: int = 1,
    *,
    image_size: int = 96,
    grayscale: bool = False,
    frame_stack: int = 4,
    frame_skip: int = 4,
    sticky: float = 0.0,
    noop_max: int = 30,
    episodic_life: bool = True,
    max_frames: int = 108_000,
    seed: int = 0,
    num_threads: int = 0,
    subtract_background: bool = False,
) -> EnvBase:
    r"""N copies of an Atari game with the preprocessing of EfficientZero and XTRA.

    Each game starts with 1..``noop_max`` no-op frames; an action is repeated for ``frame_skip`` emulator
    frames, of which the last two are max-pooled and resized with area interpolation. No frame is lossy, no
    reward is clipped, FIRE is never pressed for the agent. Settings: EfficientZero (arXiv:2111.00210,
    appendix A) and XTRA (arXiv:2210.10763, appendix K). Differs from both codes: the step cap is reported as
    truncation, and no extra no-op is played after a lost life.

    Keys, besides TorchRL's: ``pixels [N, C, H, W]`` uint8 the newest frame, ``observation [N, F * C, H, W]``
    uint8 the last F frames, ``action_mask [N, 18]``, ``lives [N]``, ``action [N]`` int64 an ALE id in 0..17,
    ``end-of-life [N, 1]``. A trajectory ends where ``terminated | truncated | end-of-life``; after a lost
    life the game goes on and the stack starts anew.

    Args:
        task: an Atari task, in ALE's or the paper's spelling.
        num_envs: N.
        image_size: H and W in pixels.
        grayscale: one channel instead of RGB.
        frame_stack: F.
        frame_skip: emulator frames per env_step.
        sticky: probability that the emulator repeats the previous action in a frame.
        noop_max: largest number of no-op frames at a game's start; 0 for none.
        episodic_life: mark lost lives, for training. False for evaluation: ``end-of-life`` is then never set.
        max_frames: emulator frames (without no-ops) after which a game is truncated.
        seed: of all randomness; every copy gets its own stream.
        num_threads: emulator threads, 0 for one per core.
        subtract_background: frames are what differs from the game's still picture
            (:class:`~xtra_rl.envs.SubtractBackground`); ``screen`` is then the frame as it was.

    Raises:
        ValueError: if the task is unknown or not an Atari game, or a number is out of range.

    >>> env = make_atari_env("Breakout", num_envs=2, grayscale=True, image_size=48)
    >>> env.reset()["observation"].shape
    torch.Size([2, 4, 48, 48])
    """
    spec = get_task(task)
    if spec.ale_name is None:
        known = ", ".join(name for name in list_tasks() if get_task(name).ale_name)
        raise ValueError(f"task {spec.name!r} is not an Atari game; use make_env, or one of {known}.")
    for name, value in (("num_envs", num_envs), ("image_size", image_size), ("frame_stack", frame_stack)):
        _check(name, value, at_least=1)
    for name, value in (("frame_skip", frame_skip), ("max_frames", max_frames)):
        _check(name, value, at_least=1)
    for name, value in (("noop_max", noop_max), ("seed", seed), ("num_threads", num_threads)):
        _check(name, value, at_least=0)
    if not 0.0 <= sticky <= 1.0:
        raise ValueError(f"sticky must be a probability, got {sticky}; 0.0 is the published setting.")
    env = AtariEnv(
        spec,
        num_envs,
        image_size=image_size,
        grayscale=grayscale,
        frame_skip=frame_skip,
        sticky=sticky,
        noop_max=noop_max,
        max_frames=max_frames,
        seed=seed,
        num_threads=num_threads,
    )
    steps: list[Transform] = [LifeLoss(enabled=episodic_life)]
    if subtract_background:
        steps.append(SubtractBackground(atari_background(spec.name, image_size, grayscale, frame_skip)))
    return TransformedEnv(env, Compose(*steps, StackFrames(frame_stack)))
