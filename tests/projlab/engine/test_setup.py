"""Answer first: what is set up without a decision on the rank, and when one is taken after all."""

import pytest
import torch

import projlab
from tests.projlab import exact
from tests.projlab.systems import case, make_case, prescribed_spectrum

F64 = torch.float64

REDUNDANT = ["duplicate rows", "integer combinations", "rows of zeros", "more rows than variables"]


def redundant_rows(condition):
    """Six rows of this condition number, their last one twice; b of a solution."""
    A = torch.from_numpy(prescribed_spectrum(6, 15, condition))
    A = torch.cat([A, 2 * A[-1:]])
    x = torch.randint(-9, 10, (15,)).to(F64)
    return A, A @ x


@pytest.mark.parametrize(
    ("variant", "reason"),
    [("auto", "carry the others"), ("qr", "carry the others"), ("cholesky", "may be redundant")],
)
@pytest.mark.parametrize("name", REDUNDANT)
def test_redundant_rows_are_answered_without_a_decision(name, variant, reason, monkeypatch):
    """And nothing of the shift that makes them factor, or of the rows left out, is seen."""
    given = case(name)
    with monkeypatch.context() as patch:  # no singular value, no combination of rows
        for decomposition in ("svd", "svdvals", "lu_factor"):
            patch.setattr(torch.linalg, decomposition, None)
        P = projlab.projector(given.A, given.b, variant)
    assert reason in P.reason
    for x in (P(given.x0), P.project_(given.x0.clone())):
        assert exact.distance(x, given.solution) <= given.allowed("qr")


@pytest.mark.parametrize("name", [*REDUNDANT, "random 5 x 12"])
def test_an_answer_does_not_depend_on_what_was_asked_before(name):
    given = case(name)
    P, asked = (projlab.projector(given.A, given.b) for _ in range(2))
    assert (asked.rank, asked.condition >= 1) == (given.rank, True)
    asked.multipliers(given.x0)
    asked.null_space()
    assert torch.equal(asked(given.x0), P(given.x0))
    assert torch.equal(asked.project_(given.x0.clone()), P.project_(given.x0.clone()))
    assert asked.variant == P.variant


@pytest.mark.parametrize("condition", [1e7, 1e10])
def test_where_corrections_converge_slowly_the_rank_is_decided(condition):
    """A singular value near the root of the shift is corrected by a part of it each time."""
    A, b = redundant_rows(condition)
    given = make_case("slow", A, b, torch.randn(15, dtype=F64))
    P = projlab.projector(A, b)
    assert "shift" not in P.reason
    assert P.rank == 6
    assert exact.distance(P(given.x0), given.solution) <= given.allowed(P.variant)


def test_a_contradiction_is_found_without_being_looked_for():
    A, b = redundant_rows(10.0)
    for variant in ("auto", "cholesky"):
        assert (
            "redundant" in (reason := projlab.projector(A, b, variant).reason) or "carry" in reason
        )
        off = b.clone()
        off[-1] += 1e-9
        with pytest.raises(projlab.InconsistentError, match=r"row 6 = 2 \* row 5"):
            projlab.projector(A, off, variant)


@pytest.mark.parametrize(
    "keywords",
    [
        {"rank": 1e-9},
        {"rank": "exact"},
        {"accuracy": 1e-9},
        {"metric": torch.ones(15, dtype=F64)},
        {"on_redundant": "drop", "on_inconsistent": "least_squares"},
        {"variant": "qr"},
        {"variant": "pinv"},
    ],
    ids=lambda keywords: ", ".join(keywords),
)
def test_whoever_asks_for_a_decision_gets_one(keywords):
    A, b = redundant_rows(10.0)
    P = projlab.projector(A, b, **keywords)
    assert "shift" not in P.reason
    assert P.rank == 6
    x = torch.randn(15, dtype=F64)
    assert torch.allclose(P(x), projlab.projector(A, b)(x), rtol=0, atol=1e-12)


def nearly_parallel():
    """Six rows of rank 5: one 1e-9 away from following, and one that follows."""
    E = torch.from_numpy(prescribed_spectrum(5, 15, 1.0))
    return torch.cat([E[:4], E[:1] + 1e-9 * E[4:], 2 * E[3:4]]), E.sum(0)


@pytest.mark.parametrize("variant", ["auto", "qr"])
def test_a_row_that_nearly_follows_counts_though_b_does_not_show_it(variant):
    """Its pivot drowns in the Gram matrix, and zero solves b = 0: only a random vector shows it."""
    A, x0 = nearly_parallel()
    given = make_case("nearly parallel", A, torch.zeros(6, dtype=F64), x0)
    P = projlab.projector(A, 0.0, variant)
    assert P.rank == 5
    assert exact.distance(P(given.x0), given.solution) <= given.allowed("qr")


def test_cholesky_refuses_a_row_that_nearly_follows():
    with pytest.raises(projlab.RankDeficientError, match="not numerically positive definite"):
        projlab.projector(nearly_parallel()[0], 0.0, "cholesky")
