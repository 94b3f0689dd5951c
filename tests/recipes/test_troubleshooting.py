"""Every message of the page on troubleshooting is what its command prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ENTRIES = [
    (command, message) for command, message in re.findall(r"```console\n\$ (.*)\n((?:.*\n)*?)```", PAGE)
]
HASH = re.compile(r"(artifacts/\w+/[\w+]+)-[0-9a-f]{8}\b")


def test_the_page_has_enough_entries_and_each_has_a_message():
    assert len(ENTRIES) >= 15
    assert all("error: " in message.lower() or "Error: " in message for _, message in ENTRIES)


@pytest.fixture(scope="module")
def folder(first_run):
    """Where the main job has run, with ``python`` being this interpreter."""
    (first_run.folder / "recipes").symlink_to(ROOT / "recipes")
    python = first_run.folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return first_run.folder


@pytest.mark.slow
@pytest.mark.parametrize(("command", "message"), ENTRIES)
def test_a_command_prints_its_message(command, message, folder):
    command = HASH.sub(lambda found: str(next(folder.glob(f"{found[1]}-*")).relative_to(folder)), command)
    tests_own = ("HYDRA_FULL_ERROR", "TRITON_INTERPRET")
    environment = {key: value for key, value in os.environ.items() if key not in tests_own}
    environment |= {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode != 0
    for line in message.splitlines():
        if line != "...":
            # A hash depends on the settings, and what stands for a long part on the machine.
            pattern = (
                re.escape(HASH.sub(r"\1-HASH", line)).replace("HASH", "[0-9a-f]{8}").replace(r"\.\.\.", ".*")
            )
            assert re.search(pattern, done.stdout + done.stderr), done.stdout[-1000:] + done.stderr[-2000:]
