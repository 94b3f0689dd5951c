"""The evaluation protocol on an environment whose scores are known."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, check_env_specs, exploration_type

from xtra_rl.evaluation.baselines import ConstantPolicy, RandomPolicy, best_constant_action, random_returns
from xtra_rl.evaluation.evaluate import evaluate


class CountingEnv(EnvBase):
    """Environment i of seed s first plays an episode of s + i + 1 steps; a step pays 10 + its action.

    Action 2 of 3 is illegal. With ``limit``, an episode that would be longer is truncated. The red channel of
    the picture shows the step. Later episodes must never be counted: they pay 1000 a step and are truncated.
    """

    def __init__(self, num_envs, *, seed=0, limit=None, pixels=True):
        super().__init__(batch_size=[num_envs])
        self.lengths = seed + 1 + torch.arange(num_envs)
        self.limit = limit
        self.has_pixels = pixels
        self.episode = torch.full((num_envs,), -1)
        self.count = torch.zeros(num_envs, dtype=torch.int64)
        n = (num_envs,)
        self.observation_spec = Composite(
            action_mask=Categorical(2, shape=(*n, 3), dtype=torch.bool), shape=n
        )
        if pixels:
            self.observation_spec["pixels"] = Bounded(0, 255, shape=(*n, 3, 4, 4), dtype=torch.uint8)
        self.action_spec = Categorical(3, shape=n)
        self.reward_spec = Unbounded(shape=(*n, 1))
        done = Categorical(2, shape=(*n, 1), dtype=torch.bool)
        self.full_done_spec = Composite(done=done, terminated=done.clone(), truncated=done.clone(), shape=n)

    def _observe(self):
        td = TensorDict(
            {"action_mask": torch.tensor([True, True, False]).expand(*self.batch_size, 3)}, self.batch_size
        )
        if self.has_pixels:
            pixels = torch.zeros(*self.batch_size, 3, 4, 4, dtype=torch.uint8)
            pixels[:, 0] = self.count.to(torch.uint8)[:, None, None]
            td["pixels"] = pixels
        return td

    def _reset(self, tensordict=None):
        which = torch.ones(self.batch_size, dtype=torch.bool)
        if tensordict is not None and "_reset" in tensordict:
            which = tensordict["_reset"].reshape(self.batch_size)
        self.episode = torch.where(which, self.episode + 1, self.episode)
        self.count = torch.where(which, 0, self.count)
        return self._observe()

    def _step(self, tensordict):
        self.count = self.count + 1
        is_first = self.episode == 0
        terminated = is_first & (self.count >= self.lengths)
        truncated = ~is_first | (self.count >= (self.limit or 1000))
        reward = torch.where(is_first, 10.0 + tensordict["action"], 1000.0)
        td = self._observe()
        td["reward"] = reward.float().unsqueeze(-1)
        td["terminated"] = terminated.unsqueeze(-1)
        td["truncated"] = truncated.unsqueeze(-1)
        td["done"] = (terminated | truncated).unsqueeze(-1)
        return td

    def _set_seed(self, seed):
        pass


class Factory:
    def __init__(self, **kwargs):
        self.kwargs = kwargs
        self.calls = []
        self.envs = []

    def __call__(self, task, num_envs, *, seed, episodic_life, **kwargs):
        self.calls.append((task, num_envs, seed, episodic_life, kwargs))
        self.envs.append(CountingEnv(num_envs, seed=seed, **self.kwargs))
        return self.envs[-1]


class Spy(TensorDictModuleBase):
    """Takes action 1 and remembers how it was asked."""

    in_keys = ["action_mask"]
    out_keys = ["action"]

    def __init__(self):
        super().__init__()
        self.batch_sizes = []
        self.exploration = set()
        self.net = nn.Dropout()
        self.modes = set()

    def forward(self, td):
        self.batch_sizes.append(td.batch_size[0])
        self.exploration.add(exploration_type())
        self.modes.add(self.net.training)
        return td.set("action", torch.ones(td.batch_size, dtype=torch.int64))


def play(policy=None, **kwargs):
    kwargs = {"num_episodes": 4, "make_env": Factory(), **kwargs}
    return evaluate(policy or ConstantPolicy(0), "count", **kwargs)


def test_the_local_environment_is_a_valid_torchrl_environment():
    check_env_specs(CountingEnv(2))


def test_each_environment_counts_its_first_episode_only():
    # Lengths 1, 2, 3, 4 at 10 points a step. While the last one plays, the first would finish four episodes.
    result = play()
    assert result.returns == [10.0, 20.0, 30.0, 40.0]
    assert result.lengths == [1, 2, 3, 4]
    assert result.truncated == [False] * 4
    assert result.mean_return == 25.0
    assert result.frames is None
    assert result.mode == "greedy"


def test_the_policy_is_not_asked_for_finished_episodes():
    spy = Spy()
    assert play(spy).returns == [11.0, 22.0, 33.0, 44.0]
    assert spy.batch_sizes == [4, 3, 2, 1]


def test_state_that_a_policy_keeps_in_the_tensordict_stays_with_its_episode():
    class Memory(TensorDictModuleBase):
        in_keys = ["action_mask"]
        out_keys = ["action", "seen"]

        def forward(self, td):
            seen = td.get("seen", torch.zeros(td.batch_size, dtype=torch.int64))
            # A policy that takes action 1 on its third call of one episode, and 0 before.
            td.set("action", (seen == 2).long())
            return td.set("seen", seen + 1)

    # Only the third step pays 11: lengths 1 to 4 give 10, 20, 31, 41.
    assert play(Memory()).returns == [10.0, 20.0, 31.0, 41.0]


def test_truncated_episodes_count_and_are_flagged():
    result = play(make_env=Factory(limit=3))
    # The episode of exactly 3 steps ends by itself at its limit: that is a termination.
    assert result.lengths == [1, 2, 3, 3]
    assert result.returns == [10.0, 20.0, 30.0, 30.0]
    assert result.truncated == [False, False, False, True]


def test_max_steps_cuts_episodes_off_and_flags_them():
    result = play(max_steps=2)
    assert result.lengths == [1, 2, 2, 2]
    assert result.returns == [10.0, 20.0, 20.0, 20.0]
    assert result.truncated == [False, False, True, True]


def test_fewer_environments_play_the_same_seeds_in_rounds():
    factory = Factory()
    result = play(num_episodes=5, num_envs=2, seed=3, make_env=factory)
    assert [call[1:3] for call in factory.calls] == [(2, 3), (2, 5), (1, 7)]
    assert result.lengths == [4, 5, 6, 7, 8]
    assert result.returns == play(num_episodes=5, seed=3).returns


def test_environments_are_of_whole_games_and_closed():
    factory = Factory()
    play(env_kwargs={"image_size": 64, "episodic_life": False}, make_env=factory)
    assert factory.calls == [("count", 4, 0, False, {"image_size": 64})]
    assert factory.envs[0].is_closed
    with pytest.raises(ValueError, match="episodic_life=True"):
        play(env_kwargs={"episodic_life": True})


def test_environments_are_closed_when_the_policy_fails():
    def fail(_):
        raise RuntimeError("policy")

    factory = Factory()
    with pytest.raises(RuntimeError, match="policy"):
        play(fail, make_env=factory)
    assert factory.envs[0].is_closed


@pytest.mark.parametrize(
    ("mode", "expected"), [("greedy", ExplorationType.DETERMINISTIC), ("sampled", ExplorationType.RANDOM)]
)
def test_the_mode_sets_the_exploration_type_and_modules_play_in_eval_mode(mode, expected):
    spy = Spy().train()
    spy.net.eval()
    result = play(spy, mode=mode)
    assert spy.exploration == {expected}
    assert result.mode == mode
    assert spy.modes == {False}
    assert (spy.training, spy.net.training) == (True, False)


def test_frames_are_those_of_the_first_episode_up_to_its_final_picture():
    result = play(seed=2, record_frames=100)
    # Seed 2 starts with an episode of 3 steps: 4 pictures, steps 0 to 3.
    assert result.frames.shape == (4, 4, 4, 3)
    assert result.frames.dtype == torch.uint8
    assert result.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert play(seed=2, record_frames=2).frames[:, 0, 0, 0].tolist() == [0, 1]


def test_frames_of_an_environment_without_pixels_are_refused():
    with pytest.raises(ValueError, match="record_frames=1, but the environment has no 'pixels'"):
        play(record_frames=1, make_env=Factory(pixels=False))
    assert play(make_env=Factory(pixels=False)).lengths == [1, 2, 3, 4]


def test_progress_is_told_about_every_episode_once():
    class Counter:
        total = 0

        def update(self, n=1):
            self.total += n

    counter = Counter()
    play(progress=counter, max_steps=2, num_envs=3)
    assert counter.total == 4


@pytest.mark.parametrize("bad", [{"num_episodes": 0}, {"num_envs": 0}, {"max_steps": 0}, {"mode": "best"}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        play(**bad)


def test_a_tensordict_module_is_a_policy():
    module = TensorDictModule(
        lambda mask: mask.long().argmax(-1), in_keys=["action_mask"], out_keys=["action"]
    )
    assert play(module).returns == [10.0, 20.0, 30.0, 40.0]


def test_random_play_is_legal_repeatable_and_differs_between_seeds():
    first = random_returns("count", num_episodes=30, make_env=Factory())
    assert first.returns == random_returns("count", num_episodes=30, make_env=Factory()).returns
    bonus = [score - 10 * length for score, length in zip(first.returns, first.lengths)]
    # 465 fair draws of action 0 or 1: mean 232.5, standard deviation 10.8.
    assert 180 < sum(bonus) < 285
    policy = RandomPolicy(torch.Generator().manual_seed(1))
    mask = torch.tensor([[True, False, True]]).expand(100, 3)
    actions = policy(TensorDict({"action_mask": mask}, [100]))["action"]
    assert set(actions.tolist()) == {0, 2}


def test_the_best_constant_action_is_the_best_legal_one():
    best = best_constant_action("count", num_episodes=3, make_env=Factory())
    assert best.action == 1
    assert best.result.returns == [11.0, 22.0, 33.0]
    assert best.mean_returns == {0: 20.0, 1: 22.0}


def test_an_illegal_constant_action_is_refused():
    with pytest.raises(ValueError, match=r"action=2 is illegal here; legal actions: \[0, 1\]"):
        play(ConstantPolicy(2))
    with pytest.raises(ValueError, match="action=7 is illegal"):
        play(ConstantPolicy(7))
