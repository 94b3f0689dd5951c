"""Metrics reach every logger, and no logger can stop a run."""

from __future__ import annotations

import math
import os
import time

import numpy as np
import pytest
import torch

from xtra_rl.training.logging import RunLogger
from xtra_rl.training.metrics_csv import MetricsCSV


def log_some(logger, steps=range(3)):
    generator = torch.Generator().manual_seed(0)
    for i in steps:
        metrics = {"loss/value": torch.rand((), generator=generator), "grad_cos/carnival": 1 / (i + 3)}
        logger.log({**metrics, "throughput/env_steps": os.urandom(1)[0]}, env_step=4 * i, train_step=i)


def test_equal_runs_write_equal_bytes(tmp_path):
    for name in ("a", "b"):
        with RunLogger(tmp_path / name) as logger:
            log_some(logger)
    first = (tmp_path / "a" / "metrics.csv").read_bytes()
    assert first == (tmp_path / "b" / "metrics.csv").read_bytes()
    assert b"throughput" not in first
    assert b"throughput/env_steps" in (tmp_path / "a" / "throughput.csv").read_bytes()


def test_values_keep_all_their_digits(tmp_path):
    values = [0.1, 1 / 3, 1e-300, 12345678.9, math.pi, float("inf"), -0.0]
    with RunLogger(tmp_path) as logger:
        for i, value in enumerate(values):
            logger.log({"eval/assault/return": value}, env_step=i, train_step=0)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows[0] == "env_step,train_step,metric,value"
    assert rows[1] == "0,0,eval/assault/return,0.1"
    assert [float(row.split(",")[3]) for row in rows[1:]] == values


def test_a_metric_is_on_disk_before_the_logger_is_closed(tmp_path):
    logger = RunLogger(tmp_path)
    logger.log({"loss/value": 1.0}, env_step=0, train_step=0)
    assert (tmp_path / "metrics.csv").read_text().endswith("0,0,loss/value,1.0\n")
    logger.close()
    logger.close()


def test_resuming_cuts_off_what_was_written_after_the_checkpoint(tmp_path):
    with RunLogger(tmp_path / "whole") as logger:
        log_some(logger)
    with RunLogger(tmp_path / "resumed") as logger:
        log_some(logger, range(3))
        checkpoint = logger.state_dict()
        logger.log({"loss/value": 7.0}, env_step=99, train_step=99)
    with RunLogger(tmp_path / "resumed", resume=True) as logger:
        logger.load_state_dict(checkpoint)
        assert logger.state_dict() == checkpoint
        logger.log({"loss/value": 8.0}, env_step=100, train_step=100)
    whole = (tmp_path / "whole" / "metrics.csv").read_text()
    assert (tmp_path / "resumed" / "metrics.csv").read_text() == whole + "100,100,loss/value,8.0\n"


def test_resuming_with_a_shorter_file_is_refused(tmp_path):
    logger = MetricsCSV(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match="has 33 bytes, but the checkpoint was written when it had 1000"):
        logger.load_state_dict({"local": {"bytes": 1000}})


@pytest.mark.parametrize("name", ["value", "losses/value", "loss/", "loss/a,b", "loss/a\n", "loss"])
def test_a_metric_outside_of_the_groups_is_refused(tmp_path, name):
    with RunLogger(tmp_path) as logger, pytest.raises(ValueError, match="known groups: loss, search"):
        logger.log({name: 1.0}, env_step=0, train_step=0)


def test_a_metric_that_is_not_one_number_is_refused(tmp_path):
    with RunLogger(tmp_path) as logger, pytest.raises(ValueError, match="'loss/value' has the value"):
        logger.log({"loss/value": torch.zeros(2)}, env_step=0, train_step=0)


def test_unknown_loggers_and_modes_are_named(tmp_path):
    with pytest.raises(
        ValueError, match="logger 'mlflow' is unknown; known loggers: csv, wandb, tensorboard"
    ):
        RunLogger(tmp_path, loggers=["mlflow"])
    with pytest.raises(ValueError, match="is a string"):
        RunLogger(tmp_path, loggers="csv")
    with pytest.raises(ValueError, match="wandb_mode='on' is unknown"):
        RunLogger(tmp_path, wandb_mode="on")


