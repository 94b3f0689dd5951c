"""The CURL recipe on real games at scale=smoke."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pipeline_runs import end_of

from xtra_rl.evaluation.figures import read_metrics
from xtra_rl.recipes import build_curl
from xtra_rl.recipes.curl import curl
from xtra_rl.recipes.evaluate import evaluate
from xtra_rl.training.actor import Actor
from xtra_rl.training.learner import Learner
from xtra_rl.training.run import SUMMARY_KEYS, RunDirectory

ROOT = Path(__file__).parents[2]
SHORT = ("scale=smoke", "cross_tasks=[amidar]", "eval.episodes=1", "eval.num_envs=1", "eval.max_steps=8",
         "eval.video_steps=8", "eval.every=30", "finetune.env_steps=50", "collect.env_steps=44",
         "collect.checkpoints=1", "collect.max_steps=12")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("curl")


@pytest.fixture
def settings(config, folder):
    """``settings(name, *overrides)``: config of a run in ``folder``; all of them share the datasets."""

    def make(name, *overrides):
        places = (f"artifacts={folder / 'artifacts'}", f"run_dir={folder / name}")
        return config("curl", *SHORT, *places, *overrides)

    return make


def rows(run):
    return (Path(run) / "metrics.csv").read_bytes()


def cut_after(monkeypatch, owner, calls):
    """SIGTERM after these calls of ``owner.step``, counted over all sittings."""
    original, count = owner.step, [0]

    def step(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        count[0] += 1
        if count[0] in calls:
            os.kill(os.getpid(), 15)
        return result

    monkeypatch.setattr(owner, "step", step)


def finish(cfg):
    """Start again until it ends by itself; how often SIGTERM ended it."""
    for stops in range(20):
        code = end_of(curl, cfg)
        if code is None:
            return stops
        assert code == 0, code
    return pytest.fail("never finished")


@pytest.mark.slow
def test_run_from_scratch_is_complete_and_not_overwritten(settings, capsys):
    path = curl(settings("scratch"))
    out = capsys.readouterr().out
    assert "amidar" not in out
    for text in ("at start", "at end", "random", "the paper plays 32"):
        assert text in out
    run, metrics = RunDirectory(path), read_metrics(path)
    summary = run.read_summary()
    assert set(SUMMARY_KEYS) <= set(summary)
    assert (summary["recipe"], summary["env_steps"], summary["train_steps"]) == ("curl", 50, 10)
    assert set(summary["eval/returns"]) == {"greedy", "sampled"}
    for name in ("figures/learning_curve.png", "figures/losses.png", "videos/final.mp4", "throughput.csv"):
        assert (path / name).stat().st_size > 50, name
    assert not (path / "figures" / "task_weights.png").exists()
    assert metrics["eval/alien/return"].env_step.tolist() == [0, 30, 50]
    assert {"loss/alien/value", "loss/alien/contrastive", "train/contrastive_accuracy", "loss/total"} <= set(
        metrics
    )

    before = rows(path)
    curl(settings("scratch"))
    assert "is already finished: mean return" in capsys.readouterr().out
    assert rows(path) == before


@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_to_the_same_rows_and_another_seed_to_others(settings, monkeypatch):
    """While it acts, before the first update, after an update."""
    path = curl(settings("scratch"))
    other = curl(settings("other", "seed=1"))
    cut_after(monkeypatch, Actor, (3, 21))
    cut_after(monkeypatch, Learner, (5,))
    assert finish(settings("cut")) == 3
    assert rows(path.parent / "cut") == rows(path) != rows(other)


@pytest.mark.slow
def test_pretraining_builds_data_of_curl_agents_and_goes_on_in_every_stage(settings, monkeypatch, capsys):
    path = curl(settings("pretrained", "curl.pretrain=true"))
    out = capsys.readouterr().out
    assert "dataset amidar: building it" in out
    run = RunDirectory(path)
    dataset = Path(run.read_manifest()["inputs"]["dataset amidar"]["path"])
    [collector] = (dataset / "collector").glob("step-*")
    assert build_curl.is_network(collector)
    cfg = settings("x")
    pretrained, start = (
        build_curl.load_network(cfg, path / "models" / "pretrained"),
        build_curl.network(cfg, "alien", "finetune"),
    )
    assert not torch.equal(pretrained.convolutions[0].weight, start.convolutions[0].weight)
    # The first update moves each weight by about the learning rate: online learning went on from there.
    final = build_curl.load_network(cfg, path / "model")
    distance = (final.convolutions[0].weight - pretrained.convolutions[0].weight).abs().max()
    assert 0 < distance < 3e-3

    cut_after(monkeypatch, Learner, (2, 5, 6, 11))
    again = settings("pretrained_cut", "curl.pretrain=true")
    assert finish(again) == 4
    assert rows(path.parent / "pretrained_cut") == rows(path)
    whole, cut = (
        build_curl.load_network(cfg, path.parent / name / "model")
        for name in ("pretrained", "pretrained_cut")
    )
    assert all(torch.equal(value, cut.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.slow
def test_collection_by_curl_goes_on_to_the_same_data(config, monkeypatch, tmp_path):
    from xtra_rl.recipes.inputs import Inputs

    def data(name):
        cfg = config("curl", *SHORT, f"artifacts={tmp_path / name}")
        return end_of(lambda cfg: Inputs(cfg).dataset("amidar") and None, cfg)

    assert data("whole") is None
    cut_after(monkeypatch, Learner, (2,))
    assert data("cut") == 0
    assert data("cut") is None
    whole, cut = (next((tmp_path / name / "datasets").glob("amidar-*")) for name in ("whole", "cut"))
    for name in ("rows/action.bin", "episodes.bin", "frames/000000.lz4"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


@pytest.mark.slow
def test_evaluate_plays_a_network_of_curl(settings, config, tmp_path):
    run = RunDirectory(curl(settings("scratch")))
    cfg = config("evaluate", *[word for word in SHORT if not word.startswith("finetune")], f"run_dir={tmp_path}",
                 "target=alien")  # fmt: skip
    again = RunDirectory(evaluate(cfg, run.path / "model")).read_summary()
    assert len(again["eval/returns"]["greedy"]) == 1


def test_paper_scale_holds_the_published_constants(config):
    """Settings of CURL's Atari code (arXiv 2004.04136) and of Atari 100k."""
    cfg = config("curl", "scale=paper")
    assert (cfg.env.image_size, cfg.env.grayscale, cfg.env.frame_stack, cfg.env.sticky) == (84, True, 4, 0.0)
    assert (cfg.batch_size, cfg.replay.alpha, list(cfg.replay.beta), cfg.replay.capacity) == (
        32,
        0.5,
        [0.4, 1.0],
        100_000,
    )
    assert (cfg.finetune.env_steps, cfg.finetune.warmup_steps, cfg.finetune.replay_ratio) == (
        100_000,
        1600,
        1.0,
    )
    assert cfg.finetune.extra_train_steps == 0
    published = {"hidden": 256, "noise_std": 0.1, "atoms": 51, "value_limit": 10, "td_steps": 20, "discount": 0.99,
                 "contrastive_coef": 1.0, "target_interval": 2000, "momentum": 0.999, "lr": 1e-4, "adam_eps": 1.5e-4,
                 "max_grad_norm": 10.0, "epsilon": 0.001, "pretrain": False, "projection_out": 128}  # fmt: skip
    assert {key: cfg.curl[key] for key in published} == published
    assert cfg.collect.policy == "curl"


@pytest.mark.parametrize("scale", ["smoke", "quick", "laptop", "workstation", "paper"])
def test_network_and_learner_of_every_scale_build(config, scale):
    cfg = config("curl", f"scale={scale}", "device=cpu")
    made = build_curl.network(cfg, "alien")
    learner = build_curl.learner(cfg, made, ["alien"])
    side = cfg.env.image_size
    mask = torch.ones(1, 18, dtype=torch.bool)
    assert made.action_values(torch.zeros(1, 4, side, side, dtype=torch.uint8), mask).shape == (1, 18)
    assert learner.max_grad_norm == 10.0
    assert cfg.env.grayscale
    assert cfg.finetune.replay_ratio == 1.0


@pytest.mark.slow
def test_help_names_the_keys():
    command = [sys.executable, str(ROOT / "recipes" / "curl.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "contrastive_coef" in done.stdout
