"""Facts about the Atari environment, on real games."""

from __future__ import annotations

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from torchrl.envs.utils import check_env_specs, step_mdp

from xtra_rl.envs import make_atari_env

gymnasium.register_envs(ale_py)

SMALL = {"image_size": 12, "grayscale": True, "num_threads": 1}


def _play(env, steps: int, seed: int = 0, actions: int = 18):
    """Step with fixed random actions over automatic resets; yields the full step and the next root."""
    generator = torch.Generator().manual_seed(seed)
    root = env.reset()
    for _ in range(steps):
        root["action"] = torch.randint(actions, env.batch_size, generator=generator)
        step, root = env.step_and_maybe_reset(root)
        yield step, root


@pytest.mark.parametrize(
    ("game", "ale_id", "size", "grayscale"),
    [
        ("breakout", "Breakout", 96, False),
        ("ms_pacman", "MsPacman", 96, True),
        ("pong", "Pong", 40, False),
    ],
)
def test_frames_and_rewards_equal_gymnasiums_preprocessing(game, ale_id, size, grayscale):
    env = make_atari_env(game, image_size=size, grayscale=grayscale, noop_max=0, num_threads=1)
    raw = gymnasium.make(
        f"ALE/{ale_id}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=True
    )
    reference = gymnasium.wrappers.AtariPreprocessing(
        raw, noop_max=0, screen_size=size, grayscale_obs=grayscale
    )

    def channel_first(frame: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frame)[None] if grayscale else torch.from_numpy(frame).permute(2, 0, 1)

    frame, _ = reference.reset()
    assert torch.equal(env.reset()["pixels"][0], channel_first(frame))
    for number, (step, root) in enumerate(_play(env, 520)):
        frame, reward, terminated, truncated, info = reference.step(step["action"].item())
        assert torch.equal(step["next", "pixels"][0], channel_first(frame)), number
        assert step["next", "reward"].item() == reward
        assert step["next", "terminated"].item() == terminated
        assert not truncated
        assert step["next", "lives"].item() == info["lives"]
        if terminated:
            frame, _ = reference.reset()
            assert torch.equal(root["pixels"][0], channel_first(frame)), number


def test_specs_hold_for_one_and_for_three_copies():
    for num_envs, grayscale in ((1, True), (3, False)):
        env = make_atari_env("pong", num_envs, image_size=20, grayscale=grayscale, num_threads=1)
        check_env_specs(env)
        channels = 1 if grayscale else 3
        root = env.reset()
        assert root["pixels"].shape == (num_envs, channels, 20, 20)
        assert root["observation"].shape == (num_envs, 4 * channels, 20, 20)
        assert root["action_mask"].nonzero()[:6, 1].tolist() == [0, 1, 3, 4, 11, 12]
        assert env.rand_action(root)["action"].shape == (num_envs,)


def test_random_actions_are_legal():
    env = make_atari_env("freeway", 2, **SMALL)
    root = env.reset()
    drawn = {action for _ in range(60) for action in env.rand_action(root)["action"].tolist()}
    assert drawn == {0, 2, 5}


def test_action_is_ales_id():
    env = make_atari_env("breakout", **SMALL)
    assert [action.value for action in env.base_env._engine.ale.get_action_set()] == list(range(18))


def test_every_game_starts_with_1_to_30_no_ops():
    # A cap of one step ends a game in every step, so the automatic reset is seen as often as the first one.
    env = make_atari_env("pong", 3, max_frames=4, seed=3, **SMALL)
    root = env.reset()
    starts = [env.base_env.episode_frames]
    for _ in range(90):
        root["action"] = torch.zeros(3, dtype=torch.int64)
        _, root = env.step_and_maybe_reset(root)
        starts.append(env.base_env.episode_frames)
    for _ in range(5):
        env.reset()
        starts.append(env.base_env.episode_frames)
    starts = torch.stack(starts)
    assert set(starts.flatten().tolist()) == set(range(1, 31))
    # 288 uniform draws of 1..30 have mean 15.5 with a standard error of 8.66 / sqrt(288) = 0.51.
    assert abs(starts.float().mean() - 15.5) < 3 * 0.51
    assert len({tuple(column) for column in starts.T.tolist()}) == 3


