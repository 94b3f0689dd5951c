"""Studies on a cluster: Hydra's submitit launcher with its local executor, which runs what it would hand to SLURM."""

from __future__ import annotations

import os

import pytest
from pipeline_runs import SHORT, command_line

from xtra_rl.studies import read_study
from xtra_rl.studies.jobs import failure_of
from xtra_rl.studies.status import path_of, planned_run, status_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LOCAL = ("-m", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=30")
STUDY = (*LOCAL, "experiment=table1", "scale=smoke", "estimate=false", *SHORT, "systems=[efficientzero]")
STUDY += ("threads=1", "shard=1/2,2/2")

#: Python reads this before a program: the run of seed 0 is killed the first time, that of seed 1 every time.
SABOTAGE = """
import os, pathlib, signal, sys
if "xtra_finetune.py" in " ".join(sys.orig_argv):
    tried = pathlib.Path(__file__).with_name("tried")
    if "seed=0" in sys.orig_argv and not tried.exists():
        tried.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "seed=1" in sys.orig_argv:
        print("error: no licence for seed 1", flush=True)
        os._exit(3)
"""


@pytest.fixture(autouse=True)
def _launcher():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")


def statuses(folder):
    return {(run.target, run.seed): status_of(planned_run(folder, run)) for run in read_study(folder).runs}


def report_of(place):
    done = command_line(place, "studies", recipe="report")
    assert done.returncode == 0, done.stderr
    return done.stdout, (place / "report" / "index.html").read_text()


def test_two_jobs_run_a_study_of_four_runs_to_one_report(tmp_path):
    done = command_line(tmp_path, *STUDY, "targets=[assault,alien]", "seeds=2", recipe="study", timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = tmp_path / "studies" / "table1-smoke"
    expected = {(game, seed): "finished" for game in ("assault", "alien") for seed in (0, 1)}
    assert statuses(folder) == expected
    printed, page = report_of(tmp_path)
    assert "4 runs count, 0 are left out" in printed
    assert len(list(tmp_path.glob("report*"))) == 1
    assert "EfficientZero" in page


def test_a_run_that_fails_once_is_repeated_and_one_that_always_fails_is_listed(tmp_path, monkeypatch):
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(SABOTAGE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(hook), os.environ.get("PYTHONPATH")])))
    done = command_line(tmp_path, *STUDY, "targets=[assault]", "seeds=4", recipe="study", timeout=1500)
    assert done.returncode != 0
    assert "1 jobs of shard 2/2 failed" in done.stderr

    folder = tmp_path / "studies" / "table1-smoke"
    found = statuses(folder)
    assert found.pop(("assault", 1)) == "missing"
    assert set(found.values()) == {"finished"}
    logs = "".join(path.read_text() for path in (tmp_path / "runs" / "multirun").rglob("*_log.out"))
    # Two jobs write their logs side by side.
    said = sorted(
        (line for line in logs.splitlines() if line.startswith(("retried", "failed"))), reverse=True
    )
    problem = "exit status 3: error: no licence for seed 1"
    assert said[0].startswith("retried   efficientzero assault seed 0: killed by SIGKILL: ")
    assert said[1:] == [f"failed    efficientzero assault seed 1: {problem}; then {problem}"]
    lost = next(run for run in read_study(folder).runs if run.seed == 1)
    assert failure_of(path_of(folder, lost) / "log.txt") == f"{problem} (attempt 2)"

    printed, page = report_of(tmp_path)
    assert "3 runs count, 1 are left out" in printed
    assert f"seed 1 failed: {problem} (attempt 2)" in printed
    assert problem in page
