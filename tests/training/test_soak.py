"""Thousands of steps of the whole loop in memory that stays flat."""

from __future__ import annotations

import gc

import pytest
import torch
from gridworld import make_gridworld

from xtra_rl.allocator import keep_freed_memory
from xtra_rl.envs import register_task, unregister_task
from xtra_rl.kernels.benchmark_machine import resident_bytes
from xtra_rl.recipes import build
from xtra_rl.training.loop import train_online
from xtra_rl.training.session import TrainingSession

TINY = (
    "scale=smoke", "target=gridworld", "pretrained=false", "cross_task=false", "num_envs=4", "threads=1",
    "env.image_size=24", "env.frame_stack=2", "model.channels=4", "model.stem=patch", "model.downsample=8",
    "search.num_simulations=2", "replay.capacity=400", "target_interval=50", "prefetch=true",
)  # fmt: skip


@pytest.fixture
def gridworld():
    register_task("gridworld", make_gridworld, num_actions=5, action_ids=(0, 1, 2, 3))
    yield
    unregister_task("gridworld")


@pytest.mark.slow
@pytest.mark.timeout(900)
# Recipes keep freed memory.
@pytest.mark.parametrize("keeps", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_memory_stays_flat_over_thousands_of_steps(config, tmp_path, gridworld, keeps):
    """With a thread that prefetches, a memory of roots that is forgotten again and again, and checkpoints."""
    if keeps:
        assert keep_freed_memory()
    cfg = config("xtra_finetune", *TINY)
    torch.manual_seed(0)
    actor, source, learner = build.online(cfg, "gridworld", build.world_model(cfg, "gridworld"), "soak")
    parts = {"learner": learner, "actor": actor, "source": source}
    session = TrainingSession(tmp_path, parts, every=2.0)
    used = []
    for now in train_online(actor, source, learner, env_steps=8000, warmup_steps=40, replay_ratio=0.5):
        session.ends_after(now.position)
        if now.env_steps % 1000 == 0:
            gc.collect()
            used.append(resident_bytes() / 1e6)
    print(f"resident after each 500 updates, MB: {[round(each, 1) for each in used]}")
    assert learner.steps == 3980
    # The first two thousands allocate: replay, roots, the recording of decisions.
    assert used[-1] - used[1] < 12
