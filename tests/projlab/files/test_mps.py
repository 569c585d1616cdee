"""MPS: every number whole, every row known, and what is left out said; HiGHS reads the same."""

# ruff: noqa: E501  a case a line

import highspy
import numpy as np
import pytest
import torch

import projlab
from projlab import InputError, load

from .written import MPS, written

FIXED = """NAME          TEST
ROWS
 N  MY COST
 E  ROW ONE
COLUMNS
    X ONE     MY COST            1.0   ROW ONE            2.5
    Y         ROW ONE           -3.0
RHS
    RHS       ROW ONE            4.0
ENDATA
"""
LONG = MPS.replace(
    "ENDATA\n",
    """RANGES
    RNG       limit     2.0
BOUNDS
 FX BND       X1        3.0
 FR BND       X2
 UP BND       X3        9.0
ENDATA
""",
)


def read(folder, text):
    return load(written(folder, "s.mps", text))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("1e16", 1e16), ("1e-13", 1e-13), ("1.5D+03", 1500.0), ("5e-324", 5e-324), ("-.5", -0.5)],
)
def test_numbers_that_a_solver_would_drop_or_refuse_are_numbers(value, wanted, tmp_path):
    assert read(tmp_path, MPS.replace("3.0", value)).A[1, 1] == wanted


def test_what_is_read_as_what_and_left_out_is_said_by_count_and_name(tmp_path):
    notes = read(tmp_path, LONG).notes
    assert notes == (
        "1 of 3 rows is an inequality, read as G x ≤ h (limit)",
        "1 of them has two sides by RANGES (limit)",
        "2 of 3 variables have bounds (x ≥ 0 where none is given)",
        "FX fixes 1 variable (X1)",
    )
    integer = MPS.replace("    X3 ", "    M1        'MARKER'                 'INTORG'\n    X3 ")
    assert "that 1 variable is an integer is left out" in read(tmp_path, integer).notes
    assert "1 integer without a bound lies in [0, 1]" in read(tmp_path, integer).notes
    loose = LONG.replace(" UP BND", " SC BND")
    said = "that 1 variable may be zero below its lower bound is left out"
    assert said in read(tmp_path, loose).notes
    after = MPS + "and more\n"
    assert "what follows ENDATA, from line 16 on, is left out" in read(tmp_path, after).notes
    sos = MPS.replace("ENDATA", "SOS\n S1 SOS SOS1 5\nENDATA")
    assert "the section SOS is left out" in read(tmp_path, sos).notes


def test_a_range_makes_an_equation_two_inequalities_and_one_of_zero_the_reverse(tmp_path):
    system = read(tmp_path, LONG.replace("limit     2.0", "balance   2.0"))
    assert system.names == ("total",)
    assert "1 of them has two sides by RANGES (balance)" in system.notes
    assert system.inequality_names == ("balance (most)", "limit", "balance (least)")
    np.testing.assert_array_equal(system.G.toarray(), [[1, 0, 2], [1, 0, 0], [-1, 0, -2]])
    np.testing.assert_array_equal(system.h, [6, 4, -4])
    system = read(tmp_path, LONG.replace("limit     2.0", "limit     0.0"))
    assert system.names == ("balance", "limit", "total")
    np.testing.assert_array_equal(system.A.toarray(), [[1, 0, 2], [1, 0, 0], [0, 3, 0.5]])
    assert "1 row is an equation by a range of 0 (limit)" in system.notes


def test_names_with_spaces_are_read_in_the_fixed_format(tmp_path):
    system = read(tmp_path, FIXED)
    assert system.names == ("ROW ONE",)
    np.testing.assert_array_equal(system.A.toarray(), [[2.5, -3]])
    np.testing.assert_array_equal(system.b, [4])


def test_a_mark_that_it_is_utf8_is_no_part_of_it(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, "\ufeff" + MPS).b, [4, 0.1])


