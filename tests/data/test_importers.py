"""Public data in other formats: small files in those formats, checked frame by frame."""

from __future__ import annotations

import gzip
import http.server
import threading

import numpy as np
import pytest

from xtra_rl.data import DatasetError, TrajectoryDataset
from xtra_rl.data.__main__ import main
from xtra_rl.data.importers import download_dqn_replay, import_dqn_replay
from xtra_rl.data.importers.dqn_replay import file_name

PAD = 3
# Lengths of the games in transitions; the last one is cut off by the end of the file.
GAMES = (5, 20, 1, 9)


def dqn_arrays(seed, *, num_actions=6):
    """A log as Dopamine writes it: three empty transitions before each game."""
    rng = np.random.default_rng(seed)
    parts = {kind: [] for kind in ("observation", "action", "reward", "terminal")}
    for game, length in enumerate(GAMES):
        frames = rng.integers(1, 256, (length, 84, 84), dtype=np.uint8)
        # A frame that is really black, in the middle of a game, is no padding.
        frames[length // 2] = 0 if length > 3 else 7
        parts["observation"].append(np.concatenate([np.zeros((PAD, 84, 84), np.uint8), frames]))
        parts["action"].append(
            np.append(np.zeros(PAD), rng.integers(0, num_actions, length)).astype(np.int32)
        )
        parts["reward"].append(np.append(np.zeros(PAD), rng.normal(size=length)).astype(np.float32))
        ended = np.zeros(PAD + length, np.uint8)
        ended[-1] = game < len(GAMES) - 1
        parts["terminal"].append(ended)
    return {kind: np.concatenate(values) for kind, values in parts.items()}


def write_dqn(folder, checkpoint, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in arrays.items():
        with gzip.open(folder / file_name(kind, checkpoint), "wb", compresslevel=1) as file:
            np.save(file, array)
    return arrays


@pytest.fixture
def logs(tmp_path):
    return {n: write_dqn(tmp_path / "logs", n, dqn_arrays(n)) for n in (0, 7)}


def check_game(rows, arrays, start, length, *, cut):
    """Rows of one game against the arrays, worked out from the format's description."""
    begin = start + PAD
    transitions = length - 1 if cut else length
    frames = arrays["observation"][begin : begin + length, None]
    expected = frames if cut else np.concatenate([frames, frames[-1:]])
    np.testing.assert_array_equal(rows["pixels"].numpy(), expected)
    # Phoenix's minimal actions in ALE's numbers.
    ids = np.array([0, 1, 3, 4, 5, 11, 12, 13])
    np.testing.assert_array_equal(rows["action"][:-1], ids[arrays["action"][begin : begin + transitions]])
    np.testing.assert_array_equal(rows["reward"][:-1], arrays["reward"][begin : begin + transitions])
    assert (rows["action"][-1], rows["reward"][-1]) == (0, 0)
    ends = np.arange(transitions + 1) == transitions - 1
    np.testing.assert_array_equal(rows["terminated"], ends & (not cut))
    np.testing.assert_array_equal(rows["truncated"], ends & cut)


def test_dqn_replay_comes_over_frame_by_frame(tmp_path, logs):
    dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "Phoenix")
    dataset.verify()
    assert dataset.episodes["checkpoint"].tolist() == [0] * 4 + [7] * 4
    assert (dataset.env_settings["sticky"], dataset.env_settings["grayscale"]) == (0.25, True)
    assert dataset.frame_shape == (1, 84, 84)
    number = 0
    for arrays in logs.values():
        start = 0
        for game, length in enumerate(GAMES):
            check_game(dataset.episode(number), arrays, start, length, cut=game == len(GAMES) - 1)
            start += PAD + length
            number += 1
    buffer = dataset.to_replay_buffer(())
    assert buffer.num_transitions == 2 * (5 + 20 + 1 + 8)


def test_chosen_checkpoints_only_and_again_adds_nothing(tmp_path, logs):
    for _ in range(2):
        dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix", checkpoints=[7])
        assert dataset.episodes["checkpoint"].tolist() == [7] * 4
    assert import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix").num_episodes == 8


def test_an_interrupted_import_is_continued(tmp_path, logs):
    class Stop:
        def __init__(self):
            self.left = 2

        def update(self, n=1):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix", on_progress=Stop())
    assert TrajectoryDataset(tmp_path / "data").num_episodes == 2
    dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix")
    whole = import_dqn_replay(tmp_path / "logs", tmp_path / "whole", "phoenix")
    for number in range(8):
        for key, value in whole.episode(number).items():
            assert (dataset.episode(number)[key] == value).all()


def test_frames_are_resized_by_area(tmp_path, logs):
    dataset = import_dqn_replay(
        tmp_path / "logs", tmp_path / "data", "phoenix", checkpoints=[0], image_size=42
    )
    frame = logs[0]["observation"][PAD].astype(float).reshape(42, 2, 42, 2).mean((1, 3))
    np.testing.assert_allclose(dataset.episode(0)["pixels"][0, 0], frame, atol=0.5)


def test_downloads_only_what_was_chosen(tmp_path):
    pytest.importorskip("pooch")
    served = tmp_path / "www" / "MsPacman" / "2" / "replay_logs"
    arrays = write_dqn(served, 3, dqn_arrays(3))
    write_dqn(served, 4, arrays)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "www")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base_url = f"http://127.0.0.1:{server.server_port}"
        folder = download_dqn_replay(
            tmp_path / "cache", "ms_pacman", checkpoints=[3], run=2, base_url=base_url
        )
    finally:
        server.shutdown()
    assert sorted(file.name for file in folder.iterdir()) == sorted(file_name(kind, 3) for kind in arrays)
    assert import_dqn_replay(folder, tmp_path / "data", "ms_pacman").num_episodes == 4


