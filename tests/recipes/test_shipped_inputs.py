"""What comes with the repository: a student and annotated games, ready for finetuning."""

from __future__ import annotations

from pathlib import Path

import pytest

import xtra_rl
from xtra_rl.data import TrajectoryDataset
from xtra_rl.models import COMPONENTS
from xtra_rl.recipes import build, common
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.recipes.xtra_finetune import initial_model, xtra_finetune

SHIPPED = Path(__file__).resolve().parents[2] / "results" / "laptop"
#: By name: the games that the student knows, and one that it does not.
GAMES = {
    "shooters": (["assault", "carnival", "centipede"], "phoenix"),
    "mazes": (["amidar", "bank_heist", "ms_pacman"], "alien"),
}


@pytest.fixture(params=GAMES)
def name(request):
    return request.param


@pytest.fixture
def cfg(config, name, tmp_path, monkeypatch):
    """Started far from the repository, with nothing built."""
    monkeypatch.chdir(tmp_path)

    def make(*overrides):
        return config("xtra_finetune", f"inputs={name}", f"target={GAMES[name][1]}", *overrides)

    return make


@pytest.mark.parametrize("scale", ["quick", "laptop"])
def test_nothing_has_to_be_built(cfg, name, tmp_path, scale):
    settings, (games, target) = cfg(f"scale={scale}"), GAMES[name]
    assert common.cross_tasks_of(settings) == games
    inputs = Inputs(settings, build=False)
    model = initial_model(settings, target, inputs.student())
    shipped = xtra_rl.load_pretrained(SHIPPED / name / "student")
    for name in COMPONENTS:
        ours, theirs = (each.components()[name].state_dict() for each in (model, shipped))
        assert all((ours[key] == theirs[key]).all() for key in theirs), name
    datasets = {task: inputs.annotated(task) for task in games}
    for task, buffer in build.annotated_buffers(settings, datasets).items():
        windows = buffer.sample_windows(4, unroll_steps=3, bootstrap_steps=10, frame_stack=4)
        assert windows["teacher_policy"].shape[-1] == 18, task
    assert not list(tmp_path.iterdir())


def test_games_were_not_taken_by_how_they_went(name):
    """The first environments' games of each checkpoint; those that ended first would be the short ones."""
    for task in GAMES[name][0]:
        episodes = TrajectoryDataset(SHIPPED / name / task).episodes
        chosen = {(int(entry["checkpoint"]), int(entry["number"])) for entry in episodes}
        checkpoints = {checkpoint for checkpoint, _ in chosen}
        assert chosen == {(checkpoint, number) for checkpoint in checkpoints for number in range(4)}, task


def test_files_are_what_was_written_and_the_card_says_where_from(name):
    games, about = GAMES[name][0], xtra_rl.load_pretrained(SHIPPED / name / "student").description
    made = about.metadata["artifact"]["key"]["teachers"]
    assert list(about.tasks) == games
    assert {score.task for score in about.scores} == set(games)
    for task in games:
        part = TrajectoryDataset(SHIPPED / name / task)
        part.verify()
        assert part.task == task
        assert part.column_provenance("teacher_policy")["teacher"] == made[task]["teacher"]
        assert part.manifest["provenance"][0]["part_of"] == made[task]["dataset"]


@pytest.mark.slow
def test_a_run_starts_from_it_at_once(cfg, tmp_path):
    evaluation = ("eval.episodes=1", "eval.max_steps=8", "eval.baselines=[]", "eval.video_steps=0")
    short = ("finetune.env_steps=64", "finetune.warmup_steps=32", "threads=1", f"run_dir={tmp_path / 'run'}")
    run = xtra_finetune(cfg(*evaluation, *short))
    assert (run / "summary.json").is_file()
    assert not (tmp_path / "artifacts").exists()
