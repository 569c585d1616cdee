"""Equations with structure: every step that is timed is checked, and what is kept is counted."""

import pytest
import torch

from benchmarks import structured


def test_steps_with_equations_are_feasible_and_timed_beside_those_without(monkeypatch):
    monkeypatch.setattr(structured, "SECONDS", 0.01)
    monkeypatch.setattr(structured, "CONVOLUTIONS", 2)
    monkeypatch.setattr(structured, "CHANNELS", 3)
    assert structured.sums_step(8).ratio("projlab", "passes") > 0
    assert structured.equal_matrices(2, 8).ratio("with", "without") > 0
    assert structured.convolutions(torch.channels_last).ratio("with", "without") > 0


@pytest.mark.parametrize(
    "equations",
    [structured.row_and_column_sums, structured.skew_symmetric, structured.circulant],
)
def test_set_up_and_what_is_kept(equations):
    assert structured.set_up(6, equations) > 0
    assert structured.held(6, equations) > 0
    stepping = structured.Stepping([structured.matrix(6)], [equations])
    stepping.step()
    stepping.require_feasible()
    with torch.no_grad():
        stepping.weights[0][0, 1] += 1
    with pytest.raises(AssertionError, match="off by"):
        stepping.require_feasible()
