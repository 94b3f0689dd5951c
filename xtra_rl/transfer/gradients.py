"""Per-task gradients from one shared forward, and how well they agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def task_gradients(losses: Tensor, parameters: Sequence[nn.Parameter]) -> list[list[Tensor]]:
    """Gradient of each task's loss: one backward pass a task over the same graph.

    Args:
        losses: ``[M]``, from :meth:`~xtra_rl.objectives.muzero.MuZeroLoss.task_losses`.
        parameters: those to differentiate; one that is frozen, or that a loss does not reach, gets zeros
            (:func:`reached_parameters` leaves out those that no loss reaches).

    Returns:
        M lists of tensors like ``parameters``.

    Example:
        Two losses of one layer: how much they agree, and their sum with the second one halved.

        >>> layer = nn.Linear(2, 1, bias=False)
        >>> out = layer(torch.eye(2)).squeeze(-1)
        >>> parameters = list(layer.parameters())
        >>> gradients = task_gradients(torch.stack([out[0], out.sum()]), parameters)
        >>> gram = gradient_gram(gradients)
        >>> gram, gram_cosines(gram)
        (tensor([[1., 1.],
                [1., 2.]]), tensor([1.0000, 0.7071]))
        >>> set_combined_gradient(parameters, gradients, torch.tensor([1.0, 0.5]))
        >>> layer.weight.grad
        tensor([[1.5000, 0.5000]])
    """
    learning = [i for i, parameter in enumerate(parameters) if parameter.requires_grad]
    wanted = [parameters[i] for i in learning]
    gradients = []
    for task in range(losses.numel()):
        keep_graph = task + 1 < losses.numel()
        found = torch.autograd.grad(losses[task], wanted, retain_graph=keep_graph, allow_unused=True)
        by_index = dict(zip(learning, found, strict=True))
        pairs = ((parameter, by_index.get(i)) for i, parameter in enumerate(parameters))
        gradients.append([torch.zeros_like(p) if g is None else g for p, g in pairs])
    return gradients


def reached_parameters(losses: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those of ``parameters`` that the graph of ``losses [M]`` ends in: for the others ``backward`` leaves no gradient.

    A gradient of zeros is not the same: with it an optimiser decays a weight and goes on with its momentum.

    Example:
        >>> used, frozen, unused = (nn.Parameter(torch.ones(1)) for _ in range(3))
        >>> losses = 2 * used + frozen.requires_grad_(False)
        >>> [parameter is used for parameter in reached_parameters(losses, [used, frozen, unused])]
        [True]
    """
    found: set[int] = set()
    nodes = [losses.grad_fn]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        found.add(id(getattr(node, "variable", None)))  # of a leaf's node, AccumulateGrad
        following = {after for after, _ in node.next_functions} - seen
        seen |= following
        nodes.extend(following)
    return [parameter for parameter in parameters if id(parameter) in found]


def gradient_gram(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Dot products of the tasks' gradients over all parameters, ``[M, M]``.

    Args:
        gradients: from :func:`task_gradients`.

    Raises:
        ValueError: if there is no gradient.
    """
    if not gradients or not gradients[0]:
        raise ValueError("gradients is empty; expected those of at least one task and one parameter")
    parts = (torch.stack([tensor.flatten() for tensor in same]) for same in zip(*gradients, strict=True))
    return torch.stack([part @ part.mT for part in parts]).sum(0)


def gram_cosines(gram: Tensor, target: int = 0) -> Tensor:
    """Cosine between every task's gradient and the target task's, ``[M]`` (XTRA, arXiv 2210.10763, eq. 2).

    Args:
        gram: from :func:`gradient_gram`, ``[M, M]``.
        target: index of the target task; its own entry is 1. A zero gradient has cosine 0.
    """
    norms = gram.diagonal().sqrt()
    product = norms * norms[target]
    return torch.where(product == 0, 0.0, gram[target] / product)


def gradient_cosines(gradients: Sequence[Sequence[Tensor]], target: int = 0) -> Tensor:
    """:func:`gram_cosines` of gradients from :func:`task_gradients`, ``[M]``.

    Example:
        >>> gradient_cosines([[torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 1.0])]])
        tensor([1.0000, 0.7071])
    """
    return gram_cosines(gradient_gram(gradients), target)


def set_combined_gradient(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Sequence[Tensor]], coefficients: Tensor
) -> None:
    """Write ``sum_i coefficients[i] * gradients[i]`` into ``.grad``, so that measuring costs no further backward pass.

    Args:
        parameters: whose ``.grad`` is replaced.
        gradients: from :func:`task_gradients`.
        coefficients: ``[M]``, from :func:`~xtra_rl.transfer.task_weights.task_coefficients`.
    """
    factors = coefficients.tolist()
    for i, parameter in enumerate(parameters):
        # Fused optimisers walk raw memory, so a gradient must have the strides of its parameter (channels-last).
        combined = torch.zeros_like(parameter)
        for factor, gradient in zip(factors, gradients, strict=True):
            combined.add_(gradient[i], alpha=factor)
        parameter.grad = combined
