"""The search reproduces stored trees of mctx 0.0.71; tests/golden/README.md says how they were made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from table_world import TableWorld

from xtra_rl.search import gumbel_search, puct_search

FILES = sorted((Path(__file__).parents[1] / "golden" / "search").glob("*.npz"))


def replay(path: Path, backend: str):
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    with np.load(path) as archive:
        data = {name: archive[name] for name in archive.files}
    tensor = {
        name: torch.from_numpy(array).to(device) for name, array in data.items() if array.dtype.kind in "bif"
    }
    world = TableWorld(*(tensor[k] for k in ("prior_logits", "value", "reward")), tensor["next_state"].long())
    roots = world.roots(tensor["root_state"].long())
    options = {
        "num_simulations": int(data["num_simulations"]),
        "discount": float(data["discount"]),
        "invalid_actions": tensor["invalid_actions"].bool(),
        "backend": backend,
        **json.loads(str(data["options"])),
    }
    if str(data["kind"]) == "puct":
        return puct_search(*roots, q_normalization="siblings", **options), data
    return gumbel_search(*roots, gumbel=tensor["gumbel"], **options), data


def test_all_golden_files_are_there():
    kinds = [path.name.split("_")[0] for path in FILES]
    assert (kinds.count("puct"), kinds.count("gumbel")) == (5, 5)


# Searches of more than 16 simulations are long in Triton's interpreter.
CASES = [
    pytest.param(
        path, backend, id=f"{path.stem}-{backend}",
        marks=[pytest.mark.interpreted] if backend == "triton" and re.search("S(33|50|32)", path.stem) else [],
    )
    for path in FILES
    for backend in ("reference", "numba", "triton")
]  # fmt: skip


@pytest.mark.parametrize(("path", "backend"), CASES)
def test_search_grows_the_same_tree_as_mctx(path, backend):
    result, expected = replay(path, backend)
    tree = result.tree
    np.testing.assert_array_equal(result.visit_counts.cpu(), expected["visit_counts"])
    np.testing.assert_array_equal(tree.children_index.cpu(), expected["children_index"])
    np.testing.assert_array_equal(tree.node_visits.cpu(), expected["node_visits"])
    for name in ("root_value", "qvalues", "action_weights"):
        np.testing.assert_allclose(getattr(result, name).cpu(), expected[name], atol=1e-4)
    np.testing.assert_allclose(tree.node_values.cpu(), expected["node_values"], atol=1e-4)
    if str(expected["kind"]) == "gumbel":
        np.testing.assert_array_equal(result.action.cpu(), expected["action"])
