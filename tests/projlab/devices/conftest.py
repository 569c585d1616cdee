"""The device that the tests here run on."""

import pytest

from projlab.engine import solver
from tests.projlab.devices import device as devices


@pytest.fixture
def device(request, monkeypatch):
    """The device that `--device` names, in use."""
    found = devices.device(request.config.getoption("device"))
    if found.type != "cuda":
        from tests.projlab.devices.pretended import PretendedTensor

        # as plain as a tensor on CUDA, which takes the hot path
        monkeypatch.setattr(solver, "PLAIN", solver.PLAIN | {PretendedTensor})
    with found.in_use():
        yield found
