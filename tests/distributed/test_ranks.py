"""Two processes of one run: what they say to each other, and that they train as one process does."""

from __future__ import annotations

from pathlib import Path

import pytest
import ranks
import torch
import train_rank

from xtra_rl import distributed

HERE = Path(__file__).parent
VECTOR = {
    "latent": "vector",
    "value_prefix": False,
    "latent_features": 16,
    "dynamics_hidden": 16,
    "image_size": 36,
}


@pytest.fixture(scope="module")
def found():
    return ranks.results_of_ranks(HERE / "check_collectives.py")


def test_ranks_know_who_they_are_and_hear_the_main_one(found):
    assert [(one["rank"], one["size"], one["main"]) for one in found] == [(0, 2, True), (1, 2, False)]
    assert [one["broadcast"] for one in found] == [{"from": 0}] * 2
    assert [one["on_main"] for one in found] == [10, 10]
    assert [one["any"] for one in found] == [[False, True, True]] * 2


def test_what_fails_on_the_main_rank_fails_on_all(found):
    assert [one["refused"] for one in found] == ["ValueError: no such thing"] * 2
    assert found[0]["unpicklable"] == "Local: of this process"
    assert found[1]["unpicklable"] == "RuntimeError: rank 0 failed with Local: of this process"


def test_an_error_is_printed_by_the_rank_that_had_it(found):
    assert [one["of the main rank"] for one in found] == [("no such thing", False), ("no such thing", True)]
    assert found[1]["of the second rank"] == ("no such thing", False)
    assert [one["planner"] for one in found] == [("not finite", False), ("not finite", True)]


def test_ranks_that_see_different_checkpoints_do_not_go_on(found):
    for one in found:
        assert "the ranks found different checkpoints" in one["restore"]
        assert "(400, 300)" in one["restore"]
        assert "every process must see the same" in one["restore"]


def test_before_they_join_only_the_first_rank_prints(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        told.append(distributed.is_told_elsewhere(ValueError()))
    assert told == [False, True]


def test_rows_and_means_come_together(found):
    assert [one["gather"] for one in found] == [[0, 1, 10, 11, 12]] * 2
    assert [one["average"] for one in found] == [[[1.5, 5.0], 0.5]] * 2


def test_one_rank_plans_for_all(found):
    assert [one["acting"] for one in found] == [([7] * 3, [7.0] * 3, 1), ([7] * 3, [7.0] * 3, 0)]


@pytest.mark.parametrize("kind", ["1d", "2d"])
def test_batch_norm_over_two_ranks_is_that_of_the_whole_batch(found, kind):
    for rank, one in enumerate(found):
        whole, part = one[kind]
        for key in ("out", "eval", "x"):
            torch.testing.assert_close(part[key], whole[key][rank::2], msg=key)
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(part[key], whole[key], msg=key)
    for key in ("weight", "bias"):
        torch.testing.assert_close(found[0][kind][1][key], found[1][kind][1][key])
        parts = [part[f"{key} gradient"] for part in (one[kind][1] for one in found)]
        torch.testing.assert_close(sum(parts), found[0][kind][0][f"{key} gradient"])


def test_statistics_of_bfloat16_are_those_of_the_same_numbers_in_float32(found):
    for rank, one in enumerate(found):
        whole, part = one["bfloat16"]
        assert part["out"].dtype == torch.bfloat16
        torch.testing.assert_close(part["out"].float(), whole["out"][rank::2], rtol=0.02, atol=0.02)
        for key in ("running_mean", "running_var"):
            torch.testing.assert_close(part[key], whole[key], rtol=2e-3, atol=0, msg=key)


def check_curves(steps: int, tolerance: float, **options) -> None:
    torch.set_num_threads(1)
    alone = train_rank.train(steps, **options)
    both = ranks.results_of_ranks(HERE / "train_rank.py", str(steps), repr(options))
    assert len(alone["rows"]) == steps
    assert any("grad_cos/amidar" in row for row in alone["rows"])
    for one in both:
        assert one["weights"] == pytest.approx(alone["weights"], abs=1e-6)
        for step, (mine, theirs) in enumerate(zip(alone["rows"], one["rows"], strict=True)):
            assert mine == pytest.approx(theirs, rel=tolerance, abs=tolerance), step
        for name, value in alone["model"].items():
            torch.testing.assert_close(
                one["model"][name], value, rtol=tolerance, atol=tolerance, msg=name, check_dtype=True
            )


@pytest.mark.slow
@pytest.mark.parametrize("surgery", [False, True])
def test_two_ranks_take_the_steps_of_one_process(surgery):
    """Batches of 9, 4 and 3 windows do not divide by two; priorities, shifts and a search draw at random."""
    check_curves(10, 1e-5, search=True, surgery=surgery)


@pytest.mark.slow
def test_two_ranks_give_the_loss_curve_of_one_process_over_200_steps():
    check_curves(200, 1e-5, **VECTOR)


@pytest.mark.slow
def test_ranks_with_statistics_of_their_own_stay_equal():
    one, two = ranks.results_of_ranks(HERE / "train_rank.py", "4", "{'synchronised': False}")
    assert one["rows"] == two["rows"]
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=0, atol=0, msg=name)
