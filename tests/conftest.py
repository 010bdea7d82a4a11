"""One thread for all tests: their tensors are small, and the same bits are asked for in this process and in others."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
