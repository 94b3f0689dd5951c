"""The benchmark runs, writes what it says, and times nothing that does not agree."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from xtra_rl.kernels import benchmark, benchmark_models
from xtra_rl.kernels.benchmark_figures import exponent
from xtra_rl.kernels.benchmark_machine import Peaks, Work, network_work
from xtra_rl.search import backends
from xtra_rl.search.numba_backend import NumbaSteps

TINY = [
    "--device",
    "cpu",
    "--no-peers",
    "--seconds",
    "0.01",
    "--simulations",
    "4",
    "--scaling-simulations",
    "2",
    "4",
]


def run(tmp_path, *arguments):
    threads = torch.get_num_threads()
    try:
        return benchmark.main([*TINY, "--threads", "1", "--out", str(tmp_path), *arguments])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_section_is_timed_and_written(tmp_path, capsys):
    rows = run(tmp_path, "--batches", "1", "3")
    assert {row["section"] for row in rows} == {"tree", "pool", "network", "scaling"}
    with (tmp_path / "results.csv").open() as file:
        written = list(csv.DictReader(file))
    assert len(written) == len(rows)
    for row in written:
        assert 0 < float(row["q10_ms"]) <= float(row["median_ms"]) <= float(row["q90_ms"])
        rate = int(row["batch"]) * int(row["simulations"]) / float(row["median_ms"]) * 1e3
        assert float(row["simulations_per_s"]) == pytest.approx(rate, rel=0.02)
        assert int(row["rounds"]) >= 5
        assert float(row["share_of_bound"]) <= 1.5
    for name in ("speed.png", "scaling.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "reference, numba agree on all visit counts" in out
    assert "peaks: GEMM" in out
    assert "of the bound" in out


def test_nothing_is_timed_when_two_backends_differ(tmp_path, monkeypatch):
    class Wrong(NumbaSteps):
        def update(self, output, leaf):
            super().update(output._replace(value=output.value + 1), leaf)

        def update_and_select(self, output, leaf):
            return super().update_and_select(output._replace(value=-output.value), leaf)

    monkeypatch.setitem(backends.BACKENDS, "numba", Wrong)
    monkeypatch.setattr(benchmark, "time_case", lambda *_: pytest.fail("timed"))
    with pytest.raises(benchmark.Disagreement, match="numba and reference differ in .* of 64 trees"):
        run(tmp_path, "--batches", "64", "--simulations", "20")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_memory_of_a_search_is_what_the_formula_says(tmp_path, capsys):
    run(tmp_path, "--sections", "memory", "--batches", "512", "--simulations", "20")
    assert "memory, B=512" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_that_the_formula_does_not_explain_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "growth_alone", lambda *_: 2**29)
    with pytest.raises(RuntimeError, match="that is not what it should be"):
        run(tmp_path, "--sections", "memory", "--batches", "512", "--simulations", "20")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batches", "0"], "batches, simulations and threads must be positive"),
        (["--sections", "trees"], "invalid choice: 'trees'"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse(arguments)
    assert message in capsys.readouterr().err


def test_the_bound_is_the_longer_one_of_computing_and_moving():
    peaks = Peaks(gemm=1e9, conv=2e9, copy=1e8, cached=1e9)
    assert Work(flops=4e9, bytes=1e8).bound(peaks, cached=False) == pytest.approx(2.0)
    assert Work(flops=0, bytes=5e8).bound(peaks, cached=False) == pytest.approx(5.0)
    assert Work(flops=0, bytes=5e8).bound(peaks, cached=True) == pytest.approx(0.5)


def test_the_work_of_the_network_is_the_published_one():
    # 13.7 MFLOP a node, counted from the layers' shapes by hand in the reference notes.
    work = network_work(benchmark_models.efficientzero(), batch=1, simulations=1)
    convolutions = 2 * 36 * 9 * (65 * 64 + 4 * 64 * 64)
    squeezes = 2 * 36 * 3 * 64 * 16
    lstm = 2 * 2048 * (576 + 512)
    heads = 2 * (512 * 32 + 32 * 601) + 2 * (576 * 32 + 32 * 601) + 2 * (576 * 32 + 32 * 18)
    assert work.flops == pytest.approx(convolutions + squeezes + lstm + heads, rel=0.001)


def test_exponents_of_power_laws_are_found():
    x = np.array([1.0, 10.0, 100.0])
    assert exponent(x, 3 * x**1.25) == pytest.approx(1.25)
