"""The kernel tests run on a GPU where there is one, and in Triton's interpreter elsewhere."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.search import tree as tree_module

GARBAGE = 2**30 + 7


def pytest_report_header():
    if torch.cuda.is_available():
        return f"search kernels: compiled, on {torch.cuda.get_device_name()}"
    return "search kernels: in Triton's interpreter, since there is no GPU"


@pytest.fixture
def device() -> torch.device:
    """Where the kernels run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch):
    """All memory of a tree is NaN or garbage until it is written, so that nothing is read before."""
    allocate = tree_module._allocate

    def poisoned(*args):
        arrays = allocate(*args)
        for array in arrays.values():
            array.fill_(torch.nan if array.is_floating_point() else GARBAGE)
        return arrays

    monkeypatch.setattr(tree_module, "_allocate", poisoned)
