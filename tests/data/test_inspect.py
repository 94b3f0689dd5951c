"""The command line that shows what datasets hold."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_samples import SHAPE, make_episode

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.__main__ import main
from xtra_rl.data.inspect import action_counts, returns_by_checkpoint


def write_phoenix(path, *, task="phoenix"):
    """Two checkpoints: returns 3 and 5, then -2; actions counted by hand below."""
    with TrajectoryWriter(path, task, frame_shape=SHAPE, provenance={"recipe": "by hand"}) as writer:
        for checkpoint, reward, actions in ((10, 3, [0, 0, 1]), (10, 5, [3, 3]), (20, -2, [12])):
            rows = make_episode(checkpoint + reward, len(actions))
            rows["reward"][:] = 0
            rows["reward"][0] = reward
            # The action beside the final observation is no action.
            rows["action"] = np.array([*actions, 17])
            writer.add_episode(rows, checkpoint=checkpoint)
    return TrajectoryDataset(path)


def test_numbers_by_hand(tmp_path):
    dataset = write_phoenix(tmp_path)
    first, second = returns_by_checkpoint(dataset)
    assert first == {
        "checkpoint": 10, "episodes": 2, "transitions": 5, "mean return": 4.0, "min": 3.0, "max": 5.0,
    }  # fmt: skip
    assert (second["checkpoint"], second["episodes"], second["mean return"]) == (20, 1, -2.0)
    counts = action_counts(dataset)
    assert counts.shape == (18,)
    assert {int(a): int(counts[a]) for a in counts.nonzero()[0]} == {0: 2, 1: 1, 3: 2, 12: 1}


def test_inspect_prints_everything(tmp_path, capsys):
    dataset = write_phoenix(tmp_path)
    dataset.write_column(
        "teacher_value",
        [np.zeros(n, np.float32) for n in dataset.episodes["length"]],
        provenance={"teacher": "a" * 64},
    )
    assert main(["inspect", str(tmp_path), "--verify"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "phoenix", "returns by checkpoint", "4.000", "-2.000", "noop", "33.3 %", "right-fire", "sticky=0.0",
        "teacher_value: up to date, made by teacher=aaaaaaaaaaaa...", "recipe=by hand", "every hash is right",
    ):  # fmt: skip
        assert expected in text, expected
    write_phoenix(tmp_path / "more")
    with TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE) as writer:
        writer.add_episode(make_episode(9, 4))
    assert main(["inspect", str(tmp_path)]) == 0
    assert "is stale" in capsys.readouterr().out


def test_a_folder_of_datasets_gets_a_table_and_a_sheet(tmp_path, capsys):
    write_phoenix(tmp_path / "one")
    write_phoenix(tmp_path / "two", task="carnival")
    sheet = tmp_path / "pictures" / "sheet.png"
    assert main(["inspect", str(tmp_path), "--sheet", str(sheet), "--frames", "3"]) == 0
    text = capsys.readouterr().out
    assert "all datasets" in text
    assert text.count("carnival") >= 2
    assert sheet.read_bytes()[:4] == b"\x89PNG"


def test_damage_is_named_and_the_rest_is_still_shown(tmp_path, capsys):
    write_phoenix(tmp_path / "good")
    flipped, cut = (write_phoenix(tmp_path / name).path for name in ("flipped", "cut"))
    content = bytearray((flipped / "rows" / "reward.bin").read_bytes())
    content[3] ^= 16
    (flipped / "rows" / "reward.bin").write_bytes(content)
    frames = cut / "frames" / "000000.lz4"
    frames.write_bytes(frames.read_bytes()[:-1])
    assert main(["inspect", str(tmp_path), "--verify"]) == 1
    out, err = capsys.readouterr()
    assert "good: every hash is right" in out
    assert "reward.bin' is damaged" in err
    assert "cut/frames/000000.lz4' is truncated" in err


@pytest.mark.parametrize("arguments", [["inspect", "nowhere"]])
def test_mistakes_are_one_sentence(arguments, capsys):
    assert main(arguments) == 1
    assert "error: no dataset in 'nowhere'" in capsys.readouterr().err


def test_folders_that_are_being_built_are_not_looked_at(tmp_path, capsys):
    write_phoenix(tmp_path / "done")
    TrajectoryWriter(tmp_path / ".begun.building", "phoenix", frame_shape=SHAPE).close()
    assert main(["inspect", str(tmp_path), "--verify"]) == 0
