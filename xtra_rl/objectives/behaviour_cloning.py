"""The behaviour-cloning loss: cross-entropy of the actions in the data, over the legal actions alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.common import LossModule

from xtra_rl.models.world_model import WorldModel
from xtra_rl.objectives.reduction import (
    Reduction,
    check_reduction,
    check_vector,
    reduce,
    sample_weight,
    task_means,
)


class BehaviourCloningLoss(LossModule):
    r"""Negative log-likelihood of the data's action: the baseline of XTRA (arXiv 2210.10763), appendix O.

    .. math::
        L = -\log \frac{\exp z_a}{\sum_{b\ \mathrm{legal}} \exp z_b}

    with :math:`z` the logits of the policy head, in nats. Representation and prediction are run once; dynamics and
    projection are not used and get no gradient, nor does the value head. Illegal actions are taken out before the
    softmax, so one head of A actions serves tasks of different action sets. The paper gives no loss for its baseline:
    this is the plain reading of its text.

    Args:
        world_model: what is trained.
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``[B]``.

    Raises:
        ValueError: if ``reduction`` is unknown.

    The outputs are ``loss_policy`` and, detached, ``accuracy`` (share of samples whose most likely legal action is the
    data's, 0 to 1) and ``policy_entropy`` (nats). Into the batch are written ``td_error [B]``, the loss of each sample,
    for a buffer with priorities, and ``sample_loss``. The loss is infinite where the data's action is illegal.

    Example:
        >>> from xtra_rl.models import make_world_model
        >>> model = make_world_model(image_size=16, image_channels=1, num_actions=3, channels=4, downsample=4,
        ...     lstm_hidden=8, support_size=5, projection_hidden=8, projection_out=8, predictor_hidden=4)
        >>> batch = TensorDict({"observation": torch.zeros(2, 4, 16, 16), "action": torch.tensor([0, 2]),
        ...     "action_mask": torch.tensor([[True, False, True]] * 2)}, [2])
        >>> BehaviourCloningLoss(model)(batch)["loss_policy"]  # an untrained head guesses among two actions: log 2
        tensor(0.6931, grad_fn=<MeanBackward0>)
    """

    @dataclass
    class _AcceptedKeys:
        """Default names of the batch's entries.

        Attributes:
            observation (NestedKey): frame stack, ``[B, F*C, H, W]``. Defaults to ``"observation"``.
            action (NestedKey): taken in the data, ``[B]`` int64.
            action_mask (NestedKey): legal actions of the sample's task, ``[B, A]`` bool.
            policy_mask (NestedKey): which samples count, ``[B]`` bool; all where absent.
            priority_weight (NestedKey): importance weight of the sample, ``[B]``; 1 where absent.
            task_weight (NestedKey): coefficient of the sample's task, ``[B]``; 1 where absent.
            task_id (NestedKey): ``[B]`` int64; read by :meth:`task_losses` alone.
            priority (NestedKey): written, ``[B]``. Defaults to ``"td_error"``.
            sample_loss (NestedKey): written: ``policy [B]``, detached and without weights.
        """

        observation: NestedKey = "observation"
        action: NestedKey = "action"
        action_mask: NestedKey = "action_mask"
        policy_mask: NestedKey = "policy_mask"
        priority_weight: NestedKey = "priority_weight"
        task_weight: NestedKey = "task_weight"
        task_id: NestedKey = "task_id"
        priority: NestedKey = "td_error"
        sample_loss: NestedKey = "sample_loss"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    out_keys = ["loss_policy", "accuracy", "policy_entropy"]

    def __init__(self, world_model: WorldModel, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(reduction)
        self.world_model = world_model
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        """What a batch must hold."""
        return [self.tensor_keys.observation, self.tensor_keys.action, self.tensor_keys.action_mask]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """TorchRL calls this on ``set_keys``; there is no value estimator here."""

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Loss of a batch ``[B]``, weighted by priority and task; writes each sample's loss into it."""
        samples = self.per_sample(tensordict)
        return self._outputs(tensordict, samples)

    def task_losses(self, tensordict: TensorDictBase, num_tasks: int) -> tuple[Tensor, TensorDict]:
        """Loss of each task from one shared forward, for per-task gradients.

        Returns:
            ``[M]``: mean over the task's samples of the priority-weighted loss, without task weights (0 for a task
            that has no sample in the batch); and the same outputs as :meth:`forward`, detached.
        """
        samples = self.per_sample(tensordict)
        loss, keys = samples["policy"], self.tensor_keys
        weighted = loss * sample_weight(tensordict, [keys.priority_weight], loss)
        losses = task_means(weighted, tensordict[keys.task_id], num_tasks)
        return losses, self._outputs(tensordict, samples).detach()

    def per_sample(self, tensordict: TensorDictBase) -> TensorDict:
        """``policy``, ``accuracy`` and ``policy_entropy`` of each sample ``[B]``, before any weight.

        Raises:
            ValueError: if the mask of the samples that count has another shape.
        """
        keys, model = self.tensor_keys, self.world_model
        action, action_mask = tensordict[keys.action], tensordict[keys.action_mask]
        policy_logits, _ = model.predict(model.represent(tensordict[keys.observation]))
        legal_logits = policy_logits.float().masked_fill(~action_mask, -torch.inf)  # [B, A]
        policy = torch.nn.functional.cross_entropy(legal_logits, action, reduction="none")
        counts = tensordict.get(keys.policy_mask, None)
        if counts is not None:
            check_vector(keys.policy_mask, counts, policy)
            # Not a product: the filler action of a sample that does not count may be illegal, and 0 * inf is NaN.
            policy = torch.where(counts, policy, 0.0)

        tensordict.set(keys.priority, policy.detach() + 1e-6)
        tensordict.set(keys.sample_loss, TensorDict({"policy": policy.detach()}, batch_size=policy.shape))
        legal_logits = legal_logits.detach()
        accuracy = (legal_logits.argmax(-1) == action).float()
        entropy = torch.special.entr(legal_logits.softmax(-1)).sum(-1)
        out = {"policy": policy, "accuracy": accuracy, "policy_entropy": entropy}
        return TensorDict(out, batch_size=policy.shape)

    def _outputs(self, tensordict: TensorDictBase, samples: TensorDict) -> TensorDict:
        """The outputs of :meth:`forward` from those of :meth:`per_sample`."""
        keys, loss = self.tensor_keys, samples["policy"]
        loss = loss * sample_weight(tensordict, [keys.priority_weight, keys.task_weight], loss)
        counts = tensordict.get(keys.policy_mask, None)
        counted = torch.ones_like(samples["accuracy"]) if counts is None else counts.float()
        out = {"loss_policy": reduce(loss, self.reduction)}
        for name in ("accuracy", "policy_entropy"):
            out[name] = (samples[name] * counted).sum() / counted.sum().clamp(min=1)
        return TensorDict(out, batch_size=[])
