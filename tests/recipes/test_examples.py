"""The examples are programs: they end as they say, and the page about them shows what they print."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))
MINUTES = ("efficientzero_from_scratch", "minatar_transfer")
PAGE = ROOT / "docs" / "tutorials.md"

USER_CODE = """
import torch
from torch import Tensor
from xtra_rl.models import WorldModel
from xtra_rl.objectives import MuZeroLoss
from xtra_rl.search import GumbelMCTSPlanner, InitialOutput, RecurrentOutput
from xtra_rl.training.learner import Learner


class Model:
    num_actions = 2
    value_prefix_horizon = None

    def initial_inference(self, observation: Tensor) -> InitialOutput:
        return InitialOutput(torch.zeros(1, 2), torch.zeros(1), observation)

    def recurrent_inference(self, action: Tensor, embedding: object) -> tuple[RecurrentOutput, Tensor]:
        return RecurrentOutput(torch.zeros(1), torch.zeros(1), torch.zeros(1, 2)), torch.zeros(1)


planner = GumbelMCTSPlanner(Model(), num_simulations={simulations})


def learner(model: WorldModel) -> Learner:
    adam = torch.optim.AdamW(model.parameters())
    return Learner(MuZeroLoss(model), adam, tasks=["mine"], {option})
"""


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""


def commands(text: str) -> list[str]:
    return re.findall(r"^ *(python recipes/examples/.*)$", text, re.M)


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", line)]


def last_numbers(lines: list[str]) -> list[float]:
    """The last number of each line."""
    return [numbers(line)[-1] for line in lines]


def rows(lines: list[str], label: str) -> list[list[float]]:
    return [numbers(line.removeprefix(label)) for line in lines if line.startswith(label)]


def without_numbers(text: str) -> list[str]:
    return [re.sub(r"-?\d+(\.\d+)?", "#", line).split() for line in text.strip().splitlines()]


def test_there_is_one_for_each_part():
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short_and_say_their_command(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < 100
    assert commands(docstring(name)) == [f"python recipes/examples/{name}.py"]
    assert re.search(r"Prints .*", docstring(name))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_answer_help(name, monkeypatch, capsys):
    if name == "minatar_transfer":
        pytest.importorskip("minatar")
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert docstring(name).splitlines()[0] in capsys.readouterr().out


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_import_the_library_but_no_recipe(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = [module for module in modules if module.startswith("xtra_rl")]
    assert ours
    assert not [module for module in ours if "recipes" in module or "._" in module]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_page_has_the_command_and_a_time(name):
    section = section_of(name)
    assert commands(section) == commands(docstring(name))
    assert re.search(r"\d+ (s|min)\b", section)


def section_of(name: str) -> str:
    """What the page says about an example."""
    found = [
        part for part in re.split(r"^## ", PAGE.read_text(), flags=re.M) if f"examples/{name}.py" in part
    ]
    assert len(found) == 1
    return found[0]


def run(name: str) -> list[str]:
    """The lines that the docstring's command prints."""
    (command,) = commands(docstring(name))
    done = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=7000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if "[torchrl]" not in line]


def search_only(lines: list[str]) -> None:
    for rule in ("puct", "gumbel"):
        right = [row[1:] for row in rows(lines, rule)]
        assert right[0][0] < right[0][1]
        assert right[-1] == [2423, 2423]


def planner_policy(lines: list[str]) -> None:
    assert rows(lines, "random play")[0][0] < 60
    assert rows(lines, "16 simulations") == [[500]]


def custom_environment(lines: list[str]) -> None:
    before, *scores = last_numbers(lines)
    assert before < -0.3
    assert scores[-1] > 0.9


def custom_world_model(lines: list[str]) -> None:
    before, *scores = last_numbers(lines)
    assert before < 40
    assert scores[-1] > 3 * before


def custom_task_weights(lines: list[str]) -> None:
    (own,), errors = rows(lines, "early vote"), last_numbers(lines[1:])
    assert own[0] >= 0.8
    assert own[1:3] == [0, 0]
    assert errors[-1] < 0.6 * min(errors[:-1])


def efficientzero_from_scratch(lines: list[str]) -> None:
    scores = {label: rows(lines, label)[-1][-1] for label in ("random", "best constant", "agent, sampled")}
    assert scores["agent, sampled"] > 1.3 * max(scores["random"], scores["best constant"])


def minatar_transfer(lines: list[str]) -> None:
    before = {line.split(",")[0]: numbers(line)[-1] for line in lines[:2]}
    _, transferred, alone = numbers(lines[-1])
    (weight,) = re.findall(r"'minatar_space_invaders': ([\d.]+)", "\n".join(lines))
    assert max(transferred, alone) > 2 * before["minatar_breakout"]
    assert 0 <= float(weight) <= 1


CLAIMS = {
    check.__name__: check
    for check in (
        search_only,
        planner_policy,
        custom_environment,
        custom_world_model,
        custom_task_weights,
        efficientzero_from_scratch,
        minatar_transfer,
    )
}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough if name in MINUTES else ()) for name in EXAMPLES]
)
def test_examples_end_as_they_say(name):
    if name == "minatar_transfer":
        pytest.importorskip("minatar")
    lines = run(name)
    CLAIMS[name](lines)
    (shown,) = re.findall(r"```text\n(.*?)```", section_of(name), re.S)
    assert without_numbers(shown) == without_numbers("\n".join(lines))


def mypy(path: Path | str) -> subprocess.CompletedProcess[str]:
    options = [
        "--config-file=",
        "--disallow-untyped-defs",
        "--ignore-missing-imports",
        "--follow-imports=silent",
    ]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_type_checker_passes_on_the_examples():
    pytest.importorskip("mypy")
    done = mypy("recipes/examples")
    assert done.returncode == 0, done.stdout
    assert (ROOT / "xtra_rl" / "py.typed").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("simulations", "option", "wrong"),
    [
        ("8", "frame_stack=1", None),
        ("'8'", "frame_stack=1", "num_simulations"),
        ("8", "frame_stack='1'", "frame_stack"),
        ("8", "augmentations=False", "augmentations"),
    ],
)
def test_a_type_checker_tells_right_user_code_from_wrong(tmp_path, simulations, option, wrong):
    pytest.importorskip("mypy")
    path = tmp_path / "user.py"
    path.write_text(USER_CODE.format(simulations=simulations, option=option))
    done = mypy(path)
    assert (done.returncode == 0) == (wrong is None), done.stdout
    assert wrong is None or wrong in done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_type_checker_sees_the_arguments_of_an_example(name):
    """What is handed on as ``**OPTIONS`` it does not; only frame settings, which two calls share, go that way."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    handed = [ast.unparse(word.value) for call in calls for word in call.keywords if word.arg is None]
    assert set(handed) <= {"FRAMES", "plain"}
