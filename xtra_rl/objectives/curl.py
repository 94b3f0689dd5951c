"""CURL's loss: data-efficient Rainbow's distributional value loss, and a contrastive one beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import InteractionType, set_interaction_type
from tensordict.utils import NestedKey
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchrl.objectives.common import LossModule

from xtra_rl.data.augment import crop_and_shift
from xtra_rl.models.rainbow import RainbowNetwork, resample_noise, to_float
from xtra_rl.objectives.reduction import check_vector, sample_weight, task_means
from xtra_rl.objectives.target_updater import LaggingTarget


def project_distribution(probabilities: Tensor, returns: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    r"""Distribution of ``returns + discount * Z`` on the atoms of ``Z``: the categorical projection.

    .. math:: m_i = \sum_j \left[1 - \frac{|[G + \gamma z_j]_{-V}^{V} - z_i|}{\Delta z}\right]_0^1 p_j

    Bellemare et al. (arXiv 1707.06887) eq. 7: each shifted atom is shared between its two neighbours.

    Args:
        probabilities: of ``Z``, ``[B, N]``.
        returns: ``[B]``.
        discount: ``[B]``; 0 puts everything at ``returns``.
        support: ``[N]``, evenly spaced and ascending.

    Returns:
        ``[B, N]``, with the mass of ``probabilities``.

    Example:
        >>> project_distribution(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([0.5]), torch.tensor([1.0]),
        ...                      torch.tensor([-1.0, 0.0, 1.0]))
        tensor([[0.2500, 0.5000, 0.2500]])
    """
    low, high = support[0], support[-1]
    moved = (returns[:, None] + discount[:, None] * support).clamp(low, high)
    place = (moved - low) * ((len(support) - 1) / (high - low))  # [B, N], in atoms
    share = (1 - (place[:, :, None] - torch.arange(len(support), device=place.device)).abs()).clamp(min=0)
    return (probabilities[:, :, None] * share).sum(1)


def info_nce(anchors: Tensor, keys: Tensor, similarity: Tensor, *, scale: float = 0.1) -> Tensor:
    r"""Loss of telling each anchor's own key from the keys of all other samples.

    .. math:: -\log \frac{\exp(s\, q_i^\top W k_i)}{\sum_j \exp(s\, q_i^\top W k_j)}

    CURL (arXiv 2004.04136) eq. 3, with the released Atari code's scale ``s`` of 0.1.

    Args:
        anchors: ``q [B, P]``.
        keys: ``k [B, P]``, not trained through this loss.
        similarity: ``W [P, P]``.
        scale: of the logits.

    Returns:
        ``[B]`` in nats; ``log B`` where the keys are all alike.
    """
    return _contrast(anchors, keys.detach(), similarity, scale)[0]


def _contrast(anchors: Tensor, keys: Tensor, similarity: Tensor, scale: float = 0.1) -> tuple[Tensor, Tensor]:
    """Loss ``[B]``, and ``[B]`` float: 1 where the anchor's own key is the nearest."""
    logits = scale * (anchors @ similarity @ keys.T).float()
    own = torch.arange(len(logits), device=logits.device)
    loss = torch.nn.functional.cross_entropy(logits, own, reduction="none")
    return loss, (logits.argmax(-1) == own).float()


