"""EfficientZero's networks as parts: representation, dynamics, prediction, projection; the model that joins them, and
its folded copy for the search."""

from xtra_rl.models.dynamics import Dynamics, RewardHead, ValuePrefixHead
from xtra_rl.models.inference import InferenceModel
from xtra_rl.models.prediction import Prediction
from xtra_rl.models.projection import Projection
from xtra_rl.models.representation import Representation
from xtra_rl.models.support import Support, inverse_value_transform, value_transform
from xtra_rl.models.world_model import COMPONENTS, DynamicsModel, WorldModel, make_world_model

__all__ = [
    "COMPONENTS",
    "Dynamics",
    "DynamicsModel",
    "InferenceModel",
    "Prediction",
    "Projection",
    "Representation",
    "RewardHead",
    "Support",
    "ValuePrefixHead",
    "WorldModel",
    "inverse_value_transform",
    "make_world_model",
    "value_transform",
]
