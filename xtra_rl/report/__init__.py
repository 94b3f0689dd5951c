"""One page from many runs: what was measured, beside the paper's numbers, and what is missing. ``recipes/report.py``.

Needs neither PyTorch nor the recipes.
"""