@pytest.mark.parametrize("action", [-1, 18])
def test_unknown_action_is_refused_instead_of_hanging_the_emulator(action):
    env = make_atari_env("pong", 2, **SMALL)
    root = env.reset()
    root["action"] = torch.tensor([0, action])
    with pytest.raises(ValueError, match=r"action must be ids in 0\.\.17, got \[0, "):
        env.step(root)


def test_reset_returns_the_game_that_the_emulator_has_already_started():
    env = make_atari_env("pong", 2, max_frames=8, **SMALL)
    root = env.reset()
    for _ in range(4):
        root["action"] = torch.zeros(2, dtype=torch.int64)
        step = env.step(root)
        frames = env.base_env.episode_frames
        root = env.maybe_reset(step_mdp(step))
        assert torch.equal(env.base_env.episode_frames, frames)


def test_no_op_starts_can_be_switched_off():
    env = make_atari_env("pong", 2, noop_max=0, **SMALL)
    env.reset()
    assert env.base_env.episode_frames.tolist() == [0, 0]


@pytest.mark.parametrize("frame_skip", [1, 4])
def test_each_env_step_is_frame_skip_emulator_frames(frame_skip):
    env = make_atari_env("pong", 2, frame_skip=frame_skip, **SMALL)
    root = env.reset()
    before = env.base_env.episode_frames
    for number in range(1, 20):
        root["action"] = torch.zeros(2, dtype=torch.int64)
        _, root = env.step_and_maybe_reset(root)
        assert torch.equal(env.base_env.episode_frames, before + frame_skip * number)


def test_cap_truncates_and_never_terminates():
    env = make_atari_env("pong", 2, max_frames=40, **SMALL)
    ends = []
    for number, (step, root) in enumerate(_play(env, 25), start=1):
        assert not step["next", "terminated"].any()
        assert torch.equal(step["next", "done"], step["next", "truncated"])
        assert not step["next", "end-of-life"].any()
        assert not root["done"].any()
        if step["next", "truncated"].all():
            ends.append(number)
    assert ends == [10, 20]


@pytest.mark.slow
def test_a_game_that_ends_at_the_cap_is_terminated_only():
    def first_end(max_frames: int) -> tuple[int, bool, bool]:
        env = make_atari_env("breakout", noop_max=0, max_frames=max_frames, **SMALL)
        for number, (step, _) in enumerate(_play(env, 1000), start=1):
            if step["next", "done"].item():
                return number, step["next", "terminated"].item(), step["next", "truncated"].item()
        raise RuntimeError("the game did not end")

    length, *flags = first_end(108_000)
    assert flags == [True, False]
    # The game is over in one of the 4 frames of its last step. A cap in an earlier frame truncates, and the
    # cap in that very frame, which is the first of these five that does not truncate, coincides with the end.
    kinds = [first_end(frames)[1:] for frames in range(4 * length - 4, 4 * length + 1)]
    assert kinds[0] == (False, True)
    assert kinds[-1] == (True, False)
    assert kinds == sorted(kinds)
    assert set(kinds) == {(False, True), (True, False)}


def test_a_lost_life_ends_the_trajectory_and_not_the_game():
    env = make_atari_env("breakout", 2, **SMALL)
    losses = games = 0
    frames = None
    lives = torch.full((2,), 5)
    for step, root in _play(env, 500):
        after, lost, done = (
            step["next", "lives"],
            step["next", "end-of-life"][:, 0],
            step["next", "done"][:, 0],
        )
        assert torch.equal(lost, (after < lives) & (after > 0))
        assert not (lost & done).any()
        assert torch.equal(done, after == 0)
        assert torch.equal(root["lives"], torch.where(done, 5, after))
        if frames is not None:
            assert torch.equal(env.base_env.episode_frames[~done], frames[~done] + 4)
            assert (env.base_env.episode_frames[done] <= 30).all()
        frames, lives = env.base_env.episode_frames, root["lives"]
        losses, games = losses + int(lost.sum()), games + int(done.sum())
    # Five lives: four losses inside of a game for every game that ended, and some of the games still running.
    assert games >= 2
    assert 4 * games <= losses <= 4 * games + 8


