"""A game of the user's own is a target like any other once its file is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pipeline_runs import SHORT, command_line

from xtra_rl.envs import get_task, unregister_task
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.recipes.lifecycle import describe
from xtra_rl.recipes.plugins import load_plugins
from xtra_rl.training.run import RunDirectory

GAME = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
from gridworld import make_gridworld
from xtra_rl.envs import register_task
register_task("my_walk", make_gridworld, num_actions=5, action_ids=(0, 1, 2, 3))
"""


@pytest.fixture
def game(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_game.py").write_text(GAME)
    yield tmp_path / "my_game.py"
    if sys.modules.pop("my_game", None) is not None:
        unregister_task("my_walk")


@pytest.mark.parametrize("name", ["my_game.py", "my_game"])
def test_a_file_or_module_of_the_working_directory_is_loaded_once(game, name):
    (module,) = load_plugins([name])
    assert get_task("my_walk").name == "my_walk"
    assert load_plugins([name]) == [module]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["none.py"], "'none.py', which does not exist"),
        (["no_such_module"], "'no_such_module', which Python does not find"),
        ("my_game.py", "is a string; pass a list"),
        (["json.py"], "a module 'json' is loaded already; rename"),
    ],
)
def test_what_cannot_be_loaded_is_named(game, names, message):
    (game.parent / "json.py").write_text("")
    import json  # noqa: F401

    with pytest.raises(ValueError, match=message):
        load_plugins(names)


def test_a_file_that_fails_is_not_taken_for_loaded(game):
    game.write_text("raise RuntimeError('half way')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="half way"):
            load_plugins(["my_game.py"])


def test_a_run_goes_on_with_the_code_that_it_was_started_with(game, config):
    cfg, run = config("xtra_finetune", "plugins=[my_game.py]"), RunDirectory(game.parent / "run")
    describe(cfg, run, "xtra_finetune", {})
    (run.checkpoints / "step_1").mkdir(parents=True)
    (run.checkpoints / "step_1" / "manifest.json").touch()
    assert run.has_checkpoint
    describe(cfg, run, "xtra_finetune", {})
    game.write_text(GAME + "# another rule\n")
    with pytest.raises(
        ValueError, match=r"was started with another plugin my_game.py than '.*my_game.py'; restore it"
    ):
        describe(cfg, run, "xtra_finetune", {})


def test_data_of_a_game_that_was_changed_is_not_taken_again(game, config):
    cfg = config(
        "collect_offline", "scale=smoke", "plugins=[my_game.py]", "target=my_walk", "artifacts=artifacts"
    )

    def key():
        asked = Inputs(cfg, build=False)
        asked.pipeline.resolve = lambda kind, name, **how: how["key"]
        return asked.dataset("my_walk"), asked.dataset("alien")

    walk, alien = key()
    assert key() == (walk, alien)
    game.write_text(GAME + "# another rule\n")
    assert key()[0] != walk
    assert key()[1] == alien


@pytest.mark.slow
def test_a_game_of_the_user_is_a_target_on_the_command_line(game):
    own = ("plugins=[my_game.py]", "target=my_walk", "env.image_size=24", "model.downsample=8", "scale=smoke")
    done = command_line(game.parent, *own, *SHORT, "cross_task=false", "pretrained=false", "run_dir=run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert RunDirectory(game.parent / "run").read_summary()["target"] == "my_walk"
