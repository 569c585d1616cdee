"""The sparse benchmark's peers answer what projlab answers, and a wrong answer is no benchmark."""

import numpy as np
import pytest

from benchmarks import sparse

CASES = {
    "grid": lambda: sparse.grid(12),
    "tree": lambda: sparse.tree(200),
    "chain": lambda: sparse.chain(200),
    "real": lambda: sparse.real("netlib_qap8"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_peer_with_six_corrections_is_as_near(name):
    case = CASES[name]()
    P = case.projector()
    x = P(case.point)
    sparse.require_projected(case, P, x)
    found = sparse.Splu(case).projected(case.x0)
    assert np.linalg.norm(found - x.numpy()) <= 1e-10 * np.linalg.norm(x.numpy())


def test_a_wrong_answer_is_refused():
    case = sparse.grid(12)
    P = case.projector()
    x = P(case.point)
    with pytest.raises(AssertionError, match="rows are off"):
        sparse.require_projected(case, P, x + 1e-9)
    with pytest.raises(AssertionError, match="leaves their span"):
        sparse.require_projected(case, P, x + 1e-6 * P.tangent(case.point))


@pytest.mark.parametrize("solver", sparse.SOLVERS)
def test_solvers_agree_or_are_said_to_be_wrong(solver):
    pytest.importorskip(solver)
    first, further = sparse.against(sparse.grid(12), solver, budget=0.01)
    assert min(first, further) > 0
