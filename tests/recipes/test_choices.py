"""Slips in a setting are answered before any input is built for it."""

from __future__ import annotations

import pytest
from pipeline_runs import fails


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("freeze=[encoder]", "freeze names 'encoder'; expected a subset of representation, dynamics"),
        ("transfer=[encoder]", "transfer names 'encoder'"),
        ("logger=mlflow", "logger 'mlflow' is unknown; known loggers: csv, wandb, tensorboard"),
        ("wandb_mode=remote", "wandb_mode='remote' is unknown"),
        ("budget=soon", "'soon' is no duration; expected something like 2h"),
        ("checkpoint.every=often", "'often' is no duration"),
        ("search.algorithm=alphazero", "search.algorithm is 'alphazero'; expected 'puct' or 'gumbel'"),
        ("search.backend=cuda", "backend"),
        (
            "data_parallel.batch_norm=no",
            "data_parallel.batch_norm is 'no'; expected synchronised or per_rank",
        ),
    ],
)
def test_slips_end_a_recipe_before_it_begins(config, override, message):
    def recipe(cfg):
        raise AssertionError("the recipe was begun")

    assert message in fails(recipe, config("xtra_finetune", "scale=smoke", override))
