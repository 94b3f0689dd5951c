"""Acting into replay, and the fixed ratio of updates to env steps."""

from __future__ import annotations

import pytest
import torch
from gridworld import make_gridworld
from tensordict import TensorDict
from tensordict.nn import TensorDictModuleBase

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.envs import make_env, register_task, unregister_task
from xtra_rl.training.actor import Actor, Decision, StepWriter
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.loop import scalars, train_offline, train_online


class RandomPlanner(TensorDictModuleBase):
    """Random legal actions with the keys of a planner."""

    in_keys = ["observation", "action_mask"]
    out_keys = ["action", ("search", "policy"), ("search", "value")]

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.seen = []

    def forward(self, td):
        mask = td["action_mask"].float()
        self.seen.append(td["observation"].clone())
        td["action"] = torch.multinomial(mask, 1, generator=self.generator).squeeze(-1)
        td["search", "policy"] = mask / mask.sum(-1, keepdim=True)
        td["search", "value"] = torch.zeros(len(mask))
        return td

    def rng_state(self):
        return self.generator.get_state()

    def set_rng_state(self, state):
        self.generator.set_state(state)


def stored_rows(buffer):
    """All rows of a buffer with one column, in order."""
    return buffer.storage._storage[: len(buffer)]


def test_lost_lives_end_trajectories_in_replay_while_the_game_and_its_score_go_on():
    env = make_env("breakout", 1, image_size=32, grayscale=True, frame_stack=2, seed=3)
    buffer = TrajectoryReplayBuffer(2000, num_envs=1, memmap=False)
    actor = Actor(env, RandomPlanner(), buffer)
    finished, steps = [], 0
    while not finished:
        finished += actor.step()
        steps += 1
    rows = stored_rows(buffer)
    transitions = rows[rows["has_action"]]
    assert len(transitions) == steps == actor.env_steps
    # Breakout has five lives: five trajectories, five final rows, one game.
    assert transitions["terminated"].sum() == 5
    assert not transitions["truncated"].any()
    assert (~rows["has_action"]).sum() == 5
    assert transitions["reward"].sum().item() == finished[0]
    starts = rows["step"] == 0
    after_end = torch.cat([torch.tensor([True]), ~rows["has_action"][:-1]])
    assert torch.equal(starts, after_end)


def test_final_frame_of_a_truncated_game_is_stored_and_bootstrapped():
    env = make_env("alien", 1, image_size=32, grayscale=True, frame_stack=2, seed=0, max_frames=40)
    buffer = TrajectoryReplayBuffer(200, num_envs=1, memmap=False)
    actor = Actor(env, RandomPlanner(), buffer)
    for _ in range(12):
        actor.step()
    rows = stored_rows(buffer)
    assert rows["truncated"].nonzero().flatten().tolist() == [9]
    assert rows["has_action"][:12].tolist() == [True] * 10 + [False, True]
    assert not rows["terminated"].any()
    assert not torch.equal(rows["pixels"][10], rows["pixels"][11])


def test_a_game_that_ends_as_it_is_cut_has_ended():
    flags = {"done": True, "terminated": True, "truncated": True, "end-of-life": False}
    outcome = TensorDict({name: torch.tensor([[flag]]) for name, flag in flags.items()}, [1])
    frame = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    outcome["reward"], outcome["pixels"] = torch.tensor([[2.0]]), frame
    buffer = TrajectoryReplayBuffer(10, num_envs=1, memmap=False)
    assert StepWriter(buffer).write(frame, Decision(torch.tensor([1])), outcome) == [2.0]
    rows = stored_rows(buffer)
    assert rows["terminated"].tolist() == [True, False]
    assert not rows["truncated"].any()


def test_frame_stack_seen_while_acting_is_the_one_rebuilt_from_replay():
    """Across lost lives, too: what the planner saw at a row equals the window's stack at that row."""
    env = make_env("breakout", 1, image_size=32, grayscale=True, frame_stack=4, seed=3)
    buffer = TrajectoryReplayBuffer(2000, num_envs=1, memmap=False, alpha=0.0)
    planner = RandomPlanner()
    actor = Actor(env, planner, buffer)
    for _ in range(150):
        actor.step()
    has_action = stored_rows(buffer)["has_action"]
    acted = has_action.cumsum(0) - 1
    windows = buffer.sample_windows(100, unroll_steps=1, bootstrap_steps=1, frame_stack=4)
    for window in windows:
        expected = planner.seen[int(acted[window["index"]])][0]
        assert torch.equal(window["pixels"][:4].flatten(0, 1), expected)


class CountingLearner:
    """Stands for the learner where only the number of its steps matters."""

    def __init__(self):
        self.steps = 0

    def step(self, batch, watch):
        self.steps += 1
        batch["td_error"] = torch.ones(len(batch["index"]))
        return {"loss/value": 0.0}


class NoTargets:
    """Windows as they are."""

    unroll_steps, bootstrap_steps, frame_stack, bootstrap_pixels = 1, 1, 2, False

    def __call__(self, windows):
        return windows


@pytest.fixture
def parts():
    register_task("gridworld", make_gridworld, num_actions=5, action_ids=(0, 1, 2, 3))
    env = make_env("gridworld", 4, frame_stack=2)
    buffer = TrajectoryReplayBuffer(4000, num_envs=4, num_actions=5, memmap=False)
    source = BatchSource(
        MultiTaskReplayBuffer({"gridworld": buffer}, {"gridworld": 8}), {"gridworld": NoTargets()}
    )
    yield Actor(env, RandomPlanner(), buffer), source, CountingLearner()
    unregister_task("gridworld")


