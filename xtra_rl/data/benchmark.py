"""Measure codecs and window reads on real frames: ``python -m xtra_rl.data benchmark``.

Eight games of 96x96 RGB frames of random play are recorded once. On a sample of them codecs are compared (ratio,
writing, reading in order, windows); on all of them 256 windows of 11 frames are read from the compressed dataset, from
a raw memory map and from one ``npz`` file per episode, warm and cold.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from xtra_rl.data.collect import collect_episodes
from xtra_rl.data.trajectories import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.windows import gather_rows
from xtra_rl.envs import task_set
from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.training.progress import progress

FRAME_SHAPE = (3, 96, 96)
WINDOWS, WINDOW_FRAMES = 256, 11
Codec = tuple[Callable[[bytes], bytes], Callable[[bytes], Any]]


def record(folder: Path, frames_per_game: int) -> list[TrajectoryDataset]:
    """Random play of the paper's eight diverse games, recorded unless it is there."""
    datasets = []
    for task in task_set("diverse8"):
        writer = TrajectoryWriter(folder / task, task, frame_shape=FRAME_SHAPE)
        with writer, progress(frames_per_game, description=f"record {task}", unit="frame") as bar:
            bar.update(writer.num_transitions)
            while writer.num_transitions < frames_per_game:
                before, episodes = writer.num_transitions, writer.num_episodes
                policy = RandomPolicy(torch.Generator().manual_seed(episodes))
                more = {"num_episodes": episodes + 8, "num_envs": 8, "max_steps": 3000, "seed": episodes}
                collect_episodes(policy, task, writer, env_kwargs={"image_size": 96}, **more)  # type: ignore[arg-type]
                bar.update(writer.num_transitions - before)
        datasets.append(TrajectoryDataset(folder / task))
    return datasets


def codecs() -> dict[str, tuple[Codec, Sequence[int]]]:
    """Codecs by name, each with the numbers of frames in a block to try; those that are not installed are left out."""
    import lz4.block

    def lz4_level(level: int) -> Codec:
        return (
            lambda raw: lz4.block.compress(raw, mode="high_compression", compression=level),
            lz4.block.decompress,
        )

    found: dict[str, tuple[Codec, Sequence[int]]] = {
        f"lz4 hc {level}": (lz4_level(level), sizes)
        for level, sizes in ((4, (8,)), (9, (1, 4, 8, 16)), (12, (8,)))
    }
    try:
        import zstandard

        for level, sizes in ((1, (8,)), (3, (1, 4, 8, 16)), (9, (8,)), (19, (8,))):
            writer, reader = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
            found[f"zstandard {level}"] = ((writer.compress, reader.decompress), sizes)
    except ImportError:
        pass
    try:
        import blosc2

        for codec, level in (("LZ4", 5), ("LZ4HC", 9), ("ZSTD", 3)):
            for kind in ("NOFILTER", "BITSHUFFLE"):
                settings = {
                    "codec": blosc2.Codec[codec], "clevel": level, "filters": [blosc2.Filter[kind]], "typesize": 1,
                    "nthreads": 1,
                }  # fmt: skip
                pair: Codec = (lambda raw, s=settings: blosc2.compress2(raw, **s), blosc2.decompress2)  # type: ignore[misc]
                found[f"blosc2 {codec.lower()} {level}, {kind.lower()}"] = (pair, (1, 8))
    except ImportError:
        pass
    return found


