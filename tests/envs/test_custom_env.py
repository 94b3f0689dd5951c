"""Facts about custom tasks and the shared grid world."""

from __future__ import annotations

import pytest
import torch
from gridworld import (
    LEGAL_ACTIONS,
    MAX_STEPS,
    NUM_ACTIONS,
    make_gridworld,
    optimal_action,
    optimal_return,
    optimal_steps,
    random_policy_statistics,
)
from torchrl.envs import EnvBase, GymEnv, SerialEnv
from torchrl.envs.transforms import Compose, DTypeCastTransform, TransformedEnv, UnsqueezeTransform
from torchrl.envs.utils import check_env_specs

from xtra_rl.envs import make_env, register_task, unregister_task


@pytest.fixture
def grid_task():
    register_task("unit_grid", make_gridworld, num_actions=NUM_ACTIONS, action_ids=LEGAL_ACTIONS)
    yield "unit_grid"
    unregister_task("unit_grid")


def _episodes(env, policy, steps: int) -> tuple[float, float]:
    """Mean return and length of the episodes that ended."""
    root = env.reset()
    rewards = ends = 0
    for _ in range(steps):
        root["action"] = policy(root)
        step, root = env.step_and_maybe_reset(root)
        rewards, ends = rewards + step["next", "reward"].sum(), ends + step["next", "done"].sum()
    return float(rewards / ends), float(env.batch_size[0] * steps / ends)


def test_custom_task_gets_stack_cap_and_mask(grid_task):
    env = make_env(grid_task, 4, frame_stack=3, frame_skip=4, max_frames=24)
    check_env_specs(env)
    root = env.reset()
    assert not env.rand_step(root)["next", "end-of-life"].any()
    root = env.reset()
    assert root["observation"].shape == (4, 3, 24, 24)
    assert root["action_mask"].tolist() == [[True] * 4 + [False]] * 4
    lengths = []
    for number in range(1, 25):
        root["action"] = torch.full((4,), 4)
        step, root = env.step_and_maybe_reset(root)
        if step["next", "truncated"].any():
            lengths.append(number)
    # 24 frames of 4 per env_step are 6 env_steps, before the board's own limit of 20.
    assert lengths == [6, 12, 18, 24]


def test_custom_tasks_own_limit_comes_first_if_shorter(grid_task):
    env = make_env(grid_task, 2)
    root = env.reset()
    for _ in range(MAX_STEPS):
        root["action"] = torch.full((2,), 4)
        step, root = env.step_and_maybe_reset(root)
    assert step["next", "truncated"].all()
    assert torch.equal(root["step_count"], torch.zeros(2, 1, dtype=torch.int64))


def test_factory_is_told_seed_and_purpose():
    seen = []

    def factory(num_envs, seed, training):
        seen.append((num_envs, seed, training))
        return make_gridworld(num_envs, seed, training)

    register_task("unit_seen", factory, num_actions=NUM_ACTIONS)
    try:
        make_env("unit_seen", 3, seed=5, episodic_life=False)
        make_env("unit_seen", 2)
    finally:
        unregister_task("unit_seen")
    assert seen == [(3, 5, False), (2, 0, True)]


def test_custom_environment_of_wrong_size_or_frames_is_refused():
    def float_pixels(num_envs, seed, training):
        env = make_gridworld(num_envs, seed, training)
        return TransformedEnv(env, DTypeCastTransform(torch.uint8, torch.float32, in_keys=["pixels"]))

    cases = {
        "unit_size": (lambda n, s, t: make_gridworld(n + 1, s, t), r"batch size \(3,\), expected \(2,\)"),
        "unit_float": (float_pixels, "torch.float32, expected 'pixels'"),
    }
    for name, (factory, message) in cases.items():
        register_task(name, factory, num_actions=NUM_ACTIONS)
        try:
            with pytest.raises(ValueError, match=message):
                make_env(name, 2)
        finally:
            unregister_task(name)


def cart_poles(num_envs: int, seed: int, training: bool) -> EnvBase:
    """A factory: two actions, and a state as a picture of one column."""
    steps = Compose(
        UnsqueezeTransform(-1, in_keys=["observation"], out_keys=["pixels"]),
        UnsqueezeTransform(-1, in_keys=["pixels"], out_keys=["pixels"]),
    )
    games = SerialEnv(num_envs, lambda: GymEnv("CartPole-v1", categorical_action_encoding=True))
    return TransformedEnv(games, steps)