@pytest.mark.parametrize(("ratio", "updates"), [(1.0, 60), (0.5, 30), (0.3, 18), (2.0, 120), (0.0, 0)])
def test_updates_per_env_step_are_exact(parts, ratio, updates):
    actor, source, learner = parts
    loop = train_online(
        actor, source, learner, env_steps=100, warmup_steps=40, replay_ratio=ratio, extra_train_steps=3
    )
    progress = list(loop)
    assert actor.env_steps == 100
    assert learner.steps == updates + 3
    positions = [now.position for now in progress]
    assert positions == [*range(4, 101, 4), 101, 102, 103]
    assert progress[-1].train_steps == learner.steps


def test_offline_loop_takes_its_steps(parts):
    actor, source, learner = parts
    for _ in range(10):
        actor.step()
    assert [now.train_steps for now in train_offline(source, learner, train_steps=4)] == [1, 2, 3, 4]


def test_a_learner_that_has_trained_elsewhere_is_refused(parts):
    """Its steps would be taken for some of those asked for."""
    learner = parts[-1]
    learner.steps = 5
    with pytest.raises(
        ValueError, match="has taken 5 steps, and 0 env steps ask for 0: pass one that has not"
    ):
        next(train_online(*parts, env_steps=100, warmup_steps=40, extra_train_steps=9))


@pytest.mark.parametrize("wrong", [{"env_steps": 0}, {"warmup_steps": -1}, {"replay_ratio": -0.5}])
def test_impossible_budgets_are_refused(parts, wrong):
    options = {"env_steps": 10, "warmup_steps": 0} | wrong
    with pytest.raises(ValueError, match="at least one env step and nothing negative"):
        next(train_online(*parts, **options))


def test_tasks_must_agree_on_the_unroll(parts):
    _, source, _ = parts
    buffers = source.buffers.buffers
    other = NoTargets()
    other.unroll_steps = 2
    two = MultiTaskReplayBuffer({"a": buffers["gridworld"], "b": buffers["gridworld"]}, {"a": 4, "b": 4})
    with pytest.raises(ValueError, match="disagree"):
        BatchSource(two, {"a": NoTargets(), "b": other})
    with pytest.raises(ValueError, match="no targets for task 'b'"):
        BatchSource(two, {"a": NoTargets()})


def test_metrics_become_floats_in_their_order():
    metrics = {"a": torch.tensor(1, dtype=torch.int64), "b": 2.5, "c": torch.tensor(3.0, requires_grad=True)}
    assert list(scalars(metrics).items()) == [("a", 1.0), ("b", 2.5), ("c", 3.0)]
    assert scalars({}) == {}


@pytest.mark.gpu
def test_metrics_of_two_devices_become_floats():
    assert scalars({"a": torch.tensor(1.0, device="cuda"), "b": torch.tensor(2.0)}) == {"a": 1.0, "b": 2.0}


def test_a_restored_actor_is_in_the_middle_of_the_same_games():
    """The ring is over-written by then, and lives were lost: replay, emulators, stacks and noise go on alike."""

    def make():
        env = make_env("breakout", 2, image_size=32, grayscale=True, frame_stack=4, seed=3, sticky=0.25)
        buffer = TrajectoryReplayBuffer(240, num_envs=2, memmap=False)
        return Actor(env, RandomPlanner(), buffer)

    whole, first = make(), make()
    for actor in (whole, first):
        for _ in range(200):
            actor.step()
    second = make()
    second.load_state_dict(first.state_dict())
    assert second.env_steps == 400
    assert (stored_rows(whole.buffer)["step"] == 0).sum() > 2
    for _ in range(150):
        assert second.step() == whole.step()
    assert torch.equal(second._current["observation"], whole._current["observation"])
    for name, expected in stored_rows(whole.buffer).items():
        assert torch.equal(stored_rows(second.buffer)[name], expected), name
    assert second.buffer.total_added == whole.buffer.total_added == 700


def test_an_environment_that_is_not_the_recorded_one_is_refused():
    def make(seed, envs=1):
        env = make_env("alien", envs, image_size=32, grayscale=True, frame_stack=2, seed=seed)
        return Actor(env, RandomPlanner(), TrajectoryReplayBuffer(200, num_envs=envs, memmap=False))

    actor = make(0)
    for _ in range(5):
        actor.step()
    with pytest.raises(ValueError, match="do not lead to the recorded frames"):
        make(1).load_state_dict(actor.state_dict())
    with pytest.raises(ValueError, match="is of 1 environments and this actor has 2"):
        make(0, envs=2).load_state_dict(actor.state_dict())
    with pytest.raises(ValueError, match="took 5 env steps"):
        actor.load_state_dict(actor.state_dict())


def test_a_loop_over_restored_parts_owes_what_the_first_one_owed(parts):
    actor, source, learner = parts
    options = {"env_steps": 100, "warmup_steps": 40, "replay_ratio": 0.3, "extra_train_steps": 3}
    loop = train_online(actor, source, learner, **options)
    found = [next(loop) for _ in range(17)]
    found += train_online(actor, source, learner, **options)
    assert [now.position for now in found] == [*range(4, 101, 4), 101, 102, 103]
    assert learner.steps == 18 + 3
