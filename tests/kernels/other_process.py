"""Python in a process where Triton compiles, also where that of the tests interprets: one process cannot do both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python`` from the root of the repository, with the repository on its path."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Not unset: tests/conftest.py sets it where it is missing.
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
