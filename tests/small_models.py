"""Small models for tests."""

from __future__ import annotations

from xtra_rl.models import WorldModel, make_world_model

SMALL = {
    "image_size": 32,
    "image_channels": 1,
    "num_actions": 5,
    "channels": 8,
    "downsample": 8,
    "lstm_hidden": 16,
    "support_size": 10,
    "projection_hidden": 16,
    "projection_out": 16,
    "predictor_hidden": 8,
}


def small_model(**overrides) -> WorldModel:
    """A model of these sizes."""
    return make_world_model(**(SMALL | overrides))
