"""MPS: every number whole, every row known, and what is left out said; HiGHS reads the same."""

# ruff: noqa: E501  a case a line

import highspy
import numpy as np
import pytest

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


def test_what_is_left_out_is_said_by_count_and_name(tmp_path):
    notes = read(tmp_path, LONG).notes
    assert notes == (
        "1 of 3 rows is an inequality and left out (limit)",
        "FX, which fixes 1 variable, is left out (X1)",
        "bounds are left out, of 2 of 3 variables (x ≥ 0 where none is given)",
    )
    integer = MPS.replace("    X3 ", "    M1        'MARKER'                 'INTORG'\n    X3 ")
    assert "that 1 variable is an integer is left out" in read(tmp_path, integer).notes
    after = MPS + "and more\n"
    assert "what follows ENDATA, from line 16 on, is left out" in read(tmp_path, after).notes
    sos = MPS.replace("ENDATA", "SOS\n S1 SOS SOS1 5\nENDATA")
    assert "the section SOS is left out" in read(tmp_path, sos).notes


def test_a_range_makes_an_equation_an_inequality_and_one_of_zero_the_reverse(tmp_path):
    system = read(tmp_path, LONG.replace("limit     2.0", "balance   2.0"))
    assert system.names == ("total",)
    assert "1 of them by RANGES (balance)" in system.notes
    system = read(tmp_path, LONG.replace("limit     2.0", "limit     0.0"))
    assert system.names == ("balance", "limit", "total")
    np.testing.assert_array_equal(system.A.toarray(), [[1, 0, 2], [1, 0, 0], [0, 3, 0.5]])
    assert "1 row is an equation by a range of 0 (limit)" in system.notes


def test_names_with_spaces_are_read_in_the_fixed_format(tmp_path):
    system = read(tmp_path, FIXED)
    assert system.names == ("ROW ONE",)
    np.testing.assert_array_equal(system.A.toarray(), [[2.5, -3]])
    np.testing.assert_array_equal(system.b, [4])


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


def equations_of_highs(path):
    model = highspy.Highs()
    model.silent()
    model.setOptionValue("small_matrix_value", 1e-12)
    assert model.readModel(str(path)) == highspy.HighsStatus.kOk
    program = model.getLp()
    A = np.zeros((program.num_row_, program.num_col_))
    parts = program.a_matrix_
    for j in range(program.num_col_):
        inside = slice(parts.start_[j], parts.start_[j + 1])
        A[np.array(parts.index_)[inside], j] = np.array(parts.value_)[inside]
    lower, upper = np.array(program.row_lower_), np.array(program.row_upper_)
    equal = lower == upper
    return A[equal], lower[equal], [n for n, e in zip(program.row_names_, equal, strict=True) if e]


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
    lines += ["BOUNDS", " FX BND X0 1", " FR BND X1", "ENDATA"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(40))
def test_it_reads_what_highs_reads(seed, tmp_path):
    path = written(tmp_path, "s.mps", random_mps(seed))
    A, b, names = equations_of_highs(path)
    system = load(path)
    np.testing.assert_array_equal(system.A.toarray(), A)
    np.testing.assert_array_equal(system.b, b)
    assert list(system.names) == names
