"""TorchRL transforms that every task shares: life loss, step cap, legal actions, frame stack.

All of them are stateless: what they need from the past is read from the root tensordict, so a partial or
automatic reset, which TorchRL merges into the root by mask, restarts exactly the environments that were
reset.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded
from torchrl.envs.transforms import Transform

END_OF_LIFE = "end-of-life"
"""Key, ``[N, 1]`` bool: a life was lost, which ends a trajectory in replay and not the game."""


def _from_root(tensordict: TensorDictBase, key: NestedKey) -> Tensor:
    """What the reset or the step before wrote, without which a step cannot go on."""
    value = tensordict.get(key, None)
    if value is None:
        raise ValueError(
            f"the tensordict of a step lacks {key!r}, it has {sorted(map(str, tensordict.keys()))}; add the action to"
            " what the environment's reset or last step returned, as env.rand_step(env.reset()) does"
        )
    return value


def fit_actions(spec: TensorSpec, mask: Tensor, whose: str = "the environment") -> TensorSpec:
    """An environment's action spec, so masked that random actions are legal ones.

    Args:
        spec: of its actions, of which there may be fewer than A.
        mask: ``[A]`` bool, True where an action of the head is legal.
        whose: how messages call the environment.

    Raises:
        ValueError: if actions are no numbers, or others than those of the head.
    """
    if not isinstance(spec, Categorical) or isinstance(spec, (Binary, MultiCategorical)):
        raise ValueError(
            f"{whose} has {type(spec).__name__} actions, expected Categorical ones: numbers, as planners write them;"
            " pass categorical_action_encoding=True to GymEnv or GymWrapper"
        )
    head, own = len(mask), spec.space.n if spec.space.n >= 0 else len(mask)  # -1: it does not say how many
    ids = mask.nonzero().flatten().tolist()
    if own > head:
        raise ValueError(
            f"{whose} has {own} actions and its task a head of {head}; pass register_task(num_actions={own}) with the"
            " action_ids to be played, or such a mask to LegalActions"
        )
    if beyond := [action for action in ids if action >= own]:
        raise ValueError(
            f"{whose} has {own} actions, 0 to {own - 1}, and its task calls {beyond} legal, too; name those it has in"
            " register_task(action_ids=...), or in the mask of LegalActions"
        )
    if own == len(ids):
        return spec  # random actions are legal as they are, and their draws those of the environment
    legal = mask[:own].to(spec.device)
    if spec.mask is not None:
        legal = legal & spec.mask
    return Categorical(own, shape=spec.shape, device=spec.device, dtype=spec.dtype, mask=legal)


class LifeLoss(Transform):
    """Marks the steps at which a life was lost and the game goes on, without resetting the game.

    A life is lost where the number of lives drops and stays above zero; the last life ends the game and is
    reported by ``done`` alone. Some games report zero lives right after a reset, which this rule tolerates.
    Same meaning as EfficientZero's EpisodicLife wrapper (arXiv:2111.00210, appendix A), except that no extra
    no-op is played after the loss.

    Args:
        lives_key: number of lives, ``[N]``.
        eol_key: where the mark ``[N, 1]`` bool is written.
        enabled: False writes a mark that is never set, so that training and evaluation have the same keys.
    """

    def __init__(
        self, *, lives_key: NestedKey = "lives", eol_key: NestedKey = END_OF_LIFE, enabled: bool = True
    ) -> None:
        super().__init__(in_keys=[lives_key], out_keys=[eol_key])
        self.enabled = enabled

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        done = next_tensordict.get("done")
        if self.enabled:
            before, after = _from_root(tensordict, self.in_keys[0]), next_tensordict.get(self.in_keys[0])
            lost = ((after < before) & (after > 0)).view_as(done) & ~done
        else:
            lost = torch.zeros_like(done)
        return next_tensordict.set(self.out_keys[0], lost)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        shape = (*tensordict_reset.batch_size, 1)
        return tensordict_reset.set(self.out_keys[0], torch.zeros(shape, dtype=torch.bool))

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Spec of the observations after this transform."""
        observation_spec[self.out_keys[0]] = Binary(shape=(*observation_spec.shape, 1), dtype=torch.bool)
        return observation_spec


