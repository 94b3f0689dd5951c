"""Settings of Ray workers that cannot be are refused before anything starts."""

from __future__ import annotations

import sys

import pytest

from xtra_rl.distributed.ray_cluster import connect, require_connection
from xtra_rl.recipes import workers


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workers.reanalysis=-1"], "workers.reanalysis is -1"),
        (["workers.max_staleness=2"], "workers.max_staleness needs workers.reanalysis"),
        (
            ["workers.collect_ahead=2", "workers.reanalysis=2"],
            "workers.collect_ahead needs workers.collection",
        ),
    ],
)
def test_impossible_numbers(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        workers.check(config("xtra_finetune", "scale=smoke", *overrides))


def test_ranks_of_torchrun_have_no_workers(config, monkeypatch):
    monkeypatch.setattr("xtra_rl.distributed.world_size", lambda: 2)
    workers.check(config("xtra_finetune", "scale=smoke"))
    with pytest.raises(ValueError, match="torchrun"):
        workers.check(config("xtra_finetune", "scale=smoke", "workers.collection=2"))


def test_who_lacks_ray_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for ask in (connect, require_connection):
        with pytest.raises(ValueError, match=r"\[ray\]"):
            ask()
