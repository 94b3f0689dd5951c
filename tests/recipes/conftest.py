"""Configs for the recipes' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config():
    """``config(recipe, *overrides)``: the composed config of a recipe, as on its command line."""

    def make(recipe: str, *overrides: str):
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return compose(recipe, overrides=list(overrides))

    return make
