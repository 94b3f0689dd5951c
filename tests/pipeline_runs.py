"""Ways in which tests run the recipes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xtra_rl.recipes import common

ROOT = Path(__file__).parents[1]
SHORT = (
    "finetune.env_steps=60", "eval.every=1000", "eval.episodes=1", "eval.num_envs=1", "eval.modes=[greedy]",
    "eval.baselines=[]", "eval.max_steps=10", "eval.video_steps=5",
)  # fmt: skip


def command_line(folder, *arguments, recipe="xtra_finetune", timeout=300):
    """A recipe as a user starts it, in ``folder``."""
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    return subprocess.run(
        [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


def end_of(recipe, cfg, *arguments):
    """With what a recipe ends its process: a message, an exit code, or None if it just returns."""
    try:
        common.friendly(lambda cfg: recipe(cfg, *arguments))(cfg)
    except SystemExit as end:
        return end.code
    return None


def fails(recipe, cfg, *arguments):
    """The one sentence with which a recipe refuses."""
    message = end_of(recipe, cfg, *arguments)
    if not isinstance(message, str):
        pytest.fail(f"ended with {message!r}")
    assert message.startswith("error: ")
    return message
