"""``--help`` says what there is to choose and to change; a misspelt argument is answered with the nearest name."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from recipe_names import RECIPES

from xtra_rl.recipes.overrides import check_overrides, groups_of

ROOT = Path(__file__).parents[2]
WITH_CONFIG = [*RECIPES, "profile"]


def run(*command):
    """Start a recipe in a process of its own."""
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("argument", "answer"),
    [
        ("serach.num_simulations=3", "unknown key serach; did you mean search?"),
        (
            "search.num_simulation=3",
            "unknown key search.num_simulation; did you mean search.num_simulations?",
        ),
        ("num_simulations=3", "unknown key num_simulations; did you mean search.num_simulations?"),
        ("lr=0.1", "unknown key lr; did you mean optim.lr or curl.lr?"),
        ("taskset=maze", "unknown key taskset; did you mean task_set?"),
        ("threads.number=2", "unknown key threads.number; --help lists all keys"),
        ("targets=alien", "targets is a section, with keys of its own; did you mean target?"),
        ("task_set=mazes", "did you mean maze?"),
        ("scale=medium", "scale is one of laptop, paper, quick, smoke, workstation"),
        ("scale=smoke,medium", "scale=medium: scale is one of"),
        ("laptop", "laptop is no KEY=VALUE; did you mean scale=laptop?"),
        ("search.temperature={0: 0.5}", "pass '~search.temperature' '+search.temperature={0: 0.5}'"),
    ],
)
def test_a_misspelt_argument_is_answered_with_the_nearest(argument, answer):
    with pytest.raises(ValueError, match=re.escape(answer)):
        check_overrides("xtra_finetune", ["seed=1", argument])


@pytest.mark.parametrize(
    ("recipe", "argument"),
    [
        ("xtra_finetune", "scale=auto"),
        ("xtra_finetune", "~search.temperature"),
        ("xtra_finetune", "+search.temperature={0:1.0,100:0.5}"),
        ("xtra_finetune", "search.temperature.0=0.5"),
        ("xtra_finetune", "search={num_simulations:4}"),
        ("xtra_finetune", "+new.key=1"),
        ("xtra_finetune", "hydra.verbose=true"),
        ("xtra_finetune", "--cfg"),
        ("study", "hydra/launcher=joblib"),
        ("study", "targets=[alien]"),
        ("study", "experiment=table1"),
        ("evaluate", "checkpoint=runs/a=b/model"),
        ("curl", "curl.pretrain=true"),
        ("curl", "curl_scale=smoke"),
        ("profile", "profile.updates=4"),
    ],
)
def test_what_hydra_understands_passes(recipe, argument):
    check_overrides(recipe, [argument])


@pytest.mark.parametrize(
    ("recipe", "argument", "answer"),
    [
        ("study", "inputs=shooters", "inputs=shooters: study has no inputs"),
        ("xtra_finetune", "experiment=table1", "xtra_finetune has no experiment"),
        ("study", "experiment=figure10", "recipes/compare_offline.py is about figure10"),
        ("study", "experiment=figure5", "figure5 is redrawn by experiment=table1"),
        ("xtra_finetune", "--target=phoenix", "--target=phoenix: keys have no dashes; write target=VALUE"),
        ("xtra_finetune", "--scale", "write scale=VALUE"),
        ("xtra_finetune", "inputs=null", "inputs=null: inputs is one of mazes, shooters"),
    ],
)
def test_what_another_recipe_has_is_said_so(recipe, argument, answer):
    with pytest.raises(ValueError, match=re.escape(answer)):
        check_overrides(recipe, [argument])


def test_a_value_of_a_flag_is_no_override():
    check_overrides("xtra_finetune", ["--cfg", "job", "seed=3"])


@pytest.mark.parametrize("recipe", WITH_CONFIG)
def test_every_key_of_a_recipe_passes(recipe, config):
    def paths(node, prefix=""):
        for key, value in node.items():
            yield f"{prefix}{key}"
            if hasattr(value, "items"):
                yield from paths(value, f"{prefix}{key}.")

    keys = list(paths(config(recipe, "scale=paper")))
    check_overrides(recipe, [f"{key}={{}}" for key in keys if key not in groups_of()])
    assert len(keys) > 150


def help_of(recipe):
    """What ``--help`` shows of a recipe, but for its docstring and values."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(recipe, return_hydra_config=True).hydra.help.template


