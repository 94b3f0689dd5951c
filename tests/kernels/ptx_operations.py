"""What the instructions of PTX compute: one table from the name of an instruction (and, where it takes
more than usual, the number of its operands) to a function of NumPy arrays.

The arrays have one element for each thread. A name that is not in the table is unknown: the kernels were never seen
to need it. Approximate instructions are computed as if they were exact, and everything else as the PTX manual
(docs.nvidia.com/cuda/parallel-thread-execution) says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WARP = 32
#: How the threads' values of a PTX type lie in memory; a pair of floats is one 64-bit register.
DTYPES = {
    "pred": np.dtype(bool),
    **{f"{kind}{bits}": np.dtype(f"u{bits // 8}") for kind in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "f32x2": np.dtype(np.float32),
}
#: Bits of a register of a type; 1 for a predicate.
BITS = {name: 1 if name == "pred" else 8 * dtype.itemsize for name, dtype in DTYPES.items()} | {"f32x2": 64}


class PtxError(Exception):
    """The emulator cannot run the program, or the program did what it must not do."""


class Operation(NamedTuple):
    """Types of the result and of the operands, and the function."""

    result: str
    operands: tuple[str, ...]
    function: Callable[..., np.ndarray]


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _select(x: np.ndarray, y: np.ndarray, condition: np.ndarray) -> np.ndarray:
    return np.where(condition, x, y)


def _shift_left(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    # As in PTX, NumPy shifts everything out where there are too many places.
    return np.left_shift(x, places.astype(x.dtype))


def _shift_right(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.right_shift(x, places.astype(x.dtype))


def _extract_bits(x: np.ndarray, first: np.ndarray, count: np.ndarray) -> np.ndarray:
    # Only the lowest 8 bits of both numbers count.
    ones = (np.uint64(1) << (count & 255).astype(np.uint64)) - np.uint64(1)
    return ((x.astype(np.uint64) >> (first & 255).astype(np.uint64)) & ones).astype(np.uint32)


def _permute(x: np.ndarray, y: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """The bytes of both, 0 to 7, that the selector names in its four lowest digits of 4 bits."""
    digits = selector[:, None] >> np.array([0, 4, 8, 12], np.uint32) & 15
    if (digits > 7).any():
        raise PtxError("a byte of signs")
    return np.take_along_axis(np.stack([x, y], axis=1).view(np.uint8), digits, axis=1).view(np.uint32)[:, 0]


def _convert(dtype: np.dtype) -> Callable[..., np.ndarray]:
    return lambda x: x.astype(dtype)


def _truncate(x: np.ndarray) -> np.ndarray:
    """Float32 to int32 towards zero; NaN is 0, and what is too large is the largest."""
    limited = np.clip(
        np.nan_to_num(x.astype(np.float64), posinf=np.inf, neginf=-np.inf), -(2.0**31), 2.0**31 - 1
    )
    return limited.astype(np.int32)


def _exp2(x: np.ndarray) -> np.ndarray:
    return np.exp2(x.astype(np.float64)).astype(np.float32)


def _wide(dtype: str) -> Callable[..., np.ndarray]:
    """The whole product of two numbers, and the third added."""

    def compute(x: np.ndarray, y: np.ndarray, *added: np.ndarray) -> np.ndarray:
        product = x.astype(dtype) * y.astype(dtype)
        return product + added[0] if added else product

    return compute


def _all_threads(mask: np.ndarray) -> None:
    if (mask != 0xFFFFFFFF).any():
        raise PtxError(f"only some threads of a warp take part: mask {mask[0]:#x}")


def _shuffle(source: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Each thread reads ``x`` of the thread ``source(itself, operand)`` of its warp."""

    def compute(x: np.ndarray, operand: np.ndarray, clamp: np.ndarray, mask: np.ndarray) -> np.ndarray:
        _all_threads(mask)
        if (clamp != 31).any():
            raise PtxError("a shuffle in a part of the warp")
        thread = np.arange(len(x), dtype=np.uint32)
        return x[(thread & ~np.uint32(31)) | (source(thread, operand) & 31)]

    return compute


