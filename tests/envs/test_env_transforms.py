"""Facts about frame stack, step cap and life loss, on a real game and on a counting environment."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import GymEnv
from torchrl.envs.common import EnvBase
from torchrl.envs.transforms import Compose, TransformedEnv
from torchrl.envs.utils import check_env_specs

from xtra_rl.envs import LegalActions, LifeLoss, StackFrames, StepLimit, make_atari_env


class Counter(EnvBase):
    """A frame shows the age of its game in steps.

    Action 1 ends the game, 2 loses one of 3 lives, 3 sets the lives to 0 without an end, 4 wins a life.
    """

    def __init__(self, num_envs: int) -> None:
        super().__init__(batch_size=[num_envs])
        self.age = torch.zeros(num_envs, dtype=torch.uint8)
        self.lives = torch.full((num_envs,), 3, dtype=torch.int32)
        self.observation_spec = Composite(
            pixels=Bounded(0, 255, shape=(num_envs, 1, 1, 1), dtype=torch.uint8),
            lives=Unbounded(shape=(num_envs,), dtype=torch.int32),
            shape=(num_envs,),
        )
        self.action_spec = Categorical(5, shape=(num_envs,), dtype=torch.int64)
        self.reward_spec = Unbounded(shape=(num_envs, 1), dtype=torch.float32)
        flag = Binary(shape=(num_envs, 1), dtype=torch.bool)
        self.done_spec = Composite(done=flag, terminated=flag.clone(), shape=(num_envs,))

    def _set_seed(self, seed: int | None) -> None:
        """Nothing is random."""

    def _result(self, terminated: torch.Tensor, **extra: torch.Tensor) -> TensorDict:
        frame = self.age.view(-1, 1, 1, 1).clone()
        items = {
            "pixels": frame,
            "lives": self.lives.clone(),
            "done": terminated,
            "terminated": terminated.clone(),
        }
        return TensorDict({**items, **extra}, batch_size=self.batch_size)

    def _reset(self, tensordict=None, **kwargs):
        mask = None if tensordict is None else tensordict.get("_reset", None)
        mask = torch.ones(self.batch_size, dtype=torch.bool) if mask is None else mask.view(self.batch_size)
        self.age = self.age.masked_fill(mask, 0)
        self.lives = self.lives.masked_fill(mask, 3)
        return self._result(torch.zeros(*self.batch_size, 1, dtype=torch.bool))

    def _step(self, tensordict):
        action = tensordict["action"]
        self.age = self.age + 1
        lives = self.lives + (action == 4).to(torch.int32) - (action == 2).to(torch.int32)
        self.lives = lives.masked_fill(action == 3, 0)
        terminated = ((action == 1) | (lives == 0)).unsqueeze(-1)
        return self._result(terminated, reward=torch.ones(*self.batch_size, 1))


def _counter(*transforms) -> TransformedEnv:
    return TransformedEnv(Counter(2), Compose(*transforms))


def _walk(env, actions: list[list[int]]):
    """Steps and next roots for given actions of both copies."""
    root = env.reset()
    steps = []
    for action in actions:
        root["action"] = torch.tensor(action)
        step, root = env.step_and_maybe_reset(root)
        steps.append((step.clone(), root.clone()))
    return steps


def test_stack_restarts_for_the_copy_whose_game_ended_and_keeps_the_final_stack():
    env = _counter(StackFrames(3))
    steps = _walk(env, [[0, 0], [0, 1], [0, 0]])
    stacks = [step["next", "observation"].flatten(1).tolist() for step, _ in steps]
    roots = [root["observation"].flatten(1).tolist() for _, root in steps]
    assert stacks == [[[0, 0, 1], [0, 0, 1]], [[0, 1, 2], [0, 1, 2]], [[1, 2, 3], [0, 0, 1]]]
    assert roots == [[[0, 0, 1], [0, 0, 1]], [[0, 1, 2], [0, 0, 0]], [[1, 2, 3], [0, 0, 1]]]


def test_stack_restarts_at_a_lost_life_with_the_frame_after_it():
    env = _counter(LifeLoss(), StackFrames(3))
    steps = _walk(env, [[0, 0], [2, 0], [0, 0], [2, 0], [2, 0]])
    lost = [step["next", "end-of-life"].flatten().tolist() for step, _ in steps]
    stacks = [step["next", "observation"].flatten(1).tolist()[0] for step, _ in steps]
    assert lost == [[False, False], [True, False], [False, False], [True, False], [False, False]]
    # The last life ends the game: its final stack is not restarted.
    assert stacks == [[0, 0, 1], [2, 2, 2], [2, 2, 3], [4, 4, 4], [4, 4, 5]]
    assert steps[-1][0]["next", "done"].flatten().tolist() == [True, False]
    assert steps[-1][1]["observation"].flatten(1).tolist() == [[0, 0, 0], [3, 4, 5]]


def test_won_lives_and_a_count_of_zero_are_not_losses():
    steps = _walk(_counter(LifeLoss()), [[4, 3], [2, 0]])
    lost = [step["next", "end-of-life"].flatten().tolist() for step, _ in steps]
    assert lost == [[False, False], [True, False]]


def test_life_loss_rule_tolerates_games_that_start_with_zero_lives():
    # Amidar and Carnival report 0 lives right after a reset and more a step later.
    env = make_atari_env("amidar", image_size=12, grayscale=True, num_threads=1)
    root = env.reset()
    for _ in range(10):
        root["action"] = torch.zeros(1, dtype=torch.int64)
        step, root = env.step_and_maybe_reset(root)
        assert not step["next", "end-of-life"].any()
    assert root["lives"].item() > 0


def test_step_limit_truncates_each_copy_on_its_own_clock():
    env = _counter(StepLimit(3), StackFrames(2))
    steps = _walk(env, [[0, 1], [0, 0], [0, 0], [0, 0]])
    truncated = [step["next", "truncated"].flatten().tolist() for step, _ in steps]
    done = [step["next", "done"].flatten().tolist() for step, _ in steps]
    assert truncated == [[False, False], [False, False], [True, False], [False, True]]
    assert done == [[False, True], [False, False], [True, False], [False, True]]
    assert not any(root["done"].any() for _, root in steps)


def test_step_limit_leaves_a_true_end_terminated():
    step, _ = _walk(_counter(StepLimit(1)), [[1, 0]])[0]
    assert step["next", "terminated"].flatten().tolist() == [True, False]
    assert step["next", "truncated"].flatten().tolist() == [False, True]


def test_specs_of_all_transforms_hold():
    mask = torch.tensor([True, False, True, False, True])
    env = _counter(StepLimit(4), LegalActions(mask), LifeLoss(), StackFrames(3))
    check_env_specs(env)
    assert env.reset()["action_mask"].tolist() == [mask.tolist()] * 2


def test_random_actions_are_legal_ones():
    mask = torch.tensor([True, False, True, False, True])
    env = _counter(LegalActions(mask))
    actions = env.rollout(60, break_when_any_done=False)["action"]
    assert set(actions.flatten().tolist()) == {0, 2, 4}
    assert env.base_env.action_spec.mask is None


def test_a_task_without_illegal_actions_leaves_random_actions_as_they_were():
    torch.manual_seed(0)
    plain = Counter(2).rand_action()["action"]
    torch.manual_seed(0)
    assert torch.equal(_counter(LegalActions(torch.ones(5, dtype=torch.bool))).rand_action()["action"], plain)


def test_an_action_that_the_environments_own_spec_forbids_is_not_drawn():
    env = Counter(2)
    env.action_spec = Categorical(5, shape=(2,), mask=torch.tensor([True, True, True, False, False]))
    env = TransformedEnv(env, LegalActions(torch.tensor([True, False, True, False, True])))
    actions = env.rollout(60, break_when_any_done=False)["action"]
    assert set(actions.flatten().tolist()) == {0, 2}


def test_an_own_mask_of_another_length_is_refused():
    own = LegalActions(torch.ones(5, dtype=torch.bool))
    env = _counter(own, LegalActions(torch.tensor([True] * 5 + [False])))
    with pytest.raises(
        ValueError, match=r"own action_mask is \[1, 1, 1, 1, 1\], its task's \[1, 1, 1, 1, 1, 0\]"
    ):
        env.reset()


def test_one_hot_actions_are_refused_before_the_first_step():
    """A planner's action 1 would be played as action 0: as a vector it has no place that is 1."""
    env = TransformedEnv(GymEnv("CartPole-v1"), LegalActions(torch.ones(2, dtype=torch.bool)))
    for ask in (lambda: env.action_spec, env.reset):
        with pytest.raises(ValueError, match=r"OneHot actions.*categorical_action_encoding=True"):
            ask()


