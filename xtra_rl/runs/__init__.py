"""Run directories as a person wants them: found, listed, shown, compared, exported. ``python -m xtra_rl.runs --help``.

Only the export imports PyTorch.
"""
