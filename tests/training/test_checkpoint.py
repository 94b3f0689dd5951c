"""Models and training checkpoints are whole or refused, never half read."""

from __future__ import annotations

import json
import logging
import os

import pytest
import torch
from torch import nn

from xtra_rl.training.checkpoint import load_checkpoint, save_checkpoint
from xtra_rl.training.model_files import load_into, load_model_weights, read_model_notes, save_model


def network(width=8):
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3))


@pytest.fixture
def saved(tmp_path):
    model = network()
    model(torch.randn(16, 4))
    save_model(tmp_path / "model", model, config={"width": 8}, metadata={"tasks": ("pong",), "score": 1.5})
    return tmp_path / "model", model


def test_a_model_survives_a_round_trip_with_its_buffers(saved):
    path, model = saved
    other = network()
    state_dict, config, metadata = load_into(other, path)
    assert config == {"width": 8}
    assert metadata == {"tasks": ["pong"], "score": 1.5}
    assert other.state_dict().keys() == state_dict.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    assert other[1].num_batches_tracked == 1


def test_tensors_that_share_memory_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_model(tmp_path / "model", model, config={}, metadata={})
    assert torch.equal(load_model_weights(tmp_path / "model").state_dict["1.weight"], model[0].weight)


def test_another_architecture_is_refused_with_shapes_and_the_way_out(saved):
    path, _ = saved
    other = network(16)
    before = other[0].weight.clone()
    message = (
        r"0\.weight is \[8, 4\] in the file and \[16, 4\] in the module; 0\.bias .*; 1\.weight .* "
        r"and 4 more\. "
        r"Build the module with the stored arguments: width=8$"
    )
    with pytest.raises(ValueError, match=message):
        load_into(other, path, config={"width": 16})
    assert torch.equal(other[0].weight, before)


def test_missing_and_additional_tensors_are_named(saved):
    path, _ = saved
    with pytest.raises(ValueError, match=r"2\.weight is \[3, 8\] in the file and absent in the module"):
        load_into(network()[:2], path)
    with pytest.raises(ValueError, match=r"3\.weight is absent in the file and \[1, 3\] in the module"):
        load_into(nn.Sequential(*network(), nn.Linear(3, 1)), path)


@pytest.mark.parametrize(
    "fault", ["flipped bit", "truncated", "no weights", "no config", "other json", "torn json"]
)
def test_a_damaged_model_is_refused(saved, fault):
    path, _ = saved
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if fault == "flipped bit":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif fault == "truncated":
        weights.write_bytes(content[:-5])
    elif fault == "no weights":
        weights.unlink()
    elif fault == "no config":
        (path / "config.json").unlink()
    elif fault == "other json":
        (path / "config.json").write_text("{}")
    else:
        (path / "config.json").write_text((path / "config.json").read_text()[:-20])
    with pytest.raises(ValueError, match="corrupt|missing|does not describe|not valid JSON"):
        load_model_weights(path)


def test_a_newer_format_is_refused(saved):
    path, _ = saved
    description = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**description, "format_version": 2}))
    with pytest.raises(ValueError, match="format_version 2"):
        load_model_weights(path)


