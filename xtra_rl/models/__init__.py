"""EfficientZero's networks as parts: representation, dynamics, prediction, projection; the model that joins them,
its folded copy for the search, and a policy without search; CURL's network and policy."""

from xtra_rl.models.description import ModelDescription
from xtra_rl.models.dynamics import Dynamics, RewardHead, ValuePrefixHead
from xtra_rl.models.factory import make_world_model
from xtra_rl.models.inference import InferenceModel
from xtra_rl.models.prediction import Prediction
from xtra_rl.models.prior_policy import PriorPolicy, RootModel
from xtra_rl.models.projection import Projection
from xtra_rl.models.rainbow import RainbowNetwork, RainbowPolicy
from xtra_rl.models.representation import Representation
from xtra_rl.models.support import Support, inverse_value_transform, value_transform
from xtra_rl.models.world_model import COMPONENTS, DynamicsModel, WorldModel

__all__ = [
    "COMPONENTS",
    "Dynamics",
    "DynamicsModel",
    "InferenceModel",
    "ModelDescription",
    "Prediction",
    "PriorPolicy",
    "Projection",
    "RainbowNetwork",
    "RainbowPolicy",
    "Representation",
    "RewardHead",
    "RootModel",
    "Support",
    "ValuePrefixHead",
    "WorldModel",
    "inverse_value_transform",
    "make_world_model",
    "value_transform",
]
