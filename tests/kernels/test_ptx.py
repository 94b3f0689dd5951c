"""Compiled PTX, run in an emulator: whole searches equal the reference, and the emulator's checks can fail."""

from __future__ import annotations

import numpy as np
import pytest
from other_process import run_python
from ptx_emulator import launch
from ptx_memory import BoundsError, RaceError
from ptx_operations import BITS, DTYPES, OPERATIONS, PtxError
from ptx_program import parse


@pytest.mark.slow
def test_whole_searches_on_compiled_ptx():
    done = run_python("-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "tests/kernels/ptx_searches.py")
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)
    print(done.stdout)


def kernel(body: str, *, threads: int = 32, parameters: int = 1):
    """A program of pointers, whose first two are in ``%rd1`` and ``%rd2``, and whose thread is ``%r1``."""
    names = [f"kernel_param_{number}" for number in range(parameters)]
    lines = [f"ld.param.b64 %rd{number + 1}, [{name}];" for number, name in enumerate(names)]
    lines += ["mov.u32 %r1, %tid.x;", *body.strip().splitlines(), "ret;"]
    return parse(
        ".visible .entry kernel(\n"
        + ",\n".join(f"\t.param .u64 .ptr .global .align 1 {name}" for name in names)
        + f"\n)\n.reqntid {threads}\n{{\n"
        + "\n".join(
            f"\t.reg .{kind} \t%{prefix}<9>;"
            for kind, prefix in (("pred", "p"), ("b16", "rs"), ("b32", "r"), ("b64", "rd"))
        )
        + "\n\t"
        + "\n\t".join(lines)
        + "\n}\n"
    )


#: Address of the thread's element of the first argument.
OWN = "mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd3, %rd1, %rd3;\n"


def run(body: str, values: np.ndarray, *, threads: int = 32, grid: tuple[int, ...] = (1,), shared: int = 0):
    """Run a kernel of one argument, and return what it has made of the values."""
    values = values.copy()
    launch(kernel(body, threads=threads), grid, [values.view(np.uint8)], shared)
    return values


def test_an_addition_rounds_as_float32():
    values = np.linspace(0, 1, 32, dtype=np.float32)
    body = OWN + "ld.global.b32 { %r2 }, [ %rd3 + 0 ];\nadd.rn.f32 %r2, %r2, 0f3DCCCCCD;\n"
    found = run(body + "st.global.b32 [ %rd3 + 0 ], { %r2 };", values)
    np.testing.assert_array_equal(found, values + np.float32(0.1))


def test_a_store_obeys_its_predicate():
    body = OWN + "setp.lt.u32 %p1, %r1, 3;\n@{} st.global.b32 [ %rd3 + 0 ], {{ %r1 }};"
    ones = np.full(32, 77, np.uint32)
    assert run(body.format("%p1"), ones).tolist() == [0, 1, 2] + [77] * 29
    assert run(body.format("!%p1"), ones).tolist() == [77] * 3 + list(range(3, 32))


def test_shuffles_and_reductions_stay_in_their_warp():
    store = "st.global.b32 [ %rd3 + 0 ], { %r2 };"
    zeros, thread = np.zeros(64, np.uint32), np.arange(64)
    found = run(OWN + "shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;\n" + store, zeros, threads=64)
    assert found.tolist() == (thread ^ 16).tolist()
    found = run(OWN + "shfl.sync.idx.b32 %r2, %r1, 5, 31, -1;\n" + store, zeros, threads=64)
    assert found.tolist() == [5] * 32 + [37] * 32
    body = OWN + "mov.b32 %r3, -1;\nsub.s32 %r4, 3, %r1;\nredux.sync.min.s32 %r2, %r4, %r3;\n"
    found = run(body + store, zeros, threads=64)
    assert found.view(np.int32).tolist() == [-28] * 32 + [-60] * 32


def test_a_loop_and_halves_of_registers():
    body = """
        mov.b32 %r2, 0;
        mov.b32 %r3, 0;
        $L__BB0_1:
        add.s32 %r2, %r2, %r1;
        add.s32 %r3, %r3, 1;
        setp.lt.s32 %p1, %r3, 4;
        @%p1 bra $L__BB0_1;
        mov.b32 {%rs1, %rs2}, %r2;
        mov.b32 %r2, {%rs2, %rs1};
        st.global.b32 [ %rd3 + 0 ], { %r2 };
    """
    found = run(OWN + body, np.zeros(32, np.uint32))
    assert found.tolist() == [4 * thread << 16 for thread in range(32)]


