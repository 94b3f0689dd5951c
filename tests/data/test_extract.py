"""A part of a dataset with its columns."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_samples import SHAPE, make_episode

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.__main__ import main
from xtra_rl.data.extract import extract, first_games

CHECKPOINTS = (20, 10, 20, 10, 20)  # interleaved, as parallel games end


@pytest.fixture
def whole(tmp_path):
    settings = {"env_settings": {"noop_max": 7}, "sticky": 0.25, "provenance": {"recipe": "by hand"}}
    with TrajectoryWriter(tmp_path / "whole", "phoenix", frame_shape=SHAPE, **settings) as writer:
        for number, checkpoint in enumerate(CHECKPOINTS):
            # Numbers within a checkpoint need not come in order.
            writer.add_episode(make_episode(number, 5 + number), checkpoint=checkpoint, number=9 - number)
    dataset = TrajectoryDataset(tmp_path / "whole")
    values = [np.arange(n, dtype=np.float32) + 100 * n for n in dataset.episodes["length"]]
    dataset.write_column("teacher_value", values, provenance={"teacher": "a" * 64})
    return dataset


def test_games_are_the_same_rows_frames_and_predictions(whole, tmp_path):
    part = extract(whole, tmp_path / "part", [3, 0])
    part.verify()
    assert part.task == "phoenix"
    assert part.env_settings == whole.env_settings
    for new, old in enumerate([3, 0]):
        theirs = whole.episode(old, columns=["teacher_value"])
        assert (part.episode(new, columns=["teacher_value"]) == theirs).all()
        for key in ("checkpoint", "number", "raw_return", "length"):
            assert part.episodes[new][key] == whole.episodes[old][key]
    assert part.column_provenance("teacher_value") == {"teacher": "a" * 64}
    (origin,) = part.manifest["provenance"]
    assert origin == {"part_of": whole.fingerprint, "games": 2, "made_by": [{"recipe": "by hand"}]}


def test_first_games_of_every_checkpoint(whole):
    """First by number, as games began: a dataset holds them as they ended, the short ones first."""
    assert first_games(whole, 1) == [3, 4]
    assert first_games(whole, 2) == [1, 2, 3, 4]
    assert first_games(whole, 99) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="games_per_checkpoint is 0"):
        first_games(whole, 0)


def test_a_stale_column_stays_behind(whole, tmp_path):
    with TrajectoryWriter(
        whole.path, "phoenix", frame_shape=SHAPE, env_settings={"noop_max": 7}, sticky=0.25
    ) as more:
        more.add_episode(make_episode(8, 4), checkpoint=30)
    assert extract(TrajectoryDataset(whole.path), tmp_path / "part", [5]).column_names() == []


def test_wrong_games_and_taken_folders_are_named(whole, tmp_path):
    for games in ([5], [-1], [0, 0], []):
        with pytest.raises(ValueError, match="must be different ones of the 5"):
            extract(whole, tmp_path / "part", games)
    with pytest.raises(ValueError, match="holds something"):
        extract(whole, whole.path, [0])
    assert not (tmp_path / "part").exists()


def test_command_line(whole, tmp_path, capsys):
    out = tmp_path / "part"
    assert main(["extract", str(whole.path), str(out), "--games-per-checkpoint", "1"]) == 0
    text = capsys.readouterr().out
    for expected in ("phoenix", "teacher_value: up to date", "'recipe': 'by hand'", "part_of="):
        assert expected in text, expected
    assert TrajectoryDataset(out).num_episodes == 2
    assert main(["extract", str(whole.path), str(out)]) == 1
    assert "holds something" in capsys.readouterr().err
