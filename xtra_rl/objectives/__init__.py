"""Losses and the lagging target network."""

from xtra_rl.objectives.muzero import MuZeroLoss, random_batch
from xtra_rl.objectives.target_updater import LaggingTarget

__all__ = ["LaggingTarget", "MuZeroLoss", "random_batch"]
