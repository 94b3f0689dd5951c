"""What is there of a study."""

import pytest
from run_samples import config, write_run

from xtra_rl.studies import PlannedRun, Study, System
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


def test_runs_of_other_settings_than_planned_do_not_count(tmp_path):
    def study(run_dir, **settings):
        system = System("xtra", "XTRA", "xtra_finetune", settings=settings)
        run = PlannedRun("xtra", "alien", 0, (), run_dir)
        return Study("any", "", "smoke", (), (), (system,), ("alien",), (0,), (run,))

    own, shared = "runs/xtra/alien-s0", "../table1-smoke/runs/xtra/alien-s0"
    home, guest = tmp_path / "table1-smoke", tmp_path / "figure7-smoke"
    wanted = {"search.algorithm": "puct", "search.discount": 0.98}
    # As long as nothing is there, anything can be planned.
    check_same_plan(home, study(own, **wanted))
    write_run(home / own, finished=False)
    for folder, run_dir in ((home, own), (guest, shared)):
        check_same_plan(folder, study(run_dir, **{"search.algorithm": "gumbel", "new in this version": 1}))
        with pytest.raises(
            ValueError, match=r"other settings \(search.algorithm is gumbel, planned is puct\);"
        ):
            check_same_plan(folder, study(run_dir, **wanted))
