"""What is there of a study."""

import pytest
from run_samples import config, write_run

from xtra_rl.studies import PlannedRun, Study, System, write_study
from xtra_rl.studies.status import check_same_plan, planned_run, problem_of, score_rows, status_of


@pytest.fixture
def folder(tmp_path):
    """One run of each kind."""
    write_run(tmp_path / "good")
    write_run(tmp_path / "begun", finished=False)
    write_run(tmp_path / "torn")
    (tmp_path / "torn" / "summary.json").write_text('{"recipe":')
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "log.txt").write_text("error: no")
    return tmp_path


def plan(name, seed=0):
    return PlannedRun("xtra", config()["target"], seed, (), name)


def test_every_state_of_a_run_is_told_apart_and_named(folder):
    found = {name: planned_run(folder, plan(name)) for name in ("good", "begun", "torn", "logged", "nowhere")}
    assert {name: status_of(run) for name, run in found.items()} == {
        "good": "finished", "begun": "unfinished", "torn": "broken", "logged": "missing", "nowhere": "missing",
    }  # fmt: skip
    problems = {name: problem_of(run) for name, run in found.items()}
    assert problems["good"] is None
    assert "ended without a summary" in problems["begun"]
    assert "summary.json is not valid JSON" in problems["torn"]
    assert f"move {folder / 'torn'} away" in problems["torn"]
    assert "no run directory" in problems["logged"]


def test_scores_are_means_over_finished_seeds(folder):
    write_run(folder / "other", **{"eval/mean_return": 450.0, "eval/returns": {"greedy": [450.0]}})
    runs = tuple(plan(name, seed) for seed, name in enumerate(("good", "other", "begun", "torn")))
    systems = (System("xtra", "XTRA", "xtra_finetune"), System("curl", "CURL", "curl"))
    study = Study("table1", "", "smoke", (), (), systems, ("alien", "hero"), (0, 1, 2, 3), runs)
    rows = score_rows(study, [(run, planned_run(folder, run)) for run in runs])
    # The good run scores 250.
    assert rows == [
        {"system": "XTRA", "alien": 350.0, "hero": None},
        {"system": "CURL", "alien": None, "hero": None},
    ]


def test_runs_that_were_planned_with_other_settings_do_not_count(tmp_path):
    def study(experiment, run_dir, *overrides):
        run = PlannedRun("xtra", "alien", 0, overrides, run_dir)
        return Study(experiment, "", "smoke", (), (), (), ("alien",), (0,), (run,))

    own, shared = "runs/xtra/alien-s0", "../table1-smoke/runs/xtra/alien-s0"
    home, guest = tmp_path / "table1-smoke", tmp_path / "figure7-smoke"
    write_study(home, study("table1", own, "scale=smoke", "batch_size=8"))
    # As long as nothing is there, a plan can be changed.
    check_same_plan(home, study("table1", own, "scale=smoke", "batch_size=4"))
    write_run(home / own)
    check_same_plan(home, study("table1", own, "batch_size=8", "scale=smoke"))
    check_same_plan(guest, study("figure7", shared, "scale=smoke", "batch_size=8"))
    for folder, run_dir in ((home, own), (guest, shared)):
        with pytest.raises(ValueError, match=r"planned with other settings \(batch_size=4, batch_size=8\)"):
            check_same_plan(folder, study("any", run_dir, "scale=smoke", "batch_size=4"))
