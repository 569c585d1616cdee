"""Exact rank of sparse rows: the same rows as the dense elimination, and combinations that hold."""

import numpy as np
import pytest
import scipy.sparse as sp

from projlab.numerics import exact_rank, sparse_elimination
from projlab.numerics.exact_rank import residues
from projlab.numerics.sparse_elimination import TooDenseError, independent_rows
from tests.projlab.sparse_systems import grid, redundant, scattered, tree


def entries(A):
    """As the elimination takes them; int32 indices of scipy made int64."""
    coo = sp.coo_array(A)
    coo.eliminate_zeros()
    return coo.row.astype(np.int64), coo.col.astype(np.int64), coo.data, coo.shape


def holds(A, found):
    """Whether every dropped row is its combination of kept ones, modulo the prime."""
    i, j, values, shape = entries(A)
    p = found.prime
    rows = [dict[int, int]() for _ in range(shape[0])]
    for a, b, value in zip(i.tolist(), j.tolist(), residues(values, p).tolist(), strict=True):
        rows[a][b] = value
    for d, terms in found.combinations.items():
        total: dict[int, int] = {}
        for k, factor in terms.items():
            assert k in set(found.kept)
            for column, value in rows[k].items():
                total[column] = (total.get(column, 0) + factor * value) % p
        if {c: v for c, v in total.items() if v} != rows[d]:
            return False
    return True


CASES = {
    "grid": grid(6),
    "tree": tree(60),
    "combinations": redundant(scattered(40, 70, 3), 15)[0],
    "more rows than columns": redundant(scattered(10, 12, 2), 30)[0],
    "dense": sp.csr_array(np.random.default_rng(0).integers(-3, 4, (12, 9)).astype(float)),
    "rows of zeros": sp.vstack([sp.csr_array((2, 30)), tree(31)]).tocsr(),
    "tiny and huge": sp.csr_array(np.array([[1e-300, 3.0], [2e-300, 6.0], [1e300, 1.0]])),
    "a third": sp.csr_array(np.array([[1 / 3, 1.0], [1.0, 3.0], [2 / 3, 2.0]])),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_maximal_set_as_the_dense_elimination(name):
    A = CASES[name]
    found = independent_rows(*entries(A))
    assert found.kept == exact_rank.independent_rows(A.toarray())
    assert found.dropped == sorted(set(range(A.shape[0])) - set(found.kept))
    assert holds(A, found)


def test_a_row_of_zeros_has_no_terms():
    found = independent_rows(*entries(CASES["rows of zeros"]))
    assert found.combinations[0] == {} == found.combinations[1]


def test_nothing():
    found = independent_rows(*entries(sp.csr_array((0, 3))))
    assert found.kept == found.dropped == []


def test_a_prime_that_divides_every_minor_is_made_up_for_by_the_other():
    A = sp.csr_array(np.diag([float(exact_rank.PRIMES[0]), 1.0]))
    assert independent_rows(*entries(A)).kept == [0, 1]


def test_residues_are_not_multiplied_in_32_bits():
    # of the last two rows 2^31 times the first leaves nothing, and something
    A = np.array([[2.0**31, 1.0], [2.0**62, 2.0**31], [1.0, 1.0]])
    assert independent_rows(*entries(sp.csr_array(A))).kept == [0, 2]


def test_a_long_chain_takes_no_recursion():
    n = 5000
    A = (sp.eye_array(n) - sp.eye_array(n, k=1)).tocsr()
    assert len(independent_rows(*entries(A)).kept) == n


def test_fill_beyond_what_is_allowed_is_refused():
    A = sp.csr_array(np.random.default_rng(0).standard_normal((30, 30)))
    with pytest.raises(TooDenseError, match="1,000 entries"):
        independent_rows(*entries(A), most=1000)


def test_a_combination_off_by_one_is_seen(monkeypatch):
    """The check of this file fails where a multiplier is wrong."""
    honest = sparse_elimination._Elimination._combination

    def wrong(self, of_pivots):
        return {k: 2 * v % self.p for k, v in honest(self, of_pivots).items()}

    monkeypatch.setattr(sparse_elimination._Elimination, "_combination", wrong)
    assert not holds(CASES["grid"], independent_rows(*entries(CASES["grid"])))
