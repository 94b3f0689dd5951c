"""Studies from the command line: planned, built on shared inputs, resumed; what fails is named."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from itertools import chain
from types import SimpleNamespace

import pytest
from hydra.core.hydra_config import HydraConfig
from pipeline_runs import ROOT, SHORT, command_line, fails
from recipe_names import EXPERIMENTS
from run_samples import write_run

from xtra_rl.recipes import common, costs
from xtra_rl.recipes import study as study_recipe
from xtra_rl.recipes.costs import compose_run
from xtra_rl.recipes.study import plan, shared_inputs, study
from xtra_rl.studies import planning, read_study
from xtra_rl.studies.costs import Rates
from xtra_rl.studies.jobs import last_line
from xtra_rl.studies.status import path_of, planned_run, status_of

SMOKE = ("scale=smoke", "estimate=false")
RATES = Rates(env_step=0.01, train_step=0.2, offline_step=0.1, evaluation_step=0.005, episode_steps=500.0)


def test_a_plan_is_printed_and_changes_nothing(config, tmp_path, capsys):
    cfg = config("study", "experiment=table1", *SMOKE, "seeds=2", "targets=[Assault]", f"run_dir={tmp_path}",
                 f"artifacts={tmp_path / 'none'}", "plan_only=true")  # fmt: skip
    assert study(cfg) == []
    text = capsys.readouterr().out
    rows = {line[:22].strip(): line[22:].split() for line in text.splitlines() if "  " in line}
    assert rows["XTRA"][:2] == ["2", "0"]
    assert rows["datasets"][:2] == ["3", "0"]
    assert rows["total"][0] == "18"
    assert list(tmp_path.iterdir()) == []


def test_a_plan_with_hours_needs_no_folder_that_exists(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(costs, "measure", lambda cfg: RATES)
    place = tmp_path / "not" / "there"
    cfg = config("study", "experiment=table1", "scale=smoke", "seeds=1", "targets=[assault]", f"run_dir={place}",
                 f"artifacts={tmp_path / 'none'}", "plan_only=true")  # fmt: skip
    assert study(cfg) == []
    assert "hours left" in capsys.readouterr().out
    assert [path.name for path in place.iterdir()] == ["calibration.json"]


def test_inputs_of_finished_runs_that_are_gone_are_named(config, tmp_path, monkeypatch, capsys):
    def status(run):
        status.calls += 1
        return "finished" if status.calls == 1 else "missing"

    status.calls = 0
    monkeypatch.setattr(study_recipe, "status_of", status)
    cfg = config("study", "experiment=table1", *SMOKE, "seeds=2", "targets=[assault]", "systems=[xtra]",
                 f"run_dir={tmp_path}", f"artifacts={tmp_path / 'none'}", "plan_only=true")  # fmt: skip
    study(cfg)
    text = capsys.readouterr().out
    assert re.search(r"finished runs had dataset-\w+-\w+; .* and \d more, which will be made anew", text)
    status.calls = 1
    study(cfg)
    assert "finished runs had" not in capsys.readouterr().out


def test_a_study_remembers_what_an_earlier_call_planned(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_recipe, "run_all", lambda cfg, jobs: [])

    def call(*arguments):
        cfg = config(
            "study", "experiment=table1", *SMOKE, *arguments, f"run_dir={tmp_path}", f"artifacts={tmp_path}"
        )
        study(cfg)
        return read_study(tmp_path)

    assert len(call("seeds=2", "targets=[assault,alien]").runs) == 7 * 2 * 2
    both = call("seeds=[3]", "targets=assault", "systems=xtra")
    # EfficientZero and EfficientZero-L are the same runs at this scale.
    assert "planned before, and left as they are: 24 more runs" in capsys.readouterr().out
    assert len(both.runs) == 7 * 2 * 2 + 1
    assert both.seeds == (0, 1, 3)
    assert both.system("xtra").settings["scale"] == "smoke"
    run = both.runs[-1]
    changed = compose_run("xtra_finetune", [*run.overrides, "optim.lr=7.0"])
    write_run(tmp_path / run.run_dir, settings=common.plain(changed))
    with pytest.raises(ValueError, match=r"other settings \(optim.lr is 7.0, planned is 0."):
        call("seeds=1", "targets=[assault]")


def read_plan(cfg, run_dir):
    """The planned run of that directory."""
    return next(run for run in plan(cfg, []).runs if run.run_dir == run_dir)


def test_what_only_finished_runs_were_built_on_is_not_built_again(config, tmp_path, capsys):
    """Runs may come from elsewhere, without the data and models that they began with."""
    systems = "systems=[xtra,efficientzero]"
    cfg = config("study", "experiment=table1", *SMOKE, "seeds=2", "targets=[assault]", systems, f"run_dir={tmp_path}",
                 f"artifacts={tmp_path / 'none'}", "plan_only=true")  # fmt: skip

    def rows():
        study(cfg)
        lines = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
        return {name: cells for name, *cells in lines}

    for seed in (0, 1):
        assert rows()["datasets"][:2] == ["2", "0"]
        run = read_plan(cfg, f"runs/xtra/assault-s{seed}")
        write_run(tmp_path / run.run_dir, settings=common.plain(compose_run("xtra_finetune", run.overrides)))
    assert not {"datasets", "teachers", "students"} & set(rows())
    assert rows()["XTRA"][:2] == ["2", "2"]
    assert rows()["EfficientZero"][:2] == ["2", "0"]


def test_every_input_is_there_once_for_all_runs(config):
    cfg = config("study", "experiment=table1", *SMOKE, "seeds=3", "targets=[assault,alien]")
    planned = plan(cfg, [])
    runs = planning.distinct_runs(planned)
    inputs = shared_inputs(cfg, planned, runs)
    names = {each.name for each in chain.from_iterable(inputs.values())}
    count = {kind: sum(name.startswith(kind) for name in names) for kind in ("dataset", "teacher", "student")}
    # Two cross tasks for either game at this scale; the clones also need the games' own data.
    assert count == {"dataset": 6, "teacher": 4, "student": 2}
    assert inputs["runs/efficientzero/assault-s0"] == []
    for needed in inputs.values():
        for place, each in enumerate(needed):
            assert set(each.after) <= {other.name for other in needed[:place]}
    student = inputs["runs/xtra/alien-s2"][-1]
    assert student.recipe == "distill"
    assert "cross_tasks=[amidar,bank_heist]" in student.arguments
    assert not any(text.startswith("seed=") for text in student.arguments)


@pytest.mark.parametrize(
    ("overrides", "given", "expected"),
    [
        ([], [], "experiment is not given; expected one of figure13"),
        (["experiment=table1", "systems=[xtra,dreamer]"], [], "systems has 'dreamer'; table1 has xtra"),
        (["experiment=table1", "shard=3/2"], [], "shard is '3/2'"),
        (["experiment=table1", "seeds=0"], [], "seeds is 0"),
        (["experiment=table1", "seeds=[]"], [], "seeds is []"),
        (["experiment=table1", "seeds=[0,-1]"], [], "seeds is [0, -1]"),
        (["experiment=table1", "parallel=0"], [], "parallel is 0"),
        (["experiment=table1", "targets=[pong]"], [], "target 'pong' is of category 'ball'"),
        (["experiment=table1", "targets=[asault]"], [], "assault"),
        (["experiment=table1", "resume=restart"], [], "move its folder away"),
        (["experiment=table1"], ["seed=3"], "seed=3 is of one run; a study has targets=[...] and seeds=..."),
    ],
)
def test_impossible_studies_are_refused(config, tmp_path, overrides, given, expected):
    cfg = config("study", *SMOKE, *overrides, f"run_dir={tmp_path}")
    assert expected in fails(study, cfg, given)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which studies share inputs and runs."""
    return tmp_path_factory.mktemp("studies")


