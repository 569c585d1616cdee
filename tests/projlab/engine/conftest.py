"""Fixtures that choose the way in which a projection is computed."""

import warnings

import pytest
import torch

from projlab.numerics import tuning
from tests.projlab.ways import WAYS


@pytest.fixture
def take(monkeypatch):
    """A function that makes what is set up after it take the way."""

    def take(way):
        for name, value in WAYS[way].items():
            monkeypatch.setattr(tuning, name, value)
        monkeypatch.setenv("PROJLAB_NATIVE", "1" if way == "native" else "0")

    return take


@pytest.fixture
def native(take):
    take("native")


@pytest.fixture
def fresh_compiler():
    """A compiler that has compiled nothing before, or after."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        # the compiler's own: deprecations inside torch, and its look at .grad of what it traces
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        yield
    torch.compiler.reset()
