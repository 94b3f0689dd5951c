"""What a rank that does not log has in place of a logger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SilentLogger:
    """The methods of :class:`~xtra_rl.training.logging.RunLogger`, without effect."""

    def log(self, metrics: Mapping[str, float], *, env_step: int, train_step: int) -> None:
        """Nothing."""

    def log_video(self, name: str, frames: Any, fps: float, *, env_step: int | None = None) -> None:
        """Nothing."""

    def log_figure(self, name: str, path: Any, *, env_step: int | None = None) -> None:
        """Nothing."""

    def log_table(self, name: str, rows: Any) -> None:
        """Nothing."""

    def log_lines(self, name: str, read: Any) -> None:
        """Nothing."""

    def log_summary(self, values: Mapping[str, float]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep: the main rank's logger is what a checkpoint holds."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def __enter__(self) -> SilentLogger:
        return self

    def __exit__(self, *error: Any) -> None:
        pass
