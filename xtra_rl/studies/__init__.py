"""Studies: which runs an experiment consists of, what they would cost, and which of them are there.

Example:
    >>> import tempfile
    >>> system = System("xtra", "XTRA", "xtra_finetune")
    >>> run = PlannedRun("xtra", "pong", 0, ("target=pong", "seed=0"), "runs/xtra-pong-s0")
    >>> study = Study("mine", "Pong alone", "quick", (), (), (system,), ("pong",), (0,), (run,))
    >>> path = write_study(tempfile.mkdtemp(), study)
    >>> path.name, read_study(path.parent) == study
    ('study.json', True)
"""

from xtra_rl.studies.plan import PlannedRun, Study, System, read_study, write_study

__all__ = ["PlannedRun", "Study", "System", "read_study", "write_study"]
