"""Faults that are injected into a run: it goes on, or stops with a sentence and goes on later to the same rows."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pipeline_runs import ROOT, SHORT, end_of, fails

from xtra_rl.evaluation import video as video_module
from xtra_rl.recipes.xtra_finetune import xtra_finetune
from xtra_rl.training import checkpoint as checkpoint_module
from xtra_rl.training import model_files
from xtra_rl.training.actor import Actor
from xtra_rl.training.logging import RunLogger
from xtra_rl.training.run import RunDirectory

FLAGS = (
    "scale=smoke",
    *SHORT,
    "pretrained=false",
    "cross_task=false",
    "log_every=2",
    "checkpoint.every=0.001s",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Rows of the run that nothing happened to."""
    from hydra import compose, initialize_config_dir

    folder = tmp_path_factory.mktemp("whole")
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        run = xtra_finetune(compose("xtra_finetune", overrides=[*FLAGS, f"run_dir={folder / 'run'}"]))
    return rows(run)


@pytest.fixture
def settings(config, tmp_path):
    return lambda *flags: config("xtra_finetune", *FLAGS, f"run_dir={tmp_path / 'run'}", *flags)


@pytest.fixture
def interrupted(settings, monkeypatch, tmp_path):
    """A run that SIGTERM ended at env step 50; its checkpoints, oldest first."""
    with monkeypatch.context() as patch:
        step = Actor.step

        def stopping(self):
            result = step(self)
            if self.env_steps == 50:
                os.kill(os.getpid(), 15)
            return result

        patch.setattr(Actor, "step", stopping)
        assert end_of(xtra_finetune, settings()) == 0
    found = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
    assert [path.name for path in found] == ["step_000000048", "step_000000050"]
    return found


def rows(run):
    return (Path(run) / "metrics.csv").read_bytes()


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow
def test_sigterm_saves_and_exits_0(interrupted, settings, whole, capsys):
    start = time.monotonic()
    assert rows(xtra_finetune(settings())) == whole
    assert "play the recorded actions again: 50/50" in capsys.readouterr().err
    assert time.monotonic() - start < 60


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    ["torn", *(pytest.param(f, marks=pytest.mark.slow) for f in ("flipped", "no state", "no manifest"))],
)
def test_a_damaged_newest_checkpoint_is_skipped_for_the_one_before(
    interrupted, settings, whole, fault, caplog
):
    state, manifest = (interrupted[-1] / name for name in ("state.pt", "manifest.json"))
    content = bytearray(state.read_bytes())
    if fault == "torn":
        state.write_bytes(content[: len(content) // 2])
    elif fault == "flipped":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    else:
        (state if fault == "no state" else manifest).unlink()
    assert rows(xtra_finetune(settings())) == whole
    assert "step_000000050 is damaged" in caplog.text


@pytest.mark.slow
def test_damage_to_all_checkpoints_is_a_sentence(interrupted, settings):
    for path in interrupted:
        (path / "state.pt").write_bytes(b"")
    message = fails(xtra_finetune, settings())
    assert "all checkpoints in" in message
    assert "resume=restart" in message


@pytest.mark.slow
def test_code_in_a_checkpoint_is_not_run(interrupted, settings, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    for path in interrupted:
        torch.save({"learner": Evil()}, path / "state.pt", pickle_module=pickle)
        checkpoint_module.write_json(
            path / "manifest.json",
            {"step": 1, "sha256": checkpoint_module.file_sha256(path / "state.pt")},
        )
    assert "all checkpoints in" in fails(xtra_finetune, settings())
    assert not (tmp_path / "evil").exists()


@pytest.mark.slow
def test_a_disk_too_full_for_checkpoints_stops_nothing(settings, whole, monkeypatch, caplog):
    monkeypatch.setattr(checkpoint_module.torch, "save", full_disk)
    assert rows(xtra_finetune(settings())) == whole
    assert "no checkpoint at 0 ([Errno 28] No space left on device); training goes on" in caplog.text


@pytest.mark.slow
def test_a_disk_too_full_for_the_model_is_a_sentence_and_nothing_is_lost(
    settings, whole, monkeypatch, tmp_path
):
    with monkeypatch.context() as patch:
        real = model_files.save_file

        def full_at_the_end(tensors, path, **kwargs):
            full_disk() if ".model." in str(path) else real(tensors, path, **kwargs)

        patch.setattr(model_files, "save_file", full_at_the_end)
        message = fails(xtra_finetune, settings())
    assert "No space left on device" in message
    assert "the same command goes on" in message
    assert not RunDirectory(tmp_path / "run").is_finished
    assert rows(xtra_finetune(settings())) == whole


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_loses_no_row(settings, whole, monkeypatch):
    step = Actor.step
    loggers = []
    start = RunLogger.__init__
    monkeypatch.setattr(
        RunLogger,
        "__init__",
        lambda self, *args, **kwargs: (loggers.append(self), start(self, *args, **kwargs))[1],
    )

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, block):
            self.file.write(block[:3])
            full_disk()

    def filling(self):
        csv = loggers[-1]._csv
        if self.env_steps == 46:
            csv.experiment = Full(csv.experiment)
        elif self.env_steps == 54:
            csv.experiment = csv.experiment.file
        return step(self)

    monkeypatch.setattr(Actor, "step", filling)
    with pytest.warns(RuntimeWarning, match="No space left"):
        run = xtra_finetune(settings())
    assert rows(run) == whole


def test_a_read_only_run_directory_is_a_sentence(settings, monkeypatch):
    def read_only(self, *args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    message = fails(xtra_finetune, settings())
    assert "Read-only file system" in message
    assert "another run_dir" in message


@pytest.mark.slow
def test_a_dying_logger_stops_nothing(settings, whole, monkeypatch):
    from torchrl.record.loggers.tensorboard import TensorboardLogger

    monkeypatch.setattr(TensorboardLogger, "log_scalar", full_disk)
    monkeypatch.setattr(TensorboardLogger, "log_metrics", full_disk, raising=False)
    with pytest.warns(RuntimeWarning, match="logger 'tensorboard' failed"):
        run = xtra_finetune(settings("logger=[csv,tensorboard]"))
    assert rows(run) == whole


@pytest.mark.slow
def test_a_dying_video_writer_stops_nothing(settings, whole, monkeypatch):
    monkeypatch.setattr(video_module, "write_video", full_disk)
    with pytest.warns(RuntimeWarning, match="logger 'video' failed"):
        run = RunDirectory(xtra_finetune(settings()))
    assert run.is_finished
    assert rows(run.path) == whole


@pytest.mark.slow
def test_sigkill_costs_the_steps_since_the_last_checkpoint(settings, whole, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "recipes" / "xtra_finetune.py"),
        *FLAGS,
        f"run_dir={tmp_path / 'run'}",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        checkpoints = tmp_path / "run" / "checkpoints"
        while not any(checkpoints.glob("step_0000000[34]*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -9
    assert not RunDirectory(tmp_path / "run").is_finished
    assert rows(xtra_finetune(settings())) == whole
