"""One function that builds the environment of any registered task."""

from __future__ import annotations

import torch
from torchrl.data import TensorSpec
from torchrl.envs.common import EnvBase
from torchrl.envs.transforms import Compose, Transform, TransformedEnv

from xtra_rl.envs.tasks import TaskSpec, get_task
from xtra_rl.envs.transforms import END_OF_LIFE, LegalActions, LifeLoss, StackFrames, StepLimit, fit_actions


def make_env(
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
    """The environment of a task: Atari by :func:`~xtra_rl.envs.make_atari_env`, a custom one by its own factory.

    A custom task decides on its own frames, so ``image_size``, ``grayscale``, ``sticky``, ``noop_max``,
    ``num_threads`` and ``subtract_background`` are Atari's only. It gets the same frame stack and step cap
    (``max_frames / frame_skip`` env_steps), and its factory is told ``training=episodic_life``.

    Args:
        task: a name that :func:`~xtra_rl.envs.list_tasks` knows, in ALE's or the paper's spelling, or the task itself.
        num_envs: N, games side by side.
        image_size: H and W in pixels.
        grayscale: one channel instead of RGB.
        frame_stack: F, the frames of an ``observation``.
        frame_skip: emulator frames per env_step, of which the last two are max-pooled.
        sticky: probability that the emulator repeats the previous action in a frame; 0 as in Atari 100k.
        noop_max: largest number of no-op frames at a game's start, drawn from 1 on; 0 for none.
        episodic_life: mark lost lives, which end a trajectory in replay, for training. False for evaluation.
        max_frames: emulator frames after which a game is truncated; 108,000 are half an hour.
        seed: of all randomness; every copy gets its own stream.
        num_threads: emulator threads, 0 for one per core.
        subtract_background: frames are what differs from the game's still picture, see
            :class:`~xtra_rl.envs.SubtractBackground`.

    Returns:
        An environment of batch size ``[N]`` that reads ``action [N]`` int64 and writes ``pixels [N, C, H, W]`` uint8
        the newest frame, ``observation [N, F * C, H, W]`` the last F of them, ``action_mask [N, A]`` bool True = legal,
        ``reward [N, 1]`` float32 unclipped, ``done``, ``terminated``, ``truncated`` and ``end-of-life [N, 1]`` bool
        and, in Atari, ``lives [N]`` int32.

    Raises:
        ValueError: if the task is unknown, a number is out of range or the custom environment does not have
            the keys, shapes and actions that :func:`~xtra_rl.envs.register_task` asks for.

    Example:
        >>> env = make_env("Breakout", num_envs=2, image_size=48, grayscale=True)
        >>> step = env.rollout(3)
        >>> step["observation"].shape, step["next", "reward"].shape
        (torch.Size([2, 3, 4, 48, 48]), torch.Size([2, 3, 1]))
    """
    spec = get_task(task)
    if spec.factory is None:
        from xtra_rl.envs.atari import make_atari_env

        return make_atari_env(
            spec,
            num_envs,
            image_size=image_size,
            grayscale=grayscale,
            frame_stack=frame_stack,
            frame_skip=frame_skip,
            sticky=sticky,
            noop_max=noop_max,
            episodic_life=episodic_life,
            max_frames=max_frames,
            seed=seed,
            num_threads=num_threads,
            subtract_background=subtract_background,
        )
    for name, value in (("num_envs", num_envs), ("frame_skip", frame_skip), ("max_frames", max_frames)):
        if value < 1:
            raise ValueError(
                f"{name} must be at least 1, got {value}; make_atari_env documents its unit and default."
            )
    env = spec.factory(num_envs, seed, episodic_life)
    _check_custom(spec, env, num_envs)
    steps: list[Transform] = [StepLimit(-(-max_frames // frame_skip)), LegalActions(spec.action_mask)]
    if env.observation_spec.get(END_OF_LIFE, None) is None:
        has_lives = env.observation_spec.get("lives", None) is not None
        steps.append(LifeLoss(enabled=episodic_life and has_lives))
    # An environment with transforms of its own keeps them, before these.
    return TransformedEnv(env, Compose(*steps, StackFrames(frame_stack)), auto_unwrap=True)


def _check_custom(task: TaskSpec, env: EnvBase, num_envs: int) -> None:
    """Refuse an environment that would fail later and less clearly."""
    where = f"the environment of task {task.name!r}"
    if tuple(env.batch_size) != (num_envs,):
        raise ValueError(
            f"{where} has batch size {tuple(env.batch_size)}, expected ({num_envs},); "
            "let its factory build num_envs copies."
        )
    pixels = env.observation_spec.get("pixels", None)
    if pixels is None or not (_is_picture(pixels) or _is_vector(pixels)):
        found = (
            "no key 'pixels'"
            if pixels is None
            else f"'pixels' of shape {tuple(pixels.shape)} and {pixels.dtype}"
        )
        raise ValueError(
            f"{where} has {found}, expected 'pixels' [N, C, H, W] of torch.uint8, "
            "or [N, D, 1, 1] of torch.float32 for a state that is no picture; add a transform in its factory."
        )
    action = env.action_spec
    if tuple(action.shape) != (num_envs,) or action.dtype != torch.int64:
        raise ValueError(
            f"{where} has actions of shape {tuple(action.shape)} and {action.dtype}, "
            f"expected [{num_envs}] of torch.int64; "
            "use a Categorical action spec."
        )
    fit_actions(action, task.action_mask, where)


def _is_picture(pixels: TensorSpec) -> bool:
    return pixels.dtype == torch.uint8 and len(pixels.shape) == 4


def _is_vector(pixels: TensorSpec) -> bool:
    return pixels.dtype == torch.float32 and len(pixels.shape) == 4 and pixels.shape[2:] == (1, 1)
