"""Ranks that train on a GPU: over NCCL where each has its own, over gloo where they share one."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from test_ranks import VECTOR, check_curves
from torch import nn

from xtra_rl import distributed
from xtra_rl.transfer import gradient_gram, task_gradients

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("options", [{}, VECTOR], ids=["map", "vector"])
def test_two_ranks_that_share_a_gpu_take_the_steps_of_one_process(options):
    check_curves(10, 1e-4, device="cuda", search=True, **options)


def test_nccl_scatters_and_gathers_gradients_of_one_rank(tmp_path):
    """What one GPU shows of NCCL: the calls, their dtypes and strides, and objects beside them by gloo."""
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=store, rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 5, 3).cuda().to(memory_format=torch.channels_last)
        x, parameters = torch.randn(4, 3, 8, 8, device="cuda"), list(layer.parameters())
        losses = torch.stack([layer(x).square().mean(), layer(x).sin().mean()])
        gradients = task_gradients(losses, parameters)
        part = distributed.scatter_gradients(gradients)
        torch.testing.assert_close(distributed.scattered_gram(part), gradient_gram(gradients))
        coefficients = torch.tensor([1.0, 0.3], device="cuda")
        distributed.gather_combined_gradient(parameters, part, coefficients)
        for parameter, one, two in zip(parameters, *gradients, strict=True):
            torch.testing.assert_close(parameter.grad, one + 0.3 * two)
            assert parameter.grad.stride() == parameter.stride()
        box = ["object"]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        wrapped = nn.parallel.DistributedDataParallel(layer, broadcast_buffers=False, static_graph=True)
        wrapped(x).sum().backward()
    finally:
        dist.destroy_process_group()
