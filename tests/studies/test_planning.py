"""From experiments to runs: whose runs a system takes, on which command line, in which shard."""

from dataclasses import replace
from itertools import chain

import pytest

from xtra_rl.studies import System
from xtra_rl.studies.planning import (
    distinct_runs,
    extended,
    members_of,
    merge_overrides,
    plan_study,
    shard_of,
)

HOME = {
    "name": "home",
    "title": "At home",
    "tables": ["table1"],
    "figures": [],
    "targets": ["alien", "assault"],
    "overrides": ["steps=10"],
    "systems": {
        "ours": {"label": "Ours", "published": "xtra"},
        "small": {"label": "Small", "overrides": ["blocks=1"]},
        "large": {"label": "Large", "overrides": ["blocks=4"]},
    },
}
GUEST = HOME | {
    "name": "guest",
    "systems": {
        "large": {"of": "home", "label": "Large, again"},
        "batch": {"label": "Doubled", "overrides": ["blocks=4"], "doubled": ["batch"]},
    },
}
EXPERIMENTS = {"home": HOME, "guest": GUEST}


def settings_at(**scale):
    """Settings as a scale has them, with overrides of the form key=integer on top."""

    def settings_of(system):
        given = dict(text.split("=") for text in system.overrides)
        return {"batch": 8, "blocks": 2, **scale} | {key: int(value) for key, value in given.items()}

    return settings_of


def plan(name, given=(), seeds=(0, 1), targets=None, **scale):
    members = members_of(name, EXPERIMENTS, settings_at(**scale), given)
    return plan_study(EXPERIMENTS[name], members, scale="smoke", seeds=seeds, targets=targets)


def test_every_system_plays_every_game_with_every_seed():
    study = plan("home")
    assert len(study.runs) == 3 * 2 * 2
    assert {(run.system, run.target, run.seed) for run in study.runs} == {
        (system, target, seed)
        for system in ("ours", "small", "large")
        for target in ("alien", "assault")
        for seed in (0, 1)
    }
    first = study.runs[0]
    assert first.overrides == ("scale=smoke", "target=alien", "seed=0", "steps=10")
    assert first.run_dir == "runs/ours/alien-s0"
    assert len({run.run_dir for run in study.runs}) == len(study.runs)


def test_what_a_user_gives_changes_the_common_settings_but_never_a_system():
    study = plan("home", given=["steps=3", "blocks=9"])
    assert study.system("ours").overrides == ("steps=3", "blocks=9")
    assert study.system("small").overrides == ("steps=3", "blocks=1")


def test_a_system_of_another_experiment_has_its_runs_there():
    study = plan("guest", targets=["alien"], seeds=[0])
    shared, own = study.runs
    assert shared.run_dir == "../home-smoke/runs/large/alien-s0"
    assert (own.run_dir, own.overrides[-1]) == ("runs/batch/alien-s0", "batch=16")
    assert study.system("large").label == "Large, again"
    assert shared.overrides == plan("home").runs[-4].overrides


def test_systems_that_are_the_same_at_a_scale_share_their_runs_and_say_so():
    study = plan("home", blocks=4)
    assert study.system("large").label == "Large (here the same as Ours)"
    assert len(study.runs) == 12
    assert len(distinct_runs(study)) == 8
    # Where the other experiment has them in one place, so has this one.
    assert plan("guest", blocks=4).runs[0].run_dir == "../home-smoke/runs/ours/alien-s0"


def test_shards_are_disjoint_and_complete():
    runs = distinct_runs(plan("home", seeds=range(5)))
    for count in (1, 2, 4, 7, 60):
        parts = [shard_of(runs, f"{number}/{count}") for number in range(1, count + 1)]
        together = list(chain.from_iterable(parts))
        assert len(together) == len(runs)
        assert set(together) == set(runs)
    with pytest.raises(ValueError, match="shard is '5/4'; expected a part like 2/4"):
        shard_of(runs, "5/4")
    with pytest.raises(ValueError, match="shard is 'half'"):
        shard_of(runs, "half")


def test_a_later_override_of_a_key_replaces_the_earlier_one():
    assert merge_overrides(["a=1", "b.c=2"], [], ["a=3"]) == ("a=3", "b.c=2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"large": {"of": "nowhere"}}, "expected one of guest, home"),
        ({"huge": {"of": "home"}}, "takes system 'huge' of home, which has none of that name"),
        ({"own": {"label": "Own", "override": []}}, "unknown key 'override'"),
    ],
)
def test_a_wrong_experiment_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        members_of("guest", EXPERIMENTS | {"guest": GUEST | {"systems": change}}, settings_at())


def test_members_are_systems_with_their_recipe():
    ours = members_of("home", EXPERIMENTS, settings_at())[0].system
    assert replace(ours, overrides=(), settings={}) == System(
        "ours", "Ours", "xtra_finetune", published="xtra"
    )


def test_systems_know_all_their_settings():
    study = plan("home", blocks=3)
    assert study.system("ours").settings == {"batch": 8, "blocks": 3, "steps": 10}
    assert study.system("large").settings == {"batch": 8, "blocks": 4, "steps": 10}


def test_a_call_for_less_forgets_nothing_that_was_planned():
    whole = plan("home")
    few = plan("home", targets=["assault"], seeds=[2])
    both = extended(few, whole)
    assert both.targets == ("alien", "assault")
    assert both.seeds == (0, 1, 2)
    assert both.systems == whole.systems
    assert set(both.runs) == {*whole.runs, *few.runs}
    assert extended(whole, whole) == whole


def test_a_later_plan_decides_how_a_system_runs():
    both = extended(plan("home", given=["steps=3"], seeds=[1]), plan("home", seeds=[0]))
    assert both.system("ours").overrides == ("steps=3",)
    assert {"steps=3" in run.overrides for run in both.runs} == {True}


def test_a_folder_has_one_study():
    with pytest.raises(ValueError, match="has home at scale smoke, this is guest"):
        extended(plan("guest"), plan("home"))
