"""A Ray cluster to put workers on, and what travels to them and back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

Arrays = dict[str, np.ndarray]

#: Ray starts a worker anew as often as it dies, and asks it again up to three times: a part that kills its worker each
#: time (out of memory, a broken kernel) is an error at last.
WORKER_OPTIONS = {"max_restarts": -1, "max_task_retries": 3}


def import_ray() -> ModuleType:
    """Ray, or how to get it.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            'workers need Ray; install it with: pip install -c constraints.txt -e ".[ray]"'
        ) from error
    return ray


def connect(address: str | None = None, *, num_cpus: int | None = None) -> ModuleType:
    """Join a Ray cluster, unless this process has done so already, and return the module ``ray``.

    SIGTERM and Ctrl-C stay with whoever handles them: Ray would take them over.

    Args:
        address: of a cluster whose nodes have this package, e.g. ``auto`` or ``ray://head:10001``; ``None`` starts one
            on this machine, which ends with this process.
        num_cpus: workers of one CPU each that a cluster started here has room for, whatever the machine has.

    Raises:
        ValueError: if Ray is not installed, or there is no cluster at ``address``.
    """
    ray = import_ray()
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"address": address}
    if address is None:
        # Nothing leaves the machine unasked: neither a web server nor a report of use.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        ray.init(**options, log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        raise ValueError(
            f"there is no Ray cluster at {address!r} ({error}); start one with `ray start --head`, or leave the address"
            " out to have one on this machine"
        ) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            # Where nobody did, Ray's handler may stay: it ends what it started.
            if callable(handler):
                signal.signal(number, handler)
    return ray


def require_room(workers: int, num_gpus: float = 0.0) -> None:
    """Refuse more workers of one CPU each than a cluster can ever hold: Ray would wait for ever, and in silence.

    Args:
        workers: of the whole run.
        num_gpus: share of a GPU that each takes.

    Raises:
        ValueError: naming what is wanted and what there is.
    """
    there = require_connection().cluster_resources()
    for kind, wanted in (("CPU", float(workers)), ("GPU", workers * num_gpus)):
        if wanted > there.get(kind, 0.0) + 1e-6:
            share = ", or give each a smaller share (workers.gpus)" if kind == "GPU" else ""
            raise ValueError(
                f"{workers} workers want {wanted:g} {kind}s of the Ray cluster, which has {there.get(kind, 0.0):g};"
                f" start fewer{share}"
            )


def require_connection() -> ModuleType:
    """The module ``ray``, joined to a cluster.

    Raises:
        RuntimeError: if it is not.
    """
    ray = import_ray()
    if not ray.is_initialized():
        raise RuntimeError(
            "this process has joined no Ray cluster; call xtra_rl.distributed.ray_cluster.connect"
        )
    return ray


def to_arrays(tensors: Mapping[str, Tensor] | TensorDictBase) -> Arrays:
    """Tensors as arrays, which Ray moves without copying; nested keys are joined by dots."""
    if isinstance(tensors, TensorDictBase):
        tensors = tensors.flatten_keys(".")
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def to_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Arrays of :func:`to_arrays` as tensors of their own: those that arrive are read-only."""
    return {name: torch.tensor(array) for name, array in arrays.items()}


def to_tensordict(arrays: Arrays, dims: int = 1) -> TensorDict:
    """A TensorDict of :func:`to_arrays` with so many batch dimensions."""
    tensors = to_tensors(arrays)
    return TensorDict(tensors, next(iter(tensors.values())).shape[:dims]).unflatten_keys(".")


class Published:
    """Weights as workers get them: put into Ray's store once, fetched by whoever has an older version."""

    def __init__(self) -> None:
        self.ray = require_connection()
        self.version: int | None = None
        self._reference: Any = None

    def update(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Publish ``weights`` unless that version is out already."""
        if version != self.version:
            self._reference = self.ray.put(to_arrays(weights))
            self.version = version

    def ticket(self) -> tuple[int | None, Any]:
        """What a worker's :class:`Subscriber` needs; Ray does not fetch a reference inside of a tuple by itself."""
        return self.version, self._reference


class Subscriber:
    """The other end of :class:`Published`, in a worker."""

    def __init__(self) -> None:
        self.version: int | None = None

    def fetch(self, ticket: tuple[int | None, Any]) -> dict[str, Tensor] | None:
        """Weights of a version that is not here yet, else None."""
        version, reference = ticket
        if version == self.version:
            return None
        weights = to_tensors(import_ray().get(reference))
        self.version = version
        return weights