class StepLimit(Transform):
    """Truncates an episode after ``max_steps`` env_steps; a game over in the same step stays terminated only.

    Args:
        max_steps: env_steps of one episode, at least 1.
        count_key: where the number of steps so far, ``[N, 1]`` int64, is kept.

    Raises:
        ValueError: if ``max_steps`` is smaller than 1.
    """

    def __init__(self, max_steps: int, *, count_key: NestedKey = "step_count") -> None:
        if max_steps < 1:
            raise ValueError(
                f"max_steps must be at least 1, got {max_steps}; pass the number of env_steps of an episode."
            )
        super().__init__(in_keys=[], out_keys=[count_key])
        self.max_steps = max_steps

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        count = _from_root(tensordict, self.out_keys[0]) + 1
        terminated = next_tensordict.get("terminated")
        truncated = next_tensordict.get("truncated", torch.zeros_like(terminated))
        truncated = (truncated | (count >= self.max_steps)) & ~terminated
        next_tensordict.set(self.out_keys[0], count)
        return next_tensordict.set("truncated", truncated).set("done", truncated | terminated)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        shape = (*tensordict_reset.batch_size, 1)
        tensordict_reset.set("truncated", torch.zeros(shape, dtype=torch.bool))
        return tensordict_reset.set(self.out_keys[0], torch.zeros(shape, dtype=torch.int64))

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Spec of the observations after this transform."""
        observation_spec[self.out_keys[0]] = Unbounded(shape=(*observation_spec.shape, 1), dtype=torch.int64)
        return observation_spec

    def transform_done_spec(self, done_spec: TensorSpec) -> TensorSpec:
        """Spec of the ends after this transform."""
        done_spec["truncated"] = done_spec["terminated"].clone()
        return done_spec


class LegalActions(Transform):
    """Adds the constant mask of a task's legal actions, or checks the one that an environment has itself.

    Reanalysis and teachers search recorded positions with the legal actions of the task; they know no others.
    Random actions of the environment are legal ones, too.

    Args:
        mask: ``[A]`` bool, True where the action is legal; A may be more than the environment has.

    Raises:
        ValueError: in a reset or step, if the environment's own mask is another one; in a reset or where its specs are
            asked for, if its actions are no numbers (one-hot, continuous) or others than the mask's.
    """

    def __init__(self, mask: Tensor) -> None:
        super().__init__(in_keys=[], out_keys=["action_mask"])
        self.register_buffer("mask", mask)

    def _masked(self, tensordict: TensorDictBase) -> TensorDictBase:
        own = tensordict.get("action_mask", None)
        if own is None:
            return tensordict.set("action_mask", self.mask.expand(*tensordict.batch_size, -1).clone())
        rows = own.reshape(-1, own.shape[-1]).bool()
        if rows.shape[-1] != len(self.mask) or not bool((rows == self.mask).all()):
            row = next(row for row in rows if not torch.equal(row, self.mask))
            raise ValueError(
                f"the environment's own action_mask is {row.int().tolist()}, its task's {self.mask.int().tolist()}:"
                " register_task(action_ids=...) says what is legal at all times; legal actions that change from"
                " state to state are not learnt here"
            )
        return tensordict

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        return self._masked(next_tensordict)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        if self.container is not None:
            # A planner never asks for this spec, and what it does not fit would be played as something else.
            _ = self.container.full_action_spec
        return self._masked(tensordict_reset)

    def transform_action_spec(self, action_spec: TensorSpec) -> TensorSpec:
        """Spec of the actions after this transform."""
        if action_spec.get("action", None) is not None:
            action_spec["action"] = fit_actions(action_spec["action"], self.mask)
        return action_spec

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Spec of the observations after this transform."""
        if observation_spec.get("action_mask", None) is None:
            shape = (*observation_spec.shape, self.mask.shape[0])
            observation_spec["action_mask"] = Binary(shape=shape, dtype=torch.bool)
        return observation_spec


class StackFrames(Transform):
    """Stacks the last F frames along the channels, oldest first, restarting at every trajectory start.

    A trajectory starts with a reset and after a lost life (``eol_key``, if the environment has it); its first
    frame fills the whole stack. The stack that comes with a game's last step still ends in the true final
    frame.

    Args:
        num_frames: F, at least 1.
        in_key: the newest frame, ``[N, C, H, W]``.
        out_key: the stack, ``[N, F * C, H, W]``.
        eol_key: mark of a lost life, ``[N, 1]`` bool.

    Raises:
        ValueError: if ``num_frames`` is smaller than 1.

    Example:
        The state of CartPole as frames of one column, with what every task of this library has:

        >>> from torchrl.envs import Compose, GymEnv, TransformedEnv, UnsqueezeTransform
        >>> columns = UnsqueezeTransform(-1, in_keys=["observation"], out_keys=["pixels"])
        >>> frames = Compose(columns, UnsqueezeTransform(-1, in_keys=["pixels"]), StackFrames(3, out_key="stack"))
        >>> pole = GymEnv("CartPole-v1", categorical_action_encoding=True)
        >>> common = Compose(StepLimit(5), LifeLoss(enabled=False), LegalActions(torch.tensor([True, True])))
        >>> played = TransformedEnv(pole, Compose(frames, common)).rollout(9)
        >>> played["stack"].shape, played["next", "truncated"].flatten().tolist()
        (torch.Size([5, 12, 1, 1]), [False, False, False, False, True])
    """

    def __init__(
        self,
        num_frames: int,
        *,
        in_key: NestedKey = "pixels",
        out_key: NestedKey = "observation",
        eol_key: NestedKey = END_OF_LIFE,
    ) -> None:
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}; pass 1 for no stacking.")
        super().__init__(in_keys=[in_key], out_keys=[out_key])
        self.num_frames = num_frames
        self.eol_key = eol_key

    def _restart(self, pixels: Tensor) -> Tensor:
        repeats = [1] * pixels.ndim
        repeats[-3] = self.num_frames
        return pixels.repeat(repeats)

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        pixels = next_tensordict.get(self.in_keys[0])
        history = _from_root(tensordict, self.out_keys[0])[..., pixels.shape[-3] :, :, :]
        stack = torch.cat([history, pixels], -3)
        lost = next_tensordict.get(self.eol_key, None)
        if lost is not None and bool(lost.any()):
            stack = torch.where(lost[..., None, None], self._restart(pixels), stack)
        return next_tensordict.set(self.out_keys[0], stack)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return tensordict_reset.set(self.out_keys[0], self._restart(tensordict_reset.get(self.in_keys[0])))

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Spec of the observations after this transform."""
        frame = observation_spec[self.in_keys[0]]
        shape = list(frame.shape)
        shape[-3] *= self.num_frames
        bytes_spec = Bounded(low=0, high=255, shape=shape, dtype=torch.uint8)
        floats = frame.dtype.is_floating_point
        observation_spec[self.out_keys[0]] = Unbounded(shape, dtype=frame.dtype) if floats else bytes_spec
        return observation_spec