#: A table of similar games and one of diverse ones, a figure, and the study that is published; the rest takes minutes.
SOME = ("table1", "table2", "figure7", "laptop")


def arguments(name):
    """One game, one seed, little to learn; the shooters stand for the diverse games, whose data would take minutes."""
    few = ["task_set=shooter"] if name in ("table2", "table4", "table6", "table7") else []
    return [f"experiment={name}", *SMOKE, *SHORT, "seeds=1", "targets=[assault]", *few]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.thorough) for name in EXPERIMENTS]
)
def test_every_experiment_runs_to_its_report(place, name):
    done = command_line(place, *arguments(name), "parallel=2", recipe="study", timeout=1700)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = place / "studies" / f"{name}-smoke"
    planned = read_study(folder)
    for run in planned.runs:
        assert status_of(planned_run(folder, run)) == "finished"
        # Inputs were built before, by jobs of their own.
        assert "building it" not in (path_of(folder, run) / "log.txt").read_text()
    again = command_line(place, *arguments(name), "plan_only=true", recipe="study")
    assert "about 0.00 h of work" in again.stdout
    done = command_line(place, str(folder), "--out", f"report-{name}", recipe="report")
    assert done.returncode == 0, done.stderr
    # Systems that are the same network at this scale share a run.
    count = len(planning.distinct_runs(planned))
    assert f"{planned.title}: {count} runs count, 0 are left out" in done.stdout
    page = (place / f"report-{name}" / "index.html").read_text()
    assert redrawn("Table", page) == set(planned.tables)
    # Gains have no picture where the baseline scores nothing in the ten steps of these evaluations.
    assert redrawn("Figure", page) | {"figure6d", "figure14"} >= set(planned.figures)