@pytest.mark.parametrize("transform", [LifeLoss(), StepLimit(3), StackFrames(2)])
def test_a_step_without_what_the_step_before_wrote_is_refused(transform):
    env = _counter(transform)
    env.reset()
    with pytest.raises(ValueError, match=r"lacks '\w+', .*\['action'.*env.rand_step\(env.reset\(\)\)"):
        env.rand_step(env.rand_action())


@pytest.mark.parametrize("build", [lambda: StackFrames(0), lambda: StepLimit(0)])
def test_sizes_below_one_are_refused(build):
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        build()


@pytest.mark.parametrize("grayscale", [True, False])
def test_stacks_of_a_real_game_follow_the_frames(grayscale):
    env = make_atari_env("breakout", 3, image_size=12, grayscale=grayscale, num_threads=1)
    root = env.reset()
    history = [[frame] * 4 for frame in root["pixels"]]
    restarts = ends = 0
    for _ in range(250):
        root = env.rand_action(root)
        step, root = env.step_and_maybe_reset(root)
        for i in range(3):
            frame = step["next", "pixels"][i]
            lost = step["next", "end-of-life"][i].item()
            history[i] = [frame] * 4 if lost else [*history[i][1:], frame]
            assert torch.equal(step["next", "observation"][i], torch.cat(history[i]))
            if step["next", "done"][i].item():
                history[i] = [root["pixels"][i]] * 4
            assert torch.equal(root["observation"][i], torch.cat(history[i]))
            restarts, ends = restarts + int(lost), ends + int(step["next", "done"][i])
    assert restarts > 5
    assert ends >= 1
