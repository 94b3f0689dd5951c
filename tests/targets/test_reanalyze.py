"""Training batches from windows: whose value, whose policy, what is masked."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from xtra_rl.data import TrajectoryReplayBuffer
from xtra_rl.search import GumbelMCTSPlanner, InitialOutput, MCTSPlanner, RecurrentOutput
from xtra_rl.targets import ReanalyzeTargets, TeacherTargets, teacher_columns

A, K, N, F = 3, 2, 2, 2
GAMMA = 0.5


class ReadsItsFrame(torch.nn.Module):
    """A model whose value of a state is the newest pixel's brightness; it counts the roots it encodes."""

    num_actions = A
    value_prefix_horizon = None

    def __init__(self):
        super().__init__()
        self.encoded = []

    def initial_inference(self, observation):
        newest = observation[:, -1, 0, 0].float()
        self.encoded += newest.tolist()
        return InitialOutput(torch.zeros(len(newest), A), newest, newest[:, None])

    def recurrent_inference(self, action, embedding):
        # Action 1 pays 100 at once, whatever the state; nothing else ever does.
        reward = 100.0 * (action == 1)
        return RecurrentOutput(reward, torch.zeros_like(reward), torch.zeros(len(action), A)), embedding


def buffer(length, *, terminated=False, truncated=False, num_actions=A):
    """One trajectory; frame t has brightness 10 t, rewards are 3."""
    rows = TensorDict(
        {
            "pixels": (torch.arange(length + 1) * 10).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4),
            "action": torch.zeros(length + 1, dtype=torch.int64),
            "reward": torch.full((length + 1,), 3.0),
            "search_policy": torch.tensor([0.2, 0.3, 0.5]).expand(length + 1, 3),
            "search_value": torch.full((length + 1,), 7.0),
        },
        [length + 1],
    )
    ends = torch.zeros(length + 1, dtype=torch.bool)
    ends[length - 1] = True
    rows["terminated"], rows["truncated"] = ends & terminated, ends & truncated
    made = TrajectoryReplayBuffer(100, num_actions=num_actions, memmap=False, alpha=0.0)
    made.extend_trajectory(rows)
    return made


def windows(made, root):
    """The window whose root is row ``root``."""
    batch = made.sample_windows(64, unroll_steps=K, bootstrap_steps=N, frame_stack=F)
    batch["task_id"] = torch.zeros(64, dtype=torch.int64)
    return batch[(batch["index"] == root).nonzero()[0]]


def targets(**options):
    defaults = {
        "unroll_steps": K, "td_steps": N, "discount": GAMMA, "frame_stack": F, "noise": False, "clip_rewards": False,
    }  # fmt: skip
    model = ReadsItsFrame()
    planner = GumbelMCTSPlanner(model, num_simulations=6, max_num_considered_actions=3, discount=GAMMA)
    return ReanalyzeTargets(planner, torch.ones(A, dtype=torch.bool), **(defaults | options)), model


def test_values_bootstrap_from_the_target_network_at_the_right_frame():
    # z_k = 3 + .5*3 + .25 * brightness(k + 2) = 4.5 + .25 * 10 (k + 2) for root row 1: rows 3, 4, 5.
    make, _ = targets()
    batch = make(windows(buffer(10), 1))
    assert batch["value_target"].tolist() == [[4.5 + 0.25 * 10 * row for row in (3, 4, 5)]]
    assert batch["reward_target"].tolist() == [[3.0, 3.0]]


def test_truncation_bootstraps_from_the_final_frame_and_termination_does_not():
    # Root row 8 of 10: rewards at 8, 9; row 10 is the final frame, brightness 100.
    make, _ = targets()
    cut = make(windows(buffer(10, truncated=True), 8))
    assert cut["value_target"].tolist() == [[4.5 + 25, 3 + 50, 0.0]]
    assert cut["value_mask"].tolist() == [[True, True, False]]
    assert cut["policy_mask"].tolist() == [[True, True, False]]
    assert cut["consistency_mask"].tolist() == [[True, True]]
    ended = make(windows(buffer(10, terminated=True), 8))
    assert ended["value_target"].tolist() == [[4.5, 3.0, 0.0]]
    assert ended["value_mask"].all()
    assert ended["policy_mask"].tolist() == [[True, True, False]]
    assert ended["consistency_mask"].tolist() == [[True, False]]


def test_reanalysed_policy_finds_the_paying_action_and_the_rest_keeps_the_stored_one():
    make, _ = targets(policy_ratio=0.5)
    batch = make(torch.cat([windows(buffer(10), 1), windows(buffer(10), 1)]))
    assert (batch["policy_target"][0].argmax(-1) == 1).all()
    torch.testing.assert_close(batch["policy_target"][1], torch.tensor([0.2, 0.3, 0.5]).expand(K + 1, 3))
    assert batch["policy_mask"].all()  # the stored one is learnt, too


def test_values_are_discounted_as_the_planner_searches_them():
    make, _ = targets(discount=None)
    assert make.discount == make.planner.discount == GAMMA


def test_the_share_that_is_searched_again_is_rounded_up_but_not_by_rounding_errors():
    shares = {0.55: (100, 55), 0.07: (100, 7), 0.25: (10, 3), 1.0: (7, 7), 0.0: (7, 0)}
    found = {}
    for share, (count, _) in shares.items():
        make, _ = targets(policy_ratio=share)
        found[share] = (count, int(make.draw(count)["renewed"].sum()))
    assert found == shares