def test_evaluation_never_marks_a_lost_life():
    env = make_atari_env("breakout", 1, episodic_life=False, **SMALL)
    lives = set()
    for step, _ in _play(env, 150):
        assert not step["next", "end-of-life"].any()
        lives.add(step["next", "lives"].item())
    assert len(lives) > 2


def test_rewards_are_raw():
    env = make_atari_env("ms_pacman", 1, **SMALL)
    assert max(step["next", "reward"].item() for step, _ in _play(env, 100)) >= 10


def _trace(env, steps: int = 60) -> torch.Tensor:
    return torch.stack([root["pixels"] for _, root in _play(env, steps)], 1)


def test_equal_seeds_give_equal_rollouts_and_others_differ():
    first = make_atari_env("ms_pacman", 2, seed=1, **SMALL)
    trace = _trace(first)
    assert torch.equal(trace, _trace(make_atari_env("ms_pacman", 2, seed=1, **SMALL)))
    assert not torch.equal(trace, _trace(make_atari_env("ms_pacman", 2, seed=2, **SMALL)))
    assert not torch.equal(_trace(first), trace)
    first.set_seed(1)
    assert torch.equal(_trace(first), trace)


def test_copies_of_one_vector_have_streams_of_their_own():
    env = make_atari_env("pong", 4, seed=0, **SMALL)
    starts = []
    for _ in range(5):
        env.reset()
        starts.append(env.base_env.episode_frames)
    assert len({tuple(column) for column in torch.stack(starts).T.tolist()}) == 4


def test_stream_of_a_copy_does_not_depend_on_the_number_of_copies():
    starts = []
    for num_envs in (2, 5):
        env = make_atari_env("pong", num_envs, seed=7, **SMALL)
        env.reset()
        starts.append(env.base_env.episode_frames[:2])
    assert torch.equal(*starts)


def test_actions_are_sticky_only_if_asked():
    def trace(seed: int, sticky: float) -> torch.Tensor:
        return _trace(make_atari_env("ms_pacman", noop_max=0, seed=seed, sticky=sticky, **SMALL), 120)

    assert torch.equal(trace(0, 0.0), trace(1, 0.0))
    assert not torch.equal(trace(0, 0.5), trace(1, 0.5))


def test_masked_reset_restarts_only_the_chosen_copies():
    env = make_atari_env("ms_pacman", 3, **SMALL)
    for _, latest in _play(env, 40):
        root = latest
    frames = env.base_env.episode_frames
    kept = root.clone()
    mask = torch.tensor([[False], [True], [False]])
    root = env.reset(root.set("_reset", mask))
    assert env.base_env.episode_frames[[0, 2]].tolist() == frames[[0, 2]].tolist()
    assert 1 <= env.base_env.episode_frames[1] <= 30
    for key in ("pixels", "observation"):
        assert torch.equal(root[key][[0, 2]], kept[key][[0, 2]])
        assert not torch.equal(root[key][1], kept[key][1])
    assert torch.equal(root["observation"][1], root["pixels"][1].repeat(4, 1, 1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_envs": 0},
        {"image_size": 0},
        {"image_size": -96},
        {"frame_stack": 0},
        {"frame_skip": 0},
        {"max_frames": 0},
        {"noop_max": -1},
        {"seed": -1},
        {"sticky": 1.5},
    ],
)
def test_numbers_out_of_range_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be .*got {value}"):
        make_atari_env("pong", **wrong)


def test_unknown_game_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'breakout'"):
        make_atari_env("brakeout")
