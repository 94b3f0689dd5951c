"""Atari datasets of Minari (https://minari.farama.org).

The published ones, ``atari/<game>/expert-v0``, are ten games each of a PPO agent, whole screens of 210x160 in RGB, kept
as JPEG. They were played at frame skip 4 without sticky actions, and without taking the maximum of two frames: objects
that the console draws in every other frame only may be missing. XTRA's own data has 96x96 RGB frames with that maximum.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtra_rl.data.append_file import DatasetError
from xtra_rl.data.frames import CompressedFrames
from xtra_rl.data.importers.shared import OnProgress, atari_task, convert_frames, progress_or
from xtra_rl.data.trajectories import TrajectoryDataset
from xtra_rl.data.trajectory_writer import TrajectoryWriter
from xtra_rl.envs.tasks import NUM_ATARI_ACTIONS, TaskSpec, get_task

if TYPE_CHECKING:
    from minari import EpisodeData, MinariDataset

# Wrappers that leave actions and rewards alone, and frames but for their shape.
_HARMLESS = {
    "AtariPreprocessing",
    "DataCollector",
    "GrayscaleObservation",
    "MaxAndSkipObservation",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "ResizeObservation",
    "TimeLimit",
}
_PIECE = 64


def import_minari(
    dataset: str | Path | MinariDataset,
    path: str | Path,
    task: str,
    *,
    image_size: int | None = None,
    grayscale: bool | None = None,
    max_episodes: int | None = None,
    download: bool = False,
    on_progress: OnProgress | None = None,
) -> TrajectoryDataset:
    """Bring an Atari dataset of Minari into our format; an import that was interrupted is continued.

    An episode that is marked neither terminated nor truncated was cut and becomes truncated. Minari decodes an episode
    at a time, which takes 0.1 MB of memory for each frame of 210x160 in RGB.

    Args:
        dataset: a loaded dataset, the folder of one, or an id such as ``"atari/phoenix/expert-v0"``.
        path: folder of our dataset. Episodes keep their number and get checkpoint 0.
        task: name of the game.
        image_size: frames are resized to this height and width, in pixels, by area; None keeps their size.
        grayscale: True turns RGB into grey; None keeps what there is.
        max_episodes: take only as many, from the front; None takes all.
        download: fetch the dataset of that id if it is not there.
        on_progress: told the episodes that are done; by default a progress bar shows them.

    Raises:
        DatasetError: if there is no such dataset, it does not say how it was played, or our folder has other settings.
        ValueError: if Minari is not installed, or the dataset is of another game or kind.

    Example:
        >>> dataset = import_minari(  # doctest: +SKIP
        ...     "atari/phoenix/expert-v0", "data/phoenix", "Phoenix", image_size=96, download=True
        ... )
    """
    spec = atari_task(task)
    if (image_size is not None and image_size < 1) or (max_episodes is not None and max_episodes < 1):
        raise ValueError(f"image_size={image_size}, max_episodes={max_episodes}: expected at least 1")
    source = _load(dataset, download)
    env = _env_settings(source, spec)
    action_ids = _action_ids(source, spec)
    height, width, channels = _frame_layout(source)
    if grayscale is False and channels == 1:
        raise ValueError(
            f"grayscale=False, but the frames of {source.id!r} are grey already; leave the argument out"
        )
    grey = channels == 1 or bool(grayscale)
    writer = TrajectoryWriter(
        path,
        spec.name,
        frame_shape=(1 if grey else 3, image_size or height, image_size or width),
        grayscale=grey,
        frame_skip=env.pop("frame_skip"),
        sticky=env.pop("sticky"),
        env_settings=env,
        provenance=_provenance(source),
    )
    indices = source.episode_indices[:max_episodes].tolist()
    bar = progress_or(on_progress, len(indices), description=f"import {spec.name}", unit="episode")
    with writer, bar as display:
        missing = [index for index in indices if index not in writer.numbers(0)]
        display.update(len(indices) - len(missing))
        for index, episode in zip(missing, _episodes(source, missing)):
            if len(episode):
                rows = _rows(episode, source.id, action_ids, image_size, grey)
                writer.add_episode(rows, checkpoint=0, number=index)
            display.update(1)
    return TrajectoryDataset(path)


def _load(dataset: str | Path | MinariDataset, download: bool) -> MinariDataset:
    try:
        import minari
    except ImportError as error:
        raise ValueError("reading Minari's datasets needs minari; pip install 'xtra_rl[import]'") from error
    if isinstance(dataset, minari.MinariDataset):
        return dataset
    try:
        folder = Path(dataset)
        if folder.is_dir():
            return minari.MinariDataset(folder / "data" if (folder / "data").is_dir() else folder)
        return minari.load_dataset(str(dataset), download=download)
    except ImportError as error:
        raise ValueError(f"dataset {str(dataset)!r} needs another package: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"dataset {str(dataset)!r} cannot be opened ({error}); pass a folder of Minari's or an id that "
            "`minari list remote` shows, with download=True"
        ) from error


def _env_settings(source: MinariDataset, spec: TaskSpec) -> dict[str, Any]:
    """How the games were played, by the environment that the dataset names."""
    env = source.env_spec
    if env is None:
        raise DatasetError(
            f"{source.id!r} does not name its environment, so frame skip and sticky actions are unknown; record it "
            "again with one, or write it with TrajectoryWriter"
        )
    game = env.kwargs.get("game") or re.sub(r"^ALE/|(NoFrameskip|Deterministic|-ram)*-v\d+$", "", env.id)
    if get_task(game).name != spec.name:
        raise ValueError(f"task={spec.name!r}, but {source.id!r} is of {game!r}; name that game")
    wrappers = {wrapper.name: wrapper.kwargs or {} for wrapper in env.additional_wrappers}
    unknown = sorted(set(wrappers) - _HARMLESS)
    if unknown:
        raise ValueError(
            f"{source.id!r} was recorded behind {unknown}, of which we do not know what they do to frames, actions and "
            f"rewards; expected none but {sorted(_HARMLESS)}, so write it with TrajectoryWriter"
        )
    # The defaults are those of ale-py's and Gymnasium's constructors.
    skip, sticky = env.kwargs.get("frameskip", 4), env.kwargs.get("repeat_action_probability", 0.25)
    if not isinstance(skip, int):
        raise ValueError(
            f"{source.id!r} has a random frame skip {skip}; expected one number, take another dataset"
        )
    preprocessing = wrappers.get("AtariPreprocessing")
    outer = 1 if preprocessing is None else preprocessing.get("frame_skip", 4)
    pooled = outer > 1
    if "MaxAndSkipObservation" in wrappers:
        outer, pooled = outer * wrappers["MaxAndSkipObservation"].get("skip", 4), True
    return {
        "frame_skip": skip * outer,
        "sticky": float(sticky),
        "source": f"Minari {source.id}",
        "terminal_on_life_loss": bool((preprocessing or {}).get("terminal_on_life_loss", False)),
        "max_pool": pooled,
        "jpeg": bool(getattr(source.storage, "jpeg_encoding", True)),
    }


def _provenance(source: MinariDataset) -> dict[str, Any]:
    from importlib.metadata import version

    metadata = source.storage.metadata
    return {
        "importer": "minari",
        "dataset": source.id,
        "algorithm": str(metadata.get("algorithm_name", "")),
        "written_by": f"minari {source.spec.minari_version}",
        "read_by": f"minari {version('minari')}",
    }


def _action_ids(source: MinariDataset, spec: TaskSpec) -> np.ndarray:
    """ALE's ids of the actions that the dataset counts from 0."""
    number = getattr(source.action_space, "n", None)
    if getattr(source.action_space, "start", 0) != 0:
        number = None
    if number == NUM_ATARI_ACTIONS:
        return np.arange(NUM_ATARI_ACTIONS)
    if number == len(spec.action_ids):
        return np.array(spec.action_ids)
    raise ValueError(
        f"{source.id!r} has actions {source.action_space}; expected Discrete({len(spec.action_ids)}), the minimal set "
        f"of {spec.name!r}, or Discrete({NUM_ATARI_ACTIONS}), so name another game or dataset"
    )


