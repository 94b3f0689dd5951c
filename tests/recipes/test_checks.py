"""Data and models of other frames than the config's are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtra_rl.envs import get_task
from xtra_rl.recipes import build, checks, common
from xtra_rl.recipes.inputs import Inputs


@pytest.mark.parametrize("trained", [False, True])
def test_a_model_of_frames_with_and_without_background(config, tmp_path, trained):
    cfg = config("xtra_finetune", "scale=smoke", f"env.subtract_background={str(trained).lower()}")
    model = build.world_model(cfg, "alien")
    saved = build.save(tmp_path / "model", cfg, model, "test", ["alien"])
    checks.check_fits(cfg, model, get_task("alien"), saved)
    cfg.env.subtract_background = not trained
    asked = str(not trained).lower()
    with pytest.raises(ValueError, match=f"model' is of frames .* asks for env.subtract_background={asked}"):
        checks.check_fits(cfg, model, get_task("alien"), saved)


def test_sizes_are_compared(config, tmp_path):
    cfg = config("xtra_finetune", "scale=smoke")
    model = build.world_model(cfg, "alien")
    saved = build.save(tmp_path / "model", cfg, model, "test", ["alien"])
    size = cfg.env.image_size
    cfg.env.image_size = size + 4
    with pytest.raises(ValueError, match=f"image_size {size} and the config asks for {size + 4}"):
        checks.check_fits(cfg, model, get_task("alien"), saved)


def test_settings_without_a_word_on_backgrounds_are_of_whole_frames(config):
    cfg = config("xtra_finetune", "scale=smoke")
    checks.check_background(cfg, {}, "dataset 'old'")
    cfg.env.subtract_background = True
    with pytest.raises(ValueError, match="dataset 'old' is of frames with their background"):
        checks.check_background(cfg, {}, "dataset 'old'")


def test_a_model_says_at_which_scale_it_was_made(config, tmp_path):
    cfg = config("xtra_finetune", "scale=smoke")
    saved = build.save(tmp_path / "run" / "model", cfg, build.world_model(cfg, "alien"), "test", ["alien"])
    other = config("xtra_finetune", "scale=quick")
    model, _ = build.load_model(other, saved)
    with pytest.raises(ValueError, match="pass scale=smoke, at which it was made"):
        checks.check_fits(other, model, get_task("alien"), saved)
    with pytest.raises(ValueError, match=r"is not a model directory.*did you mean '.*run/model'"):
        build.load_model(cfg, tmp_path / "run")


def test_a_student_with_another_head_is_refused_with_what_to_register(config):
    cfg = config("xtra_finetune", "scale=smoke")
    student = build.world_model(cfg, "alien")
    checks.check_student(cfg, student, {}, Path("student"), 18)
    with pytest.raises(
        ValueError, match=r"18 actions, the target one of 5; .* num_actions=18 and action_ids"
    ):
        checks.check_student(cfg, student, {}, Path("student"), 5)


def test_frames_of_a_game_are_those_of_the_config(config):
    cfg = config("xtra_finetune", "scale=smoke", "env.image_size=40")
    checks.check_frames(cfg, (1, 40, 40), "mine")
    with pytest.raises(ValueError, match=r"'mine' gives frames of 3 x 16 x 16, .* built for 1 x 40 x 40"):
        checks.check_frames(cfg, (3, 16, 16), "mine")


def test_teachers_that_no_task_of_the_run_needs_are_named(config, tmp_path, capsys):
    cfg = config("xtra_finetune", "scale=smoke", f"artifacts={tmp_path}")
    for task in ("amidar", "phoenix"):
        build.save(tmp_path / task, cfg, build.world_model(cfg, task), "teacher", [task])
    cfg.teachers = [str(tmp_path / "amidar"), str(tmp_path / "phoenix")]
    Inputs(cfg, build=False)
    assert capsys.readouterr().out == ""
    Inputs(cfg)
    assert capsys.readouterr().out == "teacher phoenix: not used, the run is of alien, amidar, bank_heist\n"


def test_a_run_that_torchrun_starts_anew_goes_on_even_if_it_was_to_replace_another(config, monkeypatch):
    cfg = config("xtra_finetune", "scale=smoke", "resume=restart")
    assert common.how_to_resume(cfg) == "restart"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert common.how_to_resume(cfg) == "auto"
