"""The run directory: what a run was, what made it and what came out, as plain files."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xtra_rl.files import (
    FolderLock,
    atomic_write_text,
    config_sha256,
    existing,
    path_sha256,
    read_json,
    to_plain,
    write_json,
)

__all__ = ["RunDirectory", "SUMMARY_KEYS"]

SUMMARY_KEYS = (
    "recipe",
    "scale",
    "seed",
    "target",
    "env_steps",
    "train_steps",
    "wall_seconds",
    "eval/mean_return",
    "eval/hns",
    "eval/returns",
    "checkpoint",
)
"""Keys that every ``summary.json`` holds; a value that does not apply to a recipe is ``None``."""

PACKAGES = (
    "xtra_rl",
    "torch",
    "torchrl",
    "tensordict",
    "ale-py",
    "gymnasium",
    "numpy",
    "hydra-core",
    "omegaconf",
    "triton",
    "safetensors",
    "wandb",
    "tensorboard",
)
"""Distributions whose versions are written into a manifest."""


class RunDirectory:
    """Create (or reopen) ``<path>/{checkpoints,videos,figures}`` and write the files that describe a run.

    Args:
        path: the run directory; parents are created. A directory that holds a run is reopened as it is.

    Raises:
        ValueError: if ``path`` exists and is not a directory.

    Example:
        >>> import tempfile
        >>> run = RunDirectory(tempfile.mkdtemp())
        >>> run.write_config({"seed": 0, "search": {"num_simulations": 16}})
        >>> run.read_config()["search"]["num_simulations"]
        16
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(
                f"run_dir={str(path)!r} is a file, but a directory was expected; pass another path"
            )
        for folder in (self.checkpoints, self.videos, self.figures):
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Keep other processes out meanwhile.

        Raises:
            ValueError: if somebody else owns the directory.
        """
        lock = FolderLock(self.path, owner="run")
        try:
            yield
        finally:
            lock.release()

    def reopen(self) -> None:
        """Take a run that was stopped early for an unfinished one again."""
        (self.path / "summary.json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget the run that is here: summary, evaluations, checkpoints, models, bad batches, pictures, videos."""
        self.reopen()
        (self.path / "evaluations.csv").unlink(missing_ok=True)
        for folder in (self.checkpoints, self.models, self.path / "model", self.path / "bad-batches"):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.videos, self.figures):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self.checkpoints.mkdir()

    @property
    def is_finished(self) -> bool:
        """Whether a run ended here, with a summary."""
        return (self.path / "summary.json").is_file()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a run here to go on with: a complete checkpoint, of whatever stage."""
        return any(self.checkpoints.rglob("step_*/manifest.json"))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def checkpoints(self) -> Path:
        """Folder of training checkpoints, from which a killed run goes on."""
        return self.path / "checkpoints"

    @property
    def models(self) -> Path:
        """Folder of the models saved at evaluations, and of the best of them."""
        return self.path / "models"

    @property
    def videos(self) -> Path:
        """Folder of recorded episodes."""
        return self.path / "videos"

    @property
    def figures(self) -> Path:
        """Folder of pictures."""
        return self.path / "figures"

    @property
    def metrics(self) -> Path:
        """The deterministic metrics, ``env_step,train_step,metric,value``."""
        return self.path / "metrics.csv"

    @property
    def throughput(self) -> Path:
        """The speed metrics, which differ from run to run and are therefore kept apart."""
        return self.path / "throughput.csv"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved config (a nested mapping of plain values) to ``config.yaml``."""
        import yaml

        text = yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)
        atomic_write_text(self.path / "config.yaml", text)

    def read_config(self) -> dict[str, Any]:
        """The config that :meth:`write_config` wrote."""
        import yaml

        return yaml.safe_load(existing(self.path / "config.yaml").read_text(encoding="utf-8"))

    def write_manifest(
        self,
        *,
        recipe: str,
        config: Mapping[str, Any],
        device: str,
        inputs: Mapping[str, str | os.PathLike[str]] | None = None,
        command_line: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Write ``manifest.json``: everything that made this run, and return it.

        Args:
            recipe: name of the recipe.
            config: the resolved config; its hash is stored, the text is in ``config.yaml``.
            device: where tensors live, e.g. ``"cpu"`` or ``"cuda:0 (NVIDIA H100)"``.
            inputs: files and directories that the run reads, by a name; hashing reads each one once.
            command_line: the command; default ``sys.argv``.

        Raises:
            ValueError: if an input does not exist.
        """
        manifest = {
            "recipe": recipe,
            "command_line": list(sys.argv if command_line is None else command_line),
            "config_sha256": config_sha256(config),
            "inputs": {
                name: {"path": str(path), "sha256": path_sha256(path)}
                for name, path in (inputs or {}).items()
            },
            "git_commit": git_commit(),
            "packages": package_versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "device": device,
            "date": _now(),
        }
        write_json(self.path / "manifest.json", manifest)
        return manifest

    def continue_manifest(
        self,
        config: Mapping[str, Any],
        inputs: Mapping[str, str | os.PathLike[str]],
        command_line: Sequence[str] | None = None,
    ) -> None:
        """Note in the manifest that the run goes on now, with the same inputs; limits and places may be others.

        Raises:
            ValueError: if an input is missing or of other content than at the start.
        """
        manifest = self.read_manifest()
        for name, path in inputs.items():
            before = manifest["inputs"].get(name, {}).get("sha256")
            if path_sha256(path) != before:
                raise ValueError(
                    f"{self.path} was started with another {name} than {str(path)!r}; restore it, or start again with"
                    " resume=restart"
                )
        now = {
            "date": _now(),
            "git_commit": git_commit(),
            "command_line": list(sys.argv if command_line is None else command_line),
        }
        write_json(
            self.path / "manifest.json",
            manifest
            | {"config_sha256": config_sha256(config), "continued": [*manifest.get("continued", []), now]},
        )

    def read_manifest(self) -> dict[str, Any]:
        """The manifest that :meth:`write_manifest` wrote."""
        return read_json(self.path / "manifest.json")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``; further keys than :data:`SUMMARY_KEYS` are welcome.

        Raises:
            ValueError: if a key of :data:`SUMMARY_KEYS` is missing, or a number is not finite.
        """
        missing = [key for key in SUMMARY_KEYS if key not in summary]
        if missing:
            raise ValueError(
                f"summary lacks {', '.join(missing)}; every summary holds {', '.join(SUMMARY_KEYS)}: "
                "pass None for what does not apply"
            )
        write_json(self.path / "summary.json", summary)

    def read_summary(self) -> dict[str, Any]:
        """The summary that :meth:`write_summary` wrote."""
        return read_json(self.path / "summary.json")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Installed versions of :data:`PACKAGES`; what is not installed is left out."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def git_commit() -> str | None:
    """Commit of the checkout that this library runs from, ``+changes`` if files differ; None outside of
    one."""
    folder = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # A library installed inside somebody else's repository must not report that repository's commit.
        git("ls-files", "--error-unmatch", "__init__.py")
        commit = git("rev-parse", "HEAD")
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None
