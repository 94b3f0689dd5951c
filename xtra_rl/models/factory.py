"""World models by their sizes: EfficientZero's networks, or smaller ones with a vector as latent."""

from __future__ import annotations

from typing import Any, Literal

import torch

from xtra_rl.models.dynamics import Dynamics, RewardHead, ValuePrefixHead
from xtra_rl.models.prediction import Prediction
from xtra_rl.models.projection import Projection
from xtra_rl.models.representation import Representation, latent_size
from xtra_rl.models.support import Support
from xtra_rl.models.vector import VectorDynamics, VectorPrediction, VectorRepresentation, VectorRewardHead
from xtra_rl.models.world_model import DynamicsModel, WorldModel


def make_world_model(
    *,
    latent: Literal["map", "vector"] = "map",
    image_size: int = 96,
    image_channels: int = 3,
    frame_stack: int = 4,
    num_actions: int = 18,
    channels: int = 64,
    num_blocks: int = 1,
    downsample: Literal[4, 8, 16] = 16,
    stem: Literal["published", "patch"] = "published",
    dynamics_blocks: int = 1,
    prediction_blocks: int = 1,
    action_encoding: Literal["plane", "embedding"] = "plane",
    value_prefix: bool = True,
    value_prefix_horizon: int = 5,
    lstm_hidden: int = 512,
    support_size: int = 300,
    reduced_channels: int = 16,
    head_hidden: int = 32,
    latent_features: int = 256,
    dynamics_hidden: int = 512,
    projection_hidden: int = 1024,
    projection_out: int = 1024,
    predictor_hidden: int = 512,
) -> WorldModel:
    """Build EfficientZero's networks; the defaults are the published ones for Atari (XTRA appendix J).

    ``num_blocks=4`` gives EfficientZero-L. Smaller sizes train on two CPU cores: ``image_size=48, image_channels=1,
    channels=16, lstm_hidden=64, support_size=20, projection_hidden=128`` and so on.

    ``latent="vector"`` builds DQN's convolutions and layers with LayerNorm instead, whose latent is a vector. They
    learn faster in the first few thousand updates and have a plain reward head; of the sizes they read ``channels`` (of
    the convolutions), ``latent_features``, ``dynamics_hidden`` and ``head_hidden``.

    Args:
        latent: ``"map"``, EfficientZero's ``[B, C, h, w]``, or ``"vector"``, ``[B, D, 1, 1]``, which needs
            ``value_prefix=False`` and frames of at least 36 pixels.
        image_size: H and W of a frame in pixels.
        image_channels: 3 for RGB, 1 for grey frames.
        frame_stack: F; observations are ``[B, F*C, H, W]``.
        num_actions: A, outputs of the policy head; 18 for every Atari game.
        channels: width of the latent map, even.
        num_blocks: residual blocks of each stage of the representation; 1 is EfficientZero, 4 EfficientZero-L.
        downsample: side of a frame over the side of the latent map; 16 as published, 8 and 4 for small frames.
        stem: first layers of the representation: ``"published"``, two strided stages, or ``"patch"``, one 8x8
            convolution with stride 4, which is 3 times faster on a CPU.
        dynamics_blocks: residual blocks of the dynamics after its first convolution.
        prediction_blocks: residual blocks that policy and value share.
        action_encoding: how the dynamics sees an action: ``"plane"``, a constant channel of value ``action / A`` as
            published, or ``"embedding"``, a learnt vector for each action, which separates them better in small
            networks.
        value_prefix: predict the sum of rewards since the LSTM's last reset (EfficientZero, section 4.2); False for the
            reward of each step, as MuZero.
        value_prefix_horizon: steps between those resets.
        lstm_hidden: units of that LSTM.
        support_size: largest atom of the value and reward distributions, which have ``2 support_size + 1`` bins.
        reduced_channels: width of the 1x1 convolutions that shrink the latent map before each head.
        head_hidden: width of the hidden layer of each head.
        latent_features: D, only for a vector.
        dynamics_hidden: width of the hidden layer of a vector's dynamics.
        projection_hidden: width of the projector of the consistency loss (SimSiam, arXiv 2011.10566).
        projection_out: its outputs.
        predictor_hidden: bottleneck of the predictor behind it.

    Returns:
        a :class:`WorldModel` whose ``config`` attribute holds these arguments, for checkpoints.

    Raises:
        ValueError: if a size is not positive, ``channels`` is odd, an option is unknown, or a vector latent is asked
            for with a value prefix or small frames.

    Example:
        >>> model = make_world_model(image_size=48, image_channels=1, channels=16, lstm_hidden=32, support_size=10)
        >>> output = model.eval().initial_inference(torch.zeros(2, 4, 48, 48))
        >>> output.prior_logits.shape, output.embedding["latent"].shape
        (torch.Size([2, 18]), torch.Size([2, 16, 3, 3]))
    """
    config = dict(locals())
    for name, size in config.items():
        allowed_zero = name.endswith("_blocks") or isinstance(size, bool)
        if isinstance(size, int) and size < (0 if allowed_zero else 1):
            raise ValueError(f"{name} is {size}; expected a positive integer")
    if latent not in ("map", "vector"):
        raise ValueError(f"latent is {latent!r}; expected 'map' or 'vector'")
    vector = latent == "vector"
    representation, dynamics, prediction = _vector_parts(config) if vector else _map_parts(config)
    model = WorldModel(
        representation,
        dynamics,
        prediction,
        _projection(config, latent_features if vector else _map_features(config)),
        support=Support(support_size),
        value_prefix_horizon=value_prefix_horizon if value_prefix else None,
    )
    model.config = config
    # Convolutions on the CPU run 1.3 to 1.5 times faster on channels-last weights and frames.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _map_features(config: dict[str, Any]) -> int:
    return int(config["channels"] * latent_size(config["image_size"], config["downsample"]) ** 2)


