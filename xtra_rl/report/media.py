"""Videos of the agents and a frame of each game, small enough to lie inside a page."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xtra_rl.envs.tasks import get_task
from xtra_rl.report.collect import Group
from xtra_rl.report.measures import game_title
from xtra_rl.runs.files import named_files
from xtra_rl.runs.record import Run

_MIME = {".mp4": "video/mp4", ".gif": "image/gif"}
_FRAME_STEPS = 60  # Enough for the first enemies of most games to be on the screen.

_logger = logging.getLogger(__name__)


class Video(NamedTuple):
    """The last video of a run; ``content`` is ``None`` where it would make the page too large."""

    title: str
    path: Path
    mime: str
    size: int
    content: bytes | None


class GameSheet(NamedTuple):
    """What a game looks like and how it is scored; ``frame`` is a PNG, ``None`` where there is no picture."""

    task: str
    title: str
    category: str
    actions: int | None
    random_score: float | None
    human_score: float | None
    frame: bytes | None


def videos(group: Group, max_bytes: int) -> list[Video]:
    """A video for each system and game, of the first seed that has one; as many as fit into ``max_bytes``.

    The whole method comes first, so that every game is seen before any is seen twice.
    """
    found, left = [], max_bytes
    seen: set[Path] = set()  # Systems that are the same at a scale share their runs.
    for system in sorted(group.study.systems, key=lambda system: system.published != "xtra"):
        for target in group.study.targets:
            runs = group.cells.get((system.name, target), ())
            path = next((path for run in runs if (path := _last_video(run))), None)
            if path is None or path.resolve() in seen:
                continue
            seen.add(path.resolve())
            run = next(run for run in runs if run.path in path.parents)
            title = f"{game_title(target)}, {system.label}, seed {run.summary['seed']}"
            size = path.stat().st_size
            content = path.read_bytes() if size <= left else None
            left -= size if content is not None else 0
            found.append(Video(title, path, _MIME[path.suffix], size, content))
    return found


def _last_video(run: Run) -> Path | None:
    """The newest video of a run that a browser can play."""
    files = [Path(name) for name in named_files(run.path)]
    playable = [file for file in files if file.suffix in _MIME and file.parent.name == "videos"]
    return max(playable, key=lambda file: file.stat().st_mtime_ns, default=None)


def game_sheets(groups: list[Group]) -> list[GameSheet]:
    """A sheet for each game of some studies."""
    targets = dict.fromkeys(target for group in groups for target in group.study.targets)
    return [_sheet(target, list(_runs_on(groups, target))) for target in targets]


def _runs_on(groups: list[Group], target: str) -> Iterator[Run]:
    for group in groups:
        yield from (run for run in group.counted() if run.target == target)


def _sheet(target: str, runs: list[Run]) -> GameSheet:
    try:
        spec = get_task(target)
    except ValueError:  # A task of the user's own, registered in another process.
        return GameSheet(target, game_title(target), "custom", None, None, None, _video_frame(runs))
    frame = _atari_frame(spec.ale_name) if spec.ale_name else _video_frame(runs)
    return GameSheet(
        target, game_title(target), spec.category, len(spec.action_ids), spec.random_score, spec.human_score, frame
    )  # fmt: skip


def _atari_frame(name: str) -> bytes | None:
    """The screen after some seconds without an action."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setInt("random_seed", 0)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(str(ale_py.roms.get_rom_path(name)))
    rng, actions = np.random.default_rng(0), ale.getMinimalActionSet()
    for _ in range(_FRAME_STEPS):
        action = actions[int(rng.integers(len(actions)))]
        for _ in range(4):
            if not ale.game_over():
                ale.act(action)
    # Two frames: what flickers is drawn in every other one.
    first = ale.getScreenRGB()
    ale.act(actions[0])
    return _png(np.maximum(first, ale.getScreenRGB()))


def _video_frame(runs: list[Run]) -> bytes | None:
    """A frame from the first second of an agent's video."""
    import imageio.v3 as imageio

    for path in filter(None, map(_last_video, runs)):
        try:
            return _png(np.asarray(imageio.imread(path, index=0)))
        except Exception as error:  # Whatever the decoder of a damaged file raises.
            _logger.warning("%s cannot be read (%s); the game has no picture from it", path, error)
    return None


def _png(frame: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    # The palettes of these games have far fewer colours.
    Image.fromarray(frame).quantize(64).save(file, format="PNG", optimize=True)
    return file.getvalue()
