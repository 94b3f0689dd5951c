"""One optimiser step on a batch of several tasks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xtra_rl import distributed
from xtra_rl.data.augment import augment
from xtra_rl.data.shard import BatchShard
from xtra_rl.data.windows import stack_frames
from xtra_rl.objectives import LaggingTarget
from xtra_rl.objectives.reduction import task_means
from xtra_rl.training.stopwatch import Stopwatch
from xtra_rl.transfer import (
    TaskWeighting,
    gradient_gram,
    gram_cosines,
    reached_parameters,
    sample_weights,
    set_combined_gradient,
    task_coefficients,
    task_gradients,
)

_logger = logging.getLogger(__name__)


class TaskLoss(Protocol):
    """What a :class:`Learner` minimises: :class:`~xtra_rl.objectives.MuZeroLoss`, ``BehaviourCloningLoss``, your own.

    A call returns ``loss_*`` scalars to be added up, means over the batch, and others to be logged; it writes
    ``td_error [B]`` and ``sample_loss`` (terms ``[B]`` by name) into the batch. ``task_losses`` returns the loss of
    each task ``[M]`` beside the same outputs; it is asked for only where task weights are measured.
    """

    @property
    def world_model(self) -> nn.Module:
        """What learns."""

    def __call__(self, tensordict: TensorDictBase, /) -> TensorDict: ...

    def task_losses(self, tensordict: TensorDictBase, num_tasks: int, /) -> tuple[Tensor, TensorDict]:
        """Loss of each task ``[M]``, and the same outputs as a call, detached."""


class NonFiniteLoss(RuntimeError):
    """A loss or gradient was NaN, infinite or beyond the limit; ``batch`` holds the batch that did it."""

    def __init__(self, message: str, batch: TensorDictBase) -> None:
        super().__init__(message)
        self.batch = batch


class Learner:
    """Augment, forward, backward, clip, step; measure gradient agreement when the task weights ask for it.

    Args:
        loss: over the world model that learns.
        optimizer: over its parameters.
        lr_factor: factor on the learning rate by training step, ``None`` for constant.
        target: the lagging target network, stepped after each update; ``None`` where nothing bootstraps from one.
        tasks: names by ``task_id``; the target task comes first where there is one.
        task_weights: the cross tasks' weights, and how gradients combine; ``None`` leaves the weights at 1.
        reduction: how task losses combine, ``"sum"`` or ``"mean"`` (:func:`~xtra_rl.transfer.task_coefficients`).
        max_grad_norm: bound on the global norm, 5 as published.
        frame_stack: F.
        augmentation: random shift and intensity, as published.
        shift: of the augmentation, in pixels (:func:`~xtra_rl.data.augment.augment`).
        intensity: standard deviation of the augmentation's factor.
        generator: of the augmentation.
        autocast: ``torch.bfloat16`` for mixed-precision forward passes; ``None`` for float32.
        max_loss: total loss that counts as exploding; ``None`` sets no limit to finite ones.
        max_skipped: batches of bad loss or gradient that may be left out, over the whole training, before one is an
            error.
        shard: this rank's part of each batch, where several ranks of ``torch.distributed`` train one model. Gradients
            are those of the whole batch (PyTorch's DistributedDataParallel averages them), and so are losses, cosines
            and task weights; in measuring steps each rank takes the dot products of a part of the model.

    Attributes:
        skipped: how many were left out.
        on_skip: called with the error of a batch that is left out, to report and keep it.

    Raises:
        ValueError: if there is no task, the loss is no mean over the batch, or ``autocast`` is float16, in which
            gradients would need scaling.
    """

    def __init__(
        self,
        loss: TaskLoss,
        optimizer: torch.optim.Optimizer,
        *,
        tasks: Sequence[str],
        lr_factor: Callable[[int], float] | None = None,
        target: LaggingTarget | None = None,
        task_weights: TaskWeighting | None = None,
        reduction: Literal["sum", "mean"] = "sum",
        max_grad_norm: float = 5.0,
        frame_stack: int = 4,
        augmentation: bool = True,
        shift: int = 4,
        intensity: float = 0.05,
        generator: torch.Generator | None = None,
        autocast: torch.dtype | None = None,
        max_loss: float | None = None,
        max_skipped: int = 0,
        shard: BatchShard | None = None,
    ) -> None:
        if not tasks:
            raise ValueError("tasks is empty; expected the name of at least one task")
        if (of_loss := getattr(loss, "reduction", "mean")) != "mean":
            raise ValueError(
                f"the loss has reduction={of_loss!r}; a Learner steps by means: reduction='mean'"
            )
        if autocast not in (None, torch.bfloat16):
            raise ValueError(f"autocast is {autocast}; expected torch.bfloat16 or None")
        self.loss = loss
        self.optimizer = optimizer
        self.tasks = tuple(tasks)
        self.lr_factor = lr_factor
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.target = target
        self.task_weights = task_weights
        self.reduction: Literal["sum", "mean"] = reduction
        self.max_grad_norm = max_grad_norm
        self.frame_stack = frame_stack
        self.augmentation = augmentation
        self.shift = shift
        self.intensity = intensity
        self.generator = generator
        self.autocast = autocast
        self.max_loss = math.inf if max_loss is None else max_loss
        self.max_skipped = max_skipped
        self.skipped = 0
        self.on_skip: Callable[[NonFiniteLoss], None] = lambda error: None
        self.steps = 0
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.shard = shard if shard is not None and shard.size > 1 else None
        self._forward: Callable[[TensorDictBase], TensorDict] = loss
        self._own_statistics: list[Tensor] = []
        if self.shard is not None:
            self._own_statistics = distributed.unsynchronised_statistics(loss.world_model)
            # Which parameters a loss reaches is always the same, but not all of them: static_graph allows for that.
            self._forward = DistributedDataParallel(loss, broadcast_buffers=False, static_graph=True)  # type: ignore[arg-type]

    def weights(self) -> Tensor:
        """Weight of each task, ``[M]``: 1 for the target task and where there is no scheduler.

        Raises:
            ValueError: if the scheduler has weights of other tasks, or one that is negative or not finite.
        """
        current: Mapping[str, float] = {}
        if self.task_weights is not None:
            current, cross = self.task_weights.weights, self.tasks[1:]
            if set(current) != set(cross) or not all(0 <= weight < math.inf for weight in current.values()):
                raise ValueError(
                    f"the task weights are {dict(current)}; expected one of at least 0 for each cross task"
                    f" ({', '.join(cross) or 'none'})"
                )
        weights = [current.get(task, 1.0) for task in self.tasks]
        return torch.tensor(weights, device=self.parameters[0].device)

    def step(self, batch: TensorDict, watch: Stopwatch | None = None) -> dict[str, Tensor | float]:
        """Train on a batch ``[B]`` from the target builders; writes ``td_error`` into it.

        A batch that is left out counts as a step: it moves the schedules but neither weights nor statistics, and its
        priorities become 1.

        Args:
            batch: is consumed.
            watch: gets the phases ``forward_backward`` and ``optimiser``.

        Returns:
            metrics by name, tensors detached: losses, gradient norm, learning rate and, in a window, cosines.

        Raises:
            NonFiniteLoss: if the loss or its gradient is not finite, or the loss beyond ``max_loss``; weights and
                BatchNorm statistics are then those before this step.
        """
        watch = watch or Stopwatch()
        self._set_learning_rate()
        statistics = [buffer.clone() for buffer in self.loss.world_model.buffers()]
        metrics, observed = watch.time("forward_backward", lambda: self._gradients(batch))
        watch.time("optimiser", lambda: self._apply(batch, metrics, observed, statistics))
        return metrics

    def _gradients(self, batch: TensorDict) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Leave gradients in the parameters; returns metrics, and cosines by task where they are measured."""
        self.loss.world_model.train()
        self._prepare(batch)
        measuring = self.task_weights is not None and self.task_weights.measuring
        return self._measured_backward(batch) if measuring else self._backward(batch)

    def _apply(
        self,
        batch: TensorDict,
        metrics: dict[str, Any],
        observed: dict[str, Tensor],
        statistics: list[Tensor],
    ) -> None:
        """Take the step, or leave the batch out and take the BatchNorm ``statistics`` of before."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        # One look at the device for both; nothing has changed the weights yet.
        loss_value, norm_value = torch.stack([metrics["loss/total"].float(), norm.float()]).tolist()
        if abs(loss_value) <= self.max_loss and math.isfinite(loss_value) and math.isfinite(norm_value):
            self.optimizer.step()
            if self.task_weights is not None:
                self.task_weights.observe(observed)
        else:
            for buffer, before in zip(self.loss.world_model.buffers(), statistics, strict=True):
                buffer.copy_(before)
            self._leave_out(batch, loss_value, norm_value)
        distributed.average_(self._own_statistics)
        if self.target is not None:
            self.target.step()
        if self.task_weights is not None:
            self.task_weights.step()
        self.steps += 1
        metrics["train/grad_norm"] = norm.detach()
        metrics["train/lr"] = self.optimizer.param_groups[0]["lr"]
        if self.max_skipped:
            metrics["train/skipped"] = float(self.skipped)

    def _leave_out(self, batch: TensorDict, loss: float, norm: float) -> None:
        """Count a bad batch; raises where there were too many."""
        self.optimizer.zero_grad(set_to_none=True)
        limit = "" if math.isinf(self.max_loss) else f" (limit {self.max_loss:g})"
        what = f"loss is {loss:g}{limit}, gradient norm {norm:g} at training step {self.steps}"
        if self.skipped >= self.max_skipped:
            more = f" after {self.skipped} batches that were left out" if self.skipped else ""
            raise NonFiniteLoss(what + more, batch)
        self.skipped += 1
        self.on_skip(NonFiniteLoss(f"{what}; left out, {self.skipped} of {self.max_skipped}", batch))
        batch["td_error"] = torch.ones_like(batch["td_error"])

    def _set_learning_rate(self) -> None:
        factor = self.lr_factor(self.steps) if self.lr_factor is not None else 1.0
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor

    def _prepare(self, batch: TensorDict) -> None:
        """Augment the root stack and the frames after it, if there are any, one draw each, as published."""
        pixels = batch.pop("pixels")
        stacks = self.frame_stack
        parts = {"observation": pixels[:, :stacks]}
        if pixels.shape[1] > stacks:
            parts["next_observation"] = pixels[:, 1:]
        for name, frames in parts.items():
            if self.augmentation:
                options: dict[str, Any] = {"pad": self.shift, "scale": self.intensity, "shard": self.shard}
                frames = augment(frames, generator=self.generator, **options)
            batch[name] = stack_frames(frames, stacks)
        batch["observation"] = batch["observation"][:, 0]

    def _autocast(self) -> torch.autocast:
        device = self.parameters[0].device.type
        return torch.autocast(
            device, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None
        )

    def _weigh(self, batch: TensorDict) -> Tensor:
        """Write the coefficient of each sample's task into the batch; returns the tasks' weights ``[M]``."""
        weights = self.weights()
        batch["task_weight"] = sample_weights(
            batch["task_id"], weights, reduction=self.reduction, shard=self.shard
        )
        return weights

    def _backward(self, batch: TensorDict) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """One backward pass of the weighted total; returns metrics, and no cosines."""
        self._weigh(batch)
        with self._autocast():
            losses = self._forward(batch)
        total = sum(losses[key] for key in losses.keys() if key.startswith("loss_"))
        self.optimizer.zero_grad(set_to_none=True)
        with distributed.noticing_losses():
            total.backward()
        return self._metrics(losses, batch), {}

    def _measured_backward(self, batch: TensorDict) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """One backward pass a task, whose weighted sum is the gradient; returns metrics, and cosines by task."""
        weights = self._weigh(batch)
        with self._autocast():
            losses, logs = self.loss.task_losses(batch, len(self.tasks))
        counts = torch.bincount(batch["task_id"], minlength=len(self.tasks))
        if self.shard is not None:
            losses, counts = losses * self.shard.factors(counts), self.shard.counts.to(counts.device)
        parameters = reached_parameters(losses, self.parameters)
        self.optimizer.zero_grad(set_to_none=True)
        with distributed.noticing_losses():
            gradients = task_gradients(losses, parameters)
        part = None if self.shard is None else distributed.scatter_gradients(gradients)
        gram = gradient_gram(gradients) if part is None else distributed.scattered_gram(part)
        coefficients = task_coefficients(weights, counts, reduction=self.reduction)
        coefficients = self.task_weights.combine(coefficients, gram)  # type: ignore[union-attr]
        if part is None:
            set_combined_gradient(parameters, gradients, coefficients)
        else:
            distributed.gather_combined_gradient(parameters, part, coefficients)
        cosines = gram_cosines(gram)
        present = {task: cosines[i] for i, task in enumerate(self.tasks) if i > 0 and counts[i] > 0}
        metrics = self._metrics(logs, batch) | {f"grad_cos/{task}": value for task, value in present.items()}
        return metrics, present

    def _metrics(self, losses: TensorDictBase, batch: TensorDictBase) -> dict[str, Any]:
        """``loss/total`` as minimised; ``loss/<task>/<head>``, means without priority and task weights."""
        heads = [key for key in losses.keys() if key.startswith("loss_")]
        metrics: dict[str, Any] = {"loss/total": sum(losses[key].detach() for key in heads)}
        logs = {f"train/{key}": losses[key].detach() for key in losses.keys() if key not in heads}
        of_tasks: dict[str, Tensor] = {}
        for head, terms in batch["sample_loss"].items():
            means = task_means(terms.float(), batch["task_id"], len(self.tasks))
            of_tasks |= {f"loss/{task}/{head}": means[i] for i, task in enumerate(self.tasks)}
        if self.shard is not None:
            # The mean over ranks is that over samples once each rank's counts by how many samples it has.
            share = len(batch) * self.shard.size / self.shard.batch_size
            factors = self.shard.factors(torch.bincount(batch["task_id"], minlength=len(self.tasks)))
            of_task = dict(zip(self.tasks, factors, strict=True))
            logs = {key: value.float() * share for key, value in logs.items()}
            of_tasks = {key: value * of_task[key.split("/")[1]] for key, value in of_tasks.items()}
            metrics = {key: value.float() for key, value in metrics.items()}
            distributed.average_([*metrics.values(), *logs.values(), *of_tasks.values()])
        return metrics | logs | of_tasks

    def state_dict(self) -> dict[str, Any]:
        """Model, target, optimiser, task weights, counters and the augmentation's random state."""
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            "model": self.loss.world_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "target": self.target.state_dict() if self.target is not None else {},
            "task_weights": self.task_weights.state_dict() if self.task_weights is not None else {},
            "generator": self.generator.get_state() if self.generator is not None else torch.empty(0),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.steps = int(state["steps"])
        self.skipped = int(state["skipped"])
        self.loss.world_model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.target is not None:
            self.target.load_state_dict(state["target"])
        if self.task_weights is not None:
            self.task_weights.load_state_dict(state["task_weights"])
        if self.generator is not None:
            if state["generator"].numel() == self.generator.get_state().numel():
                self.generator.set_state(state["generator"])
            else:
                _logger.warning("this run comes from another kind of device: its augmentation draws anew")
