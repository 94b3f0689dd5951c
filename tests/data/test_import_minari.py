"""Minari's Atari datasets: small ones recorded by its own collector, checked frame by frame."""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
import pytest
from test_importers import PHOENIX

from xtra_rl.data import DatasetError
from xtra_rl.data.__main__ import main
from xtra_rl.data.importers import import_minari

ENDS = ("terminated", "truncated", "cut", "both")
# Minari wants authors and permalinks.
uses_minari = pytest.mark.filterwarnings("ignore::UserWarning:minari")


def record_minari(name, *, env_id="ALE/Phoenix-v5", wrap=lambda env: env, jpeg=False, steps=(4, 3, 70, 1)):
    """Episodes of real frames that end in each way; returns the dataset and what was recorded."""
    minari = pytest.importorskip("minari")
    ale_py = pytest.importorskip("ale_py")
    from minari.data_collector import EpisodeBuffer

    gymnasium.register_envs(ale_py)
    env = wrap(gymnasium.make(env_id, repeat_action_probability=0.1))
    env.action_space.seed(0)
    buffers = []
    for number, (end, length) in enumerate(zip(ENDS, steps)):
        observations, actions, rewards = [env.reset(seed=number)[0]], [], []
        for step in range(length):
            actions.append(env.action_space.sample())
            observations.append(env.step(actions[-1])[0])
            rewards.append(float(10 * step))
        flags = {kind: [False] * (length - 1) + [end in (kind, "both")] for kind in ENDS[:2]}
        buffers.append(
            EpisodeBuffer(
                observations=np.stack(observations),
                actions=np.array(actions),
                rewards=rewards,
                terminations=flags["terminated"],
                truncations=flags["truncated"],
            )
        )
    dataset = minari.create_dataset_from_buffers(
        name, buffers, env=env, algorithm_name="random", jpeg_encoding=jpeg
    )
    env.close()
    return dataset, buffers


@pytest.fixture
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def check_minari(dataset, buffers, ids):
    for number, (end, buffer) in enumerate(zip(ENDS, buffers)):
        rows = dataset.episode(number)
        frames = buffer.observations.transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(rows["pixels"].numpy(), frames)
        np.testing.assert_array_equal(rows["action"], np.append(ids[buffer.actions], 0))
        np.testing.assert_array_equal(rows["reward"], [*buffer.rewards, 0])
        last = np.arange(len(frames)) == len(frames) - 2
        # A game that was over in the very step at which it would have been stopped was over.
        np.testing.assert_array_equal(rows["terminated"], last & (end in ("terminated", "both")))
        np.testing.assert_array_equal(rows["truncated"], last & (end in ("truncated", "cut")))


@uses_minari
def test_minari_comes_over_frame_by_frame(tmp_path, minari_folder):
    _, buffers = record_minari("atari/phoenix/test-v0")
    dataset = import_minari("atari/phoenix/test-v0", tmp_path / "data", "Phoenix")
    dataset.verify()
    check_minari(dataset, buffers, PHOENIX)
    settings = dataset.env_settings
    assert settings == {
        "frame_shape": [3, 210, 160],
        "frame_skip": 4,
        "sticky": 0.1,
        "grayscale": False,
        "source": "Minari atari/phoenix/test-v0",
        "terminal_on_life_loss": False,
        "max_pool": False,
        "jpeg": False,
    }
    assert dataset.manifest["provenance"][0]["algorithm"] == "random"


@uses_minari
def test_minari_full_action_space_keeps_its_numbers(tmp_path, minari_folder):
    def wrap(env):
        env.close()
        return gymnasium.make("ALE/Phoenix-v5", full_action_space=True)

    source, buffers = record_minari("phoenix-full-v0", wrap=wrap)
    assert max(buffer.actions.max() for buffer in buffers) > 7
    check_minari(import_minari(source, tmp_path / "data", "phoenix"), buffers, np.arange(18))


