"""The behaviour-cloning recipe on real games at scale=smoke."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xtra_rl.evaluation.figures import read_metrics
from xtra_rl.recipes import build
from xtra_rl.recipes.behaviour_cloning import behaviour_cloning, source_of
from xtra_rl.recipes.evaluate import evaluate
from xtra_rl.training.run import SUMMARY_KEYS, RunDirectory

ROOT = Path(__file__).parents[2]
SHORT = ("scale=smoke", "cross_tasks=[amidar]", "eval.episodes=1", "eval.num_envs=1", "eval.max_steps=8",
         "eval.video_steps=8", "collect.env_steps=44", "collect.checkpoints=1", "collect.max_steps=12")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("behaviour_cloning")


@pytest.fixture
def run_of(config, folder):
    """``run_of(name, *overrides)``: run directory of the recipe; all of them share the datasets."""

    def make(name, *overrides):
        places = (f"artifacts={folder / 'artifacts'}", f"run_dir={folder / name}")
        return behaviour_cloning(config("behaviour_cloning", *SHORT, *places, *overrides))

    return make


@pytest.mark.slow
def test_run_from_nothing_is_complete_and_not_overwritten(run_of, config, capsys):
    path = run_of("first")
    out = capsys.readouterr().out
    for text in ("dataset amidar: building it", "dataset alien: building it", "zero-shot, pretrained on amidar",
                 "at start", "at end: finetuned", "random", "the paper plays 32"):  # fmt: skip
        assert text in out
    run = RunDirectory(path)
    summary = run.read_summary()
    assert set(SUMMARY_KEYS) <= set(summary)
    assert (summary["env_steps"], summary["train_steps"], summary["target"]) == (0, 10, "alien")
    assert set(summary["start/returns"]) == set(summary["eval/returns"]) == {"greedy", "sampled"}
    assert set(run.read_manifest()["inputs"]) == {"dataset alien", "dataset amidar"}
    for name in ("figures/learning_curve.png", "figures/losses.png", "videos/final.mp4", "throughput.csv"):
        assert (path / name).stat().st_size > 50, name

    metrics = read_metrics(path)
    # Pretraining ends at step 5; finetuning is scored twice, in the middle and at its end.
    assert metrics["eval/alien/return"].train_step.tolist() == [5, 7, 10]
    assert {"loss/amidar/policy", "loss/alien/policy", "train/accuracy", "train/policy_entropy"} <= set(
        metrics
    )
    _check_models(config, path)

    before = (path / "summary.json").read_bytes()
    run_of("first")
    assert "is already finished: mean return" in capsys.readouterr().out
    assert (path / "summary.json").read_bytes() == before
    with pytest.raises(ValueError, match="finished run of other settings"):
        run_of("first", "behaviour_cloning.finetune_steps=6")


def _check_models(config, path):
    """Finetuning starts from the pretrained weights, and neither stage touches the dynamics."""
    cfg = config("behaviour_cloning", *SHORT)
    (pretrained, about), (final, about_final) = (
        build.load_model(cfg, path / place) for place in ("models/pretrained", "model")
    )
    assert about["tasks"] == ["amidar"]
    assert about_final["tasks"] == ["alien", "amidar"]
    initial = build.world_model(cfg, "alien", "behaviour cloning")
    moved = [_distance(model, initial, "representation") for model in (pretrained, final)]
    assert 0 < moved[0] < moved[1]
    assert _distance(final, initial, "dynamics") == _distance(final, initial, "projection") == 0


def _distance(one, two, component):
    pairs = zip(one.components()[component].parameters(), two.components()[component].parameters())
    return sum(float((a - b).detach().abs().sum()) for a, b in pairs)


@pytest.mark.slow
def test_from_scratch_needs_the_target_s_data_alone_and_repeats_itself(run_of, capsys):
    runs = [run_of(name, "behaviour_cloning.pretrain=false") for name in ("scratch", "again")]
    out = capsys.readouterr().out
    assert "amidar" not in out
    assert "at start: untrained" in out
    assert read_metrics(runs[0])["eval/alien/return"].train_step.tolist() == [0, 2, 5]
    assert not (runs[0] / "models" / "pretrained").exists()
    assert runs[0].joinpath("metrics.csv").read_bytes() == runs[1].joinpath("metrics.csv").read_bytes()


def test_agent_acts_by_the_policy_head_of_the_model_that_learns(config):
    cfg = config("behaviour_cloning", *SHORT)
    model = build.world_model(cfg, "alien")
    policy = build.evaluation_suite(cfg, "alien", model, build.prior_policy(cfg, model, "alien")).policy
    frames = torch.zeros(1, 4, 32, 32)
    for _ in range(2):
        torch.nn.init.normal_(model.prediction.policy[-1][-1].weight)
        expected = model.eval().initial_inference(frames).prior_logits.detach()
        engine = policy.world_model.initial_inference(frames).prior_logits
        torch.testing.assert_close(engine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_evaluate_plays_a_cloned_model_without_search(run_of, config, tmp_path, monkeypatch):
    run = RunDirectory(run_of("first"))
    # The dynamics are untrained: a search over them would be a mistake.
    monkeypatch.setattr("xtra_rl.recipes.build.planner", None)
    short = [option for option in SHORT if not option.startswith("behaviour_cloning")]
    cfg = config("evaluate", *short, f"run_dir={tmp_path}", "target=alien")
    again = RunDirectory(evaluate(cfg, run.path / "model")).read_summary()
    assert again["eval/returns"]["greedy"] == run.read_summary()["eval/returns"]["greedy"]


def test_data_is_drawn_uniformly_whatever_the_priorities(run_of, config):
    inputs = RunDirectory(run_of("first")).read_manifest()["inputs"]
    paths = {task: Path(inputs[f"dataset {task}"]["path"]) for task in ("alien", "amidar")}
    source = source_of(config("behaviour_cloning", *SHORT), paths)
    for _ in range(3):
        batch = source.sample()
        assert torch.equal(batch["priority_weight"], torch.ones(8))
        assert batch["task_id"].bincount().tolist() == [4, 4]
        source.update_priority(batch.set("td_error", 10.0 ** torch.arange(8)))


def test_impossible_settings_are_named(run_of):
    with pytest.raises(ValueError, match=r"behaviour_cloning.evaluations is 0"):
        run_of("bad", "behaviour_cloning.evaluations=0")


@pytest.mark.parametrize("scale", ["smoke", "quick", "laptop", "workstation", "paper"])
def test_every_scale_trains_both_stages(config, scale):
    settings = config("behaviour_cloning", f"scale={scale}").behaviour_cloning
    assert settings.pretrain
    assert set(settings) == {"pretrain", "train_steps", "finetune_steps", "evaluations"}
    assert min(settings.train_steps, settings.finetune_steps, settings.evaluations) >= 1


@pytest.mark.slow
def test_help_names_the_keys():
    command = [sys.executable, str(ROOT / "recipes" / "behaviour_cloning.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    assert "finetune_steps" in done.stdout
    assert torch.cuda.is_available() or "scale: quick" in done.stdout
