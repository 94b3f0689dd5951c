"""The run directory and its files."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
import torch

from xtra_rl import files
from xtra_rl.training.run import SUMMARY_KEYS, RunDirectory, git_commit


def summary(**changes):
    return {**dict.fromkeys(SUMMARY_KEYS), "recipe": "finetune", "seed": 0, **changes}


def test_config_survives_a_round_trip(tmp_path):
    config = {
        "seed": 0,
        "learning_rate": 1e-4,
        "tasks": ["carnival", "phoenix"],
        "search": {"num_simulations": 16},
    }
    run = RunDirectory(tmp_path / "a" / "run")
    run.write_config(config)
    assert run.read_config() == config
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "checkpoints", "videos", "figures"}


def test_manifest_tells_what_made_the_run(tmp_path):
    model = tmp_path / "model.bin"
    model.write_bytes(b"abc")
    run = RunDirectory(tmp_path / "run")
    run.write_manifest(
        recipe="finetune",
        config={"seed": 1},
        device="cpu",
        inputs={"student": model},
        command_line=["x.py", "seed=1"],
    )
    manifest = run.read_manifest()
    # sha256("abc") is the first test vector of FIPS 180-2.
    assert manifest["inputs"]["student"]["sha256"].startswith("ba7816bf8f01cfea414140de5dae2223")
    assert manifest["command_line"] == ["x.py", "seed=1"]
    assert manifest["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert manifest["cpu_count"] == os.cpu_count()
    assert {"python", "device", "date", "git_commit", "recipe", "config_sha256"} <= manifest.keys()


def test_config_hash_ignores_key_order_but_not_values():
    assert files.config_sha256({"a": 1, "b": (2, 3)}) == files.config_sha256({"b": [2, 3], "a": 1})
    assert files.config_sha256({"a": 1}) != files.config_sha256({"a": 2})


def test_summary_without_a_required_key_is_refused(tmp_path):
    run = RunDirectory(tmp_path)
    incomplete = summary()
    del incomplete["eval/hns"]
    with pytest.raises(ValueError, match=r"summary lacks eval/hns"):
        run.write_summary(incomplete)
    assert not (tmp_path / "summary.json").exists()


def test_summary_holds_tensors_arrays_and_paths_as_plain_values(tmp_path):
    run = RunDirectory(tmp_path)
    values = {
        "eval/returns": torch.tensor([1.5, 2.0]),
        "checkpoint": tmp_path / "x",
        "random": np.float64(3.0),
    }
    run.write_summary(summary(**values))
    back = run.read_summary()
    assert back["eval/returns"] == [1.5, 2.0]
    assert back["checkpoint"] == str(tmp_path / "x")
    assert back["random"] == 3.0


def test_nan_in_a_summary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="summary.json is NaN or infinite"):
        RunDirectory(tmp_path).write_summary(summary(**{"eval/hns": float("nan")}))


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    run.write_summary(summary(seed=1))

    def fail(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        run.write_summary(summary(seed=2))
    assert run.read_summary()["seed"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "checkpoints", "videos", "figures"}


def test_a_crash_while_replacing_a_directory_leaves_the_old_one(tmp_path, monkeypatch):
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    moves = []
    real = os.replace

    def fail_second(source, target):
        moves.append(source)
        if len(moves) == 2:
            raise OSError("disk")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_second)
    with pytest.raises(OSError, match="disk"):
        files.replace_directory(tmp_path / "new", tmp_path / "target")
    assert (tmp_path / "target" / "content").read_text() == "target"


def test_a_directory_killed_between_its_two_moves_is_recovered(tmp_path):
    (tmp_path / ".model.0123abcd.old").mkdir()
    files.recover_directory(tmp_path / "model")
    assert (tmp_path / "model").is_dir()
    files.recover_directory(tmp_path / "never_written")
    assert not (tmp_path / "never_written").exists()


def test_directory_hash_sees_names_and_contents_and_skips_hidden_files(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"1")
    first = files.directory_sha256(tmp_path)
    (tmp_path / ".lock").write_bytes(b"")
    assert files.directory_sha256(tmp_path) == first
    expected = hashlib.sha256(f"sub/a\0{hashlib.sha256(b'1').hexdigest()}\n".encode()).hexdigest()
    assert first == expected
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "b")
    assert files.directory_sha256(tmp_path) != first


def test_missing_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        RunDirectory(tmp_path).write_manifest(
            recipe="x", config={}, device="cpu", inputs={"student": tmp_path / "nowhere"}
        )


def test_a_file_is_not_a_run_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        RunDirectory(tmp_path / "file")


def test_commit_of_another_repository_is_not_reported(tmp_path, monkeypatch):
    import subprocess

    from xtra_rl.training import run

    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    package = tmp_path / "site-packages" / "xtra_rl"
    (package / "training").mkdir(parents=True)
    monkeypatch.setattr(run, "__file__", str(package / "training" / "run.py"))
    assert git_commit() is None