def compare_codecs(samples: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Ratio, writing, reading in order and windows of every codec, means over the games of ``samples [n, C, H, W]``."""
    rows = []
    for name, ((compress, decompress), sizes) in codecs().items():
        for size in sizes:
            results = [_one_codec(compress, decompress, sample, size) for sample in samples.values()]
            rows.append(_summary(name, size, results))
    return rows + _zarr(samples)


def _summary(name: str, size: int, results: list[dict[str, float]]) -> dict[str, Any]:
    """One codec's row: means over the games, and the extremes of the ratio."""
    means = {key: float(np.mean([result[key] for result in results])) for key in results[0]}
    ratios = [result["ratio"] for result in results]
    numbers = means | {"ratio_min": min(ratios), "ratio_max": max(ratios)}
    return {"codec": name, "frames_per_block": size} | {key: round(n, 2) for key, n in numbers.items()}


def _one_codec(
    compress: Callable[[bytes], bytes], decompress: Callable[[bytes], Any], frames: np.ndarray, size: int
) -> dict[str, float]:
    raw = [frames[start : start + size].tobytes() for start in range(0, len(frames), size)]
    start = time.perf_counter()
    blocks = [compress(block) for block in raw]
    writing = time.perf_counter() - start

    def read_all() -> None:
        for block in blocks:
            decompress(block)

    def read_windows() -> None:
        for window in needed:
            for number in window:
                decompress(blocks[number])

    starts = np.random.default_rng(0).integers(0, len(frames) - WINDOW_FRAMES, WINDOWS)
    needed = [range(s // size, (s + WINDOW_FRAMES - 1) // size + 1) for s in starts.tolist()]
    reading, windows = _median_seconds(read_all, 3), _median_seconds(read_windows, 3)
    return {
        "ratio": frames.nbytes / sum(map(len, blocks)),
        "write_MB_per_s": frames.nbytes / writing / 1e6,
        "read_MB_per_s": frames.nbytes / reading / 1e6,
        "windows_ms": 1e3 * windows,
    }


def _zarr(samples: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Zarr arrays with chunks of 8 frames and its default codec."""
    try:
        import zarr
    except ImportError:
        return []

    def measure(frames: np.ndarray) -> dict[str, float]:
        start = time.perf_counter()
        store, chunks = zarr.storage.MemoryStore(), (8, *frames.shape[1:])
        array = zarr.create_array(store, shape=frames.shape, chunks=chunks, dtype="uint8")
        array[:] = frames
        writing = time.perf_counter() - start
        starts = np.random.default_rng(0).integers(0, len(frames) - WINDOW_FRAMES, WINDOWS).tolist()

        def read_windows() -> None:
            for s in starts:
                array[s : s + WINDOW_FRAMES]

        return {
            "ratio": frames.nbytes / array.nbytes_stored(),
            "write_MB_per_s": frames.nbytes / writing / 1e6,
            "read_MB_per_s": frames.nbytes / _median_seconds(lambda: array[:], 2) / 1e6,
            "windows_ms": 1e3 * _median_seconds(read_windows, 2),
        }

    return [_summary("zarr, its default (zstd)", 8, [measure(frames) for frames in samples.values()])]


class WindowReaders:
    """Three stores of the same frames, each read in windows by row."""

    def __init__(self, datasets: Sequence[TrajectoryDataset], folder: Path) -> None:
        self._folder = folder
        self._datasets = datasets
        self.rows = [dataset.num_transitions + dataset.num_episodes for dataset in datasets]
        for dataset, rows in zip(datasets, self.rows, strict=True):
            self._write_others(dataset, rows)
        self._out = torch.empty(WINDOWS * WINDOW_FRAMES, *FRAME_SHAPE, dtype=torch.uint8)

    def _paths(self, task: str) -> tuple[Path, Path]:
        return self._folder / f"{task}.raw", self._folder / f"{task}-npz"

    def _write_others(self, dataset: TrajectoryDataset, rows: int) -> None:
        raw, npz = self._paths(dataset.task)
        if raw.is_file() and raw.stat().st_size == rows * int(np.prod(FRAME_SHAPE)):
            return
        shutil.rmtree(npz, ignore_errors=True)
        npz.mkdir(parents=True)
        with open(raw, "wb") as file:
            for number, episode in enumerate(
                progress(dataset, description=f"write {dataset.task}", unit="episode", total=len(dataset))
            ):
                frames = episode["pixels"].numpy()
                file.write(frames.tobytes())
                np.savez_compressed(npz / f"{number}.npz", pixels=frames)

    def draw(self, generator: np.random.Generator) -> list[np.ndarray]:
        """Rows of windows, an even share of each dataset, none across episodes."""
        share = WINDOWS // len(self._datasets)
        drawn = []
        for dataset in self._datasets:
            long = np.flatnonzero(dataset.episodes["length"] >= WINDOW_FRAMES)
            weight = dataset.episodes["length"][long] / dataset.episodes["length"][long].sum()
            episodes = dataset.episodes[generator.choice(long, share, p=weight)]
            start = episodes["first_row"] + generator.integers(0, episodes["length"] - WINDOW_FRAMES + 1)
            drawn.append((start[:, None] + np.arange(WINDOW_FRAMES)).ravel())
        return drawn

    def open(self, store: str) -> list[Any]:
        """Open a store freshly: nothing of it is mapped before."""
        if store == "dataset":
            return [TrajectoryDataset(dataset.path).frames for dataset in self._datasets]
        if store == "npz":
            return [self._paths(dataset.task)[1] for dataset in self._datasets]
        return [
            torch.from_numpy(np.memmap(self._paths(d.task)[0], np.uint8, "c", shape=(rows, *FRAME_SHAPE)))
            for d, rows in zip(self._datasets, self.rows, strict=True)
        ]

    def read(self, store: str, opened: list[Any], drawn: list[np.ndarray]) -> torch.Tensor:
        """Frames of all windows, in memory that is used again."""
        begin = 0
        for dataset, source, rows in zip(self._datasets, opened, drawn, strict=True):
            out = self._out[begin : begin + len(rows)]
            begin += len(rows)
            if store == "dataset":
                source.gather(rows, out.numpy())
            elif store == "raw":
                gather_rows(source, torch.from_numpy(rows), out=out)
            else:
                self._read_npz(dataset, source, rows, out)
        return self._out

    def _read_npz(
        self, dataset: TrajectoryDataset, folder: Path, rows: np.ndarray, out: torch.Tensor
    ) -> None:
        for i, window in enumerate(rows.reshape(-1, WINDOW_FRAMES)):
            number = int(dataset.frames.episode_of(window[:1])[0])
            start = int(window[0] - dataset.episodes[number]["first_row"])
            with np.load(folder / f"{number}.npz") as file:
                frames = file["pixels"][start : start + WINDOW_FRAMES]
            out[i * WINDOW_FRAMES : (i + 1) * WINDOW_FRAMES] = torch.from_numpy(frames)

    def forget(self) -> None:
        """Make the operating system drop every file of the three stores from its cache."""
        gc.collect()
        os.sync()
        for path in [*self._folder.rglob("*"), *(p for d in self._datasets for p in d.path.rglob("*"))]:
            if path.is_file():
                handle = os.open(path, os.O_RDONLY)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)


def compare_stores(readers: WindowReaders, *, warm_rounds: int, cold_rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of a batch of windows from each store, the stores taking turns on the same windows."""
    generator = np.random.default_rng(0)
    stores = ("raw", "dataset", "npz")
    seconds: dict[tuple[str, str], list[float]] = {(s, c): [] for s in stores for c in ("cold", "warm")}
    for _ in progress(range(cold_rounds), description="cold reads", unit="round"):
        drawn = readers.draw(generator)
        for store in stores:
            readers.forget()
            opened = readers.open(store)
            seconds[store, "cold"].append(_seconds(readers.read, store, opened, drawn))
            del opened
    opened_all = {store: readers.open(store) for store in stores}
    _touch(readers, opened_all)
    _check_equal(readers, opened_all, readers.draw(generator))
    for number in progress(range(warm_rounds), description="warm reads", unit="round"):
        drawn = readers.draw(generator)
        for store in stores if number < cold_rounds else stores[:2]:
            seconds[store, "warm"].append(_seconds(readers.read, store, opened_all[store], drawn))
    frames_read = WINDOWS // len(readers.rows) * len(readers.rows) * WINDOW_FRAMES
    return [
        {
            "store": store,
            "cache": cache,
            "ms": round(1e3 * median(values), 2),
            "ms_min": round(1e3 * min(values), 2),
            "ms_max": round(1e3 * max(values), 2),
            "GB_per_s": round(frames_read * int(np.prod(FRAME_SHAPE)) / median(values) / 1e9, 3),
            "rate_to_raw": round(median(seconds["raw", cache]) / median(values), 3),
            "rounds": len(values),
        }
        for (store, cache), values in seconds.items()
    ]


def _check_equal(readers: WindowReaders, opened: dict[str, list[Any]], drawn: list[np.ndarray]) -> None:
    """All stores must give the same frames, or their times compare nothing."""
    expected = readers.read("raw", opened["raw"], drawn).clone()
    for store, sources in opened.items():
        assert torch.equal(readers.read(store, sources, drawn), expected), f"{store} reads other frames"


def memory_of_sampling(datasets: Sequence[TrajectoryDataset], batches: int) -> dict[str, Any]:
    """Memory of this process that cannot be given back, before and after drawing batches from all datasets."""
    before = _anonymous_bytes()
    buffers = [dataset.to_replay_buffer((), reuse_memory=True) for dataset in datasets]
    opened = _anonymous_bytes()
    share = WINDOWS // len(buffers)
    for _ in progress(range(batches), description="draw batches", unit="batch"):
        for buffer in buffers:
            buffer.sample_windows(share, unroll_steps=5, bootstrap_steps=5, frame_stack=4)
    drawn = _anonymous_bytes()
    transitions = sum(dataset.num_transitions for dataset in datasets)
    return {
        "datasets": len(datasets),
        "transitions": transitions,
        "raw_GB": round(sum(dataset.raw_bytes for dataset in datasets) / 1e9, 2),
        "opened_MB": round((opened - before) / 1e6, 1),
        "after_batches_MB": round((drawn - before) / 1e6, 1),
        "batches": batches,
    }


def _anonymous_bytes() -> int:
    """Resident memory that is no copy of a file (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon; this measurement needs Linux 4.5 or newer")


def _touch(readers: WindowReaders, opened: dict[str, list[Any]]) -> None:
    """Bring the raw map and the compressed files into memory."""
    for source, rows in zip(opened["raw"], readers.rows, strict=True):
        for start in range(0, rows, 4096):
            source[start : start + 4096].sum()
    for source, rows in zip(opened["dataset"], readers.rows, strict=True):
        for start in range(0, rows, 4096):
            source.read(start, min(start + 4096, rows))


def _seconds(work: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def _median_seconds(work: Callable[[], Any], rounds: int) -> float:
    work()
    return median(_seconds(work) for _ in range(rounds))
