"""Inputs are taken, reused or built, and a half-built one is never used."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from xtra_rl.training.pipeline import Artifact, MissingArtifact, Pipeline


class Builder:
    def __init__(self):
        self.paths = []

    def __call__(self, path):
        assert not any(path.iterdir())
        (path / "data").write_text("content")
        self.paths.append(path)


@pytest.fixture
def said():
    return []


def resolve(tmp_path, said, builder, *, scale="smoke", key=None, **kwargs):
    key = {"episodes": 4, "search": {"num_simulations": 8}} if key is None else key
    kwargs = {"build": builder, "announce": said.append, **kwargs}
    return Pipeline(tmp_path, scale).resolve("dataset", "pong", key=key, **kwargs)


def test_a_missing_artifact_is_built_once_and_then_reused(tmp_path, said):
    builder = Builder()
    path = resolve(tmp_path, said, builder)
    assert path.parent == tmp_path / "datasets"
    assert path.name.startswith("pong-")
    assert (path / "data").read_text() == "content"
    assert resolve(tmp_path, said, builder) == path
    assert len(builder.paths) == 1
    assert builder.paths[0] != path
    assert "building it at scale smoke, because there is none in" in said[0]
    assert said[1] == f"dataset pong: reusing {path}"


def test_a_changed_setting_builds_another_and_is_named(tmp_path, said):
    builder = Builder()
    first = resolve(tmp_path, said, builder)
    second = resolve(tmp_path, said, builder, key={"episodes": 4, "search": {"num_simulations": 16}})
    assert first != second
    assert said[-1].endswith(f"{first.name} differ: search.num_simulations is 8 there and 16 here")
    resolve(tmp_path, said, builder, scale="laptop")
    assert said[-1].endswith("scale is 'smoke' there and 'laptop' here")
    assert len(builder.paths) == 3


def test_key_order_and_tuples_do_not_matter(tmp_path, said):
    builder = Builder()
    first = resolve(tmp_path, said, builder, key={"a": (1, 2), "b": 1})
    assert resolve(tmp_path, said, builder, key={"b": 1, "a": [1, 2]}) == first


def test_a_task_whose_name_starts_like_another_is_not_compared(tmp_path, said):
    pipeline = Pipeline(tmp_path, "smoke")
    pipeline.resolve("teacher", "pong-2", key={"a": 1}, build=Builder(), announce=said.append)
    pipeline.resolve("teacher", "pong", key={"a": 2}, build=Builder(), announce=said.append)
    assert "there is none" in said[-1]
    assert [artifact.name for artifact in pipeline.resolved] == ["pong-2", "pong"]


def test_a_failed_build_leaves_nothing_and_is_repeated(tmp_path, said):
    def fail(path):
        (path / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(tmp_path, said, fail)
    assert not [p for p in (tmp_path / "datasets").iterdir() if not p.name.endswith(".lock")]
    builder = Builder()
    path = resolve(tmp_path, said, builder)
    assert sorted(p.name for p in path.iterdir()) == ["artifact.json", "data"]


@pytest.mark.slow
def test_a_build_that_was_killed_is_not_taken_for_a_finished_one(tmp_path, said):
    code = f"""
        import os, signal
        from xtra_rl.training.pipeline import Pipeline
        def build(path):
            (path / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        Pipeline({str(tmp_path)!r}, "smoke").resolve(
            "dataset", "pong", key={{"episodes": 4, "search": {{"num_simulations": 8}}}}, build=build,
            announce=lambda text: None)
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert process.returncode == -9
    assert list((tmp_path / "datasets").glob(".pong-*.building/half"))
    path = resolve(tmp_path, said, Builder())
    assert sorted(p.name for p in path.iterdir()) == ["artifact.json", "data"]


@pytest.mark.slow
def test_two_processes_do_not_build_the_same_artifact_twice(tmp_path, said):
    code = f"""
        import time
        from pathlib import Path
        from xtra_rl.training.pipeline import Pipeline
        def build(path):
            Path({str(tmp_path)!r}, "started").touch()
            time.sleep(0.8)
            (path / "by").write_text("the other process")
        Pipeline({str(tmp_path)!r}, "smoke").resolve(
            "dataset", "pong", key={{"episodes": 4, "search": {{"num_simulations": 8}}}}, build=build,
            announce=lambda text: None)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
        builder = Builder()
        path = resolve(tmp_path, said, builder)
    assert process.returncode == 0
    assert builder.paths == []
    assert (path / "by").read_text() == "the other process"
    assert said == [
        "dataset pong: waiting for another process that is building it",
        f"dataset pong: reusing {path}, which another process has just built",
    ]


def test_a_given_path_is_used_as_it_is(tmp_path, said):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    pipeline = Pipeline(tmp_path / "artifacts", "smoke")
    path = pipeline.resolve(
        "student", "shooter", given=tmp_path / "mine", key={}, build=Builder(), announce=said.append
    )
    assert path == tmp_path / "mine"
    assert pipeline.resolved == [Artifact("student", "shooter", path)]
    assert not (tmp_path / "artifacts").exists()


def test_a_given_path_must_be_a_finished_artifact_of_its_kind(tmp_path, said):
    builder = Builder()
    with pytest.raises(ValueError, match="'.*nowhere' is not a directory"):
        resolve(tmp_path, said, builder, given=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is empty"):
        resolve(tmp_path, said, builder, given=tmp_path / "empty")
    dataset = resolve(tmp_path, said, builder)
    with pytest.raises(ValueError, match="is a dataset, but a teacher was expected"):
        Pipeline(tmp_path, "smoke").resolve(
            "teacher", "pong", given=dataset, key={}, build=builder, announce=said.append
        )


def test_a_foreign_folder_in_the_way_is_not_deleted(tmp_path, said):
    builder = Builder()
    path = resolve(tmp_path, said, builder)
    (path / "artifact.json").unlink()
    with pytest.raises(ValueError, match="exists but is not a finished dataset"):
        resolve(tmp_path, said, builder)
    assert (path / "data").exists()


def test_a_crash_at_the_last_move_leaves_nothing_that_looks_finished(tmp_path, said, monkeypatch):
    real = os.replace

    def fail(source, target):
        if ".building" in str(source) and "artifact.json" not in str(source):
            raise OSError("power cut")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        resolve(tmp_path, said, Builder())
    assert not list((tmp_path / "datasets").glob("pong-*"))


def test_a_pipeline_that_only_looks_builds_nothing(tmp_path, said):
    builder, key = Builder(), {"episodes": 4}
    how = {"key": key, "build": builder, "announce": said.append}
    looking = Pipeline(tmp_path, "smoke", build=False)
    with pytest.raises(MissingArtifact, match="dataset pong: there is no .*pong-"):
        looking.resolve("dataset", "pong", **how)
    assert not any(tmp_path.iterdir())
    path = resolve(tmp_path, said, builder, key=key)
    assert looking.resolve("dataset", "pong", **how) == path
    assert len(builder.paths) == 1


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(ValueError, match="kind='model' is unknown"):
        Pipeline(tmp_path, "smoke").resolve("model", "x", key={}, build=Builder(), announce=print)
