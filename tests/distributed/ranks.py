"""Run a function in several gloo processes and collect what it returns on each."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start_ranks(script: Path, *arguments: str, size: int = 2, **environment: str) -> list[subprocess.Popen]:
    """Start a script as ``size`` ranks of one run, as torchrun does, each with one thread and a pipe."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


def results_of_ranks(script: Path, *arguments: str, size: int = 2) -> list:
    """What each rank of a script pickled into the file that is its last argument."""
    with tempfile.TemporaryDirectory() as folder:
        processes = start_ranks(script, *arguments, folder, size=size)
        output = [process.communicate(timeout=500)[0] for process in processes]
        for process, text in zip(processes, output, strict=True):
            assert process.returncode == 0, text
        return [pickle.loads((Path(folder) / f"{rank}.pkl").read_bytes()) for rank in range(size)]
