"""DQN Replay: the 50 million transitions per game of Agarwal et al. (arXiv 1907.04543).

The logs of five DQN agents per game, in 51 checkpoints of a million rows: gzipped ``npy`` arrays of single 84x84 grey
frames, actions (numbers within the game's minimal action set), raw rewards and terminals. The agents played at frame
skip 4 with sticky actions (probability 0.25); a lost life does not end a game. XTRA's own data has 96x96 RGB frames and
no sticky actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xtra_rl.data.append_file import DatasetError
from xtra_rl.data.frames import CompressedFrames
from xtra_rl.data.importers.dqn_files import (
    BASE_URL,
    FRAME_SHAPE,
    KINDS,
    count_rows,
    download_dqn_replay,
    file_name,
    find_logs,
)
from xtra_rl.data.importers.npy_stream import NpyStream
from xtra_rl.data.importers.shared import OnProgress, atari_task, convert_frames, progress_or
from xtra_rl.data.trajectories import TrajectoryDataset
from xtra_rl.data.trajectory_writer import TrajectoryWriter
from xtra_rl.envs.tasks import TaskSpec

# Dopamine's replay puts this many empty rows before each game, for its stacks of four frames.
_PADDING = 3
# Env steps after which Dopamine stops a game; its logs call that terminal.
_MAX_STEPS = 27_000
_PIECE = 512
_COMMIT_ROWS = 8192


def import_dqn_replay(
    source: str | Path | Literal["download"] | None,
    path: str | Path,
    task: str,
    *,
    run: int = 1,
    checkpoints: Sequence[int] | None = None,
    image_size: int | None = None,
    max_transitions: int | None = None,
    cache: str | Path | None = None,
    base_url: str = BASE_URL,
    on_progress: OnProgress | None = None,
) -> TrajectoryDataset:
    """Bring checkpoints of DQN Replay into a dataset, game by game; one that was interrupted is continued.

    The logs do not hold the frame after the last action of a game: it is the last frame again. Nothing is learnt from
    it, for values do not bootstrap across a termination and the consistency loss is masked there. Where a game is cut
    off (by the end of a file, or after 27,000 steps, which the logs call terminal) its last frame becomes the final
    observation of a truncated episode. A checkpoint therefore begins with the rest of a game, too.

    Memory stays at one episode of compressed frames and a few megabytes of actions, whatever the size of the files.

    Args:
        source: folder with the ``$store$_*_ckpt.N.gz`` files, or above ``<Game>/<run>/replay_logs``. ``"download"`` or
            None fetches the chosen checkpoints first, see :func:`download_dqn_replay`.
        path: folder of the dataset. Episodes get their checkpoint's number.
        task: name of the game.
        run: which of the five agents, 1 to 5. It is recorded with the settings: another one needs another dataset.
        checkpoints: which to take, 0 to 50; None takes all there are in the folder.
        image_size: frames are resized to this height and width, in pixels, by area; None keeps 84.
        max_transitions: stop behind the game with which the dataset has as many; None takes all.
        cache: where downloads go and stay, about 1 GB per checkpoint.
        base_url: where downloads come from.
        on_progress: told the rows of the logs that are done; by default a progress bar shows them.

    Raises:
        DatasetError: if files are missing, damaged or of different lengths, or the dataset has other settings.
        ValueError: if the task is no Atari game, the actions are not the game's, or a number is out of range.

    Example:
        A log of one short game:

        >>> import gzip, tempfile
        >>> logs, ends = Path(tempfile.mkdtemp()), np.arange(8) == 7
        >>> frames = np.ones((8, 84, 84), np.uint8)
        >>> columns = {"observation": frames, "action": np.zeros(8, np.int32), "reward": np.ones(8, np.float32)}
        >>> for kind, array in {**columns, "terminal": ends.astype(np.uint8)}.items():
        ...     with gzip.open(logs / f"$store$_{kind}_ckpt.0.gz", "wb") as file:
        ...         np.save(file, array)
        >>> dataset = import_dqn_replay(logs, f"{tempfile.mkdtemp()}/pong", "Pong", image_size=48)
        >>> dataset.num_episodes, dataset.frame_shape
        (1, (1, 48, 48))
    """
    spec = atari_task(task)
    size = FRAME_SHAPE[0] if image_size is None else image_size
    if size < 1 or (max_transitions is not None and max_transitions < 1):
        raise ValueError(f"image_size={image_size}, max_transitions={max_transitions}: expected at least 1")
    if source is None or source == "download":
        if cache is None or checkpoints is None:
            raise ValueError(
                f"cache={cache!r}, checkpoints={checkpoints}: a download needs both, a folder and numbers such as"
                " [0, 25, 50], each about 1 GB; or pass a folder as source"
            )
        download_dqn_replay(cache, spec.name, checkpoints=checkpoints, run=run, base_url=base_url)
        source = cache
    folder, chosen = find_logs(Path(source), spec.name, run, checkpoints)
    rows = {checkpoint: count_rows(folder, checkpoint) for checkpoint in chosen}
    writer = TrajectoryWriter(
        path,
        spec.name,
        frame_shape=(1, size, size),
        sticky=0.25,
        grayscale=True,
        env_settings={"source": "DQN Replay", "run": run, "terminal_on_life_loss": False},
        provenance={"importer": "dqn_replay", "source": "arXiv 1907.04543", "run": run},
        commit_rows=_COMMIT_ROWS,
    )
    bar = progress_or(on_progress, sum(rows.values()), description=f"import {spec.name}", unit="row")
    with writer, bar as display:
        for checkpoint in chosen:
            log = _Log.read(folder, checkpoint, rows[checkpoint], spec)
            _import_log(log, writer, size, max_transitions, display)
    return TrajectoryDataset(path)


@dataclass(frozen=True)
class _Log:
    """One checkpoint without its frames: ``[M]`` arrays, and the games in them as ``(start, stop)``."""

    observations: Path
    checkpoint: int
    action: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    spans: list[tuple[int, int]]

    @classmethod
    def read(cls, folder: Path, checkpoint: int, rows: int, spec: TaskSpec) -> _Log:
        arrays = {}
        for kind in KINDS[1:]:
            with NpyStream(folder / file_name(kind, checkpoint)) as array:
                arrays[kind] = array.read(rows)
                array.finish()
        wrong = (arrays["action"] < 0) | (arrays["action"] >= len(spec.action_ids))
        if wrong.any():
            raise ValueError(
                f"task={spec.name!r} has {len(spec.action_ids)} actions, but checkpoint {checkpoint} in "
                f"{str(folder)!r} holds action {arrays['action'][wrong][0]}; name the game that the files are of"
            )
        ends = np.flatnonzero(arrays["terminal"]) + 1
        bounds = np.unique([0, *ends, rows]).tolist()
        return cls(
            folder / file_name("observation", checkpoint),
            checkpoint,
            np.array(spec.action_ids)[arrays["action"]],
            arrays["reward"].astype(np.float32),
            arrays["terminal"].astype(bool),
            list(zip(bounds[:-1], bounds[1:])),
        )

    def is_complete(self, there: frozenset[int]) -> bool:
        """Whether the dataset has all games; only a rest after the last end can be too short to be one."""
        return all(
            number in there or (start > 0 and stop - start <= _PADDING + 1 and not self.terminal[stop - 1])
            for number, (start, stop) in enumerate(self.spans)
        )

    def leading_padding(self, start: int, frames: np.ndarray) -> int:
        """How many of the first frames ``[n, 84, 84]`` of a game are padding."""
        first = slice(start, start + min(_PADDING, len(frames)))
        empty = ~frames[:_PADDING].any(axis=(1, 2)) & (self.reward[first] == 0) & ~self.terminal[first]
        # Action 0 is NOOP in every minimal action set, so the mapped ids tell padding as well.
        return int(np.logical_and.accumulate(empty & (self.action[first] == 0)).sum())


def _import_log(
    log: _Log,
    writer: TrajectoryWriter,
    size: int,
    max_transitions: int | None,
    display: OnProgress,
) -> None:
    there = writer.numbers(log.checkpoint)
    if log.is_complete(there):
        display.update(len(log.action))
        return
    with NpyStream(log.observations) as frames:
        for number, (start, stop) in enumerate(log.spans):
            if max_transitions is not None and writer.num_transitions >= max_transitions:
                return
            if number in there:
                frames.skip(stop - start)
            else:
                episode = _read_episode(log, frames, start, stop, size)
                if episode is not None:
                    writer.add_episode(episode, checkpoint=log.checkpoint, number=number)
            display.update(stop - start)
        try:
            frames.finish()
        except DatasetError as error:
            raise DatasetError(
                f"{error}, and import into a new folder: frames of checkpoint {log.checkpoint} in "
                f"{str(writer.path)!r} may be wrong"
            ) from error


def _read_episode(log: _Log, frames: NpyStream, start: int, stop: int, size: int) -> dict[str, Any] | None:
    """Rows ``[T + 1]`` of one game, or None if it has no transition."""
    compressed, dropped = CompressedFrames((1, size, size)), 0
    for first in range(start, stop, _PIECE):
        piece = frames.read(min(_PIECE, stop - first))
        if first == start:
            dropped = log.leading_padding(start, piece)
            piece = piece[dropped:]
        compressed.add(convert_frames(piece[:, None], image_size=size))
    begin = start + dropped
    terminated = bool(log.terminal[stop - 1]) and stop - begin != _MAX_STEPS
    transitions = stop - begin - (0 if terminated else 1)
    if transitions < 1:
        return None
    if terminated:
        compressed.add(compressed.last())
    rows = transitions + 1
    last = np.arange(rows) == rows - 2
    return {
        "pixels": compressed,
        # The final row's action and reward mean nothing; the writer sets them to 0.
        "action": np.resize(log.action[begin:stop], rows),
        "reward": np.resize(log.reward[begin:stop], rows),
        "terminated": last & terminated,
        "truncated": last & (not terminated),
    }
