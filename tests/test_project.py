"""The project as a whole: examples run, imports stay light, the package is what it says."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from recipe_names import PLAIN_RECIPES, RECIPES

import xtra_rl

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(xtra_rl.__path__, "xtra_rl.")
    if not module.name.startswith(("xtra_rl.recipes", "xtra_rl.configs", "xtra_rl.kernels"))
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # or every run leaves its folders behind
    module = importlib.import_module(name)
    results = doctest.testmod(
        module, optionflags=doctest.ELLIPSIS, extraglobs={"torch": importlib.import_module("torch")}
    )
    assert results.failed == 0


def test_the_top_of_the_repository_is_what_it_is_said_to_be():
    """Tools want a few files there; a folder more would need a reason."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = {path.split("/")[0] for path in tracked.stdout.splitlines()}
    if not names:
        pytest.skip("needs a git checkout")
    folders = {"xtra_rl", "recipes", "kernels", "configs", "tests", "results", "docs"}
    files = {"setup.cfg", "README.md", "LICENSE", "constraints.txt", "pyproject.toml", "ruff.toml"}
    assert {name for name in names if not name.startswith(".")} == folders | files


def test_importing_the_package_does_not_import_torchrl():
    code = "import sys, xtra_rl; assert not {'torch', 'torchrl', 'wandb', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_kernels_folder_never_shadows_a_package_of_that_name():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    names = ("configs", "kernels", "recipes")
    assert {name: (ROOT / "xtra_rl" / name).is_symlink() for name in names} == dict.fromkeys(names, True)


def test_library_does_not_print_import_recipes_or_read_configs():
    for path in (ROOT / "xtra_rl").rglob("*.py"):
        if path.relative_to(ROOT / "xtra_rl").parts[0] in ("recipes", "configs", "kernels"):
            continue
        text = path.read_text()
        # A command line talks; the library does not.
        assert path.name == "__main__.py" or not re.search(r"^\s*print\(", text, re.M), path
        assert not re.search(r"(import|from) (hydra|omegaconf)|xtra_rl\.recipes|xtra_rl\.configs", text), path


@pytest.mark.parametrize("recipe", [*RECIPES, *PLAIN_RECIPES])
def test_recipes_are_short(recipe):
    assert len((ROOT / "recipes" / f"{recipe}.py").read_text().splitlines()) <= 200


def imported(text):
    """Packages beyond the standard library that a program imports at its top, in order."""
    names: list[str] = []
    for node in ast.parse(text).body:
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    known = {"__future__", *sys.stdlib_module_names}
    return [name.split(".")[0] for name in names if name.split(".")[0] not in known]


@pytest.mark.parametrize("recipe", [*RECIPES, *PLAIN_RECIPES])
def test_recipes_load_the_package_before_pytorch(recipe):
    """What ``xtra_rl`` sets for OpenMP is read when PyTorch is loaded."""
    found = imported((ROOT / "recipes" / f"{recipe}.py").read_text())
    assert set(found) - {"xtra_rl"} <= {"hydra", "omegaconf"}


def test_examples_and_the_readme_load_the_package_before_pytorch():
    texts = [path.read_text() for path in (ROOT / "recipes" / "examples").glob("*.py")]
    texts += re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(texts) >= 9
    for text in texts:
        assert imported(text)[0] == "xtra_rl", text.splitlines()[0]


def test_the_package_is_light_and_quietens_idle_threads():
    code = "import xtra_rl, os, sys; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    for given, expected in (({}, "False 10000"), ({"GOMP_SPINCOUNT": "5"}, "False 5")):
        environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"} | given
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected


def test_the_oldest_python_that_is_promised_is_one_and_runs_the_pinned_set():
    (oldest,) = re.findall(r"^python_requires = >=(3\.\d+)$", (ROOT / "setup.cfg").read_text(), re.M)
    for page in ("README.md", "docs/index.md"):
        assert f"Python {oldest} or newer" in (ROOT / page).read_text()
    assert f'target-version = "py{oldest.replace(".", "")}"' in (ROOT / "ruff.toml").read_text()
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name = line.partition("==")[0]
        if "==" in line and importlib.util.find_spec(name):
            needed = importlib.metadata.metadata(name)["Requires-Python"]
            assert SpecifierSet(needed or "").contains(f"{oldest}.0"), f"{line} needs Python {needed}"
