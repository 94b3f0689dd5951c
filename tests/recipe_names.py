"""The recipes that a user can start, and the experiments that there are studies of."""

from pathlib import Path

RECIPES = (
    "collect_offline",
    "train_teacher",
    "distill",
    "compare_offline",
    "behaviour_cloning",
    "curl",
    "xtra_finetune",
    "evaluate",
    "diagnose",
    "study",
    "calibrate",
)

EXPERIMENT_FILES = sorted((Path(__file__).parents[1] / "configs" / "experiment").glob("*.yaml"))
EXPERIMENTS = [path.stem for path in EXPERIMENT_FILES]

#: Recipes with arguments of their own instead of a config.
PLAIN_RECIPES = ("report", "capacity")
