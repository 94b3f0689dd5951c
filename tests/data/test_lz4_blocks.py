"""Blocks decompressed by address: what is wanted, nothing beside it, and no trust in damaged ones."""

from __future__ import annotations

import time

import lz4.block
import numpy as np
import pytest

from xtra_rl.data import lz4_blocks
from xtra_rl.data.append_file import AppendFile, DatasetError
from xtra_rl.data.frames import CompressedFrames, FrameReader, append_frames

DECODERS = [lz4_blocks.decode_by_copy, lz4_blocks.find_direct_decoder()]
GUARD = 64


def decode(decoder, block: bytes, wanted: int, content: int) -> tuple[bool, np.ndarray]:
    """Success, and memory of ``wanted`` bytes after checking those around it."""
    memory = np.full(wanted + 2 * GUARD, 171, np.uint8)
    source = np.frombuffer(block, np.uint8)
    done = decoder(source.ctypes.data, len(source), memory.ctypes.data + GUARD, wanted, content)
    assert (memory[:GUARD] == 171).all()
    assert (memory[-GUARD:] == 171).all()
    return done, memory[GUARD:-GUARD]


def test_the_library_lets_its_function_be_called():
    # The tests below would compare the copy with itself.
    assert lz4_blocks.decode_block is not lz4_blocks.decode_by_copy


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("noise", [2, 256])
def test_the_first_bytes_are_the_contents(decoder, noise):
    content = np.random.default_rng(0).integers(0, noise, 5000, np.uint8).repeat(3)
    block = lz4.block.compress(content.tobytes(), mode="high_compression", store_size=False)
    for wanted in (1, 2, 100, 14_990, 15_000):
        done, found = decode(decoder, block, wanted, 15_000)
        assert done
        assert (found == content[:wanted]).all()


@pytest.mark.parametrize("decoder", DECODERS)
def test_short_cut_and_damaged_blocks_are_refused(decoder):
    content = np.random.default_rng(0).integers(0, 256, 3000, np.uint8).tobytes()
    block = lz4.block.compress(content, store_size=False)
    assert not decode(decoder, block, 3001, 4000)[0]
    assert not decode(decoder, block[:-200], 3000, 4000)[0]
    assert not decode(decoder, b"", 1, 4000)[0]
    assert not decode(decoder, b"\xff" * 40, 3000, 4000)[0]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_any_rows_in_any_order_are_the_frames(decoder, threads, tmp_path, monkeypatch):
    monkeypatch.setattr(lz4_blocks, "decode_block", decoder)
    monkeypatch.setattr("xtra_rl.data.frames.RUNS_PER_THREAD", 5)
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    frames = np.random.default_rng(1).integers(0, 5, (61, 1, 6, 5), np.uint8)
    reader = written(tmp_path, frames, lengths=[1, 8, 19, 33])
    for seed in range(50):
        index = np.random.default_rng(seed).integers(0, 61, 40)
        # Runs, repeats of the last one, and steps back.
        index = np.concatenate(
            [index, index[:5, None].repeat(3, 1).ravel(), np.arange(28, 61), [60] * 30, [59]]
        )
        assert (reader.gather(index) == frames[index]).all()
    assert reader.gather(np.empty(0, np.int64)).shape == (0, 1, 6, 5)


@pytest.mark.parametrize("failing", range(4))
def test_an_error_of_any_thread_comes_after_all_have_ended(failing, tmp_path, monkeypatch):
    monkeypatch.setattr("xtra_rl.data.frames.RUNS_PER_THREAD", 1)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    frames = np.zeros((32, 1, 6, 5), np.uint8)
    reader = written(tmp_path, frames, lengths=[32])
    ended = []

    def decode(source, size, target, wanted, content):
        block = (target - out.ctypes.data) // (8 * 30)
        if block != failing:
            time.sleep(0.05)
        ended.append(block)
        return block != failing

    monkeypatch.setattr(lz4_blocks, "decode_block", decode)
    out = np.empty_like(frames)
    with pytest.raises(DatasetError, match="frames.lz4' is damaged"):
        reader.gather(np.arange(32), out)
    assert sorted(ended) == [0, 1, 2, 3]


def written(folder, frames, lengths):
    """A reader of episodes of these lengths, cut from ``frames``."""
    tables, first_row = [], np.cumsum([0, *lengths[:-1]])
    file = AppendFile(folder / "frames.lz4")
    for start, length in zip(first_row, lengths, strict=True):
        episode = CompressedFrames(frames.shape[1:])
        episode.add(frames[start : start + length])
        tables.append(append_frames(episode, file, 0))
    file.sync()
    file.close()
    return FrameReader(
        folder,
        ["frames.lz4"],
        np.concatenate(tables),
        first_row=first_row,
        first_block=np.cumsum([0, *(len(table) for table in tables[:-1])]),
        num_rows=len(frames),
        frame_shape=frames.shape[1:],
    )
