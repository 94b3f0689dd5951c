"""Frames as what differs from a game's still picture."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.envs import SubtractBackground, make_env, measure_background
from xtra_rl.envs.background import atari_background

SMALL = {"image_size": 48, "grayscale": True}


def play(env, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = env.reset()
    for _ in range(steps):
        yield state
        action = torch.multinomial(state["action_mask"].float(), 1, generator=generator).squeeze(-1)
        _, state = env.step_and_maybe_reset(state.clone(recurse=False).set("action", action))


def test_differences_by_hand():
    """128 + half the difference, rounded down; the extremes fit."""
    background = torch.tensor([[[0, 255, 100, 100, 101]]], dtype=torch.uint8)
    frame = torch.tensor([[[255, 0, 100, 101, 100]]], dtype=torch.uint8)
    expected = torch.tensor([[[255, 0, 128, 128, 127]]], dtype=torch.uint8)
    assert torch.equal(SubtractBackground(background).subtract(frame), expected)


@pytest.mark.slow
@pytest.mark.parametrize("game", ["alien", "demon_attack"])
def test_most_of_a_frame_is_background_and_the_screen_stays(game):
    env = make_env(game, 2, **SMALL, subtract_background=True)
    background, changed = atari_background(game, 48, True, 4), []
    for state in play(env, 60):
        assert torch.equal(state["pixels"], SubtractBackground(background).subtract(state["screen"]))
        assert torch.equal(state["observation"][:, -1:], state["pixels"])
        changed.append((state["pixels"].float() - 128).abs() > 4)
    share = torch.stack(changed[20:]).float().mean()
    assert 0.001 < share < 0.2
    env.close()


@pytest.mark.slow
def test_the_game_itself_is_the_same():
    """Rewards, lives and screens of the same actions."""
    plain, other = (make_env("alien", 2, **SMALL, seed=3, subtract_background=flag) for flag in (False, True))
    for one, two in zip(play(plain, 50), play(other, 50), strict=True):
        assert torch.equal(one["pixels"], two["screen"])
        assert torch.equal(one["lives"], two["lives"])
    plain.close()
    other.close()


@pytest.mark.slow
def test_the_background_is_the_same_whenever_it_is_measured():
    def measured():
        env = make_env("phoenix", 4, **SMALL, frame_stack=1, num_threads=1)
        try:
            return measure_background(env, 40)
        finally:
            env.close()

    assert torch.equal(measured(), measured())


def test_a_video_shows_the_screen():
    from xtra_rl.evaluation.evaluate import evaluate

    class Still:
        def __call__(self, td):
            return td.set("action", torch.zeros(td.batch_size, dtype=torch.int64))

    result = evaluate(
        Still(), "alien", num_episodes=1, max_steps=5, record_frames=5,
        env_kwargs={**SMALL, "subtract_background": True},
    )  # fmt: skip
    frames = result.frames
    assert (frames[0] != 128).float().mean() > 0.5
