"""Value and reward targets, worked by hand across every kind of end."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.targets import n_step_values, reward_targets, td_steps_by_age

K, N = 2, 2
GAMMA = 0.5


def window(*, length=4, terminated_at=None):
    """Rewards 1, 2, 4, 8, bootstrap values 100, 200, ... at positions 0..4; the first ``length`` transitions exist."""
    reward = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    value = torch.tensor([[100.0, 200.0, 300.0, 400.0, 500.0]])
    mask = (torch.arange(4) < length)[None]
    terminated = torch.zeros(1, 4, dtype=torch.bool)
    if terminated_at is not None:
        terminated[0, terminated_at] = True
    return reward, value, mask, terminated


def targets(*parts, td_steps=N):
    return n_step_values(*parts, td_steps=torch.tensor([td_steps]), unroll_steps=K, discount=GAMMA)


def test_a_window_without_room_for_its_returns_is_refused():
    with pytest.raises(
        ValueError, match=r"4 transitions; expected at least unroll_steps \+ td_steps = 2 \+ 3"
    ):
        targets(*window(), td_steps=3)


def test_inside_an_episode():
    # z0 = 1 + .5*2 + .25*300 = 77;  z1 = 2 + .5*4 + .25*400 = 104;  z2 = 4 + .5*8 + .25*500 = 133.
    value, mask = targets(*window())
    assert value.tolist() == [[77.0, 104.0, 133.0]]
    assert mask.all()


def test_value_does_not_leak_across_a_termination():
    # The action of position 1 ends the game: z0 = 1 + .5*2, z1 = 2, and position 2 is absorbing: 0.
    value, mask = targets(*window(length=2, terminated_at=1))
    assert value.tolist() == [[2.0, 2.0, 0.0]]
    assert mask.all()


def test_truncation_bootstraps_from_the_final_frame():
    # Two transitions, then the cap: z0 = 1 + .5*2 + .25*300, z1 = 2 + .5*300; position 2 has no action to learn from.
    value, mask = targets(*window(length=2))
    assert value.tolist() == [[77.0, 152.0, 0.0]]
    assert mask.tolist() == [[True, True, False]]


def test_newest_rows_bootstrap_early_instead_of_ending():
    # One transition so far: z0 = 1 + .5*200.
    value, mask = targets(*window(length=1))
    assert value[0, 0] == 101.0
    assert mask.tolist() == [[True, False, False]]


def test_one_step_return():
    # z_k = r_k + .5 v_{k+1}: 1 + 100, 2 + 150, 4 + 200.
    value, _ = targets(*window(), td_steps=1)
    assert value.tolist() == [[101.0, 152.0, 204.0]]


def test_td_steps_are_per_sample():
    parts = [torch.cat([part, part]) for part in window()]
    value, _ = n_step_values(*parts, td_steps=torch.tensor([1, 2]), unroll_steps=K, discount=GAMMA)
    assert value[:, 0].tolist() == [101.0, 77.0]


def test_values_of_an_absorbing_state_stay_zero_for_the_rest_of_the_unroll():
    value, mask = targets(*window(length=1, terminated_at=0))
    assert value.tolist() == [[1.0, 0.0, 0.0]]
    assert mask.all()


def test_age_shortens_the_horizon_as_published():
    age = torch.tensor([0, 29_999, 30_000, 60_000, 90_000, 500_000])
    assert td_steps_by_age(age, 5, 30_000).tolist() == [5, 5, 4, 3, 2, 1]
    assert td_steps_by_age(age, 5, None).tolist() == [5] * 6


def test_window_that_is_too_short_is_refused():
    reward, value, mask, terminated = window()
    with pytest.raises(ValueError, match="the window has 4 transitions"):
        n_step_values(
            reward, value, mask, terminated, td_steps=torch.tensor([1]), unroll_steps=4, discount=GAMMA
        )


def test_equals_a_plain_loop_on_random_windows():
    generator = torch.Generator().manual_seed(1)
    batch, unroll, n = 200, 3, 4
    width = unroll + n
    reward = torch.randn(batch, width, generator=generator)
    value = torch.randn(batch, width + 1, generator=generator)
    length = torch.randint(1, width + 1, (batch,), generator=generator)
    mask = torch.arange(width) < length[:, None]
    ends = torch.rand(batch, generator=generator) < 0.5
    terminated = (torch.arange(width) == length[:, None] - 1) & ends[:, None] & mask
    steps = torch.randint(1, n + 1, (batch,), generator=generator)
    got, got_mask = n_step_values(
        reward, value, mask, terminated, td_steps=steps, unroll_steps=unroll, discount=0.9
    )
    for b in range(batch):
        for k in range(unroll + 1):
            z, j = 0.0, k
            while j < k + steps[b] and j < length[b]:
                z += 0.9 ** (j - k) * reward[b, j].item()
                j += 1
            over = ends[b] and j >= length[b]
            if not over:
                z += 0.9 ** (j - k) * value[b, j].item()
            if k >= length[b]:
                z = 0.0
            assert got[b, k].item() == pytest.approx(z, abs=1e-5)
            assert bool(got_mask[b, k]) == (k < length[b] or bool(ends[b]))


def test_value_prefix_restarts_at_the_horizon():
    # Rewards 1, 2, 4, 8 with horizon 2: 1, 3 | 4, 12.
    reward, _, mask, terminated = window()
    target, kept = reward_targets(reward, mask, terminated, unroll_steps=4, value_prefix_horizon=2)
    assert target.tolist() == [[1.0, 3.0, 4.0, 12.0]]
    assert kept.all()


def test_prefix_stays_constant_in_an_absorbing_state_and_is_learnt_there():
    reward, _, mask, terminated = window(length=2, terminated_at=1)
    target, kept = reward_targets(reward, mask, terminated, unroll_steps=4, value_prefix_horizon=5)
    assert target.tolist() == [[1.0, 3.0, 3.0, 3.0]]
    assert kept.all()


def test_reward_past_the_end_of_the_data_is_masked():
    reward, _, mask, terminated = window(length=2)
    target, kept = reward_targets(reward, mask, terminated, unroll_steps=4, value_prefix_horizon=None)
    assert target[0, :2].tolist() == [1.0, 2.0]
    assert kept.tolist() == [[True, True, False, False]]
