"""PCGrad and Gradient Vaccine: equal to the papers' algorithms on whole vectors, whatever the order of tasks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtra_rl.transfer import GradVac, PCGrad, gradient_gram

NAMES = ("a", "b", "c")


def project(gradient, other):
    """Take from a gradient what opposes another one (PCGrad, algorithm 1, line 6)."""
    dot = gradient @ other
    return gradient - dot / (other @ other) * other if dot < 0 else gradient


def vaccinate(usual):
    """Gradient Vaccine, algorithm 1, lines 7 to 11, on vectors; ``usual`` is updated."""

    def change(gradient, other, place):
        cosine = float(gradient @ other / gradient.norm() / other.norm())
        goal, usual[place] = usual[place], 0.99 * usual[place] + 0.01 * cosine
        if cosine >= goal:
            return gradient
        up = gradient.norm() * (goal * math.sqrt(1 - cosine**2) - cosine * math.sqrt(1 - goal**2))
        return gradient + up / (other.norm() * math.sqrt(1 - goal**2)) * other

    return change


def combined(rule, gradients, coefficients):
    """What the optimiser gets, from the rule's factors."""
    factors = rule.combine(coefficients, gradient_gram([[g] for g in gradients]))
    return sum(factor * g for factor, g in zip(factors, gradients, strict=True))


def random_gradients(seed, tasks, size=7):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(tasks, size, generator=generator, dtype=torch.float64))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), tasks=st.integers(1, 4))
def test_pcgrad_is_the_published_algorithm_in_the_same_order(seed, tasks):
    gradients = random_gradients(seed, tasks)
    coefficients = torch.rand(tasks, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    order = torch.Generator().manual_seed(seed)
    expected = torch.zeros(7, dtype=torch.float64)
    for i in range(tasks):
        others, changed = [j for j in range(tasks) if j != i], gradients[i]
        for place in torch.randperm(len(others), generator=order).tolist():
            changed = project(changed, gradients[others[place]])
        expected += coefficients[i] * changed
    rule = PCGrad(NAMES[: tasks - 1], seed=seed)
    torch.testing.assert_close(combined(rule, gradients, coefficients), expected)


def test_gradient_vaccine_is_the_published_algorithm_over_many_steps():
    rule, order, usual = GradVac(NAMES, seed=3), torch.Generator().manual_seed(3), {}
    change = vaccinate(usual)
    for step in range(30):
        gradients, expected = random_gradients(step, 4), torch.zeros(7, dtype=torch.float64)
        if step > 9:  # agreement, so that some usual cosines become positive
            gradients = [g + 2 * gradients[0] for g in gradients]
        for i in range(4):
            others, changed = [j for j in range(4) if j != i], gradients[i]
            for place in torch.randperm(3, generator=order).tolist():
                usual.setdefault((i, others[place]), 0.0)
                changed = change(changed, gradients[others[place]], (i, others[place]))
            expected += changed
        torch.testing.assert_close(combined(rule, gradients, torch.ones(4, dtype=torch.float64)), expected)
    assert max(usual.values()) > 0.1  # or only the half of the algorithm that is PCGrad was tested


def test_a_turned_gradient_has_the_usual_cosine():
    rule = GradVac(["a"])
    rule._usual[0, 1] = 0.5
    gradients = [torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 1.0])]
    turned = combined(rule, gradients, torch.tensor([1.0, 0.0]))
    assert torch.cosine_similarity(turned, gradients[1], dim=0).item() == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("rule", [PCGrad, GradVac])
def test_gradients_that_agree_are_left_alone(rule):
    gradients = [torch.tensor([1.0, 0.1]), torch.tensor([1.0, 0.2])]
    coefficients = torch.tensor([1.0, 0.3])
    torch.testing.assert_close(
        rule(["a"]).combine(coefficients, gradient_gram([[g] for g in gradients])), coefficients
    )


@pytest.mark.parametrize("rule", [PCGrad, GradVac])
def test_a_task_that_is_not_in_the_batch_changes_nothing(rule):
    gradients = [torch.tensor([1.0, 0.0]), torch.zeros(2), torch.tensor([-1.0, 1.0])]
    with_absent = combined(rule(["a", "b"]), gradients, torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(with_absent, combined(rule(["b"]), gradients[::2], torch.ones(2)))


@pytest.mark.parametrize("rule", [PCGrad, GradVac])
def test_a_nan_leaves_no_trace(rule):
    one, state = rule(["a"]), rule(["a"]).state_dict()
    assert one.combine(torch.ones(2), torch.tensor([[1.0, math.nan], [math.nan, 1.0]])).tolist() == [1.0, 1.0]
    for name, value in one.state_dict().items():
        assert torch.equal(value, state[name]) if torch.is_tensor(value) else value == state[name]


@pytest.mark.parametrize("rule", [PCGrad, GradVac])
def test_a_step_that_is_left_out_leaves_no_trace(rule):
    one, other, ones = rule(NAMES, seed=5), rule(NAMES, seed=5), torch.ones(4, dtype=torch.float64)
    for step in range(6):
        gradients = random_gradients(step, 4)
        taken = step not in (1, 2)
        mixed = combined(one, gradients, ones)
        if taken:
            one.observe({})
            assert torch.equal(combined(other, gradients, ones), mixed)
            other.observe({})
        one.step()
        other.step()
    assert torch.equal(one.state_dict()["generator"], other.state_dict()["generator"])


def test_gradients_that_were_always_the_same_are_turned_by_a_finite_step():
    rule = GradVac(["a"])
    rule._usual[:] = 1.0
    assert (
        combined(rule, [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])], torch.ones(2)).isfinite().all()
    )


@pytest.mark.parametrize("rule", [PCGrad, GradVac])
def test_a_restored_rule_goes_on_with_the_same_order_and_cosines(rule):
    whole, ones = rule(NAMES, seed=5), torch.ones(4, dtype=torch.float64)
    for step in range(6):
        combined(whole, random_gradients(step, 4), ones)
        whole.observe({})
        whole.step()
    state = whole.state_dict()
    restored = rule(NAMES, seed=6)
    restored.load_state_dict(state)
    for step in range(6, 9):
        gradients = random_gradients(step, 4)
        assert torch.equal(combined(whole, gradients, ones), combined(restored, gradients, ones))


def test_cosines_are_averaged_over_windows():
    rule = PCGrad(["a"], window=2)
    for cosine in (0.2, 0.4, -1.0):
        assert rule.measuring
        rule.observe({"a": cosine})
        last = rule.mean_cosines["a"]
        rule.step()
        assert rule.weights == {"a": 1.0}
    assert last == -1.0


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="window is 0"):
        PCGrad(["a"], window=0)
    with pytest.raises(ValueError, match="decay is 2"):
        GradVac(["a"], decay=2)
