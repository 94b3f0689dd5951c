"""The MuZero-family loss over an unroll: policy, value, reward or value prefix, and self-supervised consistency."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.common import LossModule

from xtra_rl.models.support import at_least_float32
from xtra_rl.models.world_model import WorldModel
from xtra_rl.objectives.reduction import Reduction, check_reduction, reduce, sample_weight, task_means


class MuZeroLoss(LossModule):
    r"""Unrolled loss of EfficientZero (arXiv 2111.00210), the loss of every task in XTRA (arXiv 2210.10763).

    .. math::
        L = \frac{1}{K} \Big( \sum_{k=0}^{K} c_p l_p^k + c_v l_v^k + \sum_{k=1}^{K} c_r l_r^k + c_c l_c^k \Big)

    Cross-entropies for policy, value and reward (or value prefix), negative cosine similarity for consistency. The
    loss takes its targets from the batch: it does not know whether they come from reanalysis or from a teacher. The
    gradient of every latent is halved after each dynamics step.

    Args:
        world_model: what is trained.
        policy_coef: weight of the policy's cross-entropy; for each of these 0 switches the term off.
        value_coef: weight of the value's cross-entropy.
        reward_coef: weight of the cross-entropy of the reward or value prefix.
        consistency_coef: weight of the consistency; 0 also skips its encoder pass.
        joint_statistics: run the heads once over all positions of the unroll. Saves most of their dispatch cost in
            small networks; BatchNorm then sees the positions as one batch, not one after another as published. The
            frames that consistency compares with are one batch either way.
        latent_gradient_scale: factor on the latent's gradient at each step, 0.5 as published.
        reduction: ``"mean"`` over samples, ``"sum"``, or ``"none"`` for ``[B]``.

    Raises:
        ValueError: if a coefficient is negative or ``reduction`` unknown.

    The outputs are ``loss_policy``, ``loss_value``, ``loss_reward``, ``loss_consistency`` (back-propagate their sum)
    and, detached, ``policy_entropy``, ``target_entropy``, ``value_error``. ``td_error [B]`` is written into the batch.

    Example:
        >>> from xtra_rl.models import make_world_model
        >>> model = make_world_model(image_size=16, image_channels=1, num_actions=3, channels=4, downsample=4,
        ...     lstm_hidden=8, support_size=5, projection_hidden=8, projection_out=8, predictor_hidden=4)
        >>> loss = MuZeroLoss(model)
        >>> losses = loss(random_batch(4, unroll_steps=2, observation_shape=(4, 16, 16), num_actions=3))
        >>> sorted(key for key in losses.keys() if key.startswith("loss_"))
        ['loss_consistency', 'loss_policy', 'loss_reward', 'loss_value']
    """

    @dataclass
    class _AcceptedKeys:
        """Default names of the batch's entries.

        Attributes:
            observation (NestedKey): frame stack at the root, ``[B, F*C, H, W]``. Defaults to ``"observation"``.
            next_observation (NestedKey): stacks at positions 1..K, ``[B, K, F*C, H, W]``; read only for consistency.
            action (NestedKey): ``[B, K]`` int64.
            policy_target (NestedKey): ``[B, K+1, A]``, zero on illegal actions.
            value_target (NestedKey): ``[B, K+1]`` in reward units.
            reward_target (NestedKey): ``[B, K]``, value prefix or reward.
            policy_mask, value_mask, reward_mask, consistency_mask (NestedKey): which of them count, bool.
            priority_weight (NestedKey): importance weight of the sample, ``[B]``; 1 where absent.
            task_weight (NestedKey): coefficient of the sample's task, ``[B]``; 1 where absent.
            task_id (NestedKey): ``[B]`` int64; read by :meth:`task_losses` alone.
            priority (NestedKey): written, ``[B]``. Defaults to ``"td_error"``.
            sample_loss (NestedKey): written: each term of each sample, ``[B]``, detached and without weights.
        """

        observation: NestedKey = "observation"
        next_observation: NestedKey = "next_observation"
        action: NestedKey = "action"
        policy_target: NestedKey = "policy_target"
        value_target: NestedKey = "value_target"
        reward_target: NestedKey = "reward_target"
        policy_mask: NestedKey = "policy_mask"
        value_mask: NestedKey = "value_mask"
        reward_mask: NestedKey = "reward_mask"
        consistency_mask: NestedKey = "consistency_mask"
        priority_weight: NestedKey = "priority_weight"
        task_weight: NestedKey = "task_weight"
        task_id: NestedKey = "task_id"
        priority: NestedKey = "td_error"
        sample_loss: NestedKey = "sample_loss"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    out_keys = [
        "loss_policy",
        "loss_value",
        "loss_reward",
        "loss_consistency",
        "policy_entropy",
        "target_entropy",
        "value_error",
    ]

    def __init__(
        self,
        world_model: WorldModel,
        *,
        policy_coef: float = 1.0,
        value_coef: float = 0.25,
        reward_coef: float = 1.0,
        consistency_coef: float = 2.0,
        joint_statistics: bool = False,
        latent_gradient_scale: float = 0.5,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.coefs = {
            "policy": policy_coef,
            "value": value_coef,
            "reward": reward_coef,
            "consistency": consistency_coef,
        }
        for name, coef in self.coefs.items():
            if coef < 0:
                raise ValueError(f"{name}_coef is {coef}; expected 0 or more")
        check_reduction(reduction)
        self.world_model = world_model
        self.joint_statistics = joint_statistics
        self.latent_gradient_scale = latent_gradient_scale
        self.reduction = reduction

    @property
    def in_keys(self) -> list[NestedKey]:
        """What a batch must hold."""
        keys = self.tensor_keys
        names = ["observation", "action", "policy_target", "value_target", "reward_target"]
        names += ["policy_mask", "value_mask", "reward_mask"]
        if self.coefs["consistency"]:
            names += ["next_observation", "consistency_mask"]
        return [getattr(keys, name) for name in names]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """TorchRL calls this on ``set_keys``; there is no value estimator here."""

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Losses of a batch ``[B]``, weighted by priority and task; writes the new priorities into it."""
        return self._outputs(tensordict, self.per_sample(tensordict))

    def task_losses(self, tensordict: TensorDictBase, num_tasks: int) -> tuple[Tensor, TensorDict]:
        """Loss of each task from one shared forward, for per-task gradients (XTRA section 3.2).

        Returns:
            ``[M]``: mean over the task's samples of the priority-weighted loss, without task weights (0 for a task
            that has no sample in the batch); and the same outputs as :meth:`forward`, detached.
        """
        samples = self.per_sample(tensordict)
        total = sum(samples[name] for name in self.coefs)
        weighted = total * sample_weight(tensordict, [self.tensor_keys.priority_weight], total)
        losses = task_means(weighted, tensordict[self.tensor_keys.task_id], num_tasks)
        return losses, self._outputs(tensordict, samples).detach()

    def _outputs(self, tensordict: TensorDictBase, samples: TensorDict) -> TensorDict:
        keys = self.tensor_keys
        weight = sample_weight(tensordict, [keys.priority_weight, keys.task_weight], samples["policy"])
        out = {f"loss_{name}": reduce(weight * samples[name], self.reduction) for name in self.coefs}
        out |= {name: samples[name].mean() for name in ("policy_entropy", "target_entropy", "value_error")}
        return TensorDict(out, batch_size=[])

    def per_sample(self, tensordict: TensorDictBase) -> TensorDict:
        """Each term of each sample ``[B]``, with its coefficient and 1/K, before priority and task weights.

        Raises:
            ValueError: if the batch has no steps.
        """
        keys = self.tensor_keys
        action = tensordict[keys.action]
        if action.shape[1] == 0:
            raise ValueError(
                "action has no steps; MuZeroLoss unrolls the model for at least one (unroll_steps=1)"
            )
        scale = 1 / action.shape[1]
        latents, reward_logits = self._unroll(tensordict[keys.observation], action)
        policy_logits, value_logits = self._heads(latents)

        log_probs = at_least_float32(policy_logits).log_softmax(-1)
        # A target that does not count may be anything, NaN too, which a product with its mask would not remove.
        policy_mask, value_mask, reward_mask = (
            tensordict[key] for key in (keys.policy_mask, keys.value_mask, keys.reward_mask)
        )
        policy_target = torch.where(policy_mask.unsqueeze(-1), tensordict[keys.policy_target], 0.0)
        # Where the target is 0 a model may say -inf.
        policy = -torch.where(policy_target == 0, 0.0, policy_target * log_probs).sum(-1) * policy_mask
        support = self.world_model.support
        value_target = torch.where(value_mask, tensordict[keys.value_target], 0.0)
        value = support.cross_entropy(value_logits, value_target) * value_mask
        reward_target = torch.where(reward_mask, tensordict[keys.reward_target], 0.0)
        reward = support.cross_entropy(reward_logits, reward_target) * reward_mask
        terms = {"policy": policy, "value": value, "reward": reward}
        terms["consistency"] = self._consistency(tensordict, latents, policy)

        out = {name: self.coefs[name] * scale * term.sum(-1) for name, term in terms.items()}
        tensordict.set(keys.sample_loss, TensorDict(out, batch_size=action.shape[:1]).detach())
        error = (support.decode(value_logits[:, 0].detach()) - value_target[:, 0]).abs()
        tensordict.set(keys.priority, error + 1e-6)
        root_log_probs = log_probs[:, 0].detach()
        finite = root_log_probs.clamp(min=torch.finfo(root_log_probs.dtype).min)
        out["policy_entropy"] = -(root_log_probs.exp() * finite).sum(-1)
        out["target_entropy"] = torch.special.entr(policy_target[:, 0]).sum(-1)
        out["value_error"] = error
        return TensorDict(out, batch_size=action.shape[:1])

    def _unroll(self, observation: Tensor, action: Tensor) -> tuple[list[Tensor], Tensor]:
        """Latents of positions 0..K and the reward head's logits ``[B, K, S]``."""
        model = self.world_model
        latent = model.represent(observation)
        state = model.initial_state(latent)
        latents, logits = [latent], []
        horizon = model.value_prefix_horizon
        for k in range(action.shape[1]):
            if horizon is not None and k % horizon == 0:
                state = model.initial_state(latent)
            latent, reward_logits, state = model.step(latent, action[:, k], state)
            if latent.requires_grad:
                latent.register_hook(lambda grad: grad * self.latent_gradient_scale)
            latents.append(latent)
            logits.append(reward_logits)
        return latents, torch.stack(logits, 1)

    def _heads(self, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Policy logits ``[B, K+1, A]`` and value logits ``[B, K+1, S]``."""
        if self.joint_statistics:
            policy, value = self.world_model.predict(torch.cat(latents))
            unflat = (len(latents), latents[0].shape[0])
            return policy.unflatten(0, unflat).transpose(0, 1), value.unflatten(0, unflat).transpose(0, 1)
        pairs = [self.world_model.predict(latent) for latent in latents]
        policies, values = zip(*pairs)
        return torch.stack(policies, 1), torch.stack(values, 1)

    def _consistency(self, tensordict: TensorDictBase, latents: list[Tensor], like: Tensor) -> Tensor:
        """Negative cosine similarity of predicted and encoded latents, ``[B, K]`` (EfficientZero section 4.1)."""
        keys, model = self.tensor_keys, self.world_model
        if not self.coefs["consistency"]:
            return torch.zeros_like(like[:, :1])
        following = tensordict[keys.next_observation]
        # One encoder pass over all K frames. The target side is in training mode, as published: its BatchNorm
        # statistics are the batch's own, and it learns nothing from this term.
        with torch.no_grad():
            encoded = model.represent(following.flatten(0, 1))
            target = model.project(encoded, predictor=False).unflatten(0, following.shape[:2])
        if self.joint_statistics:
            predicted = model.project(torch.stack(latents[1:], 1).flatten(0, 1), predictor=True)
            predicted = predicted.unflatten(0, following.shape[:2])
        else:
            predicted = torch.stack([model.project(latent, predictor=True) for latent in latents[1:]], 1)
        predicted, target = at_least_float32(predicted), at_least_float32(target)
        cosine = torch.nn.functional.cosine_similarity(predicted, target, dim=-1, eps=1e-5)
        return -cosine * tensordict[keys.consistency_mask]


def random_batch(
    batch_size: int, *, unroll_steps: int, observation_shape: tuple[int, int, int], num_actions: int
) -> TensorDict:
    """A batch with every key of :class:`MuZeroLoss` filled with noise, to try a model or a loss of your own.

    Args:
        batch_size: B.
        unroll_steps: K.
        observation_shape: ``(F*C, H, W)``.
        num_actions: A.
    """
    positions, steps = (batch_size, unroll_steps + 1), (batch_size, unroll_steps)
    return TensorDict(
        {
            "observation": torch.randint(256, (batch_size, *observation_shape), dtype=torch.uint8),
            "next_observation": torch.randint(256, (*steps, *observation_shape), dtype=torch.uint8),
            "action": torch.randint(num_actions, steps),
            "policy_target": torch.rand(*positions, num_actions).softmax(-1),
            "value_target": torch.randn(positions),
            "reward_target": torch.randn(steps),
            "policy_mask": torch.ones(positions, dtype=torch.bool),
            "value_mask": torch.ones(positions, dtype=torch.bool),
            "reward_mask": torch.ones(steps, dtype=torch.bool),
            "consistency_mask": torch.ones(steps, dtype=torch.bool),
            "priority_weight": torch.ones(batch_size),
            "task_id": torch.zeros(batch_size, dtype=torch.int64),
        },
        batch_size=[batch_size],
    )
