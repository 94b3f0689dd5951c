"""Studies: which runs an experiment consists of, what they would cost, and which of them are there."""

from xtra_rl.studies.plan import PlannedRun, Study, System, read_study, write_study

__all__ = ["PlannedRun", "Study", "System", "read_study", "write_study"]
