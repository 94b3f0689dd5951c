"""Reanalysis by workers of a Ray cluster."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from xtra_rl.distributed.ray_cluster import (
    WORKER_OPTIONS,
    Arrays,
    Published,
    Subscriber,
    require_connection,
    to_arrays,
    to_tensordict,
)
from xtra_rl.objectives import LaggingTarget
from xtra_rl.targets.reanalyze import ReanalyzeTargets


class RayReanalysis:
    """:class:`~xtra_rl.targets.ReanalyzeTargets` whose windows are split among workers of a Ray cluster.

    Each worker has a copy of the target network, its planner and its memory, on one thread. Random numbers are drawn
    here, for the whole batch, so on a CPU with one thread the targets are those of ``local``, bit for bit, whatever the
    number of workers; a checkpoint is the same, too. That needs ``local`` to have a memory
    (:class:`~xtra_rl.targets.RootMemory`), since without one the networks' rounding depends on who else is encoded, and
    latents that are maps in an :class:`~xtra_rl.models.InferenceModel`: layers over vectors round differently in
    batches of another size (1e-6 in some policies).

    A worker that dies is started anew by Ray and asked again for the part it owed: nothing is lost but time.

    With :meth:`send` windows are reanalysed while something else happens, by the target network of when they were sent
    (:class:`~xtra_rl.training.batches.BatchSource` with ``ahead``).

    Args:
        local: what is copied to the workers, memory included.
        target: publishes the weights that ``local`` searches with, by version.
        workers: how many.
        options: further ones of Ray for each worker, e.g. ``{"num_gpus": 0.25}``, which a planner on a GPU needs.

    Raises:
        ValueError: if ``workers`` is not positive, or ``local`` has a shard of another engine's ranks.
        RuntimeError: if this process has joined no Ray cluster (:func:`~xtra_rl.distributed.ray_cluster.connect`).
    """

    bootstrap_pixels = True

    def __init__(
        self,
        local: ReanalyzeTargets,
        target: LaggingTarget,
        *,
        workers: int,
        options: dict[str, Any] | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected at least 1")
        if local.shard is not None:
            raise ValueError("local has a shard: ranks of torch.distributed split the batch already")
        self.local = local
        self.target = target
        self.unroll_steps = local.unroll_steps
        self.frame_stack = local.frame_stack
        self._ray = require_connection()
        self._published = Published()
        self._sent: dict[int, tuple[TensorDictBase, list[Any]]] = {}
        # One pickle for both, so that the copy of the planner searches with the copy of the target's weights. Kept,
        # since Ray makes a dead worker anew from it.
        self._parts = self._ray.put((local, target))
        remote = self._ray.remote(num_cpus=1, **WORKER_OPTIONS, **(options or {}))(_Worker)
        self.workers = [remote.remote(self._parts) for _ in range(workers)]

    @property
    def bootstrap_steps(self) -> int:
        """Transitions, values and frames that a window needs past the unroll."""
        return self.local.bootstrap_steps

    def send(self, windows: TensorDictBase) -> None:
        """Have windows reanalysed in the background; a call with the same object waits for the result."""
        self._sent[id(windows)] = (windows, self._ask(windows))

    def __call__(self, windows: TensorDictBase) -> TensorDict:
        """Training batch ``[B]``, as by :class:`~xtra_rl.targets.ReanalyzeTargets`."""
        if id(windows) not in self._sent:
            self.send(windows)
        _, parts = self._sent.pop(id(windows))
        batch: TensorDict = torch.cat([to_tensordict(part) for part in self._ray.get(parts)])  # type: ignore[assignment]
        batch = batch.to(windows["index"].device)
        # Frames are here already, so workers do not send them back.
        batch["pixels"] = windows["pixels"][:, : self.frame_stack + self.unroll_steps]
        return batch

    def _ask(self, windows: TensorDictBase) -> list[Any]:
        """References to the targets of each worker's part, in order."""
        self._published.update(self.target.version, self.target.module.state_dict())
        drawn = self.local.draw(len(windows)) if "drawn" not in windows.keys() else windows["drawn"]
        whole = TensorDict(
            {**dict(windows.items()), "drawn": drawn.to(windows["index"].device)}, [len(windows)]
        )
        parts = [part for part in whole.tensor_split(len(self.workers)) if len(part)]
        return [
            worker.make.remote(to_arrays(part), self._published.ticket())
            for worker, part in zip(self.workers, parts, strict=False)
        ]

    def close(self) -> None:
        """End the workers."""
        for worker in self.workers:
            self._ray.kill(worker)

    def state_dict(self) -> dict[str, Tensor]:
        """Random state of the searches."""
        return self.local.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self.local.load_state_dict(state)


class _Worker:
    """Lives in a process of its own; Ray may end it at any time and start it anew from the same arguments."""

    def __init__(self, parts: tuple[ReanalyzeTargets, LaggingTarget]) -> None:
        torch.set_num_threads(1)
        self.targets, self.target = parts
        self.subscriber = Subscriber()

    def make(self, windows: Arrays, ticket: Any) -> Arrays:
        """Targets of windows, with the weights of the ticket."""
        weights = self.subscriber.fetch(ticket)
        if weights is not None:
            self.target.publish(weights)
        device = self.targets.action_mask.device
        return to_arrays(self.targets(to_tensordict(windows).to(device)).exclude("pixels"))
