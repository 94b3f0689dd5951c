"""Reading data never starves the learner at laptop scale."""

from __future__ import annotations

import pytest
import torch
from test_paper_scale import annotated_dataset

from xtra_rl.data import MultiTaskReplayBuffer, even_quotas
from xtra_rl.recipes import build
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.loop import train_offline
from xtra_rl.training.stopwatch import Stopwatch


@pytest.mark.slow
def test_windows_take_less_than_a_twentieth_of_a_step_at_laptop_scale(config, tmp_path):
    torch.set_num_threads(2)
    cfg = config("distill", "scale=laptop")
    tasks = ("amidar", "bank_heist", "ms_pacman")
    buffers = build.annotated_buffers(cfg, {t: annotated_dataset(cfg, t, tmp_path / t) for t in tasks})
    model = build.world_model(cfg, "alien")
    source = BatchSource(
        MultiTaskReplayBuffer(buffers, even_quotas(tasks, cfg.batch_size)),
        dict.fromkeys(tasks, build.teacher_targets(cfg, model)),
    )
    learner = build.learner(cfg, model, list(tasks), "test", updates=1, reduction="mean")
    for steps in (30, 90):
        watch = Stopwatch()
        for _ in train_offline(source, learner, train_steps=steps, watch=watch):
            pass
    seconds = watch.read()
    print({phase: f"{1e3 * s / 60:.1f} ms" for phase, s in seconds.items()})
    assert seconds["sample"] < 0.05 * sum(seconds.values())