def _reduce(function: np.ufunc) -> Callable[..., np.ndarray]:
    def compute(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        _all_threads(mask)
        return np.repeat(function.reduce(x.reshape(-1, WARP), axis=1), WARP)

    return compute


def _integers() -> dict[str, Operation]:
    table = {}
    for bits in (16, 32, 64):
        for kind in (f"s{bits}", f"u{bits}"):
            for name, function in {
                "add": np.add,
                "sub": np.subtract,
                "mul.lo": np.multiply,
                "max": np.maximum,
                "min": np.minimum,
            }.items():
                table[f"{name}.{kind}"] = Operation(kind, (kind, kind), function)
            table[f"mad.lo.{kind}"] = Operation(kind, (kind,) * 3, lambda x, y, z: x * y + z)
            table[f"shr.{kind}"] = Operation(kind, (kind, "u32"), _shift_right)
        table[f"neg.s{bits}"] = Operation(f"s{bits}", (f"s{bits}",), np.negative)
        table[f"shl.b{bits}"] = Operation(f"b{bits}", (f"b{bits}", "u32"), _shift_left)
    for kind in "su":
        wide, half = f"{kind}64", f"{kind}32"
        table[f"mul.wide.{half}"] = Operation(wide, (half, half), _wide(DTYPES[wide]))
        table[f"mad.wide.{half}"] = Operation(wide, (half, half, wide), _wide(DTYPES[wide]))
    table["prmt.b32"] = Operation("b32", ("b32", "b32", "u32"), _permute)
    table["bfe.u32"] = Operation("u32", ("u32",) * 3, _extract_bits)
    return table


def _floats() -> dict[str, Operation]:
    table = {}
    for kind in ("f32", "f64", "f32x2"):
        for name, function in {"add.rn": np.add, "sub.rn": np.subtract, "mul.rn": np.multiply}.items():
            table[f"{name}.{kind}"] = Operation(kind, (kind, kind), function)
    for kind in ("f32", "f64"):
        # A number wins against NaN.
        table[f"max.{kind}"] = Operation(kind, (kind, kind), np.fmax)
        table[f"min.{kind}"] = Operation(kind, (kind, kind), np.fmin)
        table[f"max.{kind}, 3"] = Operation(kind, (kind,) * 3, lambda x, y, z: np.fmax(np.fmax(x, y), z))
        table[f"min.{kind}, 3"] = Operation(kind, (kind,) * 3, lambda x, y, z: np.fmin(np.fmin(x, y), z))
        table[f"div.rn.{kind}"] = Operation(kind, (kind, kind), np.divide)
    table["ex2.approx.f32"] = Operation("f32", ("f32",), _exp2)
    return table


def _bits() -> dict[str, Operation]:
    table = {}
    for kind in ("pred", "b16", "b32", "b64"):
        for name, function in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}.items():
            table[f"{name}.{kind}"] = Operation(kind, (kind, kind), function)
        table[f"not.{kind}"] = Operation(kind, (kind,), np.invert)
        table[f"mov.{kind}"] = Operation(kind, (kind,), _same)
    for kind in ("b16", "b32", "b64", "u16", "u32", "u64", "f32", "f64"):
        table[f"selp.{kind}"] = Operation(kind, (kind, kind, "pred"), _select)
        table[f"mov.{kind}"] = Operation(kind, (kind,), _same)
    return table


def _comparisons() -> dict[str, Operation]:
    ordered = {"eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
    table = {}
    for kind in ("b16", "b32", "b64", "s16", "s32", "s64", "u16", "u32", "u64", "f32", "f64"):
        # Of floats, "ne" is false for NaN, unlike NumPy's; "neu" is NumPy's.
        unequal = {"neu" if kind[0] == "f" else "ne": np.not_equal}
        for name, function in (ordered | unequal).items():
            table[f"setp.{name}.{kind}"] = Operation("pred", (kind, kind), function)
    return table


def _conversions() -> dict[str, Operation]:
    table = {"cvt.rzi.s32.f32": Operation("s32", ("f32",), _truncate)}
    for result, operand in (("s64", "s32"), ("u64", "u32"), ("u32", "u64"), ("u32", "u16"), ("u16", "u32")):
        table[f"cvt.{result}.{operand}"] = Operation(result, (operand,), _convert(DTYPES[result]))
    return table


def _warps() -> dict[str, Operation]:
    table = {
        "shfl.sync.bfly.b32": Operation("b32", ("b32", "u32", "u32", "b32"), _shuffle(np.bitwise_xor)),
        "shfl.sync.idx.b32": Operation(
            "b32", ("b32", "u32", "u32", "b32"), _shuffle(lambda thread, lane: lane)
        ),
    }
    for kind, largest, smallest in (
        ("s32", np.maximum, np.minimum),
        ("u32", np.maximum, np.minimum),
        ("f32", np.fmax, np.fmin),
    ):
        table[f"redux.sync.max.{kind}"] = Operation(kind, (kind, "b32"), _reduce(largest))
        table[f"redux.sync.min.{kind}"] = Operation(kind, (kind, "b32"), _reduce(smallest))
    return table


OPERATIONS = _integers() | _floats() | _bits() | _comparisons() | _conversions() | _warps()
