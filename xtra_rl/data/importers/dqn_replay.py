"""DQN Replay: the 50 million transitions per game of Agarwal et al. (arXiv 1907.04543).

The logs of five DQN agents per game, in 51 checkpoints of a million transitions: gzipped ``npy`` arrays of single
84x84 grey frames, actions (numbers within the game's minimal action set), raw rewards and terminals, played with sticky
actions (probability 0.25). XTRA's own data has 96x96 RGB frames and no sticky actions.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from xtra_rl.data.append_file import DatasetError
from xtra_rl.data.frames import CompressedFrames
from xtra_rl.data.trajectories import TrajectoryDataset
from xtra_rl.data.trajectory_writer import TrajectoryWriter
from xtra_rl.envs import TaskSpec, get_task

BASE_URL = "https://storage.googleapis.com/atari-replay-datasets/dqn"
KINDS = ("observation", "action", "reward", "terminal")
# Dopamine's replay puts this many empty transitions before each episode, for its frame stacks.
_PADDING = 3
_PIECE = 512


class OnProgress(Protocol):
    """Anything that counts transitions, e.g. :class:`xtra_rl.training.progress.Progress`."""

    def update(self, n: int = 1) -> Any: ...


def file_name(kind: str, checkpoint: int) -> str:
    """Name of one array of a checkpoint.

    >>> file_name("reward", 7)
    '$store$_reward_ckpt.7.gz'
    """
    return f"$store$_{kind}_ckpt.{checkpoint}.gz"


def file_url(task: str, run: int, kind: str, checkpoint: int, *, base_url: str = BASE_URL) -> str:
    """Public address of one array.

    >>> file_url("ms_pacman", 1, "reward", 7)
    'https://storage.googleapis.com/atari-replay-datasets/dqn/MsPacman/1/replay_logs/%24store%24_reward_ckpt.7.gz'
    """
    game = "".join(part.capitalize() for part in get_task(task).name.split("_"))
    name = file_name(kind, checkpoint).replace("$", "%24")
    return f"{base_url}/{game}/{run}/replay_logs/{name}"


def download_dqn_replay(
    folder: str | Path, task: str, *, checkpoints: Sequence[int], run: int = 1, base_url: str = BASE_URL
) -> Path:
    """Download the chosen checkpoints of one agent, those that are not there yet; about 1 GB each.

    Args:
        folder: where the files go.
        task: name of the game.
        checkpoints: 0 (the beginning of training) to 50.
        run: which of the five agents, 1 to 5.
        base_url: another place that holds the same tree.

    Returns:
        the folder with the files.

    Raises:
        ValueError: if pooch is not installed, or a number is out of range.
    """
    try:
        import pooch
    except ImportError as error:
        raise ValueError("downloading needs pooch; pip install 'xtra_rl[import]'") from error
    if run not in range(1, 6) or not set(checkpoints) <= set(range(51)):
        raise ValueError(f"run={run}, checkpoints={list(checkpoints)}: expected 1 to 5, and 0 to 50")
    target = Path(folder) / get_task(task).name / str(run)
    for checkpoint in checkpoints:
        for kind in KINDS:
            url = file_url(task, run, kind, checkpoint, base_url=base_url)
            # The bucket publishes no hashes; a torn file is found when it is read.
            name = file_name(kind, checkpoint)
            pooch.retrieve(url, known_hash=None, fname=name, path=target, progressbar=True)
    return target


def import_dqn_replay(
    source: str | Path,
    path: str | Path,
    task: str,
    *,
    checkpoints: Sequence[int] | None = None,
    image_size: int | None = None,
    on_progress: OnProgress | None = None,
) -> TrajectoryDataset:
    """Bring checkpoints of DQN Replay into a dataset; one that was interrupted is continued.

    The logs do not hold the frame after the last action of a game: it is the last frame again. Nothing is learnt from
    it, for values do not bootstrap across a termination. The game that the end of a file cuts off becomes truncated.
    Memory stays at one compressed episode.

    Args:
        source: folder with the ``$store$_*_ckpt.N.gz`` files, see :func:`download_dqn_replay`.
        path: folder of the dataset.
        task: name of the game.
        checkpoints: which to take; None takes all there are.
        image_size: frames are resized to this height and width by area; None keeps 84.
        on_progress: told the transitions of each episode.

    Raises:
        DatasetError: if files are missing, damaged or of different lengths.
        ValueError: if the actions are not the game's.
    """
    source, spec = Path(source), get_task(task)
    found = _found(source)
    chosen = sorted(found if checkpoints is None else set(checkpoints))
    missing = [number for number in chosen if number not in found]
    if missing or not chosen:
        raise DatasetError(
            f"no files {file_name('*', missing[0] if missing else 0)} in {str(source)!r} (complete checkpoints there:"
            f" {sorted(found) or 'none'}); download them or choose others"
        )
    size = image_size or 84
    writer = TrajectoryWriter(
        path,
        spec.name,
        frame_shape=(1, size, size),
        sticky=0.25,
        grayscale=True,
        env_settings={"source": "DQN Replay"},
        provenance={"importer": "dqn_replay", "source": "arXiv 1907.04543"},
        commit_rows=8192,
    )
    with writer:
        for checkpoint in chosen:
            _import_checkpoint(source, writer, spec, checkpoint, size, on_progress)
    return TrajectoryDataset(path)


def _found(source: Path) -> set[int]:
    """Checkpoints with all four arrays."""
    numbers = []
    for kind in KINDS:
        pattern = re.compile(re.escape(file_name(kind, 0)).replace(r"\.0\.", r"\.(\d+)\."))
        matches = [pattern.fullmatch(file.name) for file in source.glob("*.gz")]
        numbers.append({int(match[1]) for match in matches if match})
    return set.intersection(*numbers)


def _import_checkpoint(
    source: Path,
    writer: TrajectoryWriter,
    spec: TaskSpec,
    checkpoint: int,
    size: int,
    on_progress: OnProgress | None,
) -> None:
    small = {kind: _GzipArray(source / file_name(kind, checkpoint)).read_all() for kind in KINDS[1:]}
    action, reward, terminal = (small[kind] for kind in KINDS[1:])
    frames = _GzipArray(source / file_name("observation", checkpoint))
    lengths = {**{kind: len(array) for kind, array in small.items()}, "observation": frames.shape[0]}
    if len(set(lengths.values())) > 1 or frames.shape[1:] != (84, 84):
        raise DatasetError(
            f"checkpoint {checkpoint} in {str(source)!r} has {lengths} entries and frames of {frames.shape[1:]};"
            " expected equal lengths and (84, 84), so download it again"
        )
    if len(action) and not (action.min() >= 0 and action.max() < len(spec.action_ids)):
        raise ValueError(
            f"task={spec.name!r} has {len(spec.action_ids)} actions, but checkpoint {checkpoint} in {str(source)!r}"
            f" holds action {int(action.max())}; name the game that the files are of"
        )
    ends = np.flatnonzero(terminal) + 1
    bounds = np.unique(np.concatenate([[0], ends, [len(action)]]))
    action = np.array(spec.action_ids)[action]
    there, spans = writer.numbers(checkpoint), list(zip(bounds[:-1].tolist(), bounds[1:].tolist()))
    if {
        number for number, (_, stop) in enumerate(spans) if terminal[stop - 1] or stop == len(action)
    } <= there:
        return
    for number, (start, stop) in enumerate(spans):
        compressed, dropped = _read_frames(frames, stop - start, size)
        begin = start + dropped
        ended = bool(terminal[stop - 1])
        transitions = stop - begin - (0 if ended else 1)
        if number in there or transitions < 1:
            continue
        if ended:
            compressed.add(compressed.last())
        rows = transitions + 1
        last = np.arange(rows) == rows - 2
        episode = {
            "pixels": compressed,
            "action": np.resize(action[begin:stop], rows),
            "reward": np.resize(reward[begin:stop], rows).astype(np.float32),
            "terminated": last & ended,
            "truncated": last & (not ended),
        }
        writer.add_episode(episode, checkpoint=checkpoint, number=number)
        if on_progress is not None:
            on_progress.update(transitions)


def _read_frames(frames: _GzipArray, count: int, size: int) -> tuple[CompressedFrames, int]:
    """The next ``count`` frames without the padding before them, and how many frames that was."""
    compressed, dropped = CompressedFrames((1, size, size)), 0
    for start in range(0, count, _PIECE):
        piece = frames.read(min(_PIECE, count - start))
        if start == 0:
            empty = ~piece[:_PADDING].any(axis=(1, 2))
            dropped = int(np.logical_and.accumulate(empty).sum())
            piece = piece[dropped:]
        compressed.add(_resized(piece[:, None], size))
    return compressed, dropped


def _resized(frames: np.ndarray, size: int) -> np.ndarray:
    if frames.shape[-1] == size or len(frames) == 0:
        return frames
    resized = torch.nn.functional.interpolate(
        torch.tensor(frames, dtype=torch.float32), (size, size), mode="area"
    )
    return resized.round().clamp(0, 255).byte().numpy()


class _GzipArray:
    """A gzipped ``npy`` file, read from the front piece by piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = gzip.open(path, "rb")  # noqa: SIM115
            version = np.lib.format.read_magic(self._file)
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }
            self.shape, _, self._dtype = header[version](self._file)
        except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
            raise self._damaged(error) from error

    def read(self, count: int) -> np.ndarray:
        """The next ``count`` entries."""
        width = self._dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        try:
            data = self._file.read(count * width)
        except (OSError, EOFError, zlib.error) as error:
            raise self._damaged(error) from error
        if len(data) != count * width:
            raise self._damaged(EOFError(f"it ends {count * width - len(data)} bytes too early"))
        return np.frombuffer(data, self._dtype).reshape(count, *self.shape[1:])

    def read_all(self) -> np.ndarray:
        """All entries."""
        return self.read(self.shape[0])

    def _damaged(self, error: BaseException) -> DatasetError:
        return DatasetError(f"{str(self._path)!r} is damaged ({error}); download it again")
