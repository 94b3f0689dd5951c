"""Cross-task transfer with MuZero-family world models, as RL components on TorchRL.

Shape letters used in every docstring: ``B`` roots or samples, ``N`` tree nodes or environments, ``A`` actions,
``K`` unroll steps (so ``K + 1`` states), ``S`` support bins, ``T`` time, ``M`` tasks, ``F`` stacked frames,
``C H W`` image.

Sub-packages import TorchRL only where they need it, so that ``import xtra_rl`` stays fast; they are there as
attributes, ``xtra_rl.search.puct_search``, and are imported when they are first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtra_rl import (
        data,
        distributed,
        envs,
        evaluation,
        models,
        objectives,
        report,
        runs,
        search,
        studies,
        targets,
        training,
        transfer,
    )
    from xtra_rl.pretrained import load_pretrained

__all__ = [
    "data",
    "distributed",
    "envs",
    "evaluation",
    "load_pretrained",
    "models",
    "objectives",
    "report",
    "runs",
    "search",
    "studies",
    "targets",
    "training",
    "transfer",
]

__version__ = "0.1.0"

#: Where the public names are: those in ``__all__`` of a module that has one, else all that it defines without an
#: underscore. They are in the reference of the site, and change as its page on contributing says.
PUBLIC_MODULES = (
    "xtra_rl",
    "xtra_rl.envs",
    "xtra_rl.models",
    "xtra_rl.search",
    "xtra_rl.data",
    "xtra_rl.data.collect",
    "xtra_rl.data.extract",
    "xtra_rl.data.importers",
    "xtra_rl.data.inspect",
    "xtra_rl.targets",
    "xtra_rl.objectives",
    "xtra_rl.transfer",
    "xtra_rl.transfer.hook",
    "xtra_rl.distributed",
    "xtra_rl.training.actor",
    "xtra_rl.training.batches",
    "xtra_rl.training.checkpoint",
    "xtra_rl.training.interrupt",
    "xtra_rl.training.learner",
    "xtra_rl.training.logging",
    "xtra_rl.training.loop",
    "xtra_rl.training.model_files",
    "xtra_rl.training.pipeline",
    "xtra_rl.training.progress",
    "xtra_rl.training.run",
    "xtra_rl.training.schedules",
    "xtra_rl.training.seeding",
    "xtra_rl.training.session",
    "xtra_rl.training.stopwatch",
    "xtra_rl.evaluation.aggregates",
    "xtra_rl.evaluation.baselines",
    "xtra_rl.evaluation.comparison",
    "xtra_rl.evaluation.counterfactuals",
    "xtra_rl.evaluation.diagnosis",
    "xtra_rl.evaluation.evaluate",
    "xtra_rl.evaluation.figures",
    "xtra_rl.evaluation.metrics",
    "xtra_rl.evaluation.published",
    "xtra_rl.evaluation.report",
    "xtra_rl.evaluation.suite",
    "xtra_rl.evaluation.video",
    "xtra_rl.runs.compare",
    "xtra_rl.runs.export",
    "xtra_rl.runs.record",
    "xtra_rl.report.collect",
    "xtra_rl.report.diagnoses",
    "xtra_rl.report.page",
    "xtra_rl.studies",
)

# GNU OpenMP's idle threads look for work for milliseconds before they sleep, and whoever else wants their core waits:
# with one other process on two cores a training step took 5.6 s instead of 0.07 s. With this it takes 0.3 s, and alone
# it is as fast as before. The setting is read when PyTorch is loaded, so ``xtra_rl`` has to be imported before.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def __getattr__(name: str) -> Any:
    if name == "load_pretrained":
        from xtra_rl.pretrained import load_pretrained

        return load_pretrained
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
