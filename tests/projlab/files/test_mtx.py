"""Matrix Market: every token from its first character to its last, every header as it says."""

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from projlab import InputError, load

from .written import written

TEXT = """%%MatrixMarket matrix coordinate real general
% made by hand

2 3 2
1 1 1.5
2 3 -0.25
"""


def read(folder, text):
    return load(written(folder, "s.mtx", text))


def of(kind, *lines):
    return "\n".join([f"%%MatrixMarket matrix {kind}", *lines]) + "\n"


def test_zeros_are_zeros_and_the_least_numbers_are_kept(tmp_path):
    A = read(tmp_path, of("array real general", "2 2", "0e-999", "-0.0", "5e-324", "0000")).A
    np.testing.assert_array_equal(A, [[0, 5e-324], [0, 0]])


def test_a_mark_that_it_is_utf8_is_no_part_of_it(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, "\ufeff" + TEXT).A.data, [1.5, -0.25])


@pytest.mark.parametrize("token", ["1.5D+03", "1.5d3", "1500", "+15e2", "1500."])
def test_an_exponent_of_fortran_is_an_exponent(token, tmp_path):
    A = read(tmp_path, TEXT.replace("1.5", token)).A
    np.testing.assert_array_equal(A.toarray(), [[1500, 0, 0], [0, 0, -0.25]])