def _map_parts(config: dict[str, Any]) -> tuple[Representation, DynamicsModel, Prediction]:
    """Representation, dynamics and prediction of EfficientZero."""
    channels, num_actions = config["channels"], config["num_actions"]
    side = latent_size(config["image_size"], config["downsample"])
    bins = Support(config["support_size"]).num_bins
    head = {name: config[name] for name in ("reduced_channels", "head_hidden")}
    reward_head: RewardHead | ValuePrefixHead = (
        ValuePrefixHead(channels, side, bins, lstm_hidden=config["lstm_hidden"], **head)
        if config["value_prefix"]
        else RewardHead(channels, side, bins, **head)
    )
    representation = Representation(
        config["frame_stack"] * config["image_channels"],
        channels=channels,
        num_blocks=config["num_blocks"],
        downsample=config["downsample"],
        stem=config["stem"],
    )
    transition = Dynamics(
        channels,
        num_actions=num_actions,
        num_blocks=config["dynamics_blocks"],
        action_encoding=config["action_encoding"],
    )
    prediction = Prediction(
        channels, side, num_actions=num_actions, num_bins=bins, num_blocks=config["prediction_blocks"], **head
    )
    return representation, DynamicsModel(transition, reward_head), prediction


def _vector_parts(config: dict[str, Any]) -> tuple[VectorRepresentation, DynamicsModel, VectorPrediction]:
    """Representation, dynamics and prediction with a vector as latent."""
    if config["value_prefix"]:
        raise ValueError(
            "value_prefix=True needs latent='map'; the vector networks predict each reward on its own"
        )
    latent, num_actions, hidden = config["latent_features"], config["num_actions"], config["head_hidden"]
    bins = Support(config["support_size"]).num_bins
    representation = VectorRepresentation(
        config["frame_stack"] * config["image_channels"],
        config["image_size"],
        channels=config["channels"],
        latent=latent,
    )
    transition = VectorDynamics(latent, num_actions=num_actions, hidden=config["dynamics_hidden"])
    prediction = VectorPrediction(latent, num_actions=num_actions, num_bins=bins, hidden=hidden)
    return (
        representation,
        DynamicsModel(transition, VectorRewardHead(latent, bins, hidden=hidden)),
        prediction,
    )


def _projection(config: dict[str, Any], in_features: int) -> Projection:
    return Projection(
        in_features,
        hidden=config["projection_hidden"],
        out=config["projection_out"],
        predictor_hidden=config["predictor_hidden"],
    )
