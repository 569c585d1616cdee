"""What every benchmark is set up with: a system, a projector, and a check of its answer."""

import pytest
import torch

import projlab
from benchmarks import common, projection
from benchmarks.systems import exact


class Wrong:
    """A projector whose answers are off."""

    def __init__(self, P):
        self.P = P
        self.variant, self.condition = P.variant, P.condition

    def __call__(self, x):
        return self.P(x) * (1 + 1e-9)

    def project_(self, x):
        return x.copy_(self(x))


def test_a_wrong_answer_is_not_timed(monkeypatch):
    right = projlab.projector
    monkeypatch.setattr(projlab, "projector", lambda *given: Wrong(right(*given)))
    with pytest.raises(AssertionError, match="forward error"):
        projection.Projection().setup("qr", "3x10", "float64", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_an_absent_device_is_not_applicable():
    with pytest.raises(NotImplementedError, match="CUDA"):
        common.system("3x10", "float64", "cuda")


def test_a_refusal_is_not_applicable():
    with pytest.raises(NotImplementedError, match="single_row refuses"):
        common.projector(exact(3, 10), "single_row")


def test_errors_count_from_one_roundoff_up():
    assert common.in_roundoffs(0.0, "float64") == 1.0
    assert common.in_roundoffs(3e-16, "float64") == pytest.approx(2.7, abs=0.01)