def test_windows_of_a_single_buffer_are_of_one_task():
    make, _ = targets(policy_ratio=1.0)
    assert make(windows(buffer(10), 1).exclude("task_id"))["task_id"].tolist() == [0]


@pytest.mark.parametrize("source", ["network", "search"])
def test_windows_that_hold_their_random_numbers_are_reanalysed_alike_in_any_company(source):
    def fresh():
        make, model = targets(policy_ratio=0.7, noise=True, value_source=source)
        model.recurrent_inference = _equal_actions
        make.planner = MCTSPlanner(model, num_simulations=7, discount=GAMMA, seed=3)
        return make

    some = torch.cat([windows(buffer(10), root) for root in (1, 3, 8, 9, 0)])
    together = fresh()(some)
    some["drawn"] = fresh().draw(5)
    apart, other = fresh(), fresh()
    other.planner.generator.manual_seed(9)
    found = torch.cat([other(some[3:]), apart(some[:3])])[[2, 3, 4, 0, 1]]
    for key in ("policy_target", "policy_mask", "value_target"):
        torch.testing.assert_close(found[key], together[key], msg=key, rtol=0, atol=0)
    assert len(together["policy_target"][:3].flatten(0, 1).unique(dim=0)) > 3  # the noise decides something


def _equal_actions(action, embedding):
    """No action pays: the noise alone says where a search looks."""
    nothing = torch.zeros(len(action))
    return RecurrentOutput(nothing, nothing, torch.zeros(len(action), A)), embedding


def test_offline_data_without_stored_policies_learns_only_reanalysed_ones():
    make, _ = targets(policy_ratio=0.5)
    both = torch.cat([windows(buffer(10), 1), windows(buffer(10), 1)]).exclude("search_policy")
    assert make(both)["policy_mask"].tolist() == [[True] * 3, [False] * 3]


def test_every_needed_frame_is_encoded_once_and_no_other():
    make, model = targets(policy_ratio=1.0)
    make(windows(buffer(10), 1))
    assert sorted(model.encoded) == [10.0, 20.0, 30.0, 40.0, 50.0]
    make, model = targets(policy_ratio=0.0)
    make(windows(buffer(10), 1))
    assert sorted(model.encoded) == [30.0, 40.0, 50.0]


def test_illegal_actions_get_no_mass():
    make, _ = targets()
    make.action_mask = torch.tensor([True, False, True])
    assert (make(windows(buffer(10), 1))["policy_target"][..., 1] == 0).all()


def test_search_values_replace_network_values():
    # A search from any state sees 100 at once, so the bootstrap exceeds the frame's brightness.
    network, _ = targets()
    search, _ = targets(value_source="search")
    window = windows(buffer(10), 1)
    assert (search(window)["value_target"] > network(window)["value_target"] + 1).all()


def test_old_data_bootstraps_earlier():
    make, _ = targets(age_interval=4)
    window = windows(buffer(10), 1)
    assert window["age"].item() == 9
    # n = 2 - 9 // 4 = 0, at least 1: z_0 = 3 + .5 * brightness(2).
    assert make(window)["value_target"][0, 0] == 13.0


def test_chunks_do_not_change_the_result():
    window = torch.cat([windows(buffer(10), row) for row in range(5)])
    small, _ = targets(max_batch=3)
    whole, _ = targets()
    for key in ("value_target", "policy_target"):
        torch.testing.assert_close(small(window)[key], whole(window)[key])


def test_teacher_targets_bootstrap_from_the_teacher():
    made = buffer(10, terminated=True)
    window = windows(made, 1)
    window["teacher_policy"] = torch.tensor([0.1, 0.9, 0.0]).expand(1, K + 1, 3)
    window["teacher_value"] = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    options = {"unroll_steps": K, "td_steps": N, "discount": GAMMA, "frame_stack": F, "clip_rewards": True}
    batch = TeacherTargets(**options)(window)
    # Rewards are clipped to 1: z_k = 1 + .5 + .25 V(k + 2).
    assert batch["value_target"].tolist() == [[1.5 + 0.25 * v for v in (3, 4, 5)]]
    assert batch["reward_target"].tolist() == [[1.0, 2.0]]
    torch.testing.assert_close(batch["policy_target"], window["teacher_policy"])
    direct = TeacherTargets(**options, value_source="teacher")(window)
    assert direct["value_target"].tolist() == [[1.0, 2.0, 3.0]]
    end = windows(made, 8)  # whose second transition is the last
    end["teacher_policy"], end["teacher_value"] = window["teacher_policy"], window["teacher_value"]
    assert TeacherTargets(**options, value_source="teacher")(end)["value_target"].tolist() == [
        [1.0, 2.0, 0.0]
    ]


@pytest.mark.parametrize("source", ["prior", "search"])
def test_teacher_columns_cover_every_row_with_legal_policies(source):
    pixels = (torch.arange(11) * 10).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    rows = TensorDict({"pixels": pixels}, [11])
    mask = torch.tensor([True, False, True])
    planner = MCTSPlanner(ReadsItsFrame(), num_simulations=4, discount=GAMMA)
    policy, value = teacher_columns(planner, rows, mask, source=source, frame_stack=F, max_batch=4)
    assert policy.shape == (11, A)
    torch.testing.assert_close(policy.sum(-1), torch.ones(11))
    assert (policy[:, 1] == 0).all()
    if source == "prior":
        assert value.tolist() == [10.0 * t for t in range(11)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy_ratio": 1.5}, "policy_ratio is 1.5"),
        ({"td_steps": 0}, "td_steps is 0"),
        ({"value_source": "oracle"}, "value_source is 'oracle'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        targets(**options)
