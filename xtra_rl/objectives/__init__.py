"""Losses and the lagging target network."""

from xtra_rl.objectives.behaviour_cloning import BehaviourCloningLoss
from xtra_rl.objectives.muzero import MuZeroLoss, random_batch
from xtra_rl.objectives.target_updater import LaggingTarget

__all__ = ["BehaviourCloningLoss", "LaggingTarget", "MuZeroLoss", "random_batch"]