def test_a_failing_logger_is_reported_once_and_does_not_stop_the_run(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    with RunLogger(tmp_path) as logger:
        monkeypatch.setattr(logger._csv, "log_metrics", fail)
        with pytest.warns(RuntimeWarning, match="logger 'csv' failed .OSError: disk full") as record:
            log_some(logger)
        assert len(record) == 1
    assert len((tmp_path / "throughput.csv").read_text().splitlines()) == 4


def test_tensorboard_gets_metrics_config_and_figures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from xtra_rl.evaluation.figures import loss_curves

    with RunLogger(tmp_path, loggers=["csv", "tensorboard"], config={"seed": 7}, run_name="r") as logger:
        log_some(logger)
        logger.log_figure(
            "losses", loss_curves(tmp_path, tmp_path / "figures" / "l.png", scale="smoke", seed=0)
        )
        assert not logger._failed
    events = EventAccumulator(str(tmp_path / "tensorboard" / "r"))
    events.Reload()
    points = events.Scalars("grad_cos/carnival")
    assert [point.step for point in points] == [0, 4, 8]
    assert [point.value for point in points] == pytest.approx([1 / 3, 1 / 4, 1 / 5])
    assert "throughput/env_steps" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["figure/losses"]
    assert b"seed: 7" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_wandb_offline_needs_no_account_and_writes_into_the_run_directory(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    frames = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    with RunLogger(
        tmp_path / "run", loggers=["wandb"], config={"marker": "config_was_sent"}, wandb_mode="offline"
    ) as logger:
        log_some(logger)
        assert logger.log_video("assault", frames, 15) == tmp_path / "run" / "videos" / "assault.mp4"
        assert logger._others["wandb"].experiment.config["marker"] == "config_was_sent"
        assert dict(logger._others["wandb"].experiment.summary)["grad_cos/carnival"] == pytest.approx(1 / 5)
        assert not logger._failed
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("run-*.wandb")
    wanted = (b"config_was_sent", b"grad_cos/carnival", b"throughput/env_steps", b"train_step")
    # wandb's own process may close the file a moment after finish() has returned.
    deadline = time.monotonic() + 20
    while not all(text in record.read_bytes() for text in wanted) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [text for text in wanted if text not in record.read_bytes()] == []
    assert list((folder / "files" / "media" / "videos").rglob("*.mp4"))
    assert "WANDB_MODE" not in os.environ
    assert (tmp_path / "run" / "metrics.csv").read_text().count("loss/value") == 3


def test_wandb_that_cannot_start_says_what_to_do(tmp_path, monkeypatch):
    import wandb

    def fail(**_):
        raise wandb.errors.UsageError("no API key")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(ValueError, match="no API key.*wandb_mode=offline"):
        RunLogger(tmp_path, loggers=["wandb"])


def test_csv_alone_never_imports_wandb(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from xtra_rl.training.logging import RunLogger\n"
        f"with RunLogger({str(tmp_path)!r}) as l: l.log({{'loss/a': 1.0}}, env_step=0, train_step=0)\n"
        "assert not {'wandb', 'tensorboard', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class FullDisk:
    """A file that takes ``room`` bytes more, then refuses."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, block):
        part = block[: self.room]
        written = self._file.write(part) if len(part) else 0
        self.room -= written
        if written < len(block) and not self.room:
            raise OSError(28, "No space left on device")
        return written


def test_rows_that_a_full_disk_refused_are_written_whole_once_there_is_room(tmp_path):
    with RunLogger(tmp_path / "full") as logger:
        log_some(logger, range(2))
        disk = logger._csv.experiment = FullDisk(logger._csv.experiment, room=10)
        with pytest.warns(RuntimeWarning, match="No space left"):
            logger.log({"loss/value": 1.0}, env_step=0, train_step=0)
        text = (tmp_path / "full" / "metrics.csv").read_text()
        assert text.endswith("\n")
        assert "loss/value,1.0" not in text
        state = logger.state_dict()
        disk.room = 10**6
        logger.log({"loss/value": 2.0}, env_step=8, train_step=8)
    assert (
        tmp_path / "full" / "metrics.csv"
    ).read_text() == text + "0,0,loss/value,1.0\n8,8,loss/value,2.0\n"
    # What waits is part of a checkpoint.
    with RunLogger(tmp_path / "full", resume=True) as logger:
        logger.load_state_dict(state)
        logger.log({"loss/value": 3.0}, env_step=9, train_step=9)
    assert (
        tmp_path / "full" / "metrics.csv"
    ).read_text() == text + "0,0,loss/value,1.0\n9,9,loss/value,3.0\n"