def test_a_crash_while_saving_leaves_the_old_model(saved, monkeypatch):
    path, model = saved

    def fail(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        save_model(path, network(16), config={"width": 16}, metadata={})
    monkeypatch.undo()
    assert torch.equal(load_model_weights(path).state_dict["0.weight"], model[0].weight)
    assert [p.name for p in path.parent.iterdir()] == ["model"]


def test_a_model_is_replaced_by_a_later_one(saved):
    path, _ = saved
    save_model(path, network(16), config={"width": 16}, metadata={})
    assert load_model_weights(path).config == {"width": 16}
    assert read_model_notes(path) == load_model_weights(path)[1:]
    assert [p.name for p in path.parent.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_not_replaced_by_a_model(saved):
    path, _ = saved
    (path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds 'thesis.tex' and would be replaced as a whole"):
        save_model(path, network(), config={}, metadata={})
    assert (path / "thesis.tex").exists()


def train_a_little(model, optimiser):
    for _ in range(3):
        optimiser.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimiser.step()


def test_a_checkpoint_restores_modules_optimisers_and_plain_state(tmp_path):
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train_a_little(model, optimiser)
    plain = {"task_weights": {"pong": 0.8}, "rng": torch.get_rng_state(), "steps": (1, None, "x")}
    save_checkpoint(tmp_path, {"model": model, "optimiser": optimiser, "plain": plain}, step=3)
    train_a_little(model, optimiser)
    expected = {name: value.clone() for name, value in model.state_dict().items()}

    other = network()
    other_optimiser = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    checkpoint = load_checkpoint(tmp_path, {"model": other, "optimiser": other_optimiser})
    assert checkpoint.step == 3
    assert checkpoint.states["plain"]["task_weights"] == {"pong": 0.8}
    torch.set_rng_state(checkpoint.states["plain"]["rng"])
    train_a_little(other, other_optimiser)
    for name, value in other.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (100, 200, 300, 1000):
        save_checkpoint(tmp_path, {"step": step}, step=step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000300", "step_000001000"]
    assert load_checkpoint(tmp_path).states == {"step": 1000}


@pytest.mark.parametrize("fault", ["truncated", "flipped bit", "no manifest", "no state"])
def test_a_torn_checkpoint_is_skipped_with_a_warning_for_the_one_before(tmp_path, caplog, fault):
    for step in (1, 2):
        save_checkpoint(tmp_path, {"weights": torch.full((1000,), float(step))}, step=step)
    newest = tmp_path / "step_000000002"
    content = bytearray((newest / "state.pt").read_bytes())
    if fault == "truncated":
        (newest / "state.pt").write_bytes(content[: len(content) // 2])
    elif fault == "flipped bit":
        content[len(content) // 2] ^= 1
        (newest / "state.pt").write_bytes(content)
    else:
        (newest / ("manifest.json" if fault == "no manifest" else "state.pt")).unlink()
    with caplog.at_level(logging.WARNING):
        checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.step == 1
    assert checkpoint.states["weights"][0] == 1
    assert "step_000000002 is damaged" in caplog.text


def test_after_a_torn_checkpoint_a_new_one_is_not_rotated_away(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, {}, step=step, keep=2)
    (tmp_path / "step_000000002" / "state.pt").write_bytes(b"")
    assert load_checkpoint(tmp_path).step == 1
    save_checkpoint(tmp_path, {}, step=1, keep=1)
    assert load_checkpoint(tmp_path).step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]


def test_a_crash_while_saving_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, {"x": 1}, step=1)

    def fail(*_):
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        save_checkpoint(tmp_path, {"x": 2}, step=2)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).states == {"x": 1}


def test_leftovers_of_a_killed_save_are_removed(tmp_path):
    (tmp_path / ".step_000000001.0123abcd.tmp").mkdir(parents=True)
    save_checkpoint(tmp_path, {}, step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000002"]


class Custom:
    pass


def test_a_state_that_could_not_be_read_back_is_refused_when_saving(tmp_path):
    save_checkpoint(tmp_path, {"x": 1}, step=1)
    with pytest.raises(ValueError, match=r"objects other than tensors.*odd \(Custom\)"):
        save_checkpoint(tmp_path, {"fine": 1, "odd": Custom()}, step=2)
    assert load_checkpoint(tmp_path).states == {"x": 1}


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    from xtra_rl.files import file_sha256, write_json

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    save_checkpoint(tmp_path, {}, step=1)
    state = tmp_path / "step_000000001" / "state.pt"
    torch.save({"a": Evil()}, state)
    write_json(state.with_name("manifest.json"), {"step": 1, "sha256": file_sha256(state)})
    with pytest.raises(ValueError, match="all checkpoints in .* are damaged"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path / "none") is None


def test_a_component_that_was_not_saved_is_named(tmp_path):
    save_checkpoint(tmp_path, {"model": network()}, step=1)
    with pytest.raises(ValueError, match="no state for optimiser; it holds model"):
        load_checkpoint(tmp_path, {"optimiser": network()})


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        save_checkpoint(tmp_path, {}, step=1, keep=0)


def test_one_checkpoint_of_each_stretch_stays_for_good(tmp_path):
    for step in range(10, 251, 30):
        save_checkpoint(tmp_path, {"a": step}, step=step, keep=2, keep_every=100)
    # 100 and 220 are the first of 100..199 and of 200..299; 10 belongs to no stretch.
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step_{step:09d}" for step in (100, 220, 250)
    ]


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, {"a": torch.zeros(10)}, step=1)
    real = torch.save

    def full(states, file):
        real(states, file)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"a": torch.ones(10)}, step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000001"]
    assert torch.equal(load_checkpoint(tmp_path).states["a"], torch.zeros(10))


def test_half_a_checkpoint_of_a_killed_process_is_swept_up(tmp_path):
    (tmp_path / ".step_000000007.0123abcd.tmp").mkdir()
    save_checkpoint(tmp_path, {"a": 1}, step=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000003"]
