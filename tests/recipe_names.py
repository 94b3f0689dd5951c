"""The recipes that a user can start."""

RECIPES = (
    "collect_offline",
    "train_teacher",
    "distill",
    "compare_offline",
    "behaviour_cloning",
    "xtra_finetune",
    "evaluate",
    "diagnose",
)
