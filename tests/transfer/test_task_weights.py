"""Task weights: the schedule, both estimators, both loss combinations."""

from __future__ import annotations

import pickle

import pytest
import torch

from xtra_rl.transfer import TaskWeightScheduler, sample_weights, task_coefficients


def run(scheduler, cosine_at, steps):
    """Drive a scheduler as the learner does; returns the weight after each step."""
    trace = []
    for step in range(steps):
        if scheduler.measuring:
            scheduler.observe({task: cosine_at(step) for task in scheduler.tasks})
        scheduler.step()
        trace.append(dict(scheduler.weights))
    return trace


def test_three_hits_in_four():
    cosines = [0.5, 0.2, 0.1, 0.11]  # 0.1 is not above 0.1
    for estimator, expected in (("fraction", 0.75), ("official", 0.8)):
        scheduler = TaskWeightScheduler(["a"], start=0, cycle=10, window=4, estimator=estimator)
        assert run(scheduler, cosines.__getitem__, 4)[-1]["a"] == expected


def test_weights_are_one_until_the_first_window_has_ended_and_then_hold_for_a_cycle():
    scheduler = TaskWeightScheduler(["a"], start=6, cycle=10, window=2)
    trace = [w["a"] for w in run(scheduler, lambda step: 1.0 if step >= 16 else 0.0, 30)]
    # Windows are steps 6-7 (no hit) and 16-17 (all hits); each weight holds until the next window ends.
    assert trace[:7] == [1.0] * 7
    assert trace[7:17] == [0.0] * 10
    assert trace[17:27] == [1.0] * 10


def test_published_schedule_changes_weights_at_10500_and_15500():
    scheduler = TaskWeightScheduler(["a"])
    changes, previous = [], 1.0
    for step in range(16_000):
        if scheduler.measuring:
            scheduler.observe({"a": 1.0 if step > 15_250 else -1.0})
        scheduler.step()
        if scheduler.weights["a"] != previous:
            previous = scheduler.weights["a"]
            changes.append(scheduler.steps)
    assert changes == [10_500, 15_500]


def test_window_as_long_as_the_cycle_measures_always():
    scheduler = TaskWeightScheduler(["a"], start=0, cycle=2, window=2)
    assert [w["a"] for w in run(scheduler, lambda step: 1.0 if step < 2 else 0.0, 4)] == [1.0, 1.0, 1.0, 0.0]


def test_task_absent_from_a_batch_is_not_counted():
    scheduler = TaskWeightScheduler(["a", "b"], start=0, cycle=4, window=2)
    scheduler.observe({"a": 1.0})
    scheduler.step()
    scheduler.observe({"a": 0.0})
    scheduler.step()
    assert scheduler.weights == {"a": 0.5, "b": 1.0}


def test_state_survives_in_the_middle_of_a_window():
    def cosine(step):
        return 0.3 if step % 3 else 0.0

    whole = TaskWeightScheduler(["a"], start=0, cycle=9, window=6)
    expected = run(whole, cosine, 20)[-1]
    first = TaskWeightScheduler(["a"], start=0, cycle=9, window=6)
    run(first, cosine, 3)
    second = TaskWeightScheduler(["a"], start=0, cycle=9, window=6)
    second.load_state_dict(first.state_dict())
    for step in range(3, 20):
        if second.measuring:
            second.observe({"a": cosine(step)})
        second.step()
    assert second.weights == expected


def test_mean_cosine_is_of_one_window_and_stays_until_the_next():
    scheduler = TaskWeightScheduler(["a"], start=0, cycle=4, window=2)
    assert scheduler.mean_cosines == {}
    means = []
    for cosine in (0.5, -0.1, None, None, 0.3):
        if cosine is not None:
            scheduler.observe({"a": cosine})
        scheduler.step()
        means.append(scheduler.mean_cosines["a"])
    assert means == pytest.approx([0.5, 0.2, 0.2, 0.2, 0.3])


def test_state_of_other_tasks_is_refused():
    with pytest.raises(ValueError, match=r"state holds tasks \['a'\]"):
        TaskWeightScheduler(["b"]).load_state_dict(TaskWeightScheduler(["a"]).state_dict())


@pytest.mark.parametrize(
    "arguments", [{"window": 0}, {"cycle": 10, "window": 11}, {"start": -1}, {"estimator": "median"}]
)
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        TaskWeightScheduler(["a"], **arguments)


def test_unknown_task_is_named():
    with pytest.raises(ValueError, match="task 'b' has no weight; the cross tasks are a"):
        TaskWeightScheduler(["a"]).observe({"b": 1.0})


def test_sum_gives_target_plus_weighted_tasks_whatever_the_batch_shares():
    # XTRA eq. 1: L = mean(target) + 0.5 mean(cross); per-sample losses 10, 20 | 1, 2, 3, 4.
    task_id = torch.tensor([0, 0, 1, 1, 1, 1])
    losses = torch.tensor([10.0, 20.0, 1.0, 2.0, 3.0, 4.0])
    weight = sample_weights(task_id, torch.tensor([1.0, 0.5]), reduction="sum")
    assert (weight * losses).mean().item() == pytest.approx(15 + 0.5 * 2.5)


def test_mean_is_over_the_joint_batch():
    # Released code: mean over all six samples of weight times loss.
    task_id = torch.tensor([0, 0, 1, 1, 1, 1])
    losses = torch.tensor([10.0, 20.0, 1.0, 2.0, 3.0, 4.0])
    weight = sample_weights(task_id, torch.tensor([1.0, 0.5]), reduction="mean")
    assert (weight * losses).mean().item() == pytest.approx((30 + 0.5 * 10) / 6)


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction is 'max'"):
        task_coefficients(torch.ones(2), torch.ones(2), reduction="max")


def test_a_soft_threshold_counts_cosines_near_it_in_part():
    # At the threshold a half, one width above it sigmoid(1).
    scheduler = TaskWeightScheduler(["a"], start=0, cycle=2, window=2, estimator="soft", softness=0.05)
    assert run(scheduler, [0.1, 0.15].__getitem__, 2)[-1]["a"] == pytest.approx((0.5 + 0.7310586) / 2)


def test_a_narrow_soft_threshold_is_the_hard_one():
    cosines = [0.5, 0.2, 0.0999, 0.11, -1.0]
    weights = [
        run(TaskWeightScheduler(["a"], start=0, cycle=5, window=5, **options), cosines.__getitem__, 5)[-1][
            "a"
        ]
        for options in ({}, {"estimator": "soft", "softness": 1e-7})
    ]
    assert weights[1] == pytest.approx(weights[0])


def test_constant_weights_are_measured_and_stay():
    scheduler = TaskWeightScheduler(["a"], start=0, cycle=4, window=2, estimator="constant")
    assert all(w["a"] == 1.0 for w in run(scheduler, lambda step: -0.5, 8))
    assert scheduler.mean_cosines == {"a": -0.5}


def test_a_schedule_can_be_sent_to_another_process():
    schedule = TaskWeightScheduler(["phoenix"], start=0, cycle=4, window=2, estimator="official")
    schedule.observe({"phoenix": 0.5})
    copies = (schedule, pickle.loads(pickle.dumps(schedule)))
    for one in copies:
        one.step()
        one.observe({"phoenix": 0.0})
        one.step()
    assert copies[0].weights == copies[1].weights == {"phoenix": 0.67}