@pytest.mark.filterwarnings("error:Nested TransformedEnvs")
def test_a_state_that_is_no_picture_becomes_a_task():
    register_task("unit_vector", cart_poles, num_actions=2)
    try:
        env = make_env("unit_vector", 2, frame_stack=2)
        check_env_specs(env)
        root = env.reset()
        observation = root["observation"]
        assert (observation.shape, observation.dtype) == ((2, 8, 1, 1), torch.float32)
        assert torch.equal(observation[:, 4:], root["pixels"])
        assert root["pixels"].abs().max() < 0.05  # as gymnasium draws it: bytes would all be 0
    finally:
        unregister_task("unit_vector")


@pytest.mark.parametrize("ids", [[0, 1], [1]])
def test_a_game_with_fewer_actions_than_the_head_plays_those_it_has(ids):
    register_task("unit_few", cart_poles, num_actions=18, action_ids=ids)
    try:
        env = make_env("unit_few", 2, frame_stack=2)
        check_env_specs(env)
        played = env.rollout(30, break_when_any_done=False)
        assert played["action"].unique().tolist() == ids
        assert played["action_mask"].shape == (2, 30, 18)
    finally:
        unregister_task("unit_few")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_actions": 18},
            r"task 'unit_wrong' has 2 actions, 0 to 1, .*\[2, 3, .*17\] legal.*action_ids=",
        ),
        ({"num_actions": 18, "action_ids": [0, 2]}, r"has 2 actions, 0 to 1, .*\[2\] legal"),
        ({"num_actions": 1}, r"has 2 actions .* a head of 1; .*num_actions=2"),
    ],
)
def test_a_head_that_does_not_fit_the_environments_actions_is_refused(options, message):
    register_task("unit_wrong", cart_poles, **options)
    try:
        with pytest.raises(ValueError, match=message):
            make_env("unit_wrong", 2)
    finally:
        unregister_task("unit_wrong")


def test_atari_goes_through_the_same_door():
    env = make_env("Freeway", 2, image_size=20, grayscale=True, frame_stack=2, num_threads=1)
    assert env.reset()["observation"].shape == (2, 2, 20, 20)


@pytest.mark.parametrize("variant", ["plain", "inverted"])
def test_grid_world_obeys_its_specs(variant):
    check_env_specs(make_gridworld(3, 0, variant=variant))


def test_grid_world_optimum_is_reached_by_the_best_policy():
    mean_return, mean_steps = _episodes(
        make_gridworld(64, 0), lambda root: optimal_action(root["pixels"]), 200
    )
    # Distances have a standard deviation of about 2; 3200 episodes give a standard error of 0.04.
    assert mean_return == optimal_return()
    assert mean_steps == pytest.approx(optimal_steps(), abs=0.15)
    assert optimal_steps() == pytest.approx(4.0)


def test_grid_world_random_statistics_are_those_of_play():
    generator = torch.Generator().manual_seed(0)
    policy = lambda root: torch.randint(4, root.batch_size, generator=generator)  # noqa: E731
    mean_return, mean_steps = _episodes(make_gridworld(64, 1), policy, 1500)
    # 5500 episodes of a 0/1 return with mean 0.26: standard error 0.006. The unfinished last episodes of
    # all copies bias the mean length by half an episode in 87, that is by 0.1 of 17.2 steps.
    assert (mean_return, mean_steps) == (
        pytest.approx(random_policy_statistics()[0], abs=0.02),
        pytest.approx(random_policy_statistics()[1], abs=0.35),
    )


def test_grid_world_variants_are_one_game_in_other_colours():
    plain, inverted = make_gridworld(4, 3), make_gridworld(4, 3, variant="inverted", goal_reward=2.0)
    one, other = plain.reset(), inverted.reset()
    for _ in range(30):
        assert torch.equal(one["pixels"], 255 - other["pixels"])
        action = optimal_action(one["pixels"])
        one["action"], other["action"] = action, action.clone()
        step, one = plain.step_and_maybe_reset(one)
        twin, other = inverted.step_and_maybe_reset(other)
        assert torch.equal(2 * step["next", "reward"], twin["next", "reward"])


def test_a_mask_of_the_environments_own_has_to_be_the_tasks(grid_task):
    """The grid world brings its mask along."""
    assert make_env(grid_task, 2).rollout(3)["next", "action_mask"].shape == (2, 3, 5)
    register_task("other_mask", make_gridworld, num_actions=NUM_ACTIONS, action_ids=(0, 2))
    try:
        with pytest.raises(
            ValueError, match=r"own action_mask is \[1, 1, 1, 1, 0\], its task's \[1, 0, 1, 0, 0\]"
        ):
            make_env("other_mask", 2).reset()
    finally:
        unregister_task("other_mask")
