"""Collection by Ray workers: what replay holds, weights, killed workers, checkpoints, steps ahead of training."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch
from ray_pools import POOLS
from tensordict.nn import TensorDictModuleBase

from xtra_rl.data import TrajectoryReplayBuffer
from xtra_rl.envs import make_env
from xtra_rl.training.actor import Actor
from xtra_rl.training.seeding import derive_seed

GAME = partial(make_env, "breakout", image_size=32, grayscale=True, frame_stack=2)


def play(num_envs, seed):
    return GAME(num_envs, seed=seed)


class RandomPlanner(TensorDictModuleBase):
    """Random legal actions; the value that it finds is the weight of its model."""

    in_keys = ["observation", "action_mask"]
    out_keys = ["action", ("search", "policy"), ("search", "value")]

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.random_state = torch.Generator().get_state()

    def forward(self, td):
        generator = torch.Generator()
        generator.set_state(self.random_state)
        mask = td["action_mask"].float()
        td["action"] = torch.multinomial(mask, 1, generator=generator).squeeze(-1)
        td["search", "policy"] = mask / mask.sum(-1, keepdim=True)
        td["search", "value"] = self.model.weight.detach().view(1).expand(len(mask)).clone()
        self.random_state = generator.get_state()
        return td

    def set_train_step(self, train_step):
        pass

    def rng_state(self):
        return self.random_state

    def set_rng_state(self, state):
        self.random_state = state.clone()


def model_of(weight):
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(weight)
    return model


def replay(num_envs):
    return TrajectoryReplayBuffer(1000, num_envs=num_envs, memmap=False)


def ray_actor(workers=2, num_envs=3, **options):
    """An actor with its replay and its model; workers cannot import this file, so what it defines is sent to them."""
    from ray import cloudpickle

    from xtra_rl.distributed.ray_collection import RayActor

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    model, buffer = model_of(0.0), replay(num_envs)
    actor = RayActor(play, RandomPlanner(model), model, buffer, workers=workers, seed=7, **options)
    POOLS.append(actor)
    return actor, buffer, model


def rows_of(buffer, game):
    """All rows of one column, in order; none was overwritten."""
    ring = buffer.max_rows // buffer.num_envs
    rows = buffer.storage._storage[game * ring : game * ring + int(buffer._writer.written[game])]
    return rows.exclude("stamp")


def assert_same(found, expected):
    assert set(found.keys()) == set(expected.keys())
    for key in found.keys():
        assert torch.equal(found[key], expected[key]), key


def test_replay_holds_what_one_process_would_have_played_with_the_same_random_numbers(cluster):
    """Through lost lives and ends of games, which random play of Breakout reaches within 200 steps."""
    actor, buffer, _ = ray_actor()
    scores = [score for _ in range(200) for score in actor.step()]
    assert actor.env_steps == buffer.total_added == 600
    expected = []
    for worker, games in enumerate([[0, 1], [2]]):
        seed = derive_seed(7, "worker", worker, 0)
        planner, alone = RandomPlanner(model_of(0.0)), replay(len(games))
        planner.set_rng_state(torch.Generator().manual_seed(derive_seed(seed, "search")).get_state())
        one = Actor(play(len(games), derive_seed(seed, "env")), planner, alone)
        expected += [score for _ in range(200) for score in one.step()]
        for place, game in enumerate(games):
            rows = rows_of(buffer, game)
            assert rows["terminated"].any()
            assert_same(rows, rows_of(alone, place))
    assert sorted(scores) == sorted(expected)
    assert len(scores) > 0


@pytest.mark.slow
def test_each_step_is_taken_with_the_weights_of_its_time(cluster):
    actor, buffer, model = ray_actor(num_envs=2)
    for step in range(4):
        model.weight.data.fill_(step)
        actor.planner.set_train_step(step)
        actor.step()
    assert rows_of(buffer, 1)["search_value"].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.slow
def test_a_killed_worker_costs_its_current_trajectories_and_checkpoints_know_of_it(cluster, kill):
    actor, buffer, _ = ray_actor()
    for _ in range(10):
        actor.step()
    kill(actor.workers[0])
    for _ in range(10):
        actor.step()
    assert actor.env_steps == buffer.total_added == 60
    for game in (0, 1):
        rows = rows_of(buffer, game)
        assert rows["has_action"].tolist() == [True] * 10 + [False] + [True] * 10
        assert rows["step"].tolist() == [*range(11), *range(10)]
        assert not rows["terminated"].any()
        assert not torch.equal(rows["pixels"][10], rows["pixels"][11])
    assert rows_of(buffer, 2)["step"].tolist() == list(range(20))

    state = actor.state_dict()
    POOLS.pop().close()
    other, again, _ = ray_actor()
    other.load_state_dict(state)
    for _ in range(3):
        other.step()
    assert (other.env_steps, again.total_added) == (69, 69)
    for game in range(3):
        assert_same(rows_of(again, game)[: len(rows_of(buffer, game))], rows_of(buffer, game))


@pytest.mark.slow
def test_a_restored_actor_goes_on_as_the_unbroken_one(cluster):
    actor, buffer, _ = ray_actor()
    for _ in range(6):
        actor.step()
    state = actor.state_dict()
    for _ in range(6):
        actor.step()
    POOLS.pop().close()
    other, again, _ = ray_actor()
    other.load_state_dict(state)
    for _ in range(6):
        other.step()
    for game in range(3):
        assert_same(rows_of(again, game), rows_of(buffer, game))
    with pytest.raises(ValueError, match=r"workers\.collection"):
        other.load_state_dict(state)


@pytest.mark.slow
def test_steps_ahead_are_of_older_weights_and_say_so(cluster):
    actor, buffer, model = ray_actor(num_envs=2, ahead=3)
    staleness = []
    for step in range(9):
        model.weight.data.fill_(step)
        actor.planner.set_train_step(step)
        actor.step()
        staleness.append(actor.search_metrics["replay/collection_staleness"])
    # The first three are asked for at step 0, the next three beside them, and three more when those are there.
    assert rows_of(buffer, 0)["search_value"].tolist() == [0, 0, 0, 0, 0, 0, 3, 3, 3]
    assert staleness == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert buffer.total_added == 18


def test_impossible_pools_are_refused(cluster):
    with pytest.raises(ValueError, match="workers=4, ahead=0"):
        ray_actor(workers=4)
    with pytest.raises(ValueError, match="ahead=-1"):
        ray_actor(ahead=-1)
