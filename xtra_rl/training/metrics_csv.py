"""A TorchRL logger that writes all metrics of a run into one CSV file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrl.record.loggers.common import Logger

if TYPE_CHECKING:
    import torch

CSV_HEADER = "env_step,train_step,metric,value\n"


class MetricsCSV(Logger):
    """A TorchRL logger that writes one CSV file in long format: ``env_step,train_step,metric,value``.

    Values are written with all their digits, so that two equal runs write equal bytes. A block of metrics is
    one write, flushed at once; what a full disk refuses waits in memory for the next try, so no row is lost or
    torn. The state of this logger is the length of its file: loading it cuts off what was written after a
    checkpoint, so that a resumed run does not hold rows twice.

    Args:
        path: the CSV file.
        resume: continue an existing file instead of starting a new one.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.csv"
        >>> logger = MetricsCSV(path)
        >>> _ = logger.log_metrics({"loss/value": 0.1}, env_step=400, train_step=100)
        >>> logger.close()
        >>> path.read_text().splitlines()
        ['env_step,train_step,metric,value', '400,100,loss/value,0.1']
    """

    def __init__(self, path: str | os.PathLike[str], *, resume: bool = False) -> None:
        self.path = Path(path)
        self._resume = resume
        self._waiting = b""
        super().__init__(exp_name=self.path.stem, log_dir=str(self.path.parent))

    def _create_experiment(self) -> Any:
        is_new = not (self._resume and self.path.exists() and self.path.stat().st_size > 0)
        file = open(self.path, "wb" if is_new else "ab", buffering=0)  # noqa: SIM115
        self._length = 0 if is_new else self.path.stat().st_size
        if is_new:
            self._write(file, CSV_HEADER.encode())
        return file

    def _write(self, file: Any, block: bytes) -> None:
        """Append a block to those that wait, and all of them to the file, or nothing."""
        self._waiting += block
        left = memoryview(self._waiting)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            # Half a row must not stay; it waits with the rest.
            file.truncate(self._length)
            file.seek(self._length)
            raise
        self._length += len(self._waiting)
        self._waiting = b""

    def log_metrics(
        self,
        metrics: Mapping[str, float],
        step: int | None = None,
        *,
        keys_sep: str = "/",
        env_step: int | None = None,
        train_step: int | None = None,
    ) -> dict[str, float]:
        """Append one row per metric; ``step`` stands for ``env_step`` where that is not given."""
        values = {name: float(value) for name, value in metrics.items()}
        env_step = step if env_step is None else env_step
        steps = ",".join("" if value is None else str(int(value)) for value in (env_step, train_step))
        rows = "".join(f"{steps},{name},{value!r}\n" for name, value in values.items())
        self._write(self.experiment, rows.encode())
        return values

    def log_scalar(self, name: str, value: float, step: int | None = None) -> None:
        """Append one row with ``step`` as ``env_step``."""
        self.log_metrics({name: value}, step)

    def log_video(self, name: str, video: torch.Tensor, step: int | None = None, **kwargs: Any) -> None:
        """Do nothing: a CSV file holds numbers only."""

    def log_hparams(self, cfg: Any) -> None:
        """Do nothing: the config is ``config.yaml`` in the run directory."""

    def log_histogram(self, name: str, data: Sequence, **kwargs: Any) -> None:
        """Refuse: a CSV file holds numbers only.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("MetricsCSV holds scalars only; log a summary of the histogram instead")

    def _checkpoint_state(self) -> dict[str, Any]:
        # A checkpoint must not reach the disk before the rows that it counts on.
        os.fsync(self.experiment.fileno())
        return {"bytes": self._length, "waiting": self._waiting.decode()}

    def _load_checkpoint_state(self, state_dict: Mapping[str, Any]) -> None:
        size = self.path.stat().st_size
        if size < state_dict["bytes"]:
            raise ValueError(
                f"{self.path} has {size} bytes, but the checkpoint was written when it had "
                f"{state_dict['bytes']}; restore the file, or start a new run directory"
            )
        self._length = state_dict["bytes"]
        self._waiting = state_dict["waiting"].encode()
        self.experiment.truncate(self._length)
        self.experiment.seek(self._length)

    def __repr__(self) -> str:
        return f"MetricsCSV({str(self.path)!r})"