@pytest.mark.parametrize("name", ["RHS       ", ""])
def test_the_name_of_a_set_may_be_missing(name, tmp_path):
    text = MPS.replace("RHS       balance", f"{name}balance").replace(
        "RHS       limit", f"{name}limit"
    )
    np.testing.assert_array_equal(read(tmp_path, text).b, [4, 0.1])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("COST      1.0   balance   1.0", "COST      abc   balance   1.0", "'abc' where a number belongs, in line 8, column 25"),
        ("COST      1.0   balance   1.0", "COST      1,5   balance   1.0", "'1,5' (a decimal point, no comma) where a number belongs, in line 8, column 25"),
        ("balance   1.0", "balance   1.0x", "'1.0x' where a number belongs, in line 8, column 41"),
        ("3.0", "1_0", "'1_0' where a number belongs, in line 10"),
        ("3.0", "nan", "holds 'nan' in line 10, column 41; want finite"),
        ("3.0", "1e999", "holds '1e999' in line 10, column 41; want finite"),
        ("3.0", "1e-999", "holds '1e-999' (in float64 it would be 0) where a number belongs, in line 10, column 41"),
        ("X3        balance", "X1        balance", "gives 'X1' in 'balance' again in line 11, column 15; want each entry once"),
        ("total     0.5", "none      0.5", "names the row 'none', which is none, in line 11, column 31"),
        ("total     0.5", "total", "no number at the end of one or two pairs in line 11"),
        (" E  total", " E  balance", "names the row 'balance' again in line 6, column 5"),
        (" E  total", " Q  total", "holds 'Q total' in line 6"),
        ("RHS       limit", "RHS       balance", "gives RHS of 'balance' again in line 14"),
        ("RHS       limit", "RHS2      limit", "a second set 'RHS2' in RHS, after 'RHS', in line 14"),
        ("limit     2.0", "limit     2.0.1", "'2.0.1' where a number belongs, in line 16"),
        ("X1        3.0", "X9        3.0", "names the variable 'X9', which is none, in line 18"),
        ("X1        3.0", "X1", "holds 'X1' where a number belongs, in line 18"),
        ("X1        3.0", "X1        3,0", "'3,0' (a decimal point, no comma) where a number belongs, in line 18"),
        ("FX BND", "QQ BND", "'QQ', no type of bound, in line 18"),
        ("UP BND       X3        9.0", "FX BND       X1        9.0", "gives the lower bound of 'X1' again in line 20; want each once"),
        ("UP BND       X3        9.0", "UP BND       X3        -inf", "bounds 'X3' by -inf, which no number satisfies, in line 20"),
        ("UP BND       X3        9.0", "UP BND       X3       -9.0", "gives 'X3' an upper bound below zero and no lower one; want LO or MI"),
        ("RHS       limit     4.0", "RHS       limit    -inf", "asks the row 'limit' to be -inf"),
        ("UP BND", "UP BD2", "a second set 'BD2' in BOUNDS, after 'BND', in line 20"),
        ("RANGES", "LAZYCONS", "a section 'LAZYCONS', unknown here, in line 15"),
        ("ENDATA", "QCMATRIX total\n    X1 X1 1\nENDATA", "makes the row 'total' quadratic in line 21"),
        ("ENDATA", "", "has no ENDATA at its end"),
        ("NAME ", " NAME", "before any section in line 1"),
    ],
)  # fmt: skip
def test_what_a_solver_reads_over_is_refused_with_its_place(old, new, says, tmp_path):
    assert LONG.count(old) >= 1
    with pytest.raises(InputError) as refusal:
        read(tmp_path, LONG.replace(old, new, 1))
    assert says in str(refusal.value)
    assert "; want " in str(refusal.value)


def test_in_the_fixed_format_nothing_stands_between_the_fields(tmp_path):
    for moved in (
        FIXED.replace("    Y         ROW", "    Y           ROW"),
        FIXED.replace("    Y", "\tY"),
    ):
        with pytest.raises(InputError, match="in line 7"):
            read(tmp_path, moved)


def program_of_highs(path):
    """A's rows with their two sides and names, and the bounds of the variables."""
    model = highspy.Highs()
    model.silent()
    model.setOptionValue("small_matrix_value", 1e-12)
    assert model.readModel(str(path)) != highspy.HighsStatus.kError
    program = model.getLp()
    A = np.zeros((program.num_row_, program.num_col_))
    parts = program.a_matrix_
    for j in range(program.num_col_):
        inside = slice(parts.start_[j], parts.start_[j + 1])
        A[np.array(parts.index_)[inside], j] = np.array(parts.value_)[inside]
    sides = np.array(program.row_lower_), np.array(program.row_upper_)
    return (
        A,
        sides,
        program.row_names_,
        (np.array(program.col_lower_), np.array(program.col_upper_)),
    )


