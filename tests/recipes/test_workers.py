"""Settings of Ray workers that cannot be are refused before anything starts."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from xtra_rl.distributed.ray_cluster import connect, require_connection, require_room
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


def test_more_workers_than_a_cluster_can_hold_are_refused_instead_of_waited_for(monkeypatch):
    there = SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 6.0, "GPU": 1.0})
    monkeypatch.setitem(sys.modules, "ray", there)
    require_room(6)
    require_room(4, 0.25)
    with pytest.raises(ValueError, match="7 workers want 7 CPUs of the Ray cluster, which has 6"):
        require_room(7)
    with pytest.raises(
        ValueError, match=r"6 workers want 1.5 GPUs .* which has 1; start fewer, or give each a smaller"
    ):
        require_room(6, 0.25)


def test_an_address_without_a_cluster_is_refused_in_a_sentence(monkeypatch):
    def nobody(**_):
        raise ConnectionError("could not find any running Ray instance")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=nobody))
    with pytest.raises(ValueError, match="there is no Ray cluster at 'auto' .*ray start --head"):
        connect("auto")


def test_workers_on_a_gpu_are_told_the_share_that_fits(config, monkeypatch):
    monkeypatch.setattr("xtra_rl.recipes.common.device_of", lambda cfg: torch.device("cuda"))
    with pytest.raises(ValueError, match="at most 0.16 where there is one GPU"):
        workers.check(config("xtra_finetune", "workers.reanalysis=4", "workers.collection=2"))
