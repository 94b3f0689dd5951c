"""Runs of a study are averaged where they belong together, and named where they do not."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
from report_samples import CROSS, SCORES, SYSTEMS, config, fast_manifests, write_run, write_sample

from xtra_rl.report.collect import Finding, collect
from xtra_rl.report.curves import (
    aggregate_bar_rows,
    aggregate_rows,
    baseline_rows,
    gain_curve_rows,
    improvement_rows,
    learning_rows,
    weight_rows,
)
from xtra_rl.report.facts import head
from xtra_rl.report.measures import at_start, baseline, improvement, measured, of_system
from xtra_rl.report.paper_tables import paper_tables
from xtra_rl.report.pictures import system_looks
from xtra_rl.report.tables import aggregates_table, scores_table
from xtra_rl.runs.settings import decisive
from xtra_rl.studies import read_study, write_study


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    fast_manifests(monkeypatch)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def one(folder, **options):
    (group,) = collect([folder], **options)
    return group


def test_numbers_of_a_study_are_those_worked_out_by_hand(tmp_path):
    write_sample(tmp_path)
    group = one(tmp_path)
    assert group.findings == ()
    assert {system: group.by_task(system) for system in SCORES} == {
        system: {task: list(values) for task, values in tasks.items()} for system, tasks in SCORES.items()
    }
    # Amidar has the same score three times, so its interval is a point.
    assert of_system(group, "efficientzero", "amidar") == (50.0, 50.0, 50.0, 3)
    mean, low, high, seeds = of_system(group, "efficientzero", "alien")
    assert (mean, seeds) == (200.0, 3)
    assert 100 <= low < 200 < high <= 300
    # 300 over 200 and 100 over 50.
    assert improvement(group, "xtra", "alien").mean == pytest.approx(0.5)
    assert improvement(group, "xtra", "amidar").mean == pytest.approx(1.0)
    # A tenth of 300; EfficientZero is not pretrained, so its start is no zero-shot play.
    assert at_start(group, "xtra", "alien").mean == pytest.approx(30.0)
    assert at_start(group, "efficientzero", "alien") is None
    # 20, 21, 22 by seed, whatever the system.
    assert baseline(group, "random", "alien")[::3] == (21.0, 3)
    assert baseline(group, "untrained", "alien") is None
    # Every run plays the same games of it: once 10, not three seeds that agree.
    assert baseline(group, "constant", "alien").seeds == 1
    assert math.isnan(baseline(group, "constant", "alien").low)
    # The sampled episodes score half.
    assert one(tmp_path, mode="sampled").by_task("xtra")["alien"] == [125.0, 150.0, 175.0]


def test_pictures_show_these_numbers(tmp_path):
    write_sample(tmp_path)
    group = one(tmp_path)
    points = {(row["game"], row["system"], row["env_step"]): row for row in learning_rows(group)}
    assert points["alien", "XTRA", 200]["mean"] == 150.0
    assert points["alien", "XTRA", 400]["seeds"] == 3
    levels = {(row["game"], row["system"]): row["mean"] for row in baseline_rows(group)}
    assert levels["alien", "random play"] == 21.0
    assert levels["alien", "best constant action"] == 10.0
    whole = {
        (row["normalised"], row["system"], row["env_step"]): row["mean"] for row in aggregate_rows(group)
    }
    # Over EfficientZero's end: (300/200 + 100/50) / 2, and half of it half-way.
    assert whole["relative to EfficientZero", "XTRA", 400] == pytest.approx(1.75)
    assert whole["relative to EfficientZero", "XTRA", 200] == pytest.approx(0.875)
    # Alien: (300 - 227.8) / (7127.7 - 227.8); Amidar: (100 - 5.8) / (1719.5 - 5.8).
    hns = (72.2 / 6899.9 + 94.2 / 1713.7) / 2
    assert whole["human-normalised", "XTRA", 400] == pytest.approx(hns)
    bars = {
        (row["normalised"], row["statistic"], row["system"]): row["mean"] for row in aggregate_bar_rows(group)
    }
    assert bars["relative to EfficientZero", "median", "XTRA"] == pytest.approx(1.75)
    assert bars["relative to EfficientZero", "mean", "EfficientZero"] == pytest.approx(1.0)
    assert bars["human-normalised", "optimality gap", "XTRA"] == pytest.approx(1 - hns)
    gains = {row["game"]: row["mean"] for row in improvement_rows(group)}
    assert gains == {"alien": pytest.approx(0.5), "amidar": pytest.approx(1.0)}
    assert [row["mean"] for row in gain_curve_rows(group)] == pytest.approx([0.75] * 3)
    weights = {(row["cross_task"], row["env_step"]): row["mean"] for row in weight_rows(group)}
    assert weights[CROSS[1], 400] == pytest.approx(0.7)


def test_runs_that_lie_beside_their_study_are_named_by_a_plain_path(tmp_path):
    """Studies share runs: the plan of one leads to the folder of another by ``..``."""
    study = write_sample(tmp_path / "table1")
    plans = tuple(replace(plan, run_dir=f"../table1/{plan.run_dir}") for plan in study.runs)
    write_study(tmp_path / "laptop", replace(study, runs=plans))
    shutil.rmtree(tmp_path / "table1" / plans[0].run_dir.removeprefix("../table1/"))
    group = one(tmp_path / "laptop")
    assert len(group.counted()) == len(plans) - 1
    assert [finding.path for finding in group.findings] == [
        str(tmp_path / "table1/runs" / plans[0].system / f"{plans[0].target}-s0")
    ]
    assert not [run for run in group.runs if ".." in run.path.parts]


def test_tables_stand_beside_the_paper_s_numbers(tmp_path):
    write_sample(tmp_path)
    group = one(tmp_path)
    table1, table3 = paper_tables(group)
    alien = dict(zip(table1.columns, next(row for row in table1.rows if row.title == "Alien").cells))
    assert (alien["XTRA"].text, alien["XTRA"].paper) == ("300.0", "954.8")
    assert (alien["XTRA, zero-shot"].text, alien["XTRA, zero-shot"].paper) == ("30.0", "294.1")
    assert (alien["no cross-task"].text, alien["no cross-task"].paper) == ("—", "722.8")
    total = dict(zip(table1.columns, next(row for row in table1.rows if row.title == "mean, maze").cells))
    # Two of the paper's five mazes.
    assert (total["XTRA"].text, total["XTRA"].paper, total["XTRA"].state) == ("1.75", "1.11", "partial")
    assert "2 of 5 games" in total["XTRA"].note
    assert not any("shooter" in row.title for row in table1.rows)
    amidar = dict(zip(table3.columns, next(row for row in table3.rows if row.title == "Amidar").cells))
    assert (amidar["seed 1"].text, amidar["seed 1"].paper) == ("100.0", "104.3")
    assert (amidar["std"].text, amidar["std"].paper) == ("20.0", "11.8")
    columns = aggregates_table(group).columns
    xtra = dict(zip(columns, aggregates_table(group).rows[1].cells))
    # Of nine pairs on Alien XTRA wins eight (100 and 200 thrice, 300 by 350) and ties one; all on Amidar.
    assert xtra["P(better than EfficientZero)"].value == pytest.approx((7.5 / 9 + 1) / 2)
    # Human-normalised: alien (300 - 227.8) / 6899.9, amidar (100 - 5.8) / 1713.7; the paper's of all ten games.
    mean, median = table3.rows[-2:]
    assert (mean.title, mean.cells[-1][:5]) == (
        "mean, overall",
        ("0.03", "2 of 10 games", "1.45", pytest.approx(0.032716, abs=1e-6), "partial"),
    )
    assert (median.title, median.cells[-1].paper) == ("median, overall", "0.36")
    printed = {row["game"]: row["mean, paper"] for row in table3.numbers}
    assert printed["amidar"] is not None
    assert "Sources: " in table1.caption
    assert "XTRA: arXiv:2210.10763 Table 3." in table3.caption
    # XTRA's start: 0.1 of each seed's score; the average keeps the three seeds.
    zero_shot = {row["game"]: row for row in table1.numbers if row["system"] == "xtra_zero_shot"}
    assert zero_shot["mean, overall"]["seeds"] == 3


def damaged(tmp_path, damage, **options):
    """The group and its only finding after one run was changed."""
    write_sample(tmp_path)
    run = tmp_path / "runs" / "xtra" / "alien-s1"
    damage(run)
    group = one(tmp_path, **options)
    (finding,) = group.findings
    assert "XTRA, alien, seed 1" in finding.where
    # 300 is gone, (250 + 350) / 2 stays.
    assert group.scores("xtra", "alien") == {0: 250.0, 2: 350.0}
    cells = dict(zip(scores_table(group).columns, scores_table(group).rows[0].cells))
    assert cells["XTRA"].state == "partial"
    assert "2 of 3 seeds" in cells["XTRA"].note
    return finding


def rewrite(run, **options):
    shutil.rmtree(run)
    write_run(run, "xtra", "alien", 1, 300.0, **options)


def test_a_missing_seed_is_named(tmp_path):
    finding = damaged(tmp_path, shutil.rmtree)
    assert finding.kind == "missing"


def test_an_unfinished_run_is_named(tmp_path):
    finding = damaged(tmp_path, lambda run: (run / "summary.json").unlink())
    assert (finding.kind, finding.text) == ("unfinished", "it has come to env step 400")


def test_a_broken_run_is_named(tmp_path):
    finding = damaged(tmp_path, lambda run: (run / "config.yaml").write_text("seed: 5"))
    assert finding.kind == "broken"
    assert "config.yaml is not the one" in finding.text


def test_a_run_of_another_version_is_named(tmp_path):
    def damage(run):
        packages = json.loads((run / "manifest.json").read_text())["packages"]
        edit(run / "manifest.json", packages=packages | {"xtra_rl": "9.9"})

    finding = damaged(tmp_path, damage)
    assert finding.kind == "other version"
    assert "xtra_rl 9.9" in finding.text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"finetune": {"env_steps": 800}}, "finetune.env_steps is 800, of most 400"),
        ({"eval": {"episodes": 2, "max_steps": 9}}, "eval.max_steps is 9, of most 500"),
        ({"search": {"num_simulations": 8, "discount": 0.9}}, "search.discount is 0.9, of most (absent)"),
    ],
)
def test_a_run_of_other_settings_is_named(changes, text, tmp_path):
    finding = damaged(tmp_path, lambda run: rewrite(run, settings=config("xtra", "alien", 1, **changes)))
    assert (finding.kind, finding.text) == ("other settings", text)


def test_a_run_that_ended_early_is_named(tmp_path):
    finding = damaged(tmp_path, lambda run: rewrite(run, env_steps=300))
    assert (finding.kind, finding.text) == ("other settings", "env steps at the end is 300, of most 400")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": 7}, "seed is 7, planned was 1"),
        ({"pretrained": False}, "pretrained is false, planned was true"),
        ({"scale": "smoke"}, "scale is smoke, planned was laptop"),
        ({"target": "hero"}, "game is hero, planned was alien"),
    ],
)
def test_a_run_that_is_not_the_planned_one_is_named(changes, text, tmp_path):
    settings = config("xtra", "alien", 1) | changes
    finding = damaged(tmp_path, lambda run: rewrite(run, settings=settings))
    assert (finding.kind, finding.text) == ("not as planned", text)


def test_a_cell_with_the_runs_of_another_system_is_named(tmp_path):
    """All of its seeds are alike, and nothing on the command line names what differs."""
    systems = tuple(
        replace(each, overrides=(), settings=decisive(config(each.name, "", 0))) for each in SYSTEMS
    )
    write_sample(tmp_path, systems=systems)
    assert collect([tmp_path])[0].findings == ()
    for task in ("alien", "amidar"):
        for seed in range(3):
            run = tmp_path / "runs" / "xtra" / f"{task}-s{seed}"
            shutil.rmtree(run)
            shutil.copytree(tmp_path / "runs" / "efficientzero" / f"{task}-s{seed}", run)
    (group,) = collect([tmp_path])
    assert {finding.text for finding in group.findings} == {
        "pretrained is false, planned was true; cross_task is false, planned was true"
    }
    assert len(group.findings) == 6
    assert group.scores("xtra", "alien") == {}


def test_runs_of_fewer_evaluations_are_averaged_and_named(tmp_path):
    write_sample(tmp_path)
    run = tmp_path / "runs" / "xtra" / "alien-s1"
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(row for row in rows if not row.startswith("200,50,eval")))
    (group,) = collect([tmp_path], last=2)
    assert group.evaluations == "the last 1 to 2 evaluations"
    assert group.notes == (f"1 of the runs that count are averages of fewer than 2 evaluations: {run} (1).",)
    # 350 and 250 at the end, 175 and 125 before; the run without that has 300.
    assert group.scores("xtra", "alien") == {0: 187.5, 1: 300.0, 2: 262.5}


def test_untrained_networks_are_said_to_have_played_as_they_did(tmp_path):
    settings = config("xtra", "alien", 0) | {"eval": {"modes": ["greedy", "sampled"]}}
    write_run(tmp_path / "run", "", "alien", 0, 100.0, settings=settings, baselines={"untrained": 7.0})
    (group,) = collect([tmp_path])
    assert "untrained, sampled play" in scores_table(group).columns


def test_a_run_without_the_asked_mode_is_named(tmp_path):
    finding = damaged(
        tmp_path, lambda run: rewrite(run, **{"eval/mode": "sampled", "eval/returns": {"sampled": [300.0]}})
    )
    assert (finding.kind, finding.text) == ("no evaluation", "its last evaluation has no greedy play")


def test_places_and_machines_may_differ_and_commits_are_said(tmp_path):
    write_sample(tmp_path)
    run = tmp_path / "runs" / "xtra" / "alien-s1"
    rewrite(run, settings=config("xtra", "alien", 1, run_dir="elsewhere", device="cuda", threads=3))
    edit(run / "manifest.json", git_commit="f" * 40, device="cuda:0")
    group = one(tmp_path)
    assert group.findings == ()
    assert len(group.scores("xtra", "alien")) == 3
    assert any("2 commits" in note and "ffffffffffff (1 runs)" in note for note in group.notes)
    assert any("2 devices" in note for note in group.notes)


def test_a_run_that_nobody_planned_is_named_and_not_averaged(tmp_path):
    write_sample(tmp_path)
    write_run(tmp_path / "runs" / "extra", "xtra", "alien", 0, 9000.0)
    group = one(tmp_path)
    (finding,) = group.findings
    assert (finding.kind, finding.path) == ("unplanned", str(tmp_path / "runs" / "extra"))
    assert group.scores("xtra", "alien") == {0: 250.0, 1: 300.0, 2: 350.0}


def test_a_run_that_another_study_planned_is_not_unplanned(tmp_path):
    """It lies with the study that names its system, also where that one comes first and has not planned its game."""
    first, second = tmp_path / "a", tmp_path / "b"
    write_sample(first)
    write_run(first / "runs" / "extra", "xtra", "alien", 0, 9000.0)
    study = read_study(first)
    (plan,) = [run for run in study.runs if (run.system, run.target, run.seed) == ("xtra", "alien", 0)]
    second.mkdir()
    write_study(second, replace(study, runs=(replace(plan, run_dir="../a/runs/extra"),)))
    groups = collect([tmp_path])
    assert [group.findings for group in groups] == [(), ()]
    assert groups[1].scores("xtra", "alien") == {0: 9000.0}


def test_a_recipe_without_variants_has_none_in_its_name(tmp_path):
    write_run(tmp_path / "one", "xtra", "alien", 0, 100.0, recipe="my_own")
    (group,) = collect([tmp_path])
    assert [system.label for system in group.study.systems] == ["my_own"]


def test_a_diagnosis_that_has_not_ended_is_named_and_is_no_system(tmp_path):
    write_sample(tmp_path / "study")
    for place in ("study/diagnosis", "elsewhere"):
        write_run(tmp_path / place, "xtra", "alien", 0, 1.0, finished=False, recipe="diagnose")
    planned, bare = collect([tmp_path])
    for group, place in ((planned, "study/diagnosis"), (bare, "elsewhere")):
        (finding,) = group.findings
        assert finding == Finding("unfinished", "", str(tmp_path / place), "its diagnosis has not ended")
    assert bare.study.systems == ()


def test_a_folder_that_is_given_twice_is_read_once(tmp_path):
    write_sample(tmp_path / "study")
    (group,) = collect([tmp_path, tmp_path / "study", tmp_path / "study" / "runs"])
    assert len(group.runs) == 12


def test_systems_that_share_their_runs_are_said_to(tmp_path):
    study = write_sample(tmp_path)
    large = SYSTEMS[0].__class__("large", "EfficientZero-L", "xtra_finetune", ("pretrained=false",))
    plans = [plan for plan in study.runs if plan.system == "efficientzero"]
    shared = tuple(plan.__class__(**(vars(plan) | {"system": "large"})) for plan in plans)
    study = study.__class__(**(vars(study) | {"systems": (*SYSTEMS, large), "runs": study.runs + shared}))
    write_study(tmp_path, study)
    group = one(tmp_path)
    assert any("EfficientZero and EfficientZero-L are the same runs" in note for note in group.notes)
    # Two cells, the same three runs.
    assert group.scores("large", "alien") == group.scores("efficientzero", "alien")
    assert len(group.runs) == len(group.counted()) == 12
    assert head(group)["Runs"] == "12 of 12 planned count"


def test_systems_without_all_games_are_left_out_of_averages(tmp_path):
    write_sample(tmp_path)
    for seed in range(3):
        shutil.rmtree(tmp_path / "runs" / "xtra" / f"amidar-s{seed}")
    group = one(tmp_path)
    assert {row["system"] for row in aggregate_rows(group)} == {"EfficientZero"}
    assert {row["system"] for row in aggregate_bar_rows(group)} == {"EfficientZero"}
    amidar = dict(zip(scores_table(group).columns, scores_table(group).rows[1].cells))
    assert (amidar["EfficientZero"].state, amidar["XTRA"].state) == ("", "empty")
    xtra = aggregates_table(group).rows[1].cells[0]
    assert xtra.state == "partial"
    assert "1 of 2 games" in xtra.note


def test_a_reference_without_a_positive_score_gives_no_ratio(tmp_path):
    scores = {"efficientzero": {"alien": (0.0, 0.0)}, "xtra": {"alien": (10.0, 20.0)}}
    write_sample(tmp_path, scores=scores)
    group = one(tmp_path)
    assert improvement(group, "xtra", "alien") is None
    assert improvement_rows(group) == gain_curve_rows(group) == []
    assert {row["normalised"] for row in aggregate_rows(group)} == {"human-normalised"}
    paper_tables(group)


def test_one_seed_has_no_interval():
    assert math.isnan(measured([3.0]).low)


@pytest.mark.parametrize(("make", "message"), [(False, "is not a folder"), (True, "no runs and no studies")])
def test_a_folder_without_runs_is_refused(make, message, tmp_path):
    if make:
        (tmp_path / "x").mkdir()
    with pytest.raises(ValueError, match=message):
        collect([tmp_path / "x"])


def test_systems_that_studies_share_look_the_same_in_all_of_them(tmp_path):
    write_sample(tmp_path)
    group = one(tmp_path)
    by_name = {system.name: system for system in group.study.systems}
    shared = [by_name["efficientzero"], by_name["xtra"]]
    other = replace(shared[0], name="own", label="own", published=None)
    larger = replace(shared[0], name="efficientzero_l", label="EfficientZero-L", published="efficientzero_l")

    def colours(*systems):
        study = replace(group.study, systems=systems)
        return {label: look["color"] for label, look in system_looks(replace(group, study=study)).items()}

    first = colours(*shared)
    assert colours(other, *reversed(shared)) == {"own": "#009E73", **first}
    # The larger one stands for it where it is alone, and is a system of its own beside it.
    assert colours(larger)["EfficientZero-L"] == first["EfficientZero"]
    assert len(set(colours(*shared, larger, other).values())) == 4
