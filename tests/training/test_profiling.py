"""Wall time by section."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.training import profiling
from xtra_rl.training.profiling import Sections


def test_sections_leave_out_what_is_inside_of_them(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0])
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(now))
    sections = Sections()
    with sections("act"), sections("tree"):
        pass
    assert sections.seconds == {("act", "rest"): 1.0 + 3.0, ("act", "tree"): 2.0}
    assert sections.phase("act") == 6.0


@pytest.mark.parametrize(("capturing", "expected"), [(False, 2), (True, 0)])
def test_a_gpu_is_not_waited_for_while_a_graph_is_captured(monkeypatch, capturing, expected):
    """``torch.cuda.synchronize`` fails during a capture, and with it the search that is captured."""
    waits = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(1))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    with Sections(synchronise=True)("search"):
        pass
    assert len(waits) == expected
