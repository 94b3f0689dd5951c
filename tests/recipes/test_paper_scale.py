"""scale=paper is real: true optimiser steps at the published sizes."""

from __future__ import annotations

import resource

import pytest
import torch

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.collect import collect_episodes
from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.recipes import build, common
from xtra_rl.training.loop import scalars
from xtra_rl.training.stopwatch import Stopwatch
from xtra_rl.transfer import TaskWeightScheduler

CROSS_TASKS = ("amidar", "bank_heist", "ms_pacman", "wizard_of_wor")


def annotated_dataset(cfg, task, path):
    """Real RGB frames of random play, annotated with a uniform teacher."""
    about = {"subtract_background": cfg.env.subtract_background}
    with TrajectoryWriter(path, task, frame_shape=common.frame_shape(cfg), env_settings=about) as writer:
        policy = RandomPolicy(torch.Generator().manual_seed(0))
        collect_episodes(
            policy, task, writer, num_episodes=1, max_steps=100, env_kwargs=common.env_kwargs(cfg)
        )
    dataset = TrajectoryDataset(path)
    lengths = [len(rows["action"]) for rows in dataset]
    dataset.write_column("teacher_policy", [torch.full((n, 18), 1 / 18) for n in lengths], provenance={})
    dataset.write_column("teacher_value", [torch.zeros(n) for n in lengths], provenance={})
    return path, {}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_true_optimiser_steps_at_the_published_sizes(config, tmp_path):
    torch.set_num_threads(2)
    cfg = config("xtra_finetune", "scale=paper", "device=cpu", "replay.capacity=2000")
    cross = build.annotated_buffers(cfg, {t: annotated_dataset(cfg, t, tmp_path / t) for t in CROSS_TASKS})
    model = build.world_model(cfg, "alien")
    scheduler = TaskWeightScheduler(list(CROSS_TASKS), start=1, cycle=10, window=5)
    actor, source, learner = build.online(cfg, "alien", model, "test", cross, scheduler)
    while actor.buffer.num_transitions < cfg.batch_size:
        actor.step()
    assert actor.planner.num_simulations == 50

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    watch = Stopwatch()
    for step in range(2):
        windows = watch.time("sample", source.draw)
        batch = watch.time("step", lambda: source.build(windows))  # noqa: B023
        assert batch.shape == (512,)
        assert torch.bincount(batch["task_id"]).tolist() == [256, 64, 64, 64, 64]
        assert batch["pixels"].shape == (512, 9, 3, 96, 96)
        assert batch["policy_target"].shape == (512, 6, 18)
        assert batch["value_target"].shape == (512, 6)
        mass = batch["policy_target"].sum(-1)[batch["policy_mask"]]
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-4, atol=1e-4)
        metrics = scalars(watch.time("step", lambda: learner.step(batch)))  # noqa: B023
        source.update_priority(batch)
        assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())
        # The second step lies in a measuring window: five backward passes over the shared forward.
        assert sum(name.startswith("grad_cos/") for name in metrics) == (4 if step == 1 else 0)
    seconds = watch.read()
    print(f"of {sum(seconds.values()):.1f} s the learner waited {seconds['sample']:.2f} s for data")
    assert seconds["sample"] < 0.05 * sum(seconds.values())
    # Step 0 has learning rate 0, step 1 a thousandth of 0.2.
    assert metrics["train/lr"] == pytest.approx(0.2 / 1000)
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.startswith("representation") for name in moved)
    assert any(name.startswith("projection") for name in moved)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak resident memory {peak:.1f} GiB")
    assert peak < 22
