"""The capacity plan from the command line: each run and input once, at the price of its network."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from capacity_samples import calibration

from xtra_rl.files import read_json, write_json
from xtra_rl.recipes import capacity
from xtra_rl.recipes.calibrate import calibrate
from xtra_rl.recipes.capacity_matrix import jobs_of
from xtra_rl.recipes.costs import compose_run, work_of
from xtra_rl.studies.capacity import case_name, read_cases
from xtra_rl.studies.costs import Work
from xtra_rl.studies.schedule import longest_chain


@pytest.mark.slow
def test_runs_and_inputs_that_experiments_share_are_counted_once():
    cases = read_cases(calibration())
    jobs = jobs_of(["figure6a", "figure6b"], "smoke", 2, cases, 100.0)
    kinds = Counter(job.kind for job in jobs)
    # Five games, two seeds. At this scale a shooter has two cross tasks, the first others of assault, carnival and
    # centipede; of the mazes there are as many.
    assert kinds["XTRA after shooters"] == kinds["XTRA after mazes"] == kinds["EfficientZero"] == 10
    assert kinds["XTRA, frozen representation"] == 10
    assert kinds["datasets"] == kinds["teachers"] == 3 + 2
    assert kinds["students"] == 3 + 1
    by_name = {job.task.name: job for job in jobs}
    run = by_name["table1-smoke/runs/efficientzero/assault-s1"]
    cfg = compose_run("xtra_finetune", ["scale=smoke", "cross_task=false", "finetune.extra_train_steps=0"])
    assert run.work == work_of("xtra_finetune", cfg)
    assert run.task.after == ()
    xtra = by_name["table1-smoke/runs/xtra/assault-s0"]
    student = next(name for name in xtra.task.after if name.startswith("student"))
    assert sum(name.startswith("dataset") for name in by_name[student].task.after) == 2
    chain = [next(n for n in xtra.task.after if n.startswith(kind)) for kind in ("dataset", "teacher")]
    seconds = sum(by_name[name].task.seconds for name in (*chain, student, xtra.task.name))
    assert longest_chain([job.task for job in jobs]) >= seconds


def test_the_price_of_an_input_is_that_of_its_work():
    case = read_cases(calibration())[case_name(1, False)]
    cases = read_cases(calibration())
    student = next(job for job in jobs_of(["figure6b"], "smoke", 1, cases, 100.0) if job.kind == "students")
    cfg = compose_run("distill", ["scale=smoke"])
    steps = cfg.distill.train_steps
    assert student.work == Work(offline_steps=steps)
    update = replace(case, batch=cfg.batch_size).offline_update()
    assert student.task.seconds == pytest.approx(steps * update)


def test_a_doubled_batch_takes_longer_by_its_samples():
    cases = read_cases(calibration())
    jobs = {job.task.name: job for job in jobs_of(["figure13"], "smoke", 1, cases, 100.0)}
    plain = jobs["table1-smoke/runs/efficientzero/assault-s0"]  # the large network is the same at this scale
    doubled = jobs["figure13-smoke/runs/efficientzero_l_batch/assault-s0"]
    case, steps = cases[case_name(1, False)], plain.work.train_steps
    batch = compose_run("xtra_finetune", ["scale=smoke"]).batch_size
    # The sample's search and forward take 2.5 and 2 ms a window, its encoding is mostly known.
    more = doubled.task.seconds - plain.task.seconds
    assert 0.0045 * batch * steps <= more <= (0.0045 + case.parts["encode"].per_sample) * batch * steps


@pytest.mark.slow
def test_a_plan_is_written_with_its_picture(tmp_path, capsys):
    write_json(tmp_path / "sample.json", calibration())
    arguments = [str(tmp_path / "sample.json"), "--out", str(tmp_path / "plan")]
    assert capacity.main([*arguments, "--experiments", "laptop_mazes", "--seeds", "1"]) == 0
    page = (tmp_path / "plan" / "plan.md").read_text()
    assert "a sample, 2026-11-27, torch 2.13.0, scale=smoke" in page
    assert "| EfficientZero | 2 |" in page
    assert (tmp_path / "plan" / "scaling.png").stat().st_size > 10_000
    assert page in capsys.readouterr().out


def test_an_incomplete_calibration_is_refused(tmp_path, capsys):
    content = calibration()
    del content["cases"][case_name(1, True)]
    write_json(tmp_path / "cut.json", content)
    assert capacity.main([str(tmp_path / "cut.json")]) == 2
    assert "no case '1 blocks, cross tasks'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_calibration_that_was_cut_goes_on(config, tmp_path):
    path = tmp_path / "machine.json"
    cfg = config(
        "calibrate", "scale=smoke", "threads=1", f"out={path}", "shares=[1,0.5]", "games=1", "profile.updates=1",
        "profile.warmup=1", "profile.fill=300", "evaluation_rounds=4",
    )  # fmt: skip
    calibrate(cfg)
    content = read_json(path)
    for case in read_cases(content).values():
        assert case.update() > 0
        assert case.act() > 0
        assert {"sample", "encode", "search", "forward", "backward", "optimiser"} <= set(case.parts)
    kept = content["cases"][case_name(1, True)]
    del content["cases"][case_name(1, False)]
    write_json(path, content)
    calibrate(cfg)
    again = read_json(path)["cases"]
    assert again[case_name(1, True)] == kept
    assert again[case_name(1, False)]["batches"][0]["batch"] == cfg.batch_size