def _frame_layout(source: MinariDataset) -> tuple[int, int, int]:
    """``(H, W, C)`` of the frames."""
    space = source.observation_space
    shape: tuple[int, ...] = tuple(space.shape or ())
    single = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if not single or space.dtype != np.uint8:
        raise ValueError(
            f"{source.id!r} has observations of shape {shape} and type {space.dtype}; expected single uint8 frames "
            "(H, W), (H, W, 1) or (H, W, 3), so take a dataset without frame stacks"
        )
    return shape[0], shape[1], shape[2] if len(shape) == 3 else 1


def _episodes(source: MinariDataset, indices: list[int]) -> Iterator[EpisodeData]:
    try:
        yield from source.iterate_episodes(indices)
    except (OSError, KeyError) as error:
        raise DatasetError(f"{source.id!r} is damaged ({error}); download it again") from error


def _rows(
    episode: EpisodeData, name: str, action_ids: np.ndarray, image_size: int | None, grey: bool
) -> dict[str, Any]:
    """Rows ``[T + 1]`` of one episode."""
    steps, frames = len(episode), episode.observations
    lengths = {"observations": len(frames) - 1, "actions": len(episode.actions), "rewards": steps}
    if len(set(lengths.values())) > 1:
        raise DatasetError(
            f"episode {episode.id} of {name!r} has steps {lengths}; expected equal numbers, so download it again"
        )
    if not (episode.actions.min() >= 0 and episode.actions.max() < len(action_ids)):
        raise ValueError(
            f"episode {episode.id} of {name!r} holds action {int(episode.actions.max())} of {len(action_ids)}; name the"
            " game that the dataset is of"
        )
    pixels: CompressedFrames | None = None
    for start in range(0, steps + 1, _PIECE):
        piece = frames[start : start + _PIECE]
        piece = piece.reshape(*piece.shape[:3], -1).transpose(0, 3, 1, 2)
        piece = convert_frames(piece, image_size=image_size, grayscale=grey)
        if pixels is None:
            pixels = CompressedFrames(piece.shape[1:])
        pixels.add(piece)
    terminated = np.append(episode.terminations, False).astype(bool)
    truncated = np.append(episode.truncations, False).astype(bool) & ~terminated
    truncated[-2] |= not terminated[-2]
    return {
        "pixels": pixels,
        "action": np.append(action_ids[episode.actions], 0),
        "reward": np.append(episode.rewards, 0).astype(np.float32),
        "terminated": terminated,
        "truncated": truncated,
    }
