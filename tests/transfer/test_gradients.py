"""Per-task gradients from one forward."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.transfer import gradient_cosines, gradient_gram, set_combined_gradient, task_gradients


def test_cosines_worked_by_hand():
    # (3, 4), (4, 3), (-3, -4), 0: cosines with the first are 1, 24/25, -1, 0. Two parameters share the vector.
    vectors = [(3.0, 4.0), (4.0, 3.0), (-3.0, -4.0), (0.0, 0.0)]
    gradients = [[torch.tensor([x]), torch.tensor([[y]])] for x, y in vectors]
    torch.testing.assert_close(gradient_cosines(gradients), torch.tensor([1.0, 0.96, -1.0, 0.0]))


def test_combined_gradient_equals_one_backward_of_the_weighted_sum():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    parameters = list(net.parameters())
    coefficients = torch.tensor([1.0, 0.3, 0.0])
    x = torch.randn(5, 4)
    losses = net(x).square().mean(0)
    set_combined_gradient(parameters, task_gradients(losses, parameters), coefficients)
    combined = [p.grad.clone() for p in parameters]
    net.zero_grad()
    (net(x).square().mean(0) * coefficients).sum().backward()
    for ours, reference in zip(combined, parameters):
        torch.testing.assert_close(ours, reference.grad)


def test_parameter_that_a_task_does_not_reach_gets_zero():
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    gradients = task_gradients(torch.stack([used.sum(), 2 * used.sum()]), [used, unused])
    assert (gradients[0][1] == 0).all()
    assert gradient_cosines(gradients)[1].item() == pytest.approx(1.0)


def test_frozen_parameter_gets_zero():
    free, frozen = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    frozen.requires_grad_(False)
    (gradients,) = task_gradients((free * frozen).sum()[None], [frozen, free])
    assert [gradient.tolist() for gradient in gradients] == [[0, 0], [1, 1]]


@pytest.mark.parametrize("scale", [1e-15, 1e-7, 1.0, 1e15])
def test_cosines_do_not_depend_on_the_length(scale):
    gradients = [[scale * torch.tensor(vector)] for vector in ([3.0, 4.0], [4.0, 3.0], [0.0, 0.0])]
    torch.testing.assert_close(gradient_cosines(gradients), torch.tensor([1.0, 0.96, 0.0]))


def test_gram_holds_every_dot_product():
    gradients = [
        [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])],
        [torch.tensor([0.0, -1.0]), torch.tensor([[2.0]])],
    ]
    assert gradient_gram(gradients).tolist() == [[14.0, 4.0], [4.0, 5.0]]
    with pytest.raises(ValueError, match="gradients is empty"):
        gradient_gram([])