def redrawn(kind, page):
    """Tables or figures of the paper that the headings of a report name: ``{"figure5", "figure8"}``."""
    headings = " ".join(re.findall(r"<h\d.*?</h\d>", page, re.DOTALL))
    named = re.findall(rf"{kind} (\w+(?:, \w+)*)", headings)
    return {f"{kind.lower()}{each}" for names in named for each in names.split(", ")}


@pytest.mark.slow
def test_failed_and_broken_runs_are_named_and_the_rest_is_resumed(tmp_path):
    command = ("experiment=table1", *SMOKE, *SHORT, "targets=[assault]", "systems=[efficientzero]", "seeds=3")
    runs = tmp_path / "studies" / "table1-smoke" / "runs" / "efficientzero"
    runs.mkdir(parents=True)
    (runs / "assault-s1").write_text("in the way")
    done = command_line(tmp_path, *command, "parallel=2", recipe="study")
    assert done.returncode == 1, done.stderr
    assert "failed    efficientzero assault seed 1: not started: " in done.stdout
    (runs / "assault-s1").unlink()
    (runs / "assault-s0" / "summary.json").write_text('{"recipe":')
    before = (runs / "assault-s2" / "log.txt").read_text()
    done = command_line(tmp_path, *command, recipe="study")
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("failed ")]
    assert len(failed) == 1
    assert "assault seed 0: " in failed[0]
    assert "summary.json" in failed[0]
    assert (runs / "assault-s1" / "summary.json").is_file()
    assert (runs / "assault-s2" / "log.txt").read_text() == before


@pytest.mark.slow
def test_sigterm_ends_the_runs_where_they_are_saved(tmp_path):
    command = ["experiment=table1", *SMOKE, *SHORT, "targets=[assault]", "systems=[efficientzero]", "seeds=2"]
    command += ["finetune.env_steps=1000000", "parallel=2"]
    run_dirs = [tmp_path / "studies/table1-smoke/runs/efficientzero" / f"assault-s{seed}" for seed in (0, 1)]
    with subprocess.Popen([sys.executable, ROOT / "recipes" / "study.py", *command], cwd=tmp_path,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        deadline = time.monotonic() + 200
        while not all((run / "metrics.csv").is_file() for run in run_dirs) and time.monotonic() < deadline:
            time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "stopped by SIGTERM; the same command goes on from here" in out
    for run in run_dirs:
        assert "stopped by SIGTERM" in last_line(run / "log.txt")
        assert list(run.glob("checkpoints/step_*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_shards_at_the_same_time_share_their_inputs(tmp_path):
    command = [
        "experiment=figure7",
        *SMOKE,
        *SHORT,
        "targets=[assault]",
        "seeds=1",
        "systems=[representation,xtra]",
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "recipes" / "study.py", *command, f"shard={shard}"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for shard in ("1/2", "2/2")
    ]  # fmt: skip
    outputs = [process.communicate(timeout=800)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    folder = tmp_path / "studies" / "figure7-smoke"
    assert [status_of(planned_run(folder, run)) for run in read_study(folder).runs] == ["finished"] * 2
    logs = "".join(path.read_text() for path in (folder / "inputs").iterdir())
    for kind in ("datasets", "teachers", "students"):
        names = [
            path.name for path in (tmp_path / "artifacts" / kind).iterdir() if not path.name.startswith(".")
        ]
        assert len(names) == {"datasets": 2, "teachers": 2, "students": 1}[kind]
    assert logs.count("building it at scale") == 5


@pytest.mark.parametrize(
    ("launcher", "jobs"), [("joblib", 4), ("submitit_local", 4), ("submitit_slurm", 1), ("basic", 1)]
)
def test_parts_that_run_on_one_machine_share_its_cores(launcher, jobs, monkeypatch):
    hydra = SimpleNamespace(runtime=SimpleNamespace(choices={"hydra/launcher": launcher}))
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydra)
    assert common.jobs_beside(4) == jobs
