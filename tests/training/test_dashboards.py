"""What wandb and TensorBoard get of a run, read back from the files of an offline one."""

import time
from pathlib import Path

import numpy as np
import pytest
from wandb_files import offline_runs, table

from xtra_rl.training.logging import RunLogger

ROWS = [
    {"env_step": step, "mode": mode, "episode": i, "return": float(10 * step + i)}
    for step in (0, 100)
    for mode in ("greedy", "sampled")
    for i in range(2)
]


def log(logger, steps):
    for step in steps:
        metrics = {
            "task_weight/carnival": 1 - step / 200,
            "grad_cos/carnival": 0.1,
            "eval/assault/return": step,
        }
        logger.log(metrics, env_step=step, train_step=step // 4)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_GROUP", "WANDB_TAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def start(**changes):
        settings = {"loggers": ["wandb"], "wandb_mode": "offline", "config": {"optim": {"lr": 0.25}}}
        settings |= {
            "group": "assault-laptop-1a2b3c",
            "job_type": "xtra_finetune",
            "tags": ["assault", "laptop"],
        }
        return RunLogger(tmp_path / "run", **(settings | changes))

    return start


def test_an_offline_run_holds_the_whole_dashboard(offline, tmp_path):
    with offline() as logger:
        log(logger, (0, 100))
        logger.log_table("evaluations", ROWS)
        logger.log_lines(
            "task_weights", lambda: {"carnival": ([0, 100], [1.0, 0.5]), "phoenix": ([0, 100], [1.0, 0.0])}
        )
        logger.log_video("final", np.zeros((4, 16, 16, 3), dtype=np.uint8), 15, env_step=100)
        logger.log_summary({"end/return": 1001.0, "baseline/random": 3.0})
        assert not logger._failed
    (found,) = offline_runs(tmp_path / "run")
    run = found["run"]
    assert (run.run_group, run.job_type, list(run.tags)) == (
        "assault-laptop-1a2b3c",
        "xtra_finetune",
        ["assault", "laptop"],
    )
    assert found["config"]["optim"] == {"lr": 0.25}
    scores = [
        (row["env_step"], row["eval/assault/return"])
        for row in found["history"]
        if "eval/assault/return" in row
    ]
    assert scores == [(0, 0), (100, 100)]
    assert found["summary"]["end/return"] == 1001.0
    assert found["summary"]["baseline/random"] == 3.0
    media = [row for row in found["history"] if "video/final/path" in row]
    assert media[0]["env_step"] == 100
    video = found["folder"] / "files" / media[0]["video/final/path"]
    assert video.read_bytes() == (tmp_path / "run" / "videos" / "final.mp4").read_bytes()
    columns, data = table(found, "table/evaluations")
    assert columns == ["env_step", "mode", "episode", "return"]
    assert data == [list(row.values()) for row in ROWS]
    lines = (tmp_path / "run" / "evaluations.csv").read_text().splitlines()
    assert lines[0] == "env_step,mode,episode,return"
    assert lines[1:] == [",".join(str(value) for value in row.values()) for row in ROWS]

    _, data = table(found, "chart/task_weights_table")
    assert {tuple(row) for row in data} == {
        (0.0, "carnival", 1.0),
        (100.0, "carnival", 0.5),
        (0.0, "phoenix", 1.0),
        (100.0, "phoenix", 0.0),
    }
    panel = found["config"]["_wandb/visualize/chart/task_weights"]["panel_config"]
    assert panel["panelDefId"] == "wandb/lineseries/v0"
    assert panel["stringSettings"] == {"title": "task weights", "xname": "env_step"}


def test_a_resumed_run_goes_on_in_the_same_wandb_run_and_another_does_not(offline, tmp_path, monkeypatch):
    with offline() as logger:
        log(logger, (0, 100))
    time.sleep(1.1)  # folders are named by the second
    with offline(resume=True) as logger:
        log(logger, (200,))
    time.sleep(1.1)
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    offline().close()
    first, second, other = offline_runs(tmp_path / "run")
    assert first["run"].run_id == second["run"].run_id != other["run"].run_id
    steps = [row["env_step"] for part in (first, second) for row in part["history"] if "env_step" in row]
    assert steps == [0, 100, 200]
    groups = [part["run"].run_group for part in (first, second, other)]
    assert groups == ["assault-laptop-1a2b3c", "assault-laptop-1a2b3c", "mine"]


def test_tensorboard_draws_task_weights_in_one_chart(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with RunLogger(tmp_path / "run", loggers=["tensorboard"]) as logger:
        log(logger, (0, 100))
    (file,) = Path(tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*")
    events = event_accumulator.EventAccumulator(str(file))
    events.Reload()
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"task_weight/.*" in layout


def test_tables_and_lines_without_wandb_are_files_or_nothing(tmp_path):
    with RunLogger(tmp_path) as logger:
        assert logger.log_table("evaluations", ROWS) == tmp_path / "evaluations.csv"
        logger.log_lines("task_weights", lambda: {"carnival": ([0], [1.0])})
        logger.log_summary({"end/return": 1.0})
    assert len((tmp_path / "evaluations.csv").read_text().splitlines()) == 1 + len(ROWS)