def test_vectors_and_narrow_values():
    body = (
        OWN
        + """
        setp.eq.b32 %p1, %r1, 0;
        @%p1 ld.global.v2.b32 { %r2, %r3 }, [ %rd1 + 0 ];
        @%p1 st.global.v2.b32 [ %rd1 + 8 ], { %r3, %r2 };
        @%p1 ld.global.b8 { %rs1 }, [ %rd1 + 1 ];
        @%p1 st.global.b16 [ %rd1 + 16 ], { %rs1 };
        @%p1 ld.global.s32 { %rd2 }, [ %rd1 + 4 ];
        @%p1 st.global.b64 [ %rd1 + 24 ], { %rd2 };
    """
    )
    found = run(body, np.array([0x1234, 2**32 - 2, 0, 0, 0, 9, 0, 0], np.uint32))
    assert found.tolist() == [0x1234, 2**32 - 2, 2**32 - 2, 0x1234, 0x12, 9, 2**32 - 2, 2**32 - 1]


def test_every_operation_keeps_to_its_type():
    for name, operation in OPERATIONS.items():
        width = {"f32x2": 2}.get(operation.result, 1)
        operands = [np.ones(32 * width, DTYPES[kind]) for kind in operation.operands]
        if name.startswith(("shfl", "redux")):
            operands[-1][:] = -1 if operands[-1].dtype.kind == "i" else 0xFFFFFFFF
        if name == "prmt.b32":
            operands[2][:] = 0x3210
        if name.startswith("shfl"):
            operands[2][:] = 31
        result = operation.function(*operands)
        assert result.dtype == DTYPES[operation.result], name
        assert result.nbytes * 8 // 32 == (8 if operation.result == "pred" else BITS[operation.result]), name


@pytest.mark.parametrize(
    ("name", "operands", "expected"),
    [
        ("bfe.u32", (0b110100, 2, 3), 0b101),
        ("bfe.u32", (2**32 - 1, 0, 32), 2**32 - 1),
        ("prmt.b32", (0x33221100, 0x77665544, 0x0742), 0x00774422),
        ("shl.b32", (1, 32), 0),
        ("shr.s64", (-8, 70), -1),
        ("mul.lo.s32", (2**31 - 1, 2), -2),
        ("mul.wide.s32", (-3, 2**31 - 1), -3 * (2**31 - 1)),
        ("mad.wide.u32", (2**32 - 1, 8, 5), 8 * (2**32 - 1) + 5),
        ("cvt.s64.s32", (-1,), -1),
        ("cvt.rzi.s32.f32", (-2.75,), -2),
        ("cvt.rzi.s32.f32", (np.nan,), 0),
        ("cvt.rzi.s32.f32", (np.inf,), 2**31 - 1),
        ("max.f32", (np.nan, 1), 1),
        ("setp.gt.f32", (np.nan, 1), False),
        ("setp.eq.f32", (np.nan, np.nan), False),
        ("setp.neu.f32", (np.nan, np.nan), True),
        ("selp.b32", (1, 2, False), 2),
        ("ex2.approx.f32", (-np.inf,), 0),
        ("ex2.approx.f32", (3,), 8),
    ],
)
def test_operations_compute_what_the_manual_says(name, operands, expected):
    operation = OPERATIONS[name]
    arrays = [np.array([value], DTYPES[kind]) for value, kind in zip(operands, operation.operands)]
    with np.errstate(all="ignore"):
        assert operation.function(*arrays)[0] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("brev.b32 %r2, %r1;", "unknown instruction brev.b32"),
        ("add.f32 %r2, %r1, %r1;", "unknown instruction add.f32"),
        ("@%p1 mov.b32 %r2, %r1;", "a predicate before mov.b32"),
        ("add.s32 %r2, %rd1, %r1;", "%rd1 has 64 bits, not 32"),
        ("add.s64 %r2, %rd1, %rd1;", "the result has 64 bits"),
        ("ld.volatile.global.b32 %r2, [%rd1];", "unknown instruction ld.volatile.global.b32"),
        ("shfl.sync.bfly.b32 %r2, %r1, 16, 15, -1;", "a part of the warp"),
        ("shfl.sync.bfly.b32 %r2, %r1, 16, 31, 1;", "only some threads of a warp take part"),
        ("setp.lt.u32 %p1, %r1, 3;\n@%p1 bra $L;\n$L:", "3 of 32 threads branch"),
        ("ld.param.b64 %rd2, [kernel_param_0+8];", "not a parameter"),
        ("$L:\nbra.uni $L;", "does not end"),
    ],
)
def test_what_the_emulator_does_not_know_is_an_error(line, message, monkeypatch):
    monkeypatch.setattr("ptx_emulator._MAX_STEPS", 100)
    with pytest.raises(PtxError, match=message):
        run(line, np.zeros(32, np.uint32))


