"""What the processes of one run say to each other. In a single process all of it is a matter of course.

Every rank runs the same program and takes the same steps; rank 0, the main one, also reads and writes files, plays
evaluations and talks. Objects and decisions travel through gloo, gradients of a GPU through NCCL.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

#: The other ranks wait this long for the main one, for example while it evaluates; gloo notices at once if it dies.
PATIENCE = timedelta(days=7)
#: A GPU waits this long for gradients of the others: NCCL does not notice by itself that one of them is gone.
NCCL_PATIENCE = timedelta(minutes=30)

#: For what may take long; None where the group of all collectives is patient.
_patient: dist.ProcessGroup | None = None

_LOSS = re.compile(r"gloo|nccl|peer|connection|timed out", re.IGNORECASE)


class LostRank(RuntimeError):
    """Another process of the run is gone, so that this one cannot go on."""


def join(device: str = "cpu") -> bool:
    """Join the run that ``torchrun`` started, if it did and there is more than one process; returns whether.

    Args:
        device: ``"cuda"`` also brings up NCCL, and takes the GPU of the local rank as the current one.

    Raises:
        LostRank: if the others cannot be reached.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return dist.is_initialized()
    global _patient
    backend = "gloo"
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        # More processes than GPUs share them, which NCCL refuses.
        alone = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= torch.cuda.device_count()
        torch.cuda.set_device(local % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl" if alone else "gloo"
        if not alone and is_main_of_environment():
            warnings.warn(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes share {torch.cuda.device_count()} GPUs: gradients travel"
                " through gloo, by way of the CPU; start as many processes as there are GPUs for NCCL",
                stacklevel=2,
            )
    with noticing_losses():
        store, rank, size = next(dist.rendezvous("env://"))
        if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
            # torchrun gives processes that it starts anew the store of the first ones, with the addresses of the dead:
            # github.com/pytorch/pytorch/issues/135712. Of several agents each counts its own restarts.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"attempt {attempt}", store)
        options: dict[str, Any] = {"store": store, "rank": rank, "world_size": size}
        dist.init_process_group(backend, timeout=PATIENCE if backend == "gloo" else NCCL_PATIENCE, **options)
        if backend != "gloo":
            _patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    return True


def leave() -> None:
    """Take leave of the others, so that none of them thinks this process was lost."""
    global _patient
    if dist.is_initialized():
        dist.destroy_process_group()
        _patient = None


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that reads, writes and talks."""
    return rank() == 0


def is_main_of_environment() -> bool:
    """Whether this process will be the main one, as ``torchrun`` says before :func:`join`."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK", "0") == "0"


def is_told_elsewhere(error: BaseException) -> bool:
    """Whether the main rank prints this error as well: it was raised there, or before the ranks joined.

    Example:
        >>> is_told_elsewhere(ValueError("of the only process"))
        False
    """
    if dist.is_initialized():
        return not is_main() and getattr(error, "of_main_rank", False)
    return not is_main_of_environment()


@contextmanager
def noticing_losses() -> Iterator[None]:
    """Tell the failures that mean that another process is gone from all others.

    Raises:
        LostRank: in place of the backend's error.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).strip()
        if not isinstance(error, dist.DistError) and not _LOSS.search(text):
            raise
        raise LostRank(
            f"rank {rank()} of {world_size()} lost another process of this run ({text.splitlines()[0]})"
        ) from error


def broadcast(value: T) -> T:
    """The main rank's value, on every rank."""
    if world_size() == 1:
        return value
    box = [value if is_main() else None]
    with noticing_losses():
        dist.broadcast_object_list(box, src=0, group=_patient, device=torch.device("cpu"))
    return box[0]  # type: ignore[return-value]


def on_main(function: Callable[[], T]) -> T:
    """Result of a function that the main rank alone calls; what it raises is raised on every rank.

    Raises:
        BaseException: what ``function`` raised, or a ``RuntimeError`` that names it where it cannot travel.
        LostRank: if another process is gone.

    Example:
        >>> on_main(lambda: 3)
        3
    """
    if world_size() == 1:
        return function()
    outcome: tuple[bool, Any] = (True, None)
    failure: BaseException | None = None
    if is_main():
        try:
            outcome = (True, function())
        except BaseException as error:
            failure, outcome = error, (False, _sendable(error))
    succeeded, value = broadcast(outcome)
    if failure is not None:
        raise failure
    if not succeeded:
        value.of_main_rank = True
        raise value
    return value


def _sendable(error: BaseException) -> BaseException:
    """The error as another process can raise it."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"rank 0 failed with {type(error).__name__}: {error}")


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on any rank."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    with noticing_losses():
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=_patient)
    return bool(votes.item())


def average_(tensors: Sequence[Tensor]) -> None:
    """Replace floating-point tensors of one device by their means over the ranks, all in one message."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
    with noticing_losses():
        dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def gather(tensor: Tensor) -> Tensor:
    """Rows ``[n, ...]`` of all ranks, rank after rank; n may differ."""
    if world_size() == 1:
        return tensor
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    with noticing_losses():
        dist.all_gather(lengths, torch.tensor([len(tensor)]))
        longest = max(int(length) for length in lengths)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])
