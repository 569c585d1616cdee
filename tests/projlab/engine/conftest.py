"""Fixtures that choose the way in which a projection is computed."""

import pytest

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
