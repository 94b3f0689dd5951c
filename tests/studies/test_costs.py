"""Hours: from work and rates, and from what finished runs took."""

from dataclasses import asdict

import pytest

from xtra_rl.studies.costs import Item, Rates, Work, cost_rows, read_rates

RATES = Rates(env_step=0.01, train_step=0.2, offline_step=0.1, evaluation_step=0.005, episode_steps=500.0)


def test_seconds_add_up_and_long_games_are_cut():
    assert RATES.seconds(Work()) == 0.0
    assert RATES.seconds(Work(env_steps=1000, train_steps=500)) == pytest.approx(10 + 100)
    assert RATES.seconds(Work(offline_steps=30)) == pytest.approx(3)
    # 4 games of 500 steps, or of 100 where they are cut.
    assert RATES.seconds(Work(episodes=4, max_steps=27_000)) == pytest.approx(10)
    assert RATES.seconds(Work(episodes=4, max_steps=100)) == pytest.approx(2)


def test_finished_runs_say_more_than_the_estimate():
    items = [
        Item("XTRA", "finished", 3600.0, 7200.0),
        Item("XTRA", "missing", 3600.0),
        Item("XTRA", "unfinished", 3600.0),
    ]
    items += [
        Item("CURL", "missing"),
        Item("datasets", "missing", 1800.0),
        Item("datasets", "finished", 1800.0),
    ]
    rows = {row["what"]: row for row in cost_rows(items)}
    assert (rows["XTRA"]["hours each"], rows["XTRA"]["hours left"]) == (2.0, 4.0)
    assert (rows["XTRA"]["done"], rows["XTRA"]["unfinished"]) == (1, 1)
    assert (rows["datasets"]["hours each"], rows["datasets"]["hours left"]) == (0.5, 0.5)
    assert rows["CURL"]["hours left"] is None
    assert (rows["total"]["number"], rows["total"]["hours left"]) == (6, None)
    assert cost_rows(items[:3])[-1]["hours left"] == 4.0


def test_a_calibration_of_another_version_is_measured_again():
    assert read_rates({"a": asdict(RATES), "b": {"env_step": 1.0}, "c": None}) == {"a": RATES}


def test_starting_the_emulators_is_not_counted_among_the_steps_of_games(monkeypatch):
    """Half a second to start, then 10 ms for each of two games' steps."""
    from xtra_rl.recipes import costs

    clock = [0.0]
    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock[0])

    def play(steps):
        clock[0] += 0.5 + 0.01 * 2 * steps
        return [steps, steps]

    assert costs._seconds_a_step(play) == pytest.approx(0.01)
