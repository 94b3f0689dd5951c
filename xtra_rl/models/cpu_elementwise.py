"""Element by element: exponentials that the compiler vectorises, the LSTM's gates, decoding."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Sums may be taken in any order, which lets them use vector registers. NaN stays, since the search looks for it.
_jit = njit(fastmath={"reassoc", "nsz", "contract"}, error_model="numpy", nogil=True)
_jit_in_order = njit(fastmath={"contract"}, error_model="numpy", nogil=True)

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)
# exp(x) = 2^n exp(r) with |r| <= ln(2) / 2; beyond these bounds 2^n is no normal number.
_EXP_LOWEST, _EXP_HIGHEST = np.float32(-87.33), np.float32(88.37)
_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)
# Minimax polynomial of (exp(r) - 1 - r) / r^2, from the Cephes library.
_E0, _E1, _E2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_E3, _E4, _E5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


@_jit_in_order
def exp(x):
    """Relative error up to 2e-7. Unlike the C library's, loops over it are vectorised."""
    x = _EXP_LOWEST if x < _EXP_LOWEST else x  # false for NaN
    x = _EXP_HIGHEST if x > _EXP_HIGHEST else x
    n = np.rint(x * _LOG2_E)
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    rest = ((((_E0 * r + _E1) * r + _E2) * r + _E3) * r + _E4) * r + _E5
    power = np.int32((np.int32(n) + 127) << 23).view(np.float32)
    return (rest * r * r + r + _ONE) * power


@_jit_in_order
def sigmoid(x):
    """Absolute error up to 2e-7."""
    return _ONE / (_ONE + exp(-x))


@_jit_in_order
def tanh(x):
    """Absolute error up to 2e-7."""
    return _ONE - _TWO / (_ONE + exp(_TWO * x))


@_jit
def lstm(gates, norm, cell, outputs):
    """Next hidden state and cell, and the hidden state behind its norm and ReLU, which is returned."""
    batch, units = cell.shape
    normed = np.empty((batch, units), np.float32)
    for b in range(batch):
        for unit in range(units):
            remember, forget = sigmoid(gates[b, unit]), sigmoid(gates[b, units + unit])
            show, candidate = sigmoid(gates[b, 2 * units + unit]), tanh(gates[b, 3 * units + unit])
            fresh = forget * cell[b, unit] + remember * candidate
            hidden = show * tanh(fresh)
            outputs.cell[b, unit] = fresh
            outputs.hidden[b, unit] = hidden
            lifted = hidden * norm[0, unit] + norm[1, unit]
            normed[b, unit] = _ZERO if lifted < _ZERO else lifted
    return normed


@_jit
def decode(logits, first, bins):
    """As in the engine: softmax, expectation, inverse of the value transform."""
    highest = logits[first]
    for index in range(bins):
        logit = logits[first + index]
        highest = logit if logit > highest else highest
    mass, moment = 0.0, 0.0  # in double precision, since large terms cancel
    for index in range(bins):
        share = np.float64(exp(logits[first + index] - highest))
        mass += share
        moment += share * (index - bins // 2)
    y = moment / mass
    if y == 0:
        return 0.0
    u = abs(y) + 1.001
    root = 2 * u / (math.sqrt(1 + 0.004 * u) + 1)
    return math.copysign(root * root - 1, y)
