"""The pipeline at scale=smoke, run once for all tests of the recipes."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from pipeline_runs import command_line


@pytest.fixture(scope="session")
def first_run(tmp_path_factory):
    """The main job on a machine with nothing prepared."""
    folder = tmp_path_factory.mktemp("first_run")
    start = time.time()
    done = command_line(folder, "scale=smoke")
    assert done.returncode == 0, done.stderr[-3000:]
    run = folder / "runs" / "xtra_finetune" / "alien-smoke-s0"
    return SimpleNamespace(
        folder=folder, run=run, stdout=done.stdout, stderr=done.stderr, seconds=time.time() - start
    )


@pytest.fixture
def reuse(first_run, config, tmp_path):
    """``reuse(*overrides)``: a config that finds the first run's artifacts and writes elsewhere."""

    def make(*overrides, recipe="xtra_finetune"):
        places = (f"artifacts={first_run.folder / 'artifacts'}", f"run_dir={tmp_path / 'run'}")
        return config(recipe, "scale=smoke", *places, *overrides)

    return make
