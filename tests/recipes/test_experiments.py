"""The paper's experiments as data: every setting exists, and their runs are as many as the paper's."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from recipe_names import EXPERIMENT_FILES, EXPERIMENTS

from xtra_rl.envs import get_task
from xtra_rl.evaluation.published import systems
from xtra_rl.recipes import common
from xtra_rl.recipes.study import plan

#: Runs with five seeds, without those of another experiment (XTRA, arXiv 2210.10763). Table 1: 6 online variants of 10
#: games and 50 finetuned clones. Table 2: the paper ran XTRA alone, EfficientZero and MuZero come on top. Table 6:
#: three ablations of 5 games. Table 7: 4, 2 and no pretraining games. The figures have 150 between them. Tables 4 and
#: 5: CURL and CURL pretrained on 15 games.
COUNTS = {"table1": 300 + 50, "table2": 25 + 50, "table6": 75, "table7": 75}
COUNTS |= {"figure6a": 25, "figure6b": 25, "figure6c": 25, "figure7": 50, "figure13": 25}
COUNTS |= {"table4": 50, "table5": 100, "task_weights": 4 * 50}
COUNTS |= {"laptop_variants": 2 * 5}
COUNTS |= {"laptop": 0, "laptop_mazes": 0, "laptop_parts": 0}  # all of them are runs of table 1 and figure 7


@pytest.fixture
def planned(config):
    """``planned(experiment, *overrides)``: the study."""
    return lambda name, *overrides: plan(config("study", f"experiment={name}", *overrides), [])


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_setting_of_every_system_exists_at_the_paper_s_scale(planned, config, name):
    """Hydra refuses a key or a group that the recipe has not."""
    study = planned(name, "scale=paper")
    assert study.experiment == name
    own = [run for run in study.runs if not run.run_dir.startswith("..")]
    assert len(own) == COUNTS[name]
    assert len({run.run_dir for run in study.runs}) == len(study.runs)
    assert study.seeds == (0, 1, 2, 3, 4)
    assert all(get_task(target).name == target for target in study.targets)
    for system in study.systems:
        assert "same as" not in system.label
    composed = config(study.systems[0].recipe, *study.runs[0].overrides)
    assert (composed.scale, composed.target, composed.seed) == ("paper", study.targets[0], 0)


def test_where_efficientzero_and_its_large_sister_are_one_network_they_are_run_once(planned):
    study = planned("table1", "scale=smoke", "targets=[assault]", "seeds=1")
    assert study.system("efficientzero_l").label == "EfficientZero-L (here the same as EfficientZero)"
    dirs = {run.system: run.run_dir for run in study.runs}
    assert dirs["efficientzero_l"] == dirs["efficientzero"] == "runs/efficientzero/assault-s0"
    # What another experiment takes from there lies there too.
    elsewhere = {run.system: run.run_dir for run in planned("figure13", "scale=smoke", "seeds=1").runs}
    assert elsewhere["efficientzero_l"] == "../table1-smoke/runs/efficientzero/phoenix-s0"


@pytest.mark.slow
def test_published_settings_of_the_systems(planned, config):
    studies = {}

    def settings(experiment, system, scale="paper"):
        key = (experiment, scale)
        if key not in studies:
            studies[key] = planned(experiment, f"scale={scale}", "seeds=1", "targets=[assault]")
        run = next(run for run in studies[key].runs if run.system == system)
        return config(studies[key].system(system).recipe, *run.overrides)

    assert settings("table1", "efficientzero").model.num_blocks == 1
    assert settings("table1", "efficientzero_l").model.num_blocks == 4
    assert settings("table1", "xtra").finetune.extra_train_steps == 0
    assert settings("table2", "xtra").finetune.extra_train_steps == 20_000
    assert settings("figure13", "efficientzero_l_batch").batch_size == 512
    assert settings("figure13", "efficientzero_l_batch", "laptop").batch_size == 128
    assert len(common.cross_tasks_of(settings("table2", "xtra"))) == 8
    assert len(common.cross_tasks_of(settings("table7", "xtra_2_tasks"))) == 2
    mazes = common.cross_tasks_of(settings("figure6a", "xtra_mazes"))
    assert {get_task(name).category for name in mazes} == {"maze"}
    assert len(mazes) == 4
    muzero = settings("table2", "muzero")
    assert (muzero.loss.consistency_coef, muzero.augmentation, muzero.model.value_prefix) == (
        0.0,
        False,
        False,
    )
    assert muzero.targets.age_interval is None
    assert muzero.targets.td_steps == 5


def test_columns_of_tables_are_named_as_the_published_ones():
    for path in EXPERIMENT_FILES:
        content = OmegaConf.load(path)
        columns = {row.get("published") for row in content.systems.values()} - {None}
        assert columns <= set(systems(content.tables[0] if content.tables else "table1"))


def test_every_table_and_figure_with_runs_has_one_experiment():
    drawn = []
    for path in EXPERIMENT_FILES:
        if path.stem.startswith("laptop"):
            continue  # the repository's own study draws them from fewer games
        content = OmegaConf.load(path)
        drawn += [*content.tables, *content.figures]
    figures = [
        f"figure{part}" for part in ("1", "5", "6a", "6b", "6c", "6d", "7", "8", "9", "11", "12", "13", "14")
    ]
    assert sorted(drawn) == sorted([*figures, *(f"table{number}" for number in range(1, 8))])
