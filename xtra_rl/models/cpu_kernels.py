"""One recurrent inference as one compiled call: :func:`recurrent`.

Latents are ``[B, h, w, C]`` here; between convolutions they have a border of zeros, and h and w are rounded up to even
numbers.

Scratch memory is allocated in each call, which takes tens of nanoseconds and lets threads share the weights. Arrays are
copied in loops, since assignments of slices take seconds to compile, and indexed in place ``[b, y, x, c]``, since
computed offsets are not vectorised.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from xtra_rl.models.cpu_convolution import convolve, row_offsets, scratch_for
from xtra_rl.models.cpu_elementwise import decode, lstm
from xtra_rl.models.cpu_tile import product_of

# Sums may be taken in any order, which lets them use vector registers. NaN stays, since the search looks for it.
_jit = njit(fastmath={"reassoc", "nsz", "contract"}, error_model="numpy", nogil=True)
_jit_cached = njit(cache=True, error_model="numpy", nogil=True, parallel=True)

#: Hash of the files that are compiled into this one: Numba's cache on disk notices changes of this file only.
SOURCES = "47a2bb6459668990"

_ROWS = 4  # of a tile, in a batch of more than one
_product_of_row, _product_of_rows = product_of(1), product_of(_ROWS)

_ZERO = np.float32(0)
_NO_LIMIT = np.float32(-math.inf)


class Layer(NamedTuple):
    """Weights of a linear layer in the order of its tiles."""

    weight: Any  # [tiles, inputs, columns of the tile], flat
    bias: Any  # [columns], padded


#: Linear layers by number: those of the reward head, then those of the prediction.
REWARD_SQUEEZE, GATES, REWARD_HIDDEN, REWARD_OUT, SQUEEZE, HIDDEN, OUT = range(7)


class Weights(NamedTuple):
    """What :func:`recurrent` reads; C is padded. Parallel functions take no tuples in tuples, hence ``layers``."""

    channels: int  # not padded
    action_shift: Any  # [A, h, w, C]: what an action adds to the first convolution, its bias included
    convs: Any  # [L, 16, channels * C], of the dynamics, then of the prediction
    conv_biases: Any  # [L, C]
    dynamics_blocks: int
    layers: Any  # weights and biases of all linear layers, one after the other, flat
    places: Any  # [7, 3] int64: where the weight and the bias of a layer begin, and where it ends
    norm: Any  # [2, H]: scale and shift; H is 0 for plain rewards
    bins: int


@_jit
def _layer(weights, number):
    begin, middle, end = weights.places[number, 0], weights.places[number, 1], weights.places[number, 2]
    return Layer(weights.layers[begin:middle], weights.layers[middle:end])


class Outputs(NamedTuple):
    """What :func:`recurrent` writes."""

    reward: Any  # [B]
    value: Any  # [B]
    policy_logits: Any  # [B, A]
    latent: Any  # [B, h, w, channels]
    hidden: Any  # [B, H]
    cell: Any  # [B, H]


@_jit
def _linear(x, depth, layer, lowest):
    """``x [B, depth or more]`` to ``[B, columns]``."""
    batch, columns = x.shape[0], layer.bias.size
    out = np.empty((batch, columns), np.float32)
    for b in range(batch):
        for column in range(columns):
            out[b, column] = layer.bias[column]
    height = 1 if batch == 1 else _ROWS
    x_rows, out_rows = row_offsets(batch, height, x.shape[1]), row_offsets(batch, height, columns)
    if batch == 1:
        _product_of_row(x, x_rows, layer.weight, out, out_rows, columns, depth, lowest)
    else:
        _product_of_rows(x, x_rows, layer.weight, out, out_rows, columns, depth, lowest)
    return out


@_jit
def _squeeze(latent, h, w, depth, layer, extra):
    """1x1 convolution and ReLU to ``[B, h * w * columns + extra]``; the extra columns are the caller's to fill."""
    batch, height, width, channels = latent.shape
    columns = layer.bias.size
    out = np.empty((batch, h * w * columns + extra), np.float32)
    pixels = batch * h * w
    x_rows = np.empty(-(-pixels // _ROWS) * _ROWS, np.int64)
    out_rows = np.empty_like(x_rows)
    for pixel in range(x_rows.size):
        b, place = divmod(min(pixel, pixels - 1), h * w)
        y, x = divmod(place, w)
        x_rows[pixel] = ((b * height + y + 1) * width + x + 1) * channels
        out_rows[pixel] = b * out.shape[1] + place * columns
        for column in range(columns):
            out[b, place * columns + column] = layer.bias[column]
    _product_of_rows(latent, x_rows, layer.weight, out, out_rows, columns, depth, _ZERO)
    return out


@_jit
def _transition(weights, action, latent, out, scratch):
    """The first convolution of the dynamics; ``latent`` and ``out`` have borders."""
    _, h, w, channels = weights.action_shift.shape
    for b in range(action.size):
        shift = weights.action_shift[action[b]]
        for y in range(h):
            for x in range(w):
                for c in range(channels):
                    out[b, y + 1, x + 1, c] = latent[b, y + 1, x + 1, c] + shift[y, x, c]
    convolve(latent, weights.convs[0], out, h, w, weights.channels, scratch)


@_jit
def _residual_blocks(weights, first, last, x, spare, between, scratch):
    """Blocks of the convolutions from ``first`` to ``last``: the result, and the memory that it does not use."""
    _, h, w, channels = weights.action_shift.shape
    for conv in range(first, last, 2):
        for b in range(x.shape[0]):
            for row in range(1, h + 1):
                for column in range(1, w + 1):
                    for c in range(channels):
                        between[b, row, column, c] = weights.conv_biases[conv, c]
                        spare[b, row, column, c] = weights.conv_biases[conv + 1, c] + x[b, row, column, c]
        convolve(x, weights.convs[conv], between, h, w, weights.channels, scratch)
        convolve(between, weights.convs[conv + 1], spare, h, w, weights.channels, scratch)
        x, spare = spare, x
    return x, spare


class Memory(NamedTuple):
    """Latents with borders, and what convolutions need."""

    x: Any  # [B, h + 2, w + 2, C], h and w rounded up
    spare: Any
    between: Any
    scratch: Any


@_jit
def _memory_for(weights, batch):
    _, h, w, channels = weights.action_shift.shape
    shape = (batch, h + h % 2 + 2, w + w % 2 + 2, channels)
    x, spare, between = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    return Memory(x, spare, between, scratch_for(batch, h, w, channels))


@_jit
def _next_latent(weights, action, latent, outputs, memory):
    """Fill the next latent; returns it with its border, and the memory that it does not use."""
    x, spare = memory.x, memory.spare
    batch, h, w, width = latent.shape
    for b in range(batch):
        for y in range(h):
            for column in range(w):
                for c in range(width):
                    x[b, y + 1, column + 1, c] = latent[b, y, column, c]
    _transition(weights, action, x, spare, memory.scratch)
    last = 1 + 2 * weights.dynamics_blocks
    x, spare = _residual_blocks(weights, 1, last, spare, x, memory.between, memory.scratch)
    for b in range(batch):
        for y in range(h):
            for column in range(w):
                for c in range(width):
                    outputs.latent[b, y, column, c] = x[b, y + 1, column + 1, c]
    return x, spare


@_jit
def _reward(weights, x, hidden, cell, outputs):
    """Fill reward, hidden state and cell."""
    batch, units = cell.shape
    _, h, w, _ = weights.action_shift.shape
    layer = _layer(weights, REWARD_SQUEEZE)
    features = _squeeze(x, h, w, weights.channels, layer, units)
    if units > 0:
        for b in range(batch):
            for unit in range(units):
                features[b, h * w * layer.bias.size + unit] = hidden[b, unit]
        gates = _linear(features, features.shape[1], _layer(weights, GATES), _NO_LIMIT)
        features = lstm(gates, weights.norm, cell, outputs)
    hidden_layer = _linear(features, features.shape[1], _layer(weights, REWARD_HIDDEN), _ZERO)
    logits = _linear(hidden_layer, hidden_layer.shape[1], _layer(weights, REWARD_OUT), _NO_LIMIT)
    for b in range(batch):
        outputs.reward[b] = decode(logits[b], 0, weights.bins)


@_jit
def _prediction(weights, x, spare, between, scratch, outputs):
    """Fill policy logits and value; ``x`` may be written over."""
    _, h, w, _ = weights.action_shift.shape
    first, last = 1 + 2 * weights.dynamics_blocks, len(weights.convs)
    x, spare = _residual_blocks(weights, first, last, x, spare, between, scratch)
    squeezed = _squeeze(x, h, w, weights.channels, _layer(weights, SQUEEZE), 0)
    hidden_layer = _linear(squeezed, squeezed.shape[1], _layer(weights, HIDDEN), _ZERO)
    logits = _linear(hidden_layer, hidden_layer.shape[1], _layer(weights, OUT), _NO_LIMIT)
    num_actions = outputs.policy_logits.shape[1]
    for b in range(x.shape[0]):
        for a in range(num_actions):
            outputs.policy_logits[b, a] = logits[b, a]
        outputs.value[b] = decode(logits[b], num_actions, weights.bins)


@_jit
def _in_range(weights, action):
    return action.min() >= 0 and action.max() < weights.action_shift.shape[0]


@_jit
def _first_latent(weights, action, latent, outputs):
    """The next latent of a batch of one, with its border."""
    return _next_latent(weights, action, latent, outputs, _memory_for(weights, 1))[0]


@_jit
def _rows(weights, action, latent, hidden, cell, outputs, ready, rewards, predicts):
    """Fill the outputs of some rows; ``ready`` is their next latent if that was filled before, or empty."""
    memory = _memory_for(weights, action.size)
    if ready.size > 0:
        x, spare = ready.copy(), memory.spare
    else:
        x, spare = _next_latent(weights, action, latent, outputs, memory)
    if rewards:
        _reward(weights, x, hidden, cell, outputs)
    if predicts:
        _prediction(weights, x, spare, memory.between, memory.scratch, outputs)


@_jit_cached
def recurrent(weights, action, latent, hidden, cell, outputs, blocks, tasks):
    """Fill ``outputs``; whether all actions were in range, or else nothing is done.

    The batch is cut in ``blocks`` of rows, which ``tasks`` threads take in turns. A single row is shared by two of
    them: one predicts while the other one computes the reward.
    """
    if not _in_range(weights, action):
        return False
    batch = action.size
    ready = np.empty((0, 0, 0, 0), np.float32)
    if batch == 1:
        ready = _first_latent(weights, action, latent, outputs)
    for task in prange(tasks):
        rewards, predicts = batch > 1 or task == 0, batch > 1 or task == tasks - 1
        for block in range(task if batch > 1 else 0, blocks, tasks):
            first, last = block * batch // blocks, (block + 1) * batch // blocks
            part = Outputs(
                outputs.reward[first:last],
                outputs.value[first:last],
                outputs.policy_logits[first:last],
                outputs.latent[first:last],
                outputs.hidden[first:last],
                outputs.cell[first:last],
            )
            rows = slice(first, last)
            _rows(
                weights,
                action[rows],
                latent[rows],
                hidden[rows],
                cell[rows],
                part,
                ready,
                rewards,
                predicts,
            )
    return True
