"""Model directories (weights to share) and training checkpoints (state to continue from).

Nothing here unpickles untrusted data: models are safetensors, checkpoints are read with
``weights_only=True``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from xtra_rl.files import (
    atomic_write_text,
    file_sha256,
    read_json,
    recover_directory,
    replace_directory,
    write_json,
)

_logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
FORMAT = "xtra_rl.model"
FORMAT_VERSION = 1

_CHECKPOINT_NAME = re.compile(r"step_(\d+)")


class ModelFiles(NamedTuple):
    """What a model directory holds."""

    state_dict: dict[str, torch.Tensor]
    config: dict[str, Any]
    metadata: dict[str, Any]


class Checkpoint(NamedTuple):
    """A training checkpoint that was read: the state of every component by name."""

    step: int
    path: Path
    states: dict[str, Any]


def save_model(
    path: str | os.PathLike[str],
    world_model: nn.Module,
    *,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    readme: str | None = None,
) -> Path:
    """Write the directory ``path`` with ``model.safetensors`` and ``config.json``, atomically.

    Args:
        path: the model directory; an older model there is replaced when the new one is complete.
        world_model: the module whose parameters and buffers are saved.
        config: constructor arguments of the architecture; what :func:`load_into` names when shapes differ.
        metadata: anything plain about the model: task set, scores, steps, the run that made it.
        readme: text of a ``README.md`` beside them, for a model to share.

    Raises:
        ValueError: if the module's state holds something that is not a tensor, or ``path`` is a file or holds
            something else than a model of this library, which would be lost.
    """
    path = Path(path)
    _check_replaceable(path, {WEIGHTS, "config.json"} | ({"README.md"} if readme is not None else set()))
    tensors = {}
    for name, value in world_model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"state_dict()[{name!r}] is a {type(value).__name__}, but a model directory holds tensors "
                "only; make it a buffer or leave it out of the state"
            )
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()

    def write(folder: Path) -> None:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "config": config,
            "metadata": metadata,
            "sha256": {WEIGHTS: file_sha256(folder / WEIGHTS)},
        }
        write_json(folder / "config.json", description)
        if readme is not None:
            atomic_write_text(folder / "README.md", readme)

    _write_directory(path, write)
    return path


def _check_replaceable(path: Path, names: set[str]) -> None:
    """Refuse a folder that is not empty and not an older model of this library."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"path={str(path)!r} is a file, but a folder was expected; pass another path")
    found = {file.name for file in path.iterdir()} if path.exists() else set()
    lost = found - names
    if found and not lost and not _is_model_description(path / "config.json"):
        lost = found
    if lost:
        raise ValueError(
            f"path={str(path)!r} holds {min(lost)!r} and would be replaced as a whole; "
            "pass a new or empty folder"
        )


def _is_model_description(file: Path) -> bool:
    try:
        description = read_json(file)
    except ValueError:
        return False
    return isinstance(description, dict) and description.get("format") == FORMAT


def load_model_weights(path: str | os.PathLike[str]) -> ModelFiles:
    """Read a model directory, after checking its weights against the stored sha256.

    Returns:
        ``(state_dict, config, metadata)``; the tensors are on the CPU.

    Raises:
        ValueError: if the directory or a file is missing, of another format or corrupt.
    """
    path = Path(path)
    recover_directory(path)
    for file in (path / "config.json", path / WEIGHTS):
        if not file.is_file():
            raise ValueError(
                f"model={str(path)!r} is not a model directory: {file.name} is missing; expected a folder "
                f"with config.json and {WEIGHTS}, as save_model writes it"
            )
    description = _read_description(path)
    expected = description["sha256"][WEIGHTS]
    found = file_sha256(path / WEIGHTS)
    if found != expected:
        raise ValueError(
            f"{path / WEIGHTS} is corrupt: its sha256 is {found[:12]}..., but config.json says "
            f"{str(expected)[:12]}...; copy or make the model again"
        )
    try:
        return ModelFiles(load_file(path / WEIGHTS), description["config"], description["metadata"])
    except SafetensorError as error:
        raise ValueError(
            f"{path / WEIGHTS} is not a safetensors file ({error}); copy or make the model again"
        ) from error


def _read_description(path: Path) -> dict[str, Any]:
    description = read_json(path / "config.json")
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ValueError(
            f"{path / 'config.json'} does not describe a model of this library (format {FORMAT!r} expected); "
            "pass the directory that save_model wrote"
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {description.get('format_version')!r}, but this version of xtra_rl "
            f"reads {FORMAT_VERSION}; use the version that wrote it"
        )
    parts = [description.get(name) for name in ("config", "metadata", "sha256")]
    if not all(isinstance(part, dict) for part in parts) or WEIGHTS not in description["sha256"]:
        raise ValueError(
            f"{path / 'config.json'} is incomplete: config, metadata and the sha256 of {WEIGHTS} were expected; "
            "copy or make the model again"
        )
    return description


def load_into(
    world_model: nn.Module,
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
) -> ModelFiles:
    """Copy the weights of a model directory into a module of the same architecture.

    Args:
        world_model: the module that receives the weights; it is not touched if anything differs.
        path: the model directory.
        config: constructor arguments of ``world_model``; if given, an error names those that differ.

    Raises:
        ValueError: as :func:`load_model_weights`, and if names or shapes of tensors differ.
    """
    model = load_model_weights(path)
    problems = _shape_differences(world_model.state_dict(), model.state_dict)
    if problems:
        shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise ValueError(
            f"model={str(path)!r} has another architecture: {shown}. {_advice(config, model.config)}"
        )
    world_model.load_state_dict(model.state_dict)
    return model


def _shape_differences(here: Mapping[str, Any], stored: Mapping[str, torch.Tensor]) -> list[str]:
    problems = []
    for name in [*here, *(name for name in stored if name not in here)]:
        ours = list(here[name].shape) if name in here else None
        theirs = list(stored[name].shape) if name in stored else None
        if ours != theirs:
            problems.append(f"{name} is {_shape(theirs)} in the file and {_shape(ours)} in the module")
    return problems


def _shape(shape: list[int] | None) -> str:
    return "absent" if shape is None else str(shape)


def _advice(config: Mapping[str, Any] | None, stored: Mapping[str, Any]) -> str:
    differing = [name for name in stored if config is not None and config.get(name) != stored[name]]
    names = differing or list(stored)
    arguments = ", ".join(f"{name}={stored[name]!r}" for name in names)
    return f"Build the module with the stored arguments: {arguments}"


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
    _write_directory(target, write)
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


def _write_directory(target: Path, write: Callable[[Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    # Left by a process that was killed while it wrote; two never write the same directory.
    for left in target.parent.glob(f".{target.name}.????????.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
