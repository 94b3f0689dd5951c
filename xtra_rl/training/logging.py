"""Metrics, videos and figures of a run, sent to CSV files, Weights & Biases and TensorBoard.

The CSV files are always written; wandb and TensorBoard are TorchRL loggers beside them.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xtra_rl.files import to_plain, write_csv

if TYPE_CHECKING:
    import torch
    from torchrl.record.loggers.common import Logger

__all__ = ["METRIC_GROUPS", "RunLogger"]

METRIC_GROUPS = (
    "loss",
    "search",
    "task_weight",
    "grad_cos",
    "eval",
    "throughput",
    "train",
    "replay",
)
"""First part of every metric name; ``throughput`` holds what depends on the speed of the machine."""

LOGGERS = ("csv", "wandb", "tensorboard")
WANDB_MODES = ("online", "offline", "disabled")

_METRIC_NAME = re.compile(rf"({'|'.join(METRIC_GROUPS)})(/[\w.\-]+)+")


class RunLogger:
    """Send the metrics of a run to all chosen loggers; a logger that fails later never stops the training.

    Args:
        run_dir: the run directory; gets ``metrics.csv``, ``throughput.csv``, ``videos/`` and the local files
            of wandb and TensorBoard.
        loggers: any of ``"csv"`` (always on), ``"wandb"``, ``"tensorboard"``.
        config: the resolved config; sent to wandb and shown by TensorBoard.
        wandb_mode: ``None`` follows the environment variable ``WANDB_MODE``, else ``"online"``.
            ``"offline"`` needs neither account nor network and writes into the run directory.
        project: wandb project.
        run_name: name of the run in wandb and TensorBoard; default: the name of the run directory.
        group: runs of one group are drawn together in wandb, as mean and spread over seeds; the environment variable
            ``WANDB_RUN_GROUP`` wins.
        job_type: kind of run in wandb, such as the name of the recipe.
        tags: of the run in wandb.
        x_axis: step that wandb and TensorBoard plot against; offline training has no ``env_step``.
        resume: continue the CSV files and the wandb run of this directory instead of starting new ones.

    Raises:
        ValueError: for an unknown logger or mode, or if a chosen logger cannot start.

    Example:
        >>> import tempfile
        >>> with RunLogger(tempfile.mkdtemp(), loggers=["csv"]) as logger:
        ...     logger.log({"loss/value": 0.5, "throughput/env_steps": 80.0}, env_step=4, train_step=1)
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        *,
        loggers: Sequence[Literal["csv", "wandb", "tensorboard"]] = ("csv",),
        config: Mapping[str, Any] | None = None,
        wandb_mode: Literal["online", "offline", "disabled"] | None = None,
        project: str = "xtra_rl",
        run_name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        x_axis: Literal["env_step", "train_step"] = "env_step",
        resume: bool = False,
    ) -> None:
        from xtra_rl.training import dashboards
        from xtra_rl.training.metrics_csv import MetricsCSV

        check_loggers(loggers, wandb_mode)
        self._path = Path(run_dir)
        self._path.mkdir(parents=True, exist_ok=True)
        self._x_axis = x_axis
        self._known_names: set[str] = set()
        self._failed: set[str] = set()
        run_name = run_name or self._path.resolve().name
        config = to_plain(config or {})

        self._csv = MetricsCSV(self._path / "metrics.csv", resume=resume)
        self._throughput = MetricsCSV(self._path / "throughput.csv", resume=resume)
        self._others: dict[str, Logger] = {}
        try:
            if "tensorboard" in loggers:
                self._others["tensorboard"] = dashboards.start_tensorboard(self._path, run_name, config)
            if "wandb" in loggers:
                about = {"project": project, "name": run_name, "config": config, "mode": wandb_mode}
                about |= {"group": group, "job_type": job_type, "tags": list(tags)}
                self._others["wandb"] = dashboards.start_wandb(self._path, about, x_axis, resume=resume)
        except BaseException:
            self.close()
            raise

    def log(self, metrics: Mapping[str, float], *, env_step: int, train_step: int) -> None:
        """Log scalars at a point of the training.

        Args:
            metrics: numbers or one-element tensors; names as in :data:`METRIC_GROUPS`, e.g. ``loss/value``.
            env_step: agent steps in the environments so far.
            train_step: optimiser steps so far.

        Raises:
            ValueError: for a name outside of the groups or a value that is not one number.
        """
        for name in metrics:
            self._check_name(name)
        values = {name: _as_float(name, value) for name, value in metrics.items()}
        if not values:
            return
        speed = {name: value for name, value in values.items() if name.startswith("throughput/")}
        other = {name: value for name, value in values.items() if name not in speed}
        for file, part in ((self._csv, other), (self._throughput, speed)):
            if part:
                self._guard("csv", file.log_metrics, part, env_step=env_step, train_step=train_step)

        steps = {"env_step": env_step, "train_step": train_step}
        if "tensorboard" in self._others:
            self._guard("tensorboard", self._others["tensorboard"].log_metrics, values, steps[self._x_axis])
        if "wandb" in self._others:
            # wandb's own step must never decrease; ours are values to plot against (see start_wandb).
            send = self._others["wandb"].log_metrics
            self._guard("wandb", send, {**values, **steps}, override_global_step=True)

    def log_video(
        self, name: str, frames: torch.Tensor | np.ndarray, fps: float, *, env_step: int | None = None
    ) -> Path | None:
        """Write ``videos/<name>.mp4`` and send it to wandb; TensorBoard gets the path.

        Args:
            name: e.g. ``assault_step_5000``; a ``/`` makes a folder.
            frames: ``[T, H, W, 3]`` uint8.
            fps: pictures per second.
            env_step: position for TensorBoard.

        Returns:
            The file that was written (a GIF where no MP4 could be encoded), or ``None`` if writing failed.
        """
        from xtra_rl.evaluation.video import write_video

        path = self._guard("video", write_video, self._path / "videos" / f"{name}.mp4", frames, fps)
        if path is None:
            return None
        if "wandb" in self._others:
            self._guard("wandb", self._send_wandb, "video", f"video/{name}", path, env_step=env_step)
        if "tensorboard" in self._others:
            writer = self._others["tensorboard"].experiment
            self._guard("tensorboard", writer.add_text, f"video/{name}", str(path), env_step)
        return path

    def log_figure(self, name: str, path: str | os.PathLike[str], *, env_step: int | None = None) -> None:
        """Send a picture file (PNG) to wandb and TensorBoard; on disk it stays where it is."""
        path = Path(path)
        if "wandb" in self._others:
            self._guard("wandb", self._send_wandb, "image", f"figure/{name}", path, env_step=env_step)
        if "tensorboard" in self._others:
            self._guard("tensorboard", self._send_tensorboard_image, f"figure/{name}", path, env_step)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Path | None:
        """Write ``<name>.csv``, in place of the one before, and send the table to wandb.

        Args:
            name: e.g. ``evaluations``.
            rows: all of the table, each with the same keys.

        Returns:
            The file that was written, or ``None`` if writing failed.
        """
        path = self._path / f"{name}.csv"
        self._guard("table", write_csv, path, rows)
        if "wandb" in self._others and rows:
            self._guard("wandb", self._send_wandb, "table", f"table/{name}", rows)
        return path if path.is_file() else None

    def log_lines(
        self, name: str, read: Callable[[], Mapping[str, tuple[Sequence[float], Sequence[float]]]]
    ) -> None:
        """Send one chart with several lines to wandb, in place of the one before.

        Args:
            name: e.g. ``task_weights``.
            read: gives x and y by the name of the line; called only if a logger draws them.
        """
        if "wandb" not in self._others:
            return
        if series := read():
            self._guard("wandb", self._send_wandb, "lines", f"chart/{name}", series, name, self._x_axis)

    def log_summary(self, values: Mapping[str, float]) -> None:
        """Send numbers that stand for the whole run to wandb, where its table of runs shows and sorts them."""
        if "wandb" in self._others:
            self._guard("wandb", self._others["wandb"].experiment.summary.update, dict(values))

    def state_dict(self) -> dict[str, Any]:
        """Lengths of the CSV files, for a checkpoint."""
        return {
            "metrics": self._csv.state_dict()["local"],
            "throughput": self._throughput.state_dict()["local"],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Cut the CSV files back to the state of a checkpoint (needs ``resume=True``)."""
        self._csv.load_state_dict({"local": state_dict["metrics"]})
        self._throughput.load_state_dict({"local": state_dict["throughput"]})

    def close(self) -> None:
        """Flush and close all loggers; a second call does nothing."""
        for name, logger in {"csv": self._csv, "throughput": self._throughput, **self._others}.items():
            self._guard(name, logger.close)

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_name(self, name: str) -> None:
        if name in self._known_names:
            return
        if not _METRIC_NAME.fullmatch(name):
            raise ValueError(
                f"metric name {name!r} is not of the form <group>/<name>; "
                f"known groups: {', '.join(METRIC_GROUPS)}"
            )
        self._known_names.add(name)

    def _guard(self, logger: str, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return action(*args, **kwargs)
        except Exception as error:
            if logger not in self._failed:
                self._failed.add(logger)
                warnings.warn(
                    f"logger {logger!r} failed ({type(error).__name__}: {error}); training goes on and "
                    "further failures of this logger are not reported",
                    RuntimeWarning,
                    stacklevel=3,
                )
            return None

    def _send_wandb(self, kind: str, name: str, *args: Any, env_step: int | None = None) -> None:
        from xtra_rl.training import dashboards

        item = getattr(dashboards, f"wandb_{kind}")(*args)
        steps = {"env_step": env_step} if env_step is not None else {}
        self._others["wandb"].experiment.log({name: item, **steps})

    def _send_tensorboard_image(self, name: str, path: Path, env_step: int | None) -> None:
        import imageio.v3 as imageio

        picture = np.asarray(imageio.imread(path))
        self._others["tensorboard"].experiment.add_image(name, picture, env_step, dataformats="HWC")


def check_loggers(loggers: Sequence[str], wandb_mode: str | None) -> None:
    """Refuse loggers and modes of wandb that a :class:`RunLogger` does not know.

    Raises:
        ValueError: naming the first of them.
    """
    if isinstance(loggers, str):
        raise ValueError(f"loggers={loggers!r} is a string; pass a list, e.g. [{loggers!r}]")
    for name in loggers:
        if name not in LOGGERS:
            raise ValueError(f"logger {name!r} is unknown; known loggers: {', '.join(LOGGERS)}")
    if wandb_mode is not None and wandb_mode not in WANDB_MODES:
        raise ValueError(f"wandb_mode={wandb_mode!r} is unknown; known modes: {', '.join(WANDB_MODES)}")


def _as_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"metric {name!r} has the value {value!r}, but one number was expected") from error