@uses_minari
def test_minari_frames_become_grey_and_small(tmp_path, minari_folder):
    _, buffers = record_minari("phoenix-v0")
    dataset = import_minari(
        minari_folder / "phoenix-v0", tmp_path / "data", "phoenix", image_size=30, grayscale=True
    )
    assert dataset.frame_shape == (1, 30, 30)
    # 210 rows are 30 times 7, exactly; 160 columns are cut at i * 160 / 30, rounded outwards.
    grey = np.rint(buffers[0].observations @ np.array([0.299, 0.587, 0.114]))
    by_rows = grey.reshape(5, 30, 7, 160).mean(2)
    columns = [by_rows[..., 160 * i // 30 : -(-160 * (i + 1) // 30)].mean(-1) for i in range(30)]
    np.testing.assert_allclose(dataset.episode(0)["pixels"][:, 0], np.stack(columns, -1), atol=0.51)


@uses_minari
def test_minari_import_is_continued(tmp_path, minari_folder):
    source, buffers = record_minari("phoenix-v0")
    assert import_minari(source, tmp_path / "data", "phoenix", max_episodes=2).num_episodes == 2
    decoded = []
    read = source.storage.get_episodes
    source.storage.get_episodes = lambda indices: read(decoded.extend(indices) or indices)
    dataset = import_minari(source, tmp_path / "data", "phoenix")
    assert decoded == [2, 3]
    check_minari(dataset, buffers, PHOENIX)


@uses_minari
def test_minari_says_what_preprocessing_did(tmp_path, minari_folder):
    source, buffers = record_minari(
        "pong-v0",
        env_id="PongNoFrameskip-v4",
        wrap=lambda env: gymnasium.wrappers.AtariPreprocessing(env, terminal_on_life_loss=True, frame_skip=3),
        jpeg=True,
    )
    dataset = import_minari(source, tmp_path / "data", "pong")
    expected = {
        "frame_skip": 3,
        "max_pool": True,
        "terminal_on_life_loss": True,
        "jpeg": True,
        "grayscale": True,
    }
    assert {key: dataset.env_settings[key] for key in expected} == expected
    # JPEG is not exact, but near.
    error = dataset.episode(0)["pixels"][:, 0].numpy().astype(float) - buffers[0].observations
    assert dataset.frame_shape == (1, 84, 84)
    assert abs(error).mean() < 3
    with pytest.raises(ValueError, match="'pong-v0' are grey already"):
        import_minari(source, tmp_path / "other", "pong", grayscale=False)


@uses_minari
def test_minari_datasets_that_do_not_fit_are_refused(tmp_path, minari_folder, monkeypatch):
    source, _ = record_minari("phoenix-v0")
    with pytest.raises(ValueError, match="task='pong', but 'phoenix-v0' is of 'phoenix'"):
        import_minari(source, tmp_path / "data", "pong")
    stack = gymnasium.wrappers.FrameStackObservation
    source, _ = record_minari("stack-v0", wrap=lambda env: stack(env, 2))
    with pytest.raises(ValueError, match=r"behind \['FrameStackObservation'\]"):
        import_minari(source, tmp_path / "data", "phoenix")
    monkeypatch.setattr("xtra_rl.data.importers.minari_dataset._HARMLESS", {"FrameStackObservation"})
    with pytest.raises(ValueError, match=r"shape \(2, 210, 160, 3\).* \(H, W, 3\)"):
        import_minari(source, tmp_path / "data", "phoenix")
    with pytest.raises(DatasetError, match="'atari/none-v0' cannot be opened .*download=True"):
        import_minari("atari/none-v0", tmp_path / "data", "phoenix")
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ValueError, match=r"pip install 'xtra_rl\[import\]'"):
        import_minari("atari/none-v0", tmp_path / "data", "phoenix")


@uses_minari
@pytest.mark.parametrize(
    ("options", "action", "message"),
    [
        ({"env": None}, 0, "'odd-v0' does not name its environment"),
        ({"env": "Phoenix-v4"}, 0, r"'odd-v0' has a random frame skip \[2, 5\]"),
        ({"action_space": gymnasium.spaces.Discrete(5)}, 0, r"actions Discrete\(5\); expected Discrete\(8\)"),
        ({}, 8, "episode 0 of 'odd-v0' holds action 8 of 8"),
    ],
)
def test_minari_datasets_with_odd_settings_are_refused(tmp_path, minari_folder, options, action, message):
    minari = pytest.importorskip("minari")
    gymnasium.register_envs(pytest.importorskip("ale_py"))
    buffer = minari.data_collector.EpisodeBuffer(
        observations=np.zeros((3, 210, 160, 3), np.uint8),
        actions=np.array([0, action]),
        rewards=[0.0, 0.0],
        terminations=[False, True],
        truncations=[False, False],
    )
    spaces = {
        "observation_space": gymnasium.spaces.Box(0, 255, (210, 160, 3), np.uint8),
        "action_space": gymnasium.spaces.Discrete(8),
    }
    source = minari.create_dataset_from_buffers(
        "odd-v0", [buffer], **{"env": "ALE/Phoenix-v5", **spaces, **options}
    )
    with pytest.raises(ValueError, match=message):
        import_minari(source, tmp_path / "data", "phoenix")


def test_command_line_imports_a_folder_and_shows_it(tmp_path, minari_folder, capsys):
    record_minari("atari/phoenix/cli-v0", steps=(4, 3))
    arguments = ["import-minari", "atari/phoenix/cli-v0", "phoenix", str(tmp_path / "data")]
    assert main([*arguments, "--image-size", "42", "--grayscale", "--max-episodes", "1"]) == 0
    text = capsys.readouterr().out
    assert "1x42x42" in text
    assert "source=Minari" in text
    assert main(["import-minari", str(tmp_path / "nowhere"), "phoenix", str(tmp_path / "other")]) == 1
    assert "error: dataset" in capsys.readouterr().err