def test_command_line_imports_and_shows(tmp_path, logs, capsys):
    out = str(tmp_path / "data")
    arguments = ["import-dqn", "phoenix", out, "--source", str(tmp_path / "logs")]
    assert main([*arguments, "--checkpoints", "7", "--image-size", "42"]) == 0
    text = capsys.readouterr().out
    assert "1x42x42" in text
    assert "sticky=0.25" in text
    assert main([*arguments, "--download"]) == 1
    assert "error: --download needs --checkpoints" in capsys.readouterr().err


def test_missing_and_damaged_files_are_named(tmp_path, logs):
    folder = tmp_path / "logs"
    with pytest.raises(DatasetError, match=r"_ckpt.5.gz in .*\[0, 7\]"):
        import_dqn_replay(folder, tmp_path / "a", "phoenix", checkpoints=[5])
    with pytest.raises(DatasetError, match="none"):
        import_dqn_replay(tmp_path, tmp_path / "a", "phoenix")
    file = folder / file_name("observation", 7)
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(DatasetError, match=r"observation_ckpt.7.gz' is damaged"):
        import_dqn_replay(folder, tmp_path / "b", "phoenix", checkpoints=[7])
    file.write_bytes(b"no gzip")
    with pytest.raises(DatasetError, match=r"observation_ckpt.7.gz' is damaged"):
        import_dqn_replay(folder, tmp_path / "c", "phoenix", checkpoints=[7])
    write_dqn(folder, 7, {"observation": np.zeros((3, 84, 84), np.uint8)})
    with pytest.raises(DatasetError, match="equal lengths"):
        import_dqn_replay(folder, tmp_path / "d", "phoenix", checkpoints=[7])


def test_actions_of_another_game_are_refused(tmp_path):
    write_dqn(tmp_path / "logs", 0, dqn_arrays(0, num_actions=18))
    with pytest.raises(ValueError, match=r"'phoenix' has 8 actions, .* name the game"):
        import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix")
