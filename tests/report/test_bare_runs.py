"""Runs without a plan stand for the paper's systems where they have their settings, and for themselves elsewhere."""

from __future__ import annotations

import json

import pytest
from report_samples import config, fast_manifests, write_run

from xtra_rl.report.collect import collect
from xtra_rl.report.paper_tables import paper_tables
from xtra_rl.runs.settings import defaults_of


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    fast_manifests(monkeypatch)


def bare(folder, name, system, seed=0, score=100.0, *, scale="laptop", recipe="xtra_finetune", **changes):
    """A run with all settings of its recipe at that scale, but for ``changes`` by dotted name."""
    own = config(system, "alien", seed, scale=scale)
    settings = defaults_of(recipe, scale) | {key: own[key] for key in ("seed", "pretrained", "cross_task")}
    for place, value in ({"eval.video_steps": 9, "device": "cuda"} | changes).items():
        *groups, key = place.split(".")
        inner = settings
        for group in groups:
            inner[group] = dict(inner[group])
            inner = inner[group]
        inner[key] = value
    write_run(folder / name, system, settings["target"], seed, score, settings=settings, recipe=recipe)


def named(folder):
    """Published column by label."""
    (group,) = collect([folder])
    return {system.label: system.published for system in group.study.systems}


def test_bare_runs_are_sorted_by_scale_and_variant(tmp_path):
    for seed, score in enumerate((100.0, 200.0)):
        bare(tmp_path, f"x{seed}", "xtra", seed, score)
    bare(tmp_path, "e0", "efficientzero", 0, 50.0)
    bare(tmp_path, "smoke", "xtra", 0, 5.0, scale="smoke")
    laptop, small = collect([tmp_path])
    assert [system.label for system in laptop.study.systems] == ["EfficientZero", "XTRA"]
    assert laptop.scores("xtra_finetune", "alien") == {0: 100.0, 1: 200.0}
    (finding,) = laptop.findings
    assert (finding.kind, finding.where) == ("missing", "EfficientZero, alien, seed 1")
    assert small.scores("xtra_finetune", "alien") == {0: 5.0}
    assert not laptop.planned


def test_bare_runs_of_curl_stand_for_the_paper_s(tmp_path):
    for name, pretrain in (("scratch", False), ("pretrained", True)):
        bare(tmp_path, name, "efficientzero", recipe="curl", **{"curl.pretrain": pretrain})
    assert named(tmp_path) == {"CURL": "curl", "CURL, pretrained": "curl_pretrained"}
    # The paper's CURL on the similar games is in Table 5, on the diverse ones in Table 4.
    assert [table.name for table in paper_tables(*collect([tmp_path]))] == ["table5"]
    bare(tmp_path / "diverse", "run", "efficientzero", recipe="curl", target="hero", task_set="diverse8")
    assert "table4" in [table.name for table in paper_tables(*collect([tmp_path / "diverse"]))]


MUZERO = {"model.value_prefix": True, "loss.consistency_coef": 0.0, "augmentation": False}


@pytest.mark.parametrize(
    ("system", "changes", "label"),
    [
        ("efficientzero", {"batch_size": 512}, "EfficientZero, batch_size=512"),
        (
            "efficientzero",
            MUZERO | {"batch_size": 512},
            "EfficientZero, model.value_prefix=true, loss.consistency_coef=0.0, augmentation=false and 1 more",
        ),
        ("xtra", {"task_set": "diverse4"}, "XTRA, task_set=diverse4"),
        ("xtra", {"task_set": "shooter"}, "XTRA, task_set=shooter"),
        ("xtra", {"num_cross_tasks": 1}, "XTRA, num_cross_tasks=1"),
    ],
)
def test_bare_runs_of_other_settings_are_no_column_of_the_paper(system, changes, label, tmp_path):
    bare(tmp_path, "usual", system)
    bare(tmp_path, "other", system, score=900.0, **changes)
    usual = label.partition(",")[0]
    assert named(tmp_path) == {usual: usual.lower(), label: None}
    # The other's score is in no cell of the table beside the paper's.
    alien = paper_tables(*collect([tmp_path]))[0].rows[0]
    assert {cell.value for cell in alien.cells} == {None, 100.0, *([10.0] if usual == "XTRA" else [])}


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("xtra", {"task_set": "maze"}),
        ("xtra", {"task_set": "diverse8", "num_cross_tasks": 8}),
        ("xtra", {"finetune.extra_train_steps": 0, "run_dir": "elsewhere", "seed": 3, "unknown": 1}),
        ("efficientzero", {"task_set": "diverse2", "num_cross_tasks": 2, "model.num_blocks": 1}),
    ],
)
def test_settings_that_the_paper_s_systems_have_are_no_change(system, changes, tmp_path):
    bare(tmp_path, "one", system, scale="paper", **changes)
    assert list(named(tmp_path).values()) == [system]


def test_a_seed_that_is_there_twice_counts_once(tmp_path):
    for name, score in (("a", 100.0), ("b", 300.0)):
        bare(tmp_path, name, "xtra", 0, score)
        manifest = tmp_path / name / "manifest.json"
        date = f"2026-01-0{1 if name == 'a' else 2}T00:00:00+00:00"
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"date": date}))
    (group,) = collect([tmp_path])
    assert group.scores("xtra_finetune", "alien") == {0: 300.0}
    assert [(finding.kind, finding.path) for finding in group.findings] == [("twice", str(tmp_path / "a"))]