LOWER = ("LO BND {} -1", "MI BND {}", "LI BND {} 2", "")
UPPER = ("UP BND {} 2.5", "UP BND {} -2.5", "PL BND {}", "UI BND {} 7", "")
BOTH = ("FX BND {} 1", "FR BND {}", "BV BND {}", "")


def random_mps(seed):
    """A program of every type of row, with ranges, bounds and markers."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(2, 9, 2)
    kinds = ["E", *rng.choice(list("ELG"), m - 1)]
    lines = ["NAME RANDOM", "ROWS", " N COST", *(f" {k} R{i}" for i, k in enumerate(kinds))]
    lines.append("COLUMNS")
    for j in range(n):
        rows = rng.permutation(m)[: rng.integers(1, m + 1)]
        pairs = [
            f"R{i} {rng.standard_normal()!r}".replace("np.float64(", "").rstrip(")") for i in rows
        ]
        pairs.append(f"COST {j}")
        lines += [f"    X{j} {' '.join(pairs[k : k + 2])}" for k in range(0, len(pairs), 2)]
    lines.append("RHS")
    lines += [f"    RHS R{i} {i / 3!r}" for i in range(m) if rng.random() < 0.7]
    lines.append("RANGES")
    lines += [
        f"    RNG R{i} {rng.choice([0.0, -1.5, 2.0])}" for i in range(1, m) if rng.random() < 0.3
    ]
    lines.append("BOUNDS")
    for j in range(n):
        kinds = [rng.choice(LOWER), rng.choice(UPPER)] if rng.random() < 0.7 else [rng.choice(BOTH)]
        if "-2.5" in kinds[-1] and not kinds[0]:
            kinds[0] = LOWER[0]  # alone it is refused
        lines += [f" {kinds[k].format(f'X{j}')}" for k in rng.permutation(len(kinds)) if kinds[k]]
    lines.append("ENDATA")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(40))
def test_it_reads_what_highs_reads(seed, tmp_path):
    path = written(tmp_path, "s.mps", random_mps(seed))
    A, (least, most), names, bounds = program_of_highs(path)
    system = load(path)
    equal, above, below = least == most, np.isfinite(most), np.isfinite(least)
    above, below = above & ~equal, below & ~equal
    np.testing.assert_array_equal(system.A.toarray(), A[equal])
    np.testing.assert_array_equal(system.b, least[equal])
    assert list(system.names) == [n for n, e in zip(names, equal, strict=True) if e]
    if above.any() or below.any():
        np.testing.assert_array_equal(system.G.toarray(), [*A[above], *-A[below]])
        np.testing.assert_array_equal(system.h, [*most[above], *-least[below]])
    else:
        assert system.G is None
    for bound, wanted in zip((system.lb, system.ub), bounds, strict=True):
        if bound is None:
            assert not np.isfinite(wanted).any()
        else:
            np.testing.assert_array_equal(bound, wanted)


def test_inequalities_alone_are_a_set(tmp_path):
    system = read(tmp_path, LONG.replace(" E ", " G "))
    assert system.A.shape == (0, 3)
    P = projlab.projector(system.polyhedron)
    x = P(torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64))
    np.testing.assert_allclose(x, [3, 0, 0.5], rtol=1e-15)
    assert P.certify(torch.zeros(3, dtype=torch.float64), x).verdict == "certified"


def test_the_set_of_a_file_is_projected_onto_with_names_of_its_own(tmp_path):
    system = read(tmp_path, LONG)
    assert system.polyhedron.names == ("balance", "total", "limit (most)", "limit (least)")
    empty = read(tmp_path, LONG.replace("X3        9.0", "X3        0.25")).polyhedron
    with pytest.raises(projlab.InconsistentError, match="balance"):
        projlab.projector(empty)
