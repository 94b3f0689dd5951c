"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

# The tests' tensors are small: a second thread would only wait, and two test runs at once would fight.
torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same global random state, so that a failure can be repeated."""
    torch.manual_seed(0)


@pytest.fixture
def golden_dir() -> Path:
    """Folder of stored expected results."""
    return GOLDEN
