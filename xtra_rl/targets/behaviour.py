"""Targets of behaviour cloning: the actions of the data, with the legal actions of the task beside them."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from xtra_rl.targets.value import task_ids


class BehaviourTargets:
    """Turn windows of one task's offline data into a behaviour-cloning batch (XTRA, arXiv 2210.10763, appendix O).

    Only the root of a window is used, so its unroll has no steps. It still spans the one transition that holds the
    root's action; the last row of a trajectory has none and is never a root.

    Args:
        action_mask: legal actions of the task, ``[A]`` bool, on the device of the windows.
        frame_stack: F, at least 1.

    Raises:
        ValueError: if ``action_mask`` is not a vector of bools with a legal action.

    Example:
        >>> targets = BehaviourTargets(torch.tensor([True, False, True]), frame_stack=2)
        >>> windows = TensorDict({"pixels": torch.zeros(1, 2, 1, 8, 8), "action": torch.tensor([[2]]),
        ...     "transition_mask": torch.tensor([[True]]), "priority_weight": torch.ones(1),
        ...     "index": torch.zeros(1), "task_id": torch.zeros(1)}, [1])
        >>> targets(windows)["action"]
        tensor([2])
    """

    unroll_steps = 0
    bootstrap_steps = 1
    bootstrap_pixels = False

    def __init__(self, action_mask: Tensor, *, frame_stack: int = 4) -> None:
        check_mask(action_mask)
        self.action_mask = action_mask
        self.frame_stack = frame_stack

    @torch.no_grad()
    def __call__(self, windows: TensorDictBase) -> TensorDict:
        """Batch ``[B]`` for :class:`~xtra_rl.objectives.BehaviourCloningLoss`, before augmentation.

        Returns:
            ``pixels [B, F, C, H, W]``, ``action [B]``, ``action_mask [B, A]``, ``policy_mask [B]`` (the root has an
            action), ``priority_weight``, ``index`` and ``task_id [B]``.

        Raises:
            ValueError: if the data holds an action that is illegal in the task.
        """
        action, known = windows["action"][:, 0], windows["transition_mask"][:, 0]
        check_actions(action[known], self.action_mask)
        return TensorDict(
            {
                "pixels": windows["pixels"][:, : self.frame_stack],
                "action": action,
                "action_mask": self.action_mask.expand(len(action), -1),
                "policy_mask": known,
                "priority_weight": windows["priority_weight"],
                "index": windows["index"],
                "task_id": task_ids(windows),
            },
            batch_size=windows.batch_size[:1],
        )


def check_mask(action_mask: Tensor) -> None:
    """Refuse what is not a vector of bools with at least one legal action.

    Raises:
        ValueError: if it is not.
    """
    if action_mask.dtype != torch.bool or action_mask.ndim != 1 or not bool(action_mask.any()):
        raise ValueError(
            f"action_mask is {action_mask.dtype} of shape {tuple(action_mask.shape)}; expected a vector of bools"
            " with at least one legal action"
        )


def check_actions(action: Tensor, action_mask: Tensor) -> None:
    """Refuse data of another game: actions ``[n]`` that ``action_mask [A]`` forbids.

    Raises:
        ValueError: if one is illegal.
    """
    illegal = ~action_mask[action]
    if bool(illegal.any()):
        legal = action_mask.nonzero().squeeze(-1).tolist()
        raise ValueError(
            f"the data holds action {int(action[illegal][0])}, but the legal actions are {legal}; pass data of"
            " the task's own game"
        )