def keys_of_help(recipe):
    _, _, keys = help_of(recipe).partition("Keys of this recipe that people change:")
    return re.findall(r"^  ([\w.]+)=\S* {2,}\S", keys, re.M)


@pytest.mark.parametrize("recipe", WITH_CONFIG)
def test_help_lists_scales_task_sets_and_keys_that_exist(recipe):
    text, groups = help_of(recipe), groups_of()
    assert set(re.findall(r"\bscale=(\w+)", text)) == {*groups["scale"], "auto"}
    task_sets = " ".join(re.findall(r"task_set=(.*)", text))
    assert all(re.search(rf"\b{name}\b", task_sets) for name in groups["task_set"])
    named = keys_of_help(recipe)
    assert 8 <= len(named) == len(set(named)) <= 12
    check_overrides(recipe, [f"{name}=1" for name in named if name not in groups])


def test_keys_of_help_are_those_of_the_recipe():
    assert keys_of_help("evaluate")[:4] == ["checkpoint", "target", "eval.episodes", "eval.modes"]
    assert {"experiment", "seeds", "parallel", "plan_only"} <= set(keys_of_help("study"))
    assert len({tuple(keys_of_help(recipe)) for recipe in WITH_CONFIG}) == len(WITH_CONFIG)


def test_the_page_on_configuration_lists_the_keys_of_help():
    page = (ROOT / "docs" / "configuration.md").read_text()
    table = page.partition("## Ten keys that people change")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w.]+)` \|", table, re.M) == keys_of_help("xtra_finetune")


@pytest.mark.parametrize("recipe", WITH_CONFIG)
def test_every_recipe_says_what_it_does_and_how_it_is_called(recipe):
    text = ast.get_docstring(ast.parse((ROOT / "recipes" / f"{recipe}.py").read_text()))
    assert f"python recipes/{recipe}.py" in text


@pytest.mark.slow
def test_a_recipe_shows_its_docstring_and_its_keys_on_help():
    shown = run("recipes/evaluate.py", "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("Scores of a trained model")
    assert "Keys of this recipe that people change:\n\n  checkpoint=PATH  " in shown.stdout
    assert "checkpoint: null" in shown.stdout


def test_a_recipe_ends_with_one_sentence_on_a_misspelt_key():
    ended = run("recipes/xtra_finetune.py", "serach.num_simulations=3")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == "error: serach.num_simulations=3: unknown key serach; did you mean search?\n"


@pytest.mark.slow
def test_an_override_beside_a_flag_is_understood():
    shown = run("recipes/xtra_finetune.py", "seed=3", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert "seed: 3" in shown.stdout


@pytest.mark.parametrize(
    ("module", "words", "answer"),
    [
        ("xtra_rl.recipes.capacity", "x.json --sedes 3", "did you mean --seeds instead of --sedes?"),
        ("xtra_rl.recipes.capacity", "x.json --experiments tabel1", "did you mean table1?"),
        ("xtra_rl.recipes.report", "runs --titel=x", "did you mean --title instead of --titel?"),
        ("xtra_rl.recipes.report", "runs --mode smapled", "did you mean sampled?"),
        ("xtra_rl.runs.__main__", "lst", "did you mean list?"),
        ("xtra_rl.runs.__main__", "list --jsn", "did you mean --json instead of --jsn?"),
        ("xtra_rl.data.__main__", "benchmark --wrok x", "did you mean --work instead of --wrok?"),
        ("xtra_rl.kernels.benchmark", "--batch-size 3", "unrecognized arguments: --batch-size 3"),
        ("xtra_rl.kernels.benchmark", "--sections tee", "did you mean tree?"),
    ],
)
def test_a_mistake_in_an_argument_is_answered_with_the_nearest(module, words, answer, capsys):
    module = importlib.import_module(module)
    with pytest.raises(SystemExit) as end:
        module.main(words.split())
    assert end.value.code == 2
    assert answer in capsys.readouterr().err


def test_every_command_line_of_the_project_answers_so():
    folders = ("xtra_rl", "recipes", "kernels")
    texts = [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert sum("ArgumentParser(" in text for text in texts) >= 12
    assert not any("argparse.ArgumentParser(" in text for text in texts)
