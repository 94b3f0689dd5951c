"""DQN Replay logs: small files of that format, checked frame by frame."""

from __future__ import annotations

import gzip
import http.server
import multiprocessing
import os
import signal
import threading
import tracemalloc

import numpy as np
import pytest

from xtra_rl.data import DatasetError, TrajectoryDataset
from xtra_rl.data.__main__ import main
from xtra_rl.data.importers import download_dqn_replay, dqn_replay, import_dqn_replay
from xtra_rl.data.importers.dqn_files import file_name, file_url

PAD = 3
# Lengths of the games in transitions; the last one is cut off by the end of the file.
GAMES = (5, 20, 1, 9)
# Minimal actions in ALE's numbers.
PHOENIX = np.array([0, 1, 3, 4, 5, 11, 12, 13])


def dqn_arrays(seed, *, num_actions=6):
    """A log as Dopamine writes it: three empty rows before each game, and an old row at the end."""
    rng = np.random.default_rng(seed)
    parts = {kind: [] for kind in ("observation", "action", "reward", "terminal")}
    for game, length in enumerate(GAMES):
        frames = rng.integers(1, 256, (length, 84, 84), dtype=np.uint8)
        # A frame that is really black, in the middle of a game, is no padding.
        frames[length // 2] = 0 if length > 3 else 7
        parts["observation"].append(np.concatenate([np.zeros((PAD, 84, 84), np.uint8), frames]))
        parts["action"].append(np.append(np.zeros(PAD), rng.integers(0, num_actions, length)))
        parts["reward"].append(np.append(np.zeros(PAD), rng.normal(size=length)))
        ended = np.zeros(PAD + length)
        ended[-1] = game < len(GAMES) - 1
        parts["terminal"].append(ended)
    for kind, old in {
        "observation": np.full((1, 84, 84), 99),
        "action": [99],
        "reward": [99],
        "terminal": [1],
    }.items():
        parts[kind].append(old)
    types = {"observation": np.uint8, "action": np.int32, "reward": np.float32, "terminal": np.uint8}
    return {kind: np.concatenate(values).astype(types[kind]) for kind, values in parts.items()}


def write_dqn(folder, checkpoint, arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in arrays.items():
        with gzip.open(folder / file_name(kind, checkpoint), "wb", compresslevel=1) as file:
            np.save(file, array)
    return arrays


@pytest.fixture
def logs(tmp_path):
    return {n: write_dqn(tmp_path / "logs", n, dqn_arrays(n)) for n in (0, 7)}


def check_game(rows, arrays, start, length, *, cut, padding=PAD):
    """Rows of one game against the arrays, worked out from the format's description."""
    begin = start + padding
    transitions = length - 1 if cut else length
    frames = arrays["observation"][begin : begin + length, None]
    expected = frames if cut else np.concatenate([frames, frames[-1:]])
    np.testing.assert_array_equal(rows["pixels"].numpy(), expected)
    np.testing.assert_array_equal(rows["action"][:-1], PHOENIX[arrays["action"][begin : begin + transitions]])
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


@pytest.mark.parametrize(("action", "reward"), [(4, 0), (0, 1)])
def test_a_log_that_begins_within_a_game_loses_nothing(tmp_path, action, reward):
    # The first game's padding and its first frame are in the log before; its next frame is black, but no padding.
    arrays = {kind: array[PAD + 1 :] for kind, array in dqn_arrays(0).items()}
    arrays["observation"][0], arrays["action"][0], arrays["reward"][0] = 0, action, reward
    # The second game begins with a black frame and NOOP: only the three empty rows before it are padding.
    start = GAMES[0] - 1
    arrays["observation"][start + PAD], arrays["action"][start + PAD] = 0, 0
    arrays["reward"][start + PAD] = 0
    write_dqn(tmp_path / "logs", 3, arrays)
    dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix")
    check_game(dataset.episode(0), arrays, 0, GAMES[0] - 1, cut=False, padding=0)
    check_game(dataset.episode(1), arrays, start, GAMES[1], cut=False)


def test_a_game_stopped_at_the_step_limit_is_truncated(tmp_path, logs, monkeypatch):
    monkeypatch.setattr(dqn_replay, "_MAX_STEPS", 20)
    dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix", checkpoints=[0])
    check_game(dataset.episode(1), logs[0], PAD + GAMES[0], GAMES[1], cut=True)
    assert not dataset.episode(0)["truncated"].any()


def test_the_last_checkpoint_ends_at_its_count(tmp_path):
    # 3 + 5 + 3 + 20 + 2 rows: two games, and padding of a third; the rest is of the checkpoint before.
    arrays = dqn_arrays(50)
    write_dqn(tmp_path / "logs", 50, arrays)
    with pytest.raises(DatasetError, match=r"add_count_ckpt.50.gz' is missing"):
        import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix")
    write_dqn(tmp_path / "logs", 50, {"add_count": np.array(33)})
    dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix")
    assert dataset.num_transitions == 25
    check_game(dataset.episode(1), arrays, PAD + GAMES[0], GAMES[1], cut=False)


def test_chosen_checkpoints_only_and_again_adds_nothing(tmp_path, logs):
    for _ in range(2):
        dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix", checkpoints=[7])
        assert dataset.episodes["checkpoint"].tolist() == [7] * 4
    # A complete checkpoint is not even read.
    (tmp_path / "logs" / file_name("observation", 7)).write_bytes(
        (tmp_path / "logs" / file_name("observation", 7)).read_bytes()[:5000]
    )
    assert import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix").num_episodes == 8
    with pytest.raises(DatasetError, match="run=1, run=2 was asked"):
        import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix", run=2)


class StopAfter:
    def __init__(self, updates):
        self.left = updates
        self.rows = 0

    def update(self, n=1):
        self.left -= 1
        self.rows += n
        if not self.left:
            raise KeyboardInterrupt


def assert_same(dataset, whole):
    assert dataset.episodes.tolist() == whole.episodes.tolist()
    for number in range(whole.num_episodes):
        for key, value in whole.episode(number).items():
            np.testing.assert_array_equal(dataset.episode(number)[key], value)


def test_an_interrupted_import_is_continued(tmp_path, logs):
    with pytest.raises(KeyboardInterrupt):
        import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix", on_progress=StopAfter(2))
    assert TrajectoryDataset(tmp_path / "data").num_episodes == 2
    counter = StopAfter(0)
    dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix", on_progress=counter)
    assert counter.rows == 2 * (4 * PAD + sum(GAMES))
    assert_same(dataset, import_dqn_replay(tmp_path / "logs", tmp_path / "whole", "phoenix"))


def import_and_die(logs, path):
    class Kill(StopAfter):
        def update(self, n=1):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)

    import_dqn_replay(logs, path, "phoenix", on_progress=Kill(7))


def test_a_killed_import_is_continued(tmp_path, logs, monkeypatch):
    # With final observations 6 + 21 rows are committed, then 2 + 9 + 6 + 21; the seventh game is lost.
    monkeypatch.setattr(dqn_replay, "_COMMIT_ROWS", 25)
    process = multiprocessing.get_context("fork").Process(
        target=import_and_die, args=(tmp_path / "logs", tmp_path / "data")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert TrajectoryDataset(tmp_path / "data").num_episodes == 6
    dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix")
    assert_same(dataset, import_dqn_replay(tmp_path / "logs", tmp_path / "whole", "phoenix"))


def test_stops_behind_the_game_that_has_enough_transitions(tmp_path, logs):
    # Games of 5, 20, 1 transitions: 6 are reached in the second game, 25 as well, 26 in the third.
    for limit, games in ((6, 2), (25, 2), (26, 3), (10**6, 8)):
        dataset = import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix", max_transitions=limit)
        assert dataset.num_episodes == games


def test_frames_are_resized_by_area(tmp_path, logs):
    dataset = import_dqn_replay(
        tmp_path / "logs", tmp_path / "data", "phoenix", checkpoints=[0], image_size=42
    )
    frame = logs[0]["observation"][PAD].astype(float).reshape(42, 2, 42, 2).mean((1, 3))
    np.testing.assert_allclose(dataset.episode(0)["pixels"][0, 0], frame, atol=0.5)


def test_memory_stays_at_one_game(tmp_path):
    games, length = 2, 5000
    rows = games * length + 1
    frames = np.repeat(np.arange(rows, dtype=np.uint8), 84 * 84).reshape(rows, 84, 84)
    ends = np.arange(rows) % length == length - 1
    arrays = {"action": np.ones(rows, np.int32), "reward": np.zeros(rows, np.float32), "terminal": ends}
    write_dqn(tmp_path / "logs", 0, {"observation": frames, **arrays})
    size = frames.nbytes
    del frames
    tracemalloc.start()
    import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Pieces of 512 frames are 3.6 MB, at most three of them at once; the file holds 70 MB.
    assert peak < 15e6 < size / 4


@pytest.fixture
def server(tmp_path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "www")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_downloads_only_what_was_chosen(tmp_path, server):
    arrays = dqn_arrays(3)
    for checkpoint in (3, 4):
        write_dqn(tmp_path / "www" / "MsPacman" / "2" / "replay_logs", checkpoint, arrays)
    options = {"checkpoints": [3], "run": 2, "base_url": server}
    dataset = import_dqn_replay(
        "download", tmp_path / "data", "ms_pacman", cache=tmp_path / "cache", **options
    )
    assert (dataset.num_episodes, dataset.env_settings["run"]) == (4, 2)
    files = [file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert sorted(files) == sorted(file_name(kind, 3) for kind in arrays)
    with pytest.raises(DatasetError, match=r"Pong/2/.*observation_ckpt.3.gz cannot be fetched \(404"):
        download_dqn_replay(tmp_path / "cache", "pong", **options)


def test_addresses_are_those_of_the_public_bucket():
    assert file_url("up_n_down", 5, "observation", 50) == (
        "https://storage.googleapis.com/atari-replay-datasets/dqn/UpNDown/5/replay_logs/"
        "%24store%24_observation_ckpt.50.gz"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache": None, "checkpoints": [0]}, "cache=None"),
        ({"checkpoints": None}, "checkpoints=None"),
        ({"checkpoints": [51]}, r"checkpoints=\[51\]"),
        ({"checkpoints": [0], "run": 6}, "run=6"),
        ({"checkpoints": [0], "image_size": 0}, "image_size=0"),
        ({"checkpoints": [0], "max_transitions": 0}, "max_transitions=0"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        import_dqn_replay(None, tmp_path / "data", "pong", **{"cache": tmp_path, **options})


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
    for content in (good[: len(good) // 2], b"no gzip"):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=r"observation_ckpt.7.gz' is damaged"):
            import_dqn_replay(folder, tmp_path / "b", "phoenix", checkpoints=[7])
    with gzip.open(file, "wb") as whole:
        # The old row at the end is not needed, a part of the one before is missing.
        whole.write(gzip.decompress(good)[: -84 * 84 - 100])
    with pytest.raises(
        DatasetError, match=r"observation_ckpt.7.gz' is damaged \(it ends \d+ bytes too early"
    ):
        import_dqn_replay(folder, tmp_path / "c", "phoenix", checkpoints=[7])
    # Four bytes of checksum stand before the last four.
    file.write_bytes(good[:-8] + bytes(4) + good[-4:])
    with pytest.raises(DatasetError, match=r"CRC check failed.*new folder: frames of checkpoint 7 in"):
        import_dqn_replay(folder, tmp_path / "e", "phoenix", checkpoints=[7])
    write_dqn(folder, 7, {"observation": np.zeros((3, 84, 84), np.uint8)})
    with pytest.raises(DatasetError, match=r"'observation': 3.* equal lengths"):
        import_dqn_replay(folder, tmp_path / "d", "phoenix", checkpoints=[7])


@pytest.mark.parametrize("action", [-1, 8])
def test_actions_of_another_game_are_refused(tmp_path, action):
    arrays = dqn_arrays(0)
    arrays["action"][10] = action
    write_dqn(tmp_path / "logs", 0, arrays)
    with pytest.raises(
        ValueError, match=rf"'phoenix' has 8 actions, .* holds action {action}; name the game"
    ):
        import_dqn_replay(tmp_path / "logs", tmp_path / "data", "phoenix")


def test_an_unknown_game_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'phoenixx' is unknown; did you mean 'phoenix'"):
        import_dqn_replay(tmp_path, tmp_path / "data", "phoenixx")
