"""kill -9 at ten random moments of a collection and of an annotation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xtra_rl.data import TrajectoryDataset


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["collect", "annotate"])
def test_ten_kills_lose_and_double_nothing(tmp_path, kind):
    program = Path(__file__).with_name("kill_run.py")
    done = subprocess.run(
        [sys.executable, str(program), kind, str(tmp_path), "0"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    kills, finished = done.stdout.split()
    # A kill that comes after the end of a run is none; nearly all of them hit.
    assert int(kills) >= 5
    assert finished == "True"
    reference, victim = TrajectoryDataset(tmp_path / "reference"), TrajectoryDataset(tmp_path / "victim")
    victim.verify()

    def by_number(dataset):
        return {(int(e["checkpoint"]), int(e["number"])): i for i, e in enumerate(dataset.episodes)}

    assert len(victim.episodes) == len(reference.episodes) == 48
    where, expected = by_number(victim), by_number(reference)
    assert where.keys() == expected.keys()
    columns = ("teacher_value",) if kind == "annotate" else ()
    for key, number in expected.items():
        rows = victim.episode(where[key], columns=columns)
        for name, value in reference.episode(number, columns=columns).items():
            assert torch.equal(rows[name], value), (key, name)
