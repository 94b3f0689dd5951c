"""The kernels compile for all supported GPUs, none of which need be here, and keep within their registers."""

from __future__ import annotations

import json

import pytest
import triton
from other_process import run_python

TARGETS = {"cuda:80": "A100", "cuda:90": "H100", "cuda:100": "B200", "hip:gfx942": "MI300"}
#: Of a thread. A multiprocessor of an H100 holds at most 32 programs and 65536 registers, so that one-warp programs
#: with 64 registers do not limit each other.
MAX_REGISTERS = 64

# Triton 3.6 takes 98 on an MI300 for a step of Gumbel MuZero, and 8 bytes of stack on an A100 for four trees of it.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9),
        reason="the limits are those of Triton 3.9",
    ),
]


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, dict[str, int]]]:
    """Resources by target and variant; ``pytest -s`` shows them."""
    done = run_python("tests/kernels/aot.py", *TARGETS)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
    found = json.loads(done.stdout)
    print(f"\nregisters of a thread{'':13}", *(f"{target:>10}" for target in TARGETS))
    for name in found["cuda:90"]:
        print(f"{name:34}", *(f"{found[target][name]['registers']:10}" for target in TARGETS))
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_all_variants_fit_the_registers(target, table):
    variants = table[target]
    assert len(variants) == 12
    too_large = {name: used for name, used in variants.items() if used["registers"] > MAX_REGISTERS}
    assert not too_large


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_spills_to_memory(target, table):
    spilled = {name: used for name, used in table[target].items() if used["spills"] or used["stack"]}
    assert not spilled