class CurlTarget(LaggingTarget):
    """The two slow copies that CURL learns with: of the network for values, of its encoder for keys.

    TorchRL's updaters move all slow copies of a loss by one rule. Here the values' copy is replaced every ``interval``
    steps and the keys' one follows as a moving average.

    Args:
        network: that learns.
        interval: steps between copies for the values, 2,000 as published.
        momentum: of the keys' encoder, 0.999 a step as published.

    Attributes:
        keys: the slow encoder, ``[B, F*C, H, W]`` float to keys ``[B, P]``.
    """

    source: RainbowNetwork
    module: RainbowNetwork

    def __init__(self, network: RainbowNetwork, *, interval: int = 2000, momentum: float = 0.999) -> None:
        super().__init__(network, interval=interval, lag=False)
        self.keys = AveragedModel(network.encoder(), multi_avg_fn=get_ema_multi_avg_fn(momentum))
        self.keys.requires_grad_(False)
        # The first update copies; a copy is what there is already.
        self.keys.n_averaged.fill_(1)

    def step(self) -> None:
        """Count one training step: move the keys' encoder, and copy the network when it is time."""
        super().step()
        self.keys.update_parameters(self.source.encoder())

    def synchronise(self) -> None:
        """Make both copies equal to the network now, e.g. after pretrained weights were loaded."""
        super().synchronise()
        self.keys.module.load_state_dict(self.source.encoder().state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return super().state_dict() | {"keys": self.keys.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        super().load_state_dict(state)
        self.keys.load_state_dict(state["keys"])


class CurlLoss(LossModule):
    r"""Distributional double-Q n-step loss plus ``contrastive_coef`` times InfoNCE: CURL on data-efficient Rainbow.

    CURL (arXiv 2004.04136) with the Atari code's settings; XTRA (arXiv 2210.10763) appendix G compares with it. The
    value loss is the cross-entropy between the projected target distribution and that of the action taken; the target's
    action is the best *legal* one by the network that learns, its distribution comes from the slow copy (double
    Q-learning, arXiv 1509.06461). Anchors and keys are two random views (:func:`~xtra_rl.data.augment.crop_and_shift`)
    of the same frames; the value loss sees the frames as they are. Noise is drawn anew for both networks at each call.

    TorchRL's ``DistributionalDQNLoss`` agrees where all actions are legal, which is tested, but it switches the noise
    off, and under a mask its actor gives illegal actions the value 0, above every legal one of negative value.

    Args:
        network: what is trained.
        target: its slow copies; step them after each update.
        contrastive_coef: 1 as published, 0.01 for Pong, Boxing, Private Eye and Freeway; 0 leaves Rainbow.
        generator: of views and noise; default: an own one with seed 0, on the CPU, which no checkpoint holds. Pass
            the one that the :class:`~xtra_rl.training.learner.Learner` has, which it saves.

    Raises:
        ValueError: if ``contrastive_coef`` is negative.

    The outputs are ``loss_value`` and ``loss_contrastive`` (coefficient included), means over the batch weighted by
    priority and task; and, detached, ``action_value`` (mean return of the actions taken) and ``contrastive_accuracy``
    (share of anchors whose own key is the nearest). Into the batch are written ``td_error [B]``, the total loss of each
    sample, and ``sample_loss``.

    Example:
        >>> network = RainbowNetwork(image_size=32, num_actions=3)
        >>> loss = CurlLoss(network, CurlTarget(network))
        >>> frames = torch.randint(256, (4, 4, 32, 32), dtype=torch.uint8)
        >>> batch = TensorDict({"observation": frames, "bootstrap_observation": frames,
        ...     "action": torch.tensor([0, 1, 0, 1]), "action_mask": torch.tensor([[True, True, False]] * 4),
        ...     "return": torch.zeros(4), "bootstrap_discount": torch.full((4,), 0.99)}, [4])
        >>> sorted(loss(batch).keys()), batch["td_error"].shape
        (['action_value', 'contrastive_accuracy', 'loss_contrastive', 'loss_value'], torch.Size([4]))
    """

    @dataclass
    class _AcceptedKeys:
        """Default names of the batch's entries.

        Attributes:
            observation (NestedKey): frame stack, ``[B, F*C, H, W]`` uint8 or float. Defaults to ``"observation"``.
            action (NestedKey): taken there, ``[B]`` int64.
            action_mask (NestedKey): legal actions of the sample's task, ``[B, A]`` bool.
            returns (NestedKey): discounted n-step sum of rewards, ``[B]``. Defaults to ``"return"``.
            bootstrap_observation (NestedKey): stack at its end, like ``observation``.
            bootstrap_discount (NestedKey): of the value there, ``[B]``; 0 past a termination.
            priority_weight (NestedKey): importance weight of the sample, ``[B]``; 1 where absent.
            task_weight (NestedKey): coefficient of the sample's task, ``[B]``; 1 where absent.
            task_id (NestedKey): ``[B]`` int64; read by :meth:`task_losses` alone.
            priority (NestedKey): written, ``[B]``. Defaults to ``"td_error"``.
            sample_loss (NestedKey): written: ``value`` and ``contrastive [B]``, detached and without weights.
        """

        observation: NestedKey = "observation"
        action: NestedKey = "action"
        action_mask: NestedKey = "action_mask"
        returns: NestedKey = "return"
        bootstrap_observation: NestedKey = "bootstrap_observation"
        bootstrap_discount: NestedKey = "bootstrap_discount"
        priority_weight: NestedKey = "priority_weight"
        task_weight: NestedKey = "task_weight"
        task_id: NestedKey = "task_id"
        priority: NestedKey = "td_error"
        sample_loss: NestedKey = "sample_loss"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    out_keys = ["loss_value", "loss_contrastive", "action_value", "contrastive_accuracy"]

    def __init__(
        self,
        network: RainbowNetwork,
        target: CurlTarget,
        *,
        contrastive_coef: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if contrastive_coef < 0:
            raise ValueError(f"contrastive_coef is {contrastive_coef}; expected at least 0")
        self.network = network
        self.target = target
        self.contrastive_coef = contrastive_coef
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator

    @property
    def world_model(self) -> RainbowNetwork:
        """The network, by the name that a :class:`~xtra_rl.training.learner.Learner` asks for."""
        return self.network

    @property
    def in_keys(self) -> list[NestedKey]:
        """What a batch must hold."""
        keys = self.tensor_keys
        transition = [keys.returns, keys.bootstrap_observation, keys.bootstrap_discount]
        return [keys.observation, keys.action, keys.action_mask, *transition]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """TorchRL calls this on ``set_keys``; there is no value estimator here."""

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Loss of a batch ``[B]``, weighted by priority and task; writes each sample's loss into it."""
        return self._outputs(tensordict, self.per_sample(tensordict))

    def task_losses(self, tensordict: TensorDictBase, num_tasks: int) -> tuple[Tensor, TensorDict]:
        """Loss of each task ``[M]`` (0 for one without samples) before task weights, and :meth:`forward`'s outputs."""
        samples, keys = self.per_sample(tensordict), self.tensor_keys
        total = samples["value"] + self.contrastive_coef * samples["contrastive"]
        weighted = total * sample_weight(tensordict, [keys.priority_weight], total)
        losses = task_means(weighted, tensordict[keys.task_id], num_tasks)
        return losses, self._outputs(tensordict, samples).detach()

    def per_sample(self, tensordict: TensorDictBase) -> TensorDict:
        """``value``, ``contrastive``, ``action_value`` and ``contrastive_accuracy`` of each sample ``[B]``.

        Raises:
            ValueError: if there is not one action a sample.
        """
        keys, network = self.tensor_keys, self.network
        observation, action_mask = tensordict[keys.observation], tensordict[keys.action_mask]
        size, action = len(observation), tensordict[keys.action]
        check_vector(keys.action, action, observation[:, 0, 0, 0])
        resample_noise(network, self.generator)
        resample_noise(self.target.module, self.generator)
        views = [crop_and_shift(observation, generator=self.generator) for _ in range(2)]
        with set_interaction_type(InteractionType.RANDOM):
            features, of_anchors = network.features(torch.cat([observation, views[0]])).split(size)
            log_probabilities = network.log_probabilities(features, action_mask)  # [B, A, N]
            wanted = self.target_distribution(tensordict)
        taken = log_probabilities[torch.arange(size, device=wanted.device), action]
        value = -(wanted * taken).sum(-1)
        with torch.no_grad():
            own_keys = self.target.keys(to_float(views[1]))
        contrastive, accuracy = _contrast(network.projection(of_anchors), own_keys, network.similarity)

        tensordict.set(keys.priority, (value + self.contrastive_coef * contrastive).detach())
        terms = {"value": value, "contrastive": contrastive}
        tensordict.set(keys.sample_loss, TensorDict(terms, batch_size=[size]).detach())
        terms |= {"action_value": network.expectation(taken.detach()), "contrastive_accuracy": accuracy}
        return TensorDict(terms, batch_size=[size])

    @torch.no_grad()
    def target_distribution(self, tensordict: TensorDictBase) -> Tensor:
        """Distribution ``[B, N]`` of the n-step return, bootstrapped by double Q-learning, with the noise as it is."""
        keys, slow = self.tensor_keys, self.target.module
        following, mask = tensordict[keys.bootstrap_observation], tensordict[keys.action_mask]
        best = self.network.action_values(following, mask).argmax(-1)
        log_probabilities = slow.log_probabilities(slow.features(following), mask)
        chosen = log_probabilities[torch.arange(len(best), device=best.device), best].exp()
        returns, discount = tensordict[keys.returns], tensordict[keys.bootstrap_discount]
        return project_distribution(chosen, returns, discount, self.network.support)

    def _outputs(self, tensordict: TensorDictBase, samples: TensorDict) -> TensorDict:
        """The outputs of :meth:`forward` from those of :meth:`per_sample`."""
        keys = self.tensor_keys
        weight = sample_weight(tensordict, [keys.priority_weight, keys.task_weight], samples["value"])
        out = {
            "loss_value": (samples["value"] * weight).mean(),
            "loss_contrastive": self.contrastive_coef * (samples["contrastive"] * weight).mean(),
            "action_value": samples["action_value"].mean(),
            "contrastive_accuracy": samples["contrastive_accuracy"].mean(),
        }
        return TensorDict(out, batch_size=[])
