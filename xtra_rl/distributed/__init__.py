"""Several processes train one model: collectives, gradients, BatchNorm, acting on top of ``torch.distributed``."""

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
