"""Compiled code leaves PyTorch's threads as the user has set them."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import torch
from xtra_rl.models import InferenceModel, make_world_model
from xtra_rl.search import GumbelMCTSPlanner

torch.set_num_threads({threads})
model = make_world_model(image_size=32, image_channels=1, channels=8, lstm_hidden=8, support_size=5).eval()
planner = GumbelMCTSPlanner(InferenceModel(model, external_reset=True), num_simulations=4)
for batch in (1, 3, 200):
    planner.search(torch.zeros(batch, 4, 32, 32, dtype=torch.uint8), noise=False)
    assert torch.get_num_threads() == {threads}, torch.get_num_threads()
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_search_leaves_the_number_of_threads_alone(threads):
    subprocess.run([sys.executable, "-c", CODE.format(threads=threads)], check=True, timeout=300)
