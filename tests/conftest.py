"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Without a GPU Triton runs its kernels in Python. It decides when it is imported, which tensordict does.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from hydra import compose, initialize_config_dir

# The tests' tensors are small: a second thread would only wait, and two test runs at once would fight.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--thorough",
        action="store_true",
        help="long forms of slow tests: 30 kills instead of 5, every experiment and tutorial, a second seed",
    )


@pytest.fixture
def thorough(request) -> bool:
    """Whether the long forms of slow tests were asked for."""
    return request.config.getoption("--thorough")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Without a GPU: skip what needs one, and call slow what Triton's interpreter makes slow."""
    if not config.getoption("--thorough"):
        for item in items:
            if item.get_closest_marker("thorough"):
                item.add_marker(pytest.mark.skip(reason="a long form: --thorough"))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
            if item.get_closest_marker("interpreted"):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _isolated():
    """Every test starts from the same global random state and leaves one thread, so that a failure can be repeated."""
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def golden_dir() -> Path:
    """Folder of stored expected results."""
    return GOLDEN


@pytest.fixture
def config():
    """``config(recipe, *overrides)``: the composed config of a recipe, as on its command line."""

    def make(recipe: str, *overrides: str):
        with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
            return compose(recipe, overrides=list(overrides))

    return make
