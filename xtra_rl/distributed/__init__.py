"""Several processes train one model: collectives, gradients, BatchNorm, acting on top of ``torch.distributed``.

Example:
    A program that ``torchrun`` starts in one process or in several, here alone:

    >>> import torch.distributed
    >>> join()  # True where there are others
    False
    >>> rank(), world_size(), is_main()
    (0, 1, True)
    >>> logger = SilentLogger()  # of every rank but the main one, which has a RunLogger
    >>> logger.log({"loss/total": 1.0}, env_step=0, train_step=0)
    >>> gradient = torch.tensor([3.0])
    >>> average_([gradient])
    >>> gradient, gather(torch.arange(2)), broadcast("of the main rank"), any_rank(False)
    (tensor([3.]), tensor([0, 1]), 'of the main rank', False)
    >>> with noticing_losses():  # a LostRank if one is gone, in place of an error of the backend
    ...     if world_size() > 1:
    ...         torch.distributed.barrier()
    >>> leave()
"""

from xtra_rl.distributed.acting import SharedPlanner
from xtra_rl.distributed.batch_norm import synchronise_batch_norm, unsynchronised_statistics
from xtra_rl.distributed.collectives import (
    LostRank,
    any_rank,
    average_,
    broadcast,
    gather,
    is_main,
    is_told_elsewhere,
    join,
    leave,
    noticing_losses,
    on_main,
    rank,
    world_size,
)
from xtra_rl.distributed.gradients import gather_combined_gradient, scatter_gradients, scattered_gram
from xtra_rl.distributed.logging import SilentLogger

__all__ = [
    "LostRank",
    "SharedPlanner",
    "SilentLogger",
    "any_rank",
    "average_",
    "broadcast",
    "gather",
    "gather_combined_gradient",
    "is_main",
    "is_told_elsewhere",
    "join",
    "leave",
    "noticing_losses",
    "on_main",
    "rank",
    "scatter_gradients",
    "scattered_gram",
    "synchronise_batch_norm",
    "unsynchronised_statistics",
    "world_size",
]
