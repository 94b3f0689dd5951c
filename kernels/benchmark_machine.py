"""What the machine can do, and what a search asks of it: the two sides of a roofline."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from xtra_rl.kernels.benchmark_models import ACTIONS, LATENT, network_problem
from xtra_rl.search import SearchResult

FLOAT = 4


class Peaks(NamedTuple):
    """Measured peaks: the best of some repetitions."""

    gemm: float  # FLOP/s of a product of two 2048 x 2048 matrices
    conv: float  # FLOP/s of the latent's 3x3 convolution, batch 256
    copy: float  # bytes/s, read and written, of a copy that fits no cache
    cached: float  # the same for 512 kB

    @property
    def flops(self) -> float:
        """The higher one of the two: the roof of a network."""
        return max(self.gemm, self.conv)


class Work(NamedTuple):
    """What one search asks for."""

    flops: float
    bytes: float

    def bound(self, peaks: Peaks, cached: bool) -> float:
        """Seconds of the longer one of computing and of moving memory: who does this work is not faster."""
        return max(self.flops / peaks.flops, self.bytes / (peaks.cached if cached else peaks.copy))


def synchronise(device: str) -> None:
    """Wait for the device, so that a clock can be read."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure_peaks(device: str) -> Peaks:
    """Measure them, in a few seconds."""
    a = torch.randn(2048, 2048, device=device)
    x = torch.randn(256, *LATENT, device=device).contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    large, small = (torch.ones(size // FLOAT, device=device) for size in (2**28, 2**18))
    targets = {size.numel(): torch.empty_like(size) for size in (large, small)}

    def rate(call: Callable[[], Any], amount: float, inner: int = 1) -> float:
        best = float("inf")
        for _ in range(12):
            synchronise(device)
            start = time.perf_counter()
            for _ in range(inner):
                call()
            synchronise(device)
            best = min(best, (time.perf_counter() - start) / inner)
        return amount / best

    with torch.no_grad():
        conv_flops = 2 * 9 * LATENT[0] ** 2 * LATENT[1] * LATENT[2] * len(x)
        return Peaks(
            gemm=rate(lambda: a @ a, 2 * 2048**3),
            conv=rate(lambda: F.conv2d(x, conv.weight, conv.bias, padding=1), conv_flops, 5),
            copy=rate(lambda: targets[large.numel()].copy_(large), 2 * 2**28),
            cached=rate(lambda: targets[small.numel()].copy_(small), 2 * 2**18, 200),
        )


def tree_work(result: SearchResult, latent_bytes: int) -> Work:
    """Bytes of the tree operations of a finished search, counted on its own trees.

    A simulation reads the rows of the nodes on its way down (visits, Q, prior, logits), writes those of the new node,
    updates two numbers for each node on its way up, and looks at all Q values of the tree. Latents are read from the
    pool into a buffer and from there, through the model, into the pool: each of them is moved four times.
    """
    tree = result.tree
    assert tree is not None
    batch, nodes = tree.batch_size, tree.num_nodes
    # A node at depth d was found through d rows and backed up through d parents.
    steps = float(tree.node_depths[:, 1:].sum())
    leaves = batch * (nodes - 1)
    rows = 4 * FLOAT * ACTIONS
    moved = steps * (rows + 8 * FLOAT) + leaves * (6 * FLOAT * ACTIONS + nodes / 2 * FLOAT)
    return Work(0.0, moved + leaves * 4 * latent_bytes)


def network_work(model: Any, batch: int, simulations: int) -> Work:
    """FLOPs of the recurrent inferences of a search, and the bytes of their weights and latents.

    A convolution counts as the plain sum. Winograd's, which the CPU core uses, multiplies less: it can come closer to
    this bound than to the machine's, or pass it.
    """
    problem = network_problem(model, 1, "cpu")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.recurrent_inference(torch.zeros(1, dtype=torch.int64), problem.embedding)
    parts = (model.dynamics, model.prediction)
    weights = sum(parameter.numel() for part in parts for parameter in part.parameters()) * FLOAT
    latents = sum(leaf.numel() for leaf in problem.embedding.values()) * FLOAT * 4 * batch
    flops = counter.get_total_flops() * batch * simulations
    return Work(float(flops), float((weights + latents) * simulations))


def machine() -> str:
    """Processor or GPU, and threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{names[0] if names else platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096
