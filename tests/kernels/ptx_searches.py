"""Whole searches on compiled PTX; :mod:`test_ptx` runs this file in a process where Triton compiles."""

from __future__ import annotations

import re
from functools import partialmethod

import pytest
import torch
from ptx_emulator import launch
from ptx_kernel import EmulatedKernel, compile_for, emulate
from ptx_memory import BoundsError, RaceError
from worlds import RULES, Problem, assert_same_trees

from xtra_rl.search.triton_backend import TritonSteps, gather_latents

#: Few actions make deep trees, in which the value prefix is reset.
DEEP = {"batch": 3, "actions": 3, "simulations": 16, "horizon": 2, "random_ties": True, "masked": True}


@pytest.fixture(autouse=True)
def kernels(monkeypatch) -> dict[str, EmulatedKernel]:
    """The kernels that stand in, compiled for an H100 unless a test says otherwise."""
    compile_for(90)
    return emulate(monkeypatch)


@pytest.fixture(params=[1, 4])
def trees_per_program(request, monkeypatch) -> int:
    """One tree on one warp, as on a GPU, and four on four."""
    few = partialmethod(TritonSteps.__init__, trees_per_program=request.param)
    monkeypatch.setattr(TritonSteps, "__init__", few)
    return request.param


def check(problem: Problem, kernels: dict[str, EmulatedKernel]) -> None:
    found = problem.run("triton")
    assert kernels["search_step"].launches == problem.simulations + 1
    assert kernels["gather_latents"].launches >= problem.simulations
    assert_same_trees(found, problem.run("reference"))


def atari(rule: str, trees_per_program: int) -> Problem:
    horizon = None if trees_per_program == 1 else 2
    return Problem(rule, 5, 18, 24, horizon, random_ties=horizon is None, masked=True)


@pytest.mark.parametrize("rule", RULES)
def test_trees_of_atari_size(rule, trees_per_program, kernels):
    check(atari(rule, trees_per_program), kernels)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_deep_trees_of_many_seeds(rule, seed, trees_per_program, kernels):
    check(Problem(rule, **DEEP, seed=seed), kernels)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("trees_per_program", "batch", "actions", "simulations"),
    [(1, 1, 2, 1), (4, 1, 3, 2), (1, 3, 40, 6)],
    indirect=["trees_per_program"],
)
def test_odd_sizes(rule, batch, actions, simulations, trees_per_program, kernels):
    check(Problem(rule, batch, actions, simulations, masked=True), kernels)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("arch", [80, 100])
def test_other_gpus(rule, arch, trees_per_program, kernels):
    compile_for(arch)
    check(Problem(rule, 5, 6, 12, horizon=2, random_ties=True, masked=True), kernels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("horizon", [0, 2])
@pytest.mark.parametrize("size", [35, 3000])
def test_latents_are_gathered_and_reset(dtype, horizon, size, kernels):
    nodes, batch = 5, 3
    pool = (1000 * torch.randn(nodes, batch, size)).to(dtype)
    depths = torch.arange(nodes, dtype=torch.int32).expand(batch, nodes).contiguous()
    for parent in ([0, 3, 2], [1, 4, 0]):
        node = torch.tensor(parent)
        out = torch.full((batch, size), 7, dtype=dtype)
        gather_latents(pool.flatten(0, 1), out, node, node * batch + torch.arange(batch), depths, horizon)
        expected = pool[node, torch.arange(batch)]
        if horizon:
            expected[node % horizon == 0] = 0
        assert torch.equal(out, expected)
    assert kernels["gather_latents"].launches == 2


def without_barrier(ptx: str, number: int) -> str:
    """The same program less its ``number``-th barrier."""
    barriers = list(re.finditer(r"bar\.sync\s+0;", ptx))
    if number < len(barriers):
        begin, end = barriers[number].span()
        return ptx[:begin] + ptx[end:]
    return ptx


@pytest.mark.parametrize("rule", RULES)
def test_a_race_is_found_where_a_barrier_is_missing(rule, trees_per_program, kernels):
    step, barriers, missing, races = kernels["search_step"], 1, 0, 0

    def edit(ptx):
        nonlocal barriers
        # The first launch only selects.
        if not step.launches:
            return ptx
        barriers = max(barriers, ptx.count("bar.sync"))
        return without_barrier(ptx, missing)

    step.edit = edit
    while missing < barriers:
        step.launches = 0
        try:
            atari(rule, trees_per_program).run("triton")
        except RaceError:
            races += 1
        missing += 1
    if trees_per_program == 1:
        assert races == barriers == 1
    else:
        # Four warps also exchange through shared memory. Triton 3.9 has five barriers, and needs all of them; 3.6
        # has one that nothing needs.
        assert barriers > 1
        assert races >= barriers - 1


def test_one_tree_too_many_leads_out_of_bounds(trees_per_program, monkeypatch):
    def with_one_more(program, grid, arguments, shared_bytes):
        if program.name == "search_step":
            # Then come the leaf and two pointers to scratch memory.
            arguments[-4] += 1
            grid = (-(-arguments[-4] // trees_per_program),)
        launch(program, grid, arguments, shared_bytes)

    problem = Problem("puct_tree", **DEEP)
    problem.run("triton")
    monkeypatch.setattr("ptx_kernel.launch", with_one_more)
    with pytest.raises(BoundsError, match="outside the arguments"):
        problem.run("triton")
