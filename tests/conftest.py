"""What every test starts from."""

import os

import pytest
import torch
from hypothesis import settings

# Small systems gain nothing from threads, and bits are comparable only at one thread count.
torch.set_num_threads(1)

# Deadlines measure the machine. In CI every run draws the same examples, so that a red one can be
# repeated.
settings.register_profile("projlab", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("projlab")


@pytest.fixture(autouse=True)
def torch_seed() -> None:
    """Each test draws the same numbers, alone or among others."""
    torch.manual_seed(0)
