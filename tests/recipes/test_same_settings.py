"""A run goes on with what decides its numbers, and with nothing else of it."""

from __future__ import annotations

import pytest

from xtra_rl.recipes import common
from xtra_rl.recipes.lifecycle import check_same_settings
from xtra_rl.training.run import RunDirectory

UNUSUAL = "data_parallel.batch_norm=per_rank"


@pytest.mark.parametrize(
    ("there", "here"), [([UNUSUAL], []), ([], [UNUSUAL]), (["workers.collection=2"], [])]
)
def test_what_processes_compute_otherwise_is_named_in_both_directions(config, tmp_path, there, here):
    run = RunDirectory(tmp_path / "run")
    run.write_config(common.plain(config("xtra_finetune", *there)))
    with pytest.raises(ValueError, match=r"other settings \((data_parallel.batch_norm|workers.collection) "):
        check_same_settings(config("xtra_finetune", *here), run, "an unfinished")
    check_same_settings(config("xtra_finetune", *there, "threads=1", "budget=1h"), run, "an unfinished")
