"""The benchmark of offline data measures what it says, on a few frames of two games."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.data import benchmark
from xtra_rl.data.__main__ import main


@pytest.mark.slow
@pytest.mark.thorough
def test_the_benchmark_writes_its_three_tables(tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr(benchmark, "task_set", lambda name: ("carnival", "pooyan"))
    out = tmp_path / "out"
    code = main(["benchmark", "--work", str(tmp_path), "--out", str(out), "--frames", "1100"])
    torch.set_num_threads(threads)
    assert code == 0
    text = capsys.readouterr().out
    for name, words in (
        ("codecs", ["lz4 hc 9"]),
        ("windows", ["raw,cold", "dataset,warm", "npz,warm"]),
        ("memory", ["2,"]),
    ):
        table = (out / f"{name}.csv").read_text()
        for word in words:
            assert word in table
        assert f"\n{name}\n" in text
