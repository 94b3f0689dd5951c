"""Which rows of a joint batch a process works on, where several share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class BatchShard:
    """Every ``size``-th sample of each task, from number ``rank`` on; the ranks' shares add up to the batch.

    All ranks draw the random numbers of the whole batch, which cost nothing, and take those of their rows: what a
    sample meets then depends neither on how many ranks there are nor on which of them it falls to.

    Args:
        quotas: samples of each task in the whole batch, in the order of the tasks.
        rank: of this process, from 0.
        size: number of processes.

    Attributes:
        batch_size: samples of all ranks.
        places: rows of the whole batch that this rank has, ``[B_rank]`` int64.
        counts: samples of each task in the whole batch, ``[M]`` int64.

    Raises:
        ValueError: if a task has fewer samples than there are ranks.

    Example:
        >>> shard = BatchShard({"alien": 3, "amidar": 4}, rank=1, size=2)
        >>> shard.rows("amidar"), shard.places.tolist(), shard.batch_size
        (slice(1, None, 2), [1, 4, 6], 7)
    """

    quotas: Mapping[str, int]
    rank: int = 0
    size: int = 1
    batch_size: int = field(init=False)
    places: Tensor = field(init=False, compare=False)
    counts: Tensor = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank is {self.rank} of {self.size} processes; expected 0..{self.size - 1}")
        small = [task for task, quota in self.quotas.items() if 0 < quota < self.size]
        if small:
            raise ValueError(
                f"task {small[0]!r} has {self.quotas[small[0]]} samples of a batch, fewer than the {self.size}"
                " processes that share it; raise batch_size or cross_batch_size, or start fewer processes"
            )
        places, start = [], 0
        for task, quota in self.quotas.items():
            places.append(torch.arange(start, start + quota)[self.rows(task)])
            start += quota
        object.__setattr__(self, "batch_size", start)
        object.__setattr__(self, "places", torch.cat(places))
        object.__setattr__(self, "counts", torch.tensor(list(self.quotas.values())))

    def rows(self, task: str) -> slice:
        """This rank's part of a task's samples."""
        return slice(self.rank, None, self.size)

    def factors(self, local_counts: Tensor) -> Tensor:
        """What a mean over a task's local samples counts in the mean over ranks, ``[M]``: 1 where parts are equal."""
        return local_counts * self.size / self.counts.to(local_counts.device).clamp(min=1)
