"""Which runs belong together on a dashboard."""

from xtra_rl.recipes.tracking import group_of


def test_runs_that_differ_in_seed_place_and_machine_are_one_group(config):
    groups = {
        group_of(config("xtra_finetune", "scale=smoke", *overrides), "alien")
        for overrides in ((), ("seed=3",), ("run_dir=elsewhere", "threads=1"), ("search.backend=compiled",))
    }
    assert len(groups) == 1
    assert groups.pop().startswith("alien-")


def test_another_setting_is_another_group(config):
    groups = {
        group_of(config("xtra_finetune", "scale=smoke", *overrides), "alien")
        for overrides in ((), ("optim.lr=0.5",), ("cross_task=false",), ("target=assault",))
    }
    groups.add(group_of(config("xtra_finetune", "scale=smoke", "data_parallel.batch_norm=per_rank"), "alien"))
    assert len(groups) == 5
