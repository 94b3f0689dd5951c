"""Data and models of other frames than the config's are refused by name."""

from __future__ import annotations

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
