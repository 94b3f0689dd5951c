"""Training checkpoints: the state of everything that a killed run needs to go on.

Nothing here runs code from a file: checkpoints are read with ``weights_only=True``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from xtra_rl.files import file_sha256, read_json, write_directory, write_json

_logger = logging.getLogger(__name__)

_CHECKPOINT_NAME = re.compile(r"step_(\d+)")


class Checkpoint(NamedTuple):
    """A training checkpoint that was read: the state of every component by name."""

    step: int
    path: Path
    states: dict[str, Any]


def save_checkpoint(
    path: str | os.PathLike[str],
    components: Mapping[str, Any],
    *,
    step: int,
    keep: int = 2,
    keep_every: int | None = None,
) -> Path:
    """Write ``<path>/step_<step>/`` atomically and durably, then delete the oldest checkpoints beyond ``keep``.

    Checkpoints of a later step are deleted too: they belong to a training that was given up.

    Args:
        path: the folder of all checkpoints of a run.
        components: by name, objects with ``state_dict()`` or plain states (numbers, strings, containers,
            tensors).
        step: position of the training; orders the checkpoints.
        keep: number of checkpoints that stay, at least 1.
        keep_every: of the steps from each multiple of this number to the next, the first checkpoint stays for good.

    Raises:
        ValueError: if ``keep`` or ``keep_every`` is below 1, or a state cannot be read back without running code from
            the file.
        OSError: if it cannot be written, for example because the disk is full; the checkpoints before are untouched.

    Example:
        >>> import tempfile
        >>> folder, model = tempfile.mkdtemp(), torch.nn.Linear(2, 1)
        >>> save_checkpoint(folder, {"model": model, "games": 12}, step=100).name
        'step_000000100'
    """
    if keep < 1 or (keep_every is not None and keep_every < 1):
        raise ValueError(
            f"keep={keep}, keep_every={keep_every}: expected at least 1, or the new one would go"
        )
    folder = Path(path)
    states = {name: _state_of(component) for name, component in components.items()}

    def write(target: Path) -> None:
        # Through a file of Python's: a full disk is then an OSError, and what was written can be forced to the disk.
        with open(target / "state.pt", "wb") as file:
            torch.save(states, file)
            file.flush()
            os.fsync(file.fileno())
        _check_readable(target / "state.pt", states)
        write_json(target / "manifest.json", {"step": step, "sha256": file_sha256(target / "state.pt")})

    target = folder / f"step_{step:09d}"
    write_directory(target, write)
    _rotate(folder, step, keep, keep_every)
    return target


def _rotate(folder: Path, step: int, keep: int, keep_every: int | None) -> None:
    checkpoints = dict(_checkpoints(folder))
    # A later step belongs to a training that was given up (or is damaged): this one continues from before it.
    current = [other for other in checkpoints if other <= step]
    stay = set(current[:keep])
    if keep_every is not None:
        # From the newest to the oldest, so that the oldest of each stretch is what remains in the dict.
        stay |= set({other // keep_every: other for other in current if other >= keep_every}.values())
    outdated = [path for other, path in checkpoints.items() if other not in stay]
    for old in (*outdated, *folder.glob(".step_*")):
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    path: str | os.PathLike[str],
    components: Mapping[str, Any] | None = None,
    *,
    map_location: str | torch.device = "cpu",
) -> Checkpoint | None:
    """Read the newest good checkpoint of a run; a damaged one is skipped with a warning.

    Args:
        path: the folder given to :func:`save_checkpoint`.
        components: objects whose ``load_state_dict`` gets the state of the same name.
        map_location: device of the tensors that are read.

    Returns:
        The checkpoint, or ``None`` if there is none at all.

    Raises:
        ValueError: if all checkpoints are damaged, or the checkpoint lacks one of ``components``.

    Example:
        >>> import tempfile
        >>> folder, model, other = tempfile.mkdtemp(), torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        >>> _ = save_checkpoint(folder, {"model": model, "games": 12}, step=100)
        >>> found = load_checkpoint(folder, {"model": other})
        >>> found.step, found.states["games"], torch.equal(model.weight, other.weight)
        (100, 12, True)
    """
    candidates = _checkpoints(Path(path))
    for step, folder in candidates:
        try:
            manifest = read_json(folder / "manifest.json")
            if file_sha256(folder / "state.pt") != manifest["sha256"]:
                raise ValueError("its sha256 differs from the manifest's")
            states = torch.load(folder / "state.pt", map_location=map_location, weights_only=True)
        except Exception as error:
            _logger.warning("checkpoint %s is damaged (%s); trying the one before", folder, error)
            continue
        _restore(components or {}, states, folder)
        return Checkpoint(step, folder, states)
    if candidates:
        raise ValueError(f"all checkpoints in {path} are damaged; start again with resume=restart")
    return None


def _state_of(component: Any) -> Any:
    return component.state_dict() if hasattr(component, "state_dict") else component


def _restore(components: Mapping[str, Any], states: Mapping[str, Any], folder: Path) -> None:
    missing = [name for name in components if name not in states]
    if missing:
        raise ValueError(
            f"checkpoint {folder} has no state for {', '.join(missing)}; it holds {', '.join(states)}: "
            "continue with the settings that wrote it, or start again with resume=restart"
        )
    for name, component in components.items():
        component.load_state_dict(states[name])


def _check_readable(file: Path, states: Mapping[str, Any]) -> None:
    """Fail when a checkpoint is written, not days later when it is needed."""
    try:
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        types = ", ".join(f"{name} ({type(state).__name__})" for name, state in states.items())
        raise ValueError(
            f"a component of the checkpoint holds objects other than tensors and plain values, which are "
            f"not read back for safety: {str(error).splitlines()[0]} Components: {types}. Convert "
            "them in state_dict()"
        ) from error


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Complete checkpoints, newest first."""
    matches = [(_CHECKPOINT_NAME.fullmatch(path.name), path) for path in folder.glob("step_*")]
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)
