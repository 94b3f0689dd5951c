"""The main job with Ray workers: as one process counts and, where it can, computes; killed workers and runs go on."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest
from pipeline_runs import SHORT, end_of

from xtra_rl.recipes import workers
from xtra_rl.recipes.xtra_finetune import xtra_finetune
from xtra_rl.training.learner import Learner
from xtra_rl.training.run import RunDirectory

pytestmark = pytest.mark.slow
BOTH = ("workers.reanalysis=2", "workers.collection=2")


@pytest.fixture
def settings(cluster, config, tmp_path):
    """``settings(name, *overrides)``: EfficientZero from scratch for 60 env steps, in a run directory of that name."""

    def make(name, *overrides):
        flags = ("scale=smoke", "cross_task=false", "pretrained=false", "log_every=1", *SHORT)
        return config("xtra_finetune", *flags, f"run_dir={tmp_path / name}", *overrides)

    return make


@pytest.fixture
def at_step(monkeypatch):
    """``at_step(number, act)``: call ``act()`` after an optimiser step of that number."""

    def install(number, act):
        original = Learner.step

        def step(self, *args):
            result = original(self, *args)
            if self.steps == number:
                act()
            return result

        monkeypatch.setattr(Learner, "step", step)

    return install


def metrics(run):
    return (Path(run) / "metrics.csv").read_bytes()


def counts(run):
    """Env steps, train steps, and at which of them what was logged but scores of games."""
    with (Path(run) / "metrics.csv").open() as file:
        rows = [(row["env_step"], row["train_step"], row["metric"]) for row in csv.DictReader(file)]
    summary = RunDirectory(run).read_summary()
    kept = [row for row in rows if row[2] not in ("train/episode_return",)]
    return summary["env_steps"], summary["train_steps"], kept


def test_reanalysis_by_workers_gives_the_metrics_of_one_process_byte_for_byte(settings):
    alone = xtra_finetune(settings("alone"))
    assert metrics(xtra_finetune(settings("workers", "workers.reanalysis=2"))) == metrics(alone)


def test_killed_workers_change_no_count(settings, at_step, kill):
    alone = xtra_finetune(settings("alone"))

    def kill_one_of_each():
        kill(workers._POOLS["collection"].workers[0])
        kill(workers._POOLS["reanalysis"].workers[1])

    at_step(4, kill_one_of_each)
    shared = xtra_finetune(settings("workers", *BOTH))
    assert workers._POOLS["collection"].state_dict()["lost"] == [(24, 0)]
    assert counts(shared) == counts(alone)
    assert counts(shared)[:2] == (60, 12)


def test_a_run_with_workers_that_was_stopped_goes_on_to_the_same_metrics(settings, at_step):
    whole = xtra_finetune(settings("whole", *BOTH))
    at_step(7, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert end_of(xtra_finetune, settings("cut", *BOTH)) == 0
    assert end_of(xtra_finetune, settings("cut", *BOTH)) is None
    assert metrics(settings("cut").run_dir) == metrics(whole)


def test_staleness_is_bounded_and_logged(settings):
    run = xtra_finetune(settings("ahead", *BOTH, "workers.max_staleness=2", "workers.collect_ahead=3"))
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for metric, bound in (("replay/staleness", 2), ("replay/collection_staleness", 6)):
        found = [float(row["value"]) for row in rows if row["metric"] == metric]
        assert 0 < max(found) <= bound
    assert counts(run)[:2] == (60, 12)