@pytest.mark.parametrize(
    ("text", "wanted", "notes"),
    [
        (of("array real general", "2 2", *"1234"), [[1, 3], [2, 4]], ()),
        (of("array integer general", "2 1", *"12"), [[1], [2]], ()),
        (of("array real symmetric", "2 2", *"123"), [[1, 2], [2, 3]], ("symmetric",)),
        (
            of("array real skew-symmetric", "3 3", *"123"),
            [[0, -1, -2], [1, 0, -3], [2, 3, 0]],
            ("skew-symmetric",),
        ),
        (of("coordinate integer general", "1 2 1", "1 2 7"), [[0, 7]], ()),
        (of("coordinate double general", "1 2 1", "1 2 7"), [[0, 7]], ()),
        (of("coordinate pattern general", "1 2 1", "1 2"), [[0, 1]], ("a pattern",)),
        (
            of("coordinate real symmetric", "2 2 2", "1 1 5", "2 1 7"),
            [[5, 7], [7, 0]],
            ("symmetric",),
        ),
        (
            of("coordinate real symmetric", "2 2 2", "1 1 5", "1 2 7"),
            [[5, 7], [7, 0]],
            ("symmetric",),
        ),
        (of("coordinate real skew-symmetric", "2 2 1", "2 1 7"), [[0, -7], [7, 0]], ("skew",)),
        (of("coordinate real general", "2 2 0"), [[0, 0], [0, 0]], ()),
        (of("coordinate real general", "1 1 2", "1 1 2", "1 1 3"), [[5]], ("1 entry stands",)),
        (TEXT.replace("\n", "\r\n"), [[1.5, 0, 0], [0, 0, -0.25]], ()),
        (TEXT.replace("\n1 1", "\n\n  1\t1").rstrip(), [[1.5, 0, 0], [0, 0, -0.25]], ()),
        (
            TEXT.replace("%%MatrixMarket matrix", "%%matrixmarket MATRIX"),
            [[1.5, 0, 0], [0, 0, -0.25]],
            (),
        ),
    ],
)
def test_every_kind_of_header_means_what_it_says(text, wanted, notes, tmp_path):
    system = read(tmp_path, text)
    np.testing.assert_array_equal(system.A.toarray() if "coordinate" in text else system.A, wanted)
    assert len(system.notes) == len(notes)
    assert all(map(str.startswith, system.notes, notes))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TEXT.replace("1.5", "abc"), "'abc' in line 5, column 5; want a number"),
        (TEXT.replace("1.5", "1,5"), "'1,5' in line 5, column 5 (a decimal point, no comma)"),
        (TEXT.replace("1.5", "1.5x"), "'1.5x' in line 5, column 5"),
        (TEXT.replace("1.5", "1.5+3"), "'1.5+3' in line 5, column 5"),
        (TEXT.replace("1.5", "0x1p3"), "'0x1p3' in line 5, column 5"),
        (TEXT.replace("1.5", "1_0"), "'1_0' in line 5, column 5"),
        (TEXT.replace("1.5", "nan"), "nan in line 5, column 5; want finite"),
        (TEXT.replace("1.5", "1e999"), "beyond float64 in line 5"),
        (TEXT.replace("-0.25", "1D-999"), "'1e-999' (in float64 it would be 0) in line 6"),
        (TEXT.replace("1 1 1.5", "1.0 1 1.5"), "'1.0' in line 5, column 1; want a whole number"),
        (TEXT.replace("1 1 1.5", "1 1"), "2 tokens in line 5, '1 1'; want 3"),
        (TEXT.replace("1 1 1.5", "1 1 1.5 0"), "4 tokens in line 5"),
        (TEXT.replace("1 1 1.5", "% 1 1 1.5"), "in line 5"),
        (TEXT.replace("1 1 1.5", "0 1 1.5"), "at 0 1 in line 5, outside 2 × 3"),
        (TEXT.replace("2 3 -", "2 4 -"), "at 2 4 in line 6, outside 2 × 3"),
        (TEXT.replace("2 3 -0.25\n", ""), "holds 1 entry, and says 2 in line 4"),
        (TEXT + "2 2 5\n", "holds 3 entries, and says 2 in line 4"),
        (TEXT.replace("2 3 2", "2 3"), "holds '2 3' in line 4, column 1; want 3 sizes"),
        (TEXT.replace("2 3 2", "-2 3 2"), "holds '-2 3 2' in line 4"),
        (TEXT.replace("2 3 2", f"{2**40} 3 2"), "claims to hold 1,099,511,627,776 rows"),
        (TEXT.replace("2 3 2", f"2 {2**62} 2"), "holds '2 4611686018427387904 2'"),
        (TEXT.replace("real", "complex"), "'complex' as word 4 of line 1"),
        (TEXT.replace("general", "hermitian"), "'hermitian' as word 5 of line 1"),
        (TEXT.replace("general", "symmetric"), "is symmetric of shape (2, 3)"),
        (TEXT.replace("coordinate", "graph"), "'graph' as word 3 of line 1"),
        (TEXT.replace(" general", ""), "has 4 words in line 1"),
        (of("coordinate integer general", "1 2 1", "1 2 7.5"), "'7.5' in line 3, column 5"),
        (of("coordinate real symmetric", "2 2 2", "1 2 5", "2 1 7"), "in both triangles"),
        (of("coordinate real skew-symmetric", "2 2 1", "1 1 5"), "a diagonal entry in line 3"),
        (of("array real general", "2 2", "1 2", "3 4"), "2 tokens in line 3"),
        (of("array real general", "9999999 9999999", "1"), "holds 1 entry, and says 99,999,980"),
        (of("array pattern general", "1 1", "1"), "an array that is a pattern"),
        (of("array real general"), "holds '' in line 2"),
        ("", "no %%MatrixMarket header"),
    ],
)
def test_what_is_half_a_number_or_half_a_file_is_refused_with_its_place(text, says, tmp_path):
    with pytest.raises(InputError) as refusal:
        read(tmp_path, text)
    assert says in str(refusal.value)
    assert "; want " in str(refusal.value)


@pytest.mark.parametrize("symmetry", ["general", "symmetric", "skew-symmetric"])
@pytest.mark.parametrize("dense", [False, True])
def test_it_agrees_with_scipy_on_what_scipy_writes(symmetry, dense, tmp_path):
    A = np.random.default_rng(0).standard_normal((7, 7))
    A = {"general": A, "symmetric": A + A.T, "skew-symmetric": A - A.T}[symmetry]
    path = tmp_path / "s.mtx"
    scipy.io.mmwrite(path, A if dense else sp.coo_array(A), symmetry=symmetry, precision=17)
    ours, theirs = load(path).A, scipy.io.mmread(path, spmatrix=False)
    assert sp.issparse(ours) != dense
    np.testing.assert_array_equal(sp.csr_array(ours).toarray(), sp.csr_array(theirs).toarray())
