"""A run that was cut anywhere goes on to the same rows, byte for byte, and so do the stages before it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from pipeline_runs import SHORT, end_of, fails
from safetensors.torch import load_file

from xtra_rl.evaluation import suite as suite_module
from xtra_rl.recipes.behaviour_cloning import behaviour_cloning
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.recipes.xtra_finetune import xtra_finetune
from xtra_rl.training.actor import Actor
from xtra_rl.training.learner import Learner
from xtra_rl.training.run import RunDirectory


def ask_to_end():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def cut(monkeypatch):
    """``cut(owner, method, *calls)``: SIGTERM after these calls of a method, counted over all sittings."""

    def install(owner, method, *calls):
        original, count = getattr(owner, method), [0]

        def wrapper(self, *args, **kwargs):
            result = original(self, *args, **kwargs)
            count[0] += 1
            if count[0] in calls:
                ask_to_end()
            return result

        monkeypatch.setattr(owner, method, wrapper)
        return count

    return install


def finish(recipe, cfg, *arguments):
    """Start again until it ends by itself; how often SIGTERM ended it."""
    for stops in range(100):
        code = end_of(recipe, cfg, *arguments)
        if code is None:
            return stops
        assert code == 0, code
    pytest.fail("never finished")


def rows(run):
    return (Path(run) / "metrics.csv").read_bytes()


PREFETCH = pytest.param(("threads=1", "prefetch=true"), marks=pytest.mark.slow, id="prefetch")


@pytest.mark.slow
@pytest.mark.parametrize("flags", [pytest.param((), id="plain"), PREFETCH])
def test_a_run_that_was_stopped_goes_on_to_the_same_rows(first_run, reuse, cut, flags, tmp_path):
    """In the first step, before training, in a window of task weights, at an evaluation and in the last steps."""
    if flags:
        xtra_finetune(reuse(*flags, f"run_dir={tmp_path / 'whole'}"))
    whole = tmp_path / "whole" if flags else first_run.run
    cut(Actor, "step", 1, 26, 30, 52)
    cut(Learner, "step", 41)
    assert finish(xtra_finetune, reuse(*flags)) == 5
    assert rows(tmp_path / "run") == rows(whole)
    for model in ("model", "models/step-60"):
        expected, found = (load_file(run / model / "model.safetensors") for run in (whole, tmp_path / "run"))
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    summaries = [RunDirectory(run).read_summary() for run in (whole, tmp_path / "run")]
    for key in ("eval/returns", "start/returns", "baselines", "env_steps", "train_steps"):
        assert summaries[0][key] == summaries[1][key]


@pytest.mark.slow
def test_an_evaluation_that_was_cut_off_is_played_again(first_run, reuse, monkeypatch, tmp_path):
    played, original = [], suite_module.evaluate

    def cut_off(*args, **kwargs):
        played.append(kwargs["mode"])
        if len(played) in (1, 3, 6):
            ask_to_end()
            pytest.fail("the evaluation went on")
        return original(*args, **kwargs)

    monkeypatch.setattr(suite_module, "evaluate", cut_off)
    assert finish(xtra_finetune, reuse()) == 3
    assert rows(tmp_path / "run") == rows(first_run.run)


@pytest.mark.slow
def test_datasets_teachers_and_students_go_on_too(first_run, config, cut, tmp_path):
    cfg = config("xtra_finetune", "scale=smoke", f"artifacts={tmp_path}")
    count = cut(Learner, "step", *range(4, 200, 7))
    stops = finish(lambda cfg: Inputs(cfg).student() and None, cfg)
    steps = 2 * (10 + 5) + 5
    assert count[0] == steps, "a step was taken twice or left out"
    assert stops == len(range(4, steps + 1, 7))
    for kind in ("teachers", "students"):
        made = sorted((tmp_path / kind).glob("*/model.safetensors"))
        assert len(made) == (2 if kind == "teachers" else 1)
        for path in made:
            expected = load_file(first_run.folder / "artifacts" / path.relative_to(tmp_path))
            assert all(torch.equal(value, expected[name]) for name, value in load_file(path).items())
    assert not list(tmp_path.rglob("*.training")), "checkpoints of a finished stage were left behind"


@pytest.mark.slow
def test_behaviour_cloning_goes_on_in_both_stages(reuse, cut, tmp_path):
    expected = behaviour_cloning(reuse(f"run_dir={tmp_path / 'whole'}", recipe="behaviour_cloning"))
    cut(Learner, "step", 2, 5, 7, 10)
    assert finish(behaviour_cloning, reuse(recipe="behaviour_cloning")) == 4
    assert rows(tmp_path / "run") == rows(expected)


SCRATCH = (*SHORT, "pretrained=false", "cross_task=false")


@pytest.mark.slow
def test_a_spent_budget_ends_with_an_evaluation_and_a_larger_one_goes_on(reuse, tmp_path, capsys):
    whole = xtra_finetune(reuse(*SCRATCH, f"run_dir={tmp_path / 'whole'}"))
    run = RunDirectory(xtra_finetune(reuse(*SCRATCH, "budget=0.01s")))
    summary = run.read_summary()
    assert summary["stopped"] == "budget=0.01s was spent"
    assert summary["env_steps"] < 60
    assert len(summary["eval/returns"]["greedy"]) == 1
    assert (run.path / "model" / "model.safetensors").is_file()
    assert "With another limit the same command goes on" in capsys.readouterr().out
    xtra_finetune(reuse(*SCRATCH, "budget=0.01s"))
    assert "is already finished" in capsys.readouterr().out
    xtra_finetune(reuse(*SCRATCH, "budget=10h"))
    assert run.read_summary()["stopped"] is None
    assert rows(run.path) == rows(whole)


@pytest.mark.parametrize(
    ("limit", "evaluations", "reason"),
    [
        ("score=-1", 1, "early_stop.score=-1 was reached"),
        ("patience=2", 3, "early_stop.patience=2 evaluations"),
    ],
)
def test_early_stop(reuse, monkeypatch, limit, evaluations, reason):
    monkeypatch.setattr(suite_module.EvaluationResult, "mean_return", property(lambda self: 0.0))
    run = RunDirectory(xtra_finetune(reuse(*SCRATCH, "eval.every=10", f"early_stop.{limit}")))
    summary = run.read_summary()
    assert summary["stopped"].startswith(reason)
    assert summary["env_steps"] == 10 * (evaluations - 1)


@pytest.mark.slow
def test_what_is_there_is_not_taken_for_another_run(reuse, cut, tmp_path):
    cut(Actor, "step", 3)
    assert end_of(xtra_finetune, reuse(*SCRATCH)) == 0
    message = fails(xtra_finetune, reuse(*SCRATCH, "search.discount=0.9"))
    assert "holds an unfinished run of other settings (search.discount " in message
    assert " there, 0.9 here)" in message
    assert "resume=restart" in message
    with RunDirectory(tmp_path / "run").owned():
        assert "already in use by another run" in fails(xtra_finetune, reuse(*SCRATCH))
    run = xtra_finetune(reuse(*SCRATCH, "search.discount=0.9", "resume=restart"))
    assert RunDirectory(run).read_config()["search"]["discount"] == 0.9


def test_inputs_that_changed_meanwhile_are_refused(first_run, reuse, cut, tmp_path):
    cut(Actor, "step", 3)
    flags = (*SHORT, "cross_task=false")
    assert end_of(xtra_finetune, reuse(*flags)) == 0
    manifest = RunDirectory(tmp_path / "run").read_manifest()
    manifest["inputs"]["student"]["sha256"] = "0" * 64
    (tmp_path / "run" / "manifest.json").write_text(__import__("json").dumps(manifest))
    assert "was started with another student" in fails(xtra_finetune, reuse(*flags))


@pytest.mark.slow
def test_an_early_end_that_was_cut_off_is_an_end_still(reuse, monkeypatch, tmp_path):
    """Cut in the evaluation that is the reason, then while the run is being finished."""
    flags = (*SCRATCH, "eval.every=10", "early_stop.score=-1")
    expected = xtra_finetune(reuse(*flags, f"run_dir={tmp_path / 'whole'}"))
    original, calls = suite_module.evaluate, []

    def cut_off(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append(kwargs["mode"])
        if len(calls) == 1:
            ask_to_end()
        return result

    monkeypatch.setattr(suite_module, "evaluate", cut_off)
    assert finish(xtra_finetune, reuse(*flags)) == 1
    assert rows(tmp_path / "run") == rows(expected)
    assert rows(expected).count(b"/return,") == 1, "the same weights were scored twice"
    assert RunDirectory(tmp_path / "run").read_summary()["env_steps"] == 0


@pytest.mark.slow
def test_half_a_first_checkpoint_is_no_run_to_go_on_with(reuse, tmp_path):
    """Rows of a run that was killed before its first checkpoint must not stay."""
    expected = behaviour_cloning(reuse(f"run_dir={tmp_path / 'whole'}", recipe="behaviour_cloning"))
    half = tmp_path / "run" / "checkpoints" / "pretrain" / ".step_000000003.0123abcd.tmp"
    half.mkdir(parents=True)
    (tmp_path / "run" / "metrics.csv").write_text("env_step,train_step,metric,value\n0,1,loss/total,1.0\n")
    assert not RunDirectory(tmp_path / "run").has_checkpoint
    run = behaviour_cloning(reuse(recipe="behaviour_cloning"))
    assert rows(run) == rows(expected)


def test_a_stage_that_others_build_on_leaves_nothing_out(reuse, tmp_path):
    flags = ("watchdog.max_loss=0.01", "watchdog.max_skipped=100", f"artifacts={tmp_path / 'artifacts'}")
    message = fails(lambda cfg: Inputs(cfg).dataset("amidar"), reuse(*flags))
    assert "the run stops. Last good model: " in message
    batch = Path(message.rpartition("the batch: ")[2])
    assert "value_target" in torch.load(batch, weights_only=True)


@pytest.mark.slow
def test_memory_may_be_another_when_a_run_goes_on(reuse, cut, tmp_path):
    expected = xtra_finetune(reuse(*SCRATCH, f"run_dir={tmp_path / 'whole'}"))
    cut(Actor, "step", 25)
    assert end_of(xtra_finetune, reuse(*SCRATCH)) == 0
    run = xtra_finetune(reuse(*SCRATCH, "targets.memory_bytes=20000", "search.max_bytes=1000000"))
    assert rows(run) == rows(expected)


def test_limits_of_finetuning_are_refused_elsewhere(reuse):
    assert "limits of xtra_finetune" in fails(
        behaviour_cloning, reuse("budget=1h", recipe="behaviour_cloning")
    )
