"""A Ray cluster for the tests of its workers."""

from __future__ import annotations

import os
import signal

import pytest
from ray_pools import POOLS


def on_signal(number, frame):
    """A handler of the program's own."""
    raise SystemExit(128 + number)


@pytest.fixture(scope="session")
def cluster():
    """Ray on this machine with room for two workers of each kind, whatever CPUs there are."""
    pytest.importorskip("ray", reason='needs Ray: pip install -c constraints.txt -e ".[ray]"')
    from xtra_rl.distributed.ray_cluster import connect

    before = signal.signal(signal.SIGTERM, on_signal)
    ray = connect(num_cpus=4)
    yield ray
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def _no_workers_stay():
    yield
    while POOLS:
        POOLS.pop().close()


@pytest.fixture
def kill(cluster):
    """``kill(actor)`` ends the process of a worker as the kernel does when memory is short."""

    def end(actor):
        os.kill(cluster.get(actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)

    return end
