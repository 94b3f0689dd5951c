"""Losses, the lagging target network and CURL's slow copies."""

from xtra_rl.objectives.behaviour_cloning import BehaviourCloningLoss
from xtra_rl.objectives.curl import CurlLoss, CurlTarget
from xtra_rl.objectives.muzero import MuZeroLoss, random_batch
from xtra_rl.objectives.target_updater import LaggingTarget

__all__ = ["BehaviourCloningLoss", "CurlLoss", "CurlTarget", "LaggingTarget", "MuZeroLoss", "random_batch"]
