"""The capacity plan's formulas on numbers that can be worked by hand, and its simulation against closed forms."""

from dataclasses import replace

import pytest
from capacity_samples import calibration

from xtra_rl.studies.capacity import amdahl, case_name, fit_line, fresh_share, read_cases
from xtra_rl.studies.costs import Work
from xtra_rl.studies.scaling import Plant, bound, simulate
from xtra_rl.studies.schedule import Task, longest_chain, makespan


def test_a_part_is_a_line_in_the_batch():
    line = fit_line([(20, 0.1), (100, 0.3)])  # 0.2 s for 80 samples, so 2.5 ms each, and 50 ms without any
    assert (line.fixed, line.per_sample) == (0.05, 0.0025)
    assert line.at(200) == pytest.approx(0.55)
    # Nothing is negative: a time that grows faster than the batch is taken as proportional to the larger one.
    assert fit_line([(10, 0.1), (20, 0.4)]).at(40) == pytest.approx(0.8)
    assert fit_line([(10, 0.4), (20, 0.4)]).per_sample == 0
    assert fit_line([(10, 0.4)]).at(20) == pytest.approx(0.8)


def test_seconds_of_an_update_by_ranks():
    case = read_cases(calibration())[case_name(1, True)]
    assert (case.batch, case.measured_batch) == (200, 100)
    # At 200 samples: sample 0.01, encode 0.1, search 0.05 + 0.5, forward 0.05 + 0.4.
    assert case.update() == pytest.approx(1.11)
    assert case.update(fresh=0.25) == pytest.approx(1.035)
    # At 50 a rank: 0.01 + 0.025 + 0.175 + 0.15, and 4 MB of gradients go 1.5 times round a ring of 60 MB/s.
    assert case.update(ranks=4, bandwidth=60e6) == pytest.approx(0.36 + 0.1)
    assert case.offline_update() == pytest.approx(0.46)
    assert case.act() == pytest.approx(0.05)
    # Acting, 10 ms of sampling and the two lines' 50 ms stay.
    serial = (0.05 + 0.01 + 0.05 + 0.05) / (0.05 + 1.11)
    assert case.serial_fraction() == pytest.approx(serial)
    assert (0.05 + 1.11) / (0.05 + case.update(ranks=4)) == pytest.approx(amdahl(serial, 4))


def test_hours_of_a_run():
    case = read_cases(calibration())[case_name(1, True)]
    # The 20 ms that the small batch takes longer to measure task weights are 200 ms at ten times the batch.
    assert case.measuring == pytest.approx(0.2)
    rates = case.rates(episode_steps=100, measured=0.1)
    work = Work(env_steps=1000, train_steps=1000, offline_steps=10, episodes=5, max_steps=50)
    assert rates.seconds(work) == pytest.approx(50 + 1130 + 4.6 + 5 * 50 * 0.02)


def test_a_calibration_that_was_cut_is_refused():
    content = calibration()
    del content["cases"][case_name(1, False)]
    with pytest.raises(ValueError, match="no case '1 blocks, alone'"):
        read_cases(content)


def test_observations_that_are_drawn_again_are_known():
    # Two draws of two rows find 1.5 different ones in exact counting; draws that are many, (1 - e^-1) in the limit.
    assert fresh_share(1e6, 1e6) == pytest.approx(0.632, abs=1e-3)
    assert fresh_share(1e9, 10) == pytest.approx(1.0)
    assert fresh_share(10, 1e6) == pytest.approx(1e-5)


def test_tasks_wait_for_what_they_need_and_for_a_device():
    tasks = [Task("data", 3.0), Task("teacher", 1.0, ("data",)), Task("run", 2.0, ("teacher",))]
    tasks += [Task(f"scratch {number}", 2.0) for number in range(3)]
    assert longest_chain(tasks) == 6.0
    assert makespan(tasks, 1) == 12.0
    assert makespan(tasks, 2) == 6.0  # the chain on one, the rest on the other
    assert makespan(tasks, 64) == 6.0


PLANT = Plant(actors=1, ranks=1, round_seconds=0.8, round_steps=8, serial=0.05, shared=0.2)


def test_one_actor_and_one_learner_take_turns():
    found = simulate(PLANT)
    # 0.8 s of acting, then 8 updates of 0.25 s: 8 env steps in 2.8 s.
    assert found.env_steps_per_s == pytest.approx(8 / 2.8)
    assert found.actors_busy == pytest.approx(0.8 / 2.8)
    assert found.learner_busy == pytest.approx(2.0 / 2.8)
    assert simulate(replace(PLANT, replay_ratio=0.3)).env_steps_per_s == pytest.approx(1 / 0.175, rel=0.01)


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_more_ranks_speed_up_as_amdahl_says(ranks):
    serial = (0.1 + 0.05) / (0.1 + 0.25)
    speedup = simulate(replace(PLANT, ranks=ranks)).env_steps_per_s / simulate(PLANT).env_steps_per_s
    assert speedup == pytest.approx(amdahl(serial, ranks))


@pytest.mark.parametrize(("actors", "busy"), [(1, "learner"), (4, "learner"), (1, "actors")])
def test_who_acts_ahead_is_as_fast_as_the_slower_side(actors, busy):
    plant = replace(PLANT, actors=actors, ahead=64, round_seconds=0.8 if busy == "learner" else 8.0)
    found = simulate(plant)
    assert found.env_steps_per_s == pytest.approx(bound(plant), rel=0.02)
    assert (found.learner_busy if busy == "learner" else found.actors_busy) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("ranks", [1, 4, 16])
def test_the_slowest_of_exponential_ranks_takes_the_harmonic_number_of_means(ranks):
    # The mean of the longest of n exponential times is 1 + 1/2 + ... + 1/n of theirs.
    plant = replace(PLANT, ranks=ranks, serial=0.0, round_seconds=1e-9, jitter=1.0)
    expected = 0.2 / ranks * sum(1 / number for number in range(1, ranks + 1))
    assert 1 / simulate(plant, updates=20_000).env_steps_per_s == pytest.approx(expected, rel=0.03)


def test_a_plant_needs_an_actor():
    with pytest.raises(ValueError, match="actors=0"):
        simulate(replace(PLANT, actors=0))