@pytest.mark.parametrize(
    ("access", "message"),
    [
        ("ld.global.b32 { %r2 }, [ %rd3 + 4 ]", "1 threads go outside the arguments"),
        ("ld.global.b32 { %r2 }, [ %rd3 + -4 ]", "1 threads go outside the arguments"),
        ("st.global.b32 [ %rd3 + 128 ], { %r2 }", "32 threads go outside the arguments"),
        (
            "ld.global.b64 { %rd2 }, [ %rd3 + 0 ]",
            "an address that is not a multiple of 8|1 threads go outside",
        ),
        ("ld.global.b32 { %r2 }, [ %rd4 + 0 ]", "32 threads go outside the arguments"),
        ("ld.shared.b32 %r2, [%r1+16]", "threads go outside the shared memory"),
    ],
)
def test_accesses_outside_are_found(access, message):
    with pytest.raises(BoundsError, match=message):
        run(OWN + access + ";", np.zeros(32, np.uint32), shared=16)


#: Each thread stores its number, and loads that of its neighbour.
STORE, BARRIER = "st.global.b32 [ %rd3 + 0 ], { %r1 };\n", "bar.sync 0;\n"
NEIGHBOUR = "xor.b32 %r4, %r1, 1;\nmul.wide.u32 %rd4, %r4, 4;\nadd.s64 %rd4, %rd1, %rd4;\n"
LOAD = NEIGHBOUR + "ld.global.b32 { %r3 }, [ %rd4 + 0 ];\n"
STORE_LOADED = "st.global.b32 [ %rd3 + 0 ], { %r3 };\n"


def test_a_load_after_another_threads_store_needs_a_barrier():
    zeros = np.zeros(32, np.uint32)
    run(OWN + STORE + BARRIER + LOAD, zeros)
    with pytest.raises(RaceError, match="what another has stored"):
        run(OWN + STORE + LOAD, zeros)


def test_a_late_load_must_not_matter():
    zeros = np.zeros(32, np.uint32)
    # Nothing comes of what was loaded; then it comes to memory.
    assert run(OWN + LOAD + STORE, zeros).tolist() == list(range(32))
    assert run(OWN + LOAD + BARRIER + STORE_LOADED, zeros).tolist() == [0] * 32
    with pytest.raises(RaceError, match="a thread that loads late"):
        run(OWN + LOAD + STORE_LOADED, zeros)


def test_a_late_load_must_not_lead_elsewhere():
    body = LOAD + "add.s32 %r3, %r3, %r1;\nmul.wide.u32 %rd5, %r3, 4;\nadd.s64 %rd5, %rd1, %rd5;\n"
    with pytest.raises(RaceError, match="led astray"):
        run(OWN + body + "st.global.b32 [ %rd5 + 0 ], { %r1 };\n", np.zeros(32, np.uint32))


def test_two_threads_must_not_store_different_values():
    zeros = np.zeros(32, np.uint32)
    run("mov.b32 %r2, 5;\nst.global.b32 [ %rd1 + 0 ], { %r2 };", zeros)
    with pytest.raises(RaceError, match="different values at once"):
        run("st.global.b32 [ %rd1 + 0 ], { %r1 };", zeros)
    with pytest.raises(RaceError, match="different values, with no barrier"):
        run(OWN + STORE + NEIGHBOUR + "st.global.b32 [ %rd4 + 0 ], { %r1 };", zeros)


def test_programs_must_not_meet():
    zeros, program = np.zeros(32, np.uint32), "mov.u32 %r5, %ctaid.x;\n"
    meet = (
        OWN + program + f"setp.eq.b32 %p1, %r5, 0;\n@%p1 {STORE}@!%p1 ld.global.b32 {{ %r3 }}, [ %rd3 + 0 ];"
    )
    with pytest.raises(RaceError, match="what another has stored"):
        run(meet, zeros, grid=(2,))
    # Now the second program stores.
    with pytest.raises(RaceError, match="a program loads what another one stores"):
        run(meet.replace("@%", "@#").replace("@!%", "@%").replace("@#", "@!%"), zeros, grid=(2,))
    with pytest.raises(RaceError, match="two threads store different values"):
        run(program + "st.global.b32 [ %rd1 + 0 ], { %r5 };", zeros, grid=(2,))


def test_the_same_argument_twice_is_the_same_memory():
    program = kernel("st.global.b32 [ %rd2 + 0 ], { %r2 };", parameters=2)
    values = np.ones(4, np.uint32)
    launch(program, (1,), [values.view(np.uint8)] * 2)
    assert values.tolist() == [0, 1, 1, 1]
    with pytest.raises(PtxError, match="overlap"):
        launch(program, (1,), [values.view(np.uint8), values[1:].view(np.uint8)])
