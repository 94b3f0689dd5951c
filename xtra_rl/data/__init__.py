"""Trajectories on disk and in replay buffers, sampled as windows; augmentation."""

from xtra_rl.data.augment import augment, crop_and_shift, random_intensity, random_shift
from xtra_rl.data.buffers import TrajectoryReplayBuffer
from xtra_rl.data.columns import ColumnWriter
from xtra_rl.data.multitask import MultiTaskReplayBuffer, even_quotas
from xtra_rl.data.sampler import TorchPrioritizedSampler
from xtra_rl.data.shard import BatchShard
from xtra_rl.data.trajectories import DatasetError, TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.windows import stack_frames

__all__ = [
    "BatchShard",
    "ColumnWriter",
    "DatasetError",
    "MultiTaskReplayBuffer",
    "TorchPrioritizedSampler",
    "TrajectoryDataset",
    "TrajectoryReplayBuffer",
    "TrajectoryWriter",
    "augment",
    "crop_and_shift",
    "even_quotas",
    "random_intensity",
    "random_shift",
    "stack_frames",
]
