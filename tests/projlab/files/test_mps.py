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
        ("RHS       limit     4.0", "RHS       limit    -inf", "asks the row 'limit' to be -inf in line 14, column 15"),
        ("RHS       limit     4.0", "RHS       limit    -1e20", "asks the row 'limit' to be -inf in line 14, column 15; want right sides within ±1e+20, which is infinite"),
        ("balance   4.0", "balance   1e30", "asks the row 'balance' to be inf in line 13, column 15; want right sides within ±1e+20"),
        ("RHS       limit     4.0", "RHS       limit     1e20", "gives the row 'limit' a range from inf in line 16, column 15; want right sides within ±1e+20"),
        ("UP BND       X3        9.0", "UP BND       X3        -1e30", "bounds 'X3' by -inf, which no number satisfies, in line 20; want bounds within ±1e+20"),
        ("FX BND       X1        3.0", "FX BND       X1        1e20", "bounds 'X1' by inf, which no number satisfies, in line 18"),
        ("UP BND", "UP BD2", "a second set 'BD2' in BOUNDS, after 'BND', in line 20"),
        ("RANGES", "LAZYCONS", "a section 'LAZYCONS', unknown here, in line 15"),
        ("ENDATA", "QCMATRIX total\n    X1 X1 1\nENDATA", "makes the row 'total' quadratic in line 21"),
        ("ENDATA", "", "has no ENDATA at its end"),
        ("NAME ", " NAME", "before any section in line 1"),
        ("ROWS\n N", "ROWS N", "holds 'N COST' behind the name of the section ROWS in line 2; want the name alone in its line"),
        ("COLUMNS\n", "COLUMNS", "holds 'X1 COST 1.0 balance 1.0' behind the name of the section COLUMNS in line 7"),
        ("RHS\n", "RHS", "holds 'RHS balance 4.0 total 0.1' behind the name of the section RHS in line 12"),
        ("    X2 ", "RHS ", "holds 'COST 1.0 total 3.0' behind the name of the section RHS in line 10"),
        (" FX BND", "RHS BND", "holds 'BND X1 3.0' behind the name of the section RHS in line 18"),
        (" FX BND", "BOUNDS", "holds 'BOUNDS', no type of bound, in line 18, column 1"),
        (" E  total", "ROWS total", "holds 'ROWS total' in line 6, column 1"),
        ("    RNG       limit", "SOS limit", "holds 'limit 2.0' behind the name of the section SOS in line 16"),
        ("    RNG       limit", "OBJSENSE limit", "holds 'limit 2.0' behind the name of the section OBJSENSE in line 16"),
        ("    RNG       limit     2.0", "OBJSENSE 2.0", "holds '2.0' behind the name of the section OBJSENSE in line 16"),
        ("    RNG       limit", "OBJNAME limit", "holds 'limit 2.0' behind the name of the section OBJNAME in line 16"),
        ("    RNG       limit", "QUADOBJ limit", "holds 'limit 2.0' behind the name of the section QUADOBJ in line 16"),
        ("    RNG       limit     2.0", "QSECTION 2.0", "names the row '2.0', which is none, in line 16"),
        ("    RNG       limit", "QSECTION COST limit", "behind the name of the section QSECTION in line 16"),
        ("    RNG       limit", "NAME      limit", "has NAME after its rows in line 16; want NAME first"),
        ("ENDATA", "ENDATA limit 2.0", "holds 'limit 2.0' behind the name of the section ENDATA in line 21"),
        ("BOUNDS", "FOO", "a section 'FOO', unknown here, in line 17"),
    ],
)  # fmt: skip
def test_what_a_solver_reads_over_is_refused_with_its_place(old, new, says, tmp_path):
    assert LONG.count(old) >= 1
    with pytest.raises(InputError) as refusal:
        read(tmp_path, LONG.replace(old, new, 1))
    assert says in str(refusal.value)
    assert "; want " in str(refusal.value)


@pytest.mark.parametrize(
    "header",
    ["NAME a program FREE", "OBJSENSE MAX", "OBJSENSE\n  MAX", "OBJSENS minimize", "OBJNAME COST"],
)
def test_what_a_section_may_have_behind_its_name_is_no_line_of_data(header, tmp_path):
    name, rest = LONG.split("\n", 1)
    with_it = read(tmp_path, f"{name}\n{header}\n{rest}")
    np.testing.assert_array_equal(with_it.h, read(tmp_path, LONG).h)


def test_sections_that_are_left_out_may_name_rows_and_sections_in_their_lines(tmp_path):
    cones = LONG.replace("ENDATA", "QSECTION COST\n X1 X1 1\nCSECTION K1 0.0 QUAD\n X1\nENDATA")
    assert read(tmp_path, cones).notes[-1] == "the section CSECTION is left out"
    sets = LONG.replace("ENDATA", "SOS1\n SOS SOS1 5\n SOS X1:1\nENDATA")  # as lp_solve writes
    assert read(tmp_path, sets).notes[-1] == "the section SOS1 is left out"


def test_in_the_fixed_format_nothing_stands_between_the_fields(tmp_path):
    for moved in (
        FIXED.replace("    Y         ROW", "    Y           ROW"),
        FIXED.replace("    Y", "\tY"),
        FIXED.replace("    Y  ", "COLUMNS"),
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


LOWER = ("LO BND {} -1", "MI BND {}", "LI BND {} 2", "LO BND {} -1e20", "LI BND {} -9e19", "")
UPPER = ("UP BND {} 2.5", "UP BND {} -2.5", "PL BND {}", "UI BND {} 7", "UP BND {} 1e20",
         "UP BND {} 9.9e19", "UI BND {} 1e30", "")  # fmt: skip
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
        f"    RNG R{i} {rng.choice([0.0, -1.5, 2.0, 1e20, -1e30, 9e19])}"
        for i in range(1, m)
        if rng.random() < 0.3
    ]
    lines.append("BOUNDS")
    for j in range(n):
        kinds = [rng.choice(LOWER), rng.choice(UPPER)] if rng.random() < 0.7 else [rng.choice(BOTH)]
        if "-2.5" in kinds[-1] and not kinds[0]:
            kinds[0] = LOWER[0]  # alone it is refused
        lines += [f" {kinds[k].format(f'X{j}')}" for k in rng.permutation(len(kinds)) if kinds[k]]
    lines.append("ENDATA")
    return "\n".join(lines) + "\n"


def assert_read_as_highs_does(path):
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


@pytest.mark.parametrize("seed", range(60))
def test_it_reads_what_highs_reads(seed, tmp_path):
    assert_read_as_highs_does(written(tmp_path, "s.mps", random_mps(seed)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    RHS       balance", "RHS balance"),
        ("    RHS       balance   4.0   total     0.1", "RHS balance 4"),
        ("    RNG       limit", "RANGES limit"),
        ("    X3        balance", "COLUMNS total 7\n    X3        balance"),
        ("    X3        balance", "X3 balance"),
        (" L  limit", "L limit"),
        (" UP BND       X3", "UP BND X3"),
        ("RANGES\n", " RANGES\n"),
        ("COLUMNS\n    X1        COST ", " COLUMNS\n X1 COST "),
        ("BOUNDS\n", "  bounds\n"),
        ("    RHS       limit     4.0\nRANGES\n    RNG", "RHS limit 1e20\nRANGES\n RNG total 1\n*"),
        ("    RHS       limit     4.0", "    RHS       limit     9.9e19"),
        ("limit     2.0", "limit     1e20"),
        ("limit     2.0", "balance  -1e30"),
        ("X3        9.0", "X3        1e20"),
    ],
)  # fmt: skip
def test_headers_and_infinities_are_those_of_highs(old, new, tmp_path):
    assert LONG.count(old) == 1
    assert_read_as_highs_does(written(tmp_path, "s.mps", LONG.replace(old, new)))


def test_what_is_infinite_is_said_by_name(tmp_path):
    ranged = read(tmp_path, LONG.replace("limit     2.0", "limit     1e20"))
    said = "sides and bounds of ±1e+20 and beyond are infinite ({})"
    assert said.format("limit") in ranged.notes
    assert not any("two sides" in note for note in ranged.notes)
    np.testing.assert_array_equal(ranged.h, [4])
    bounded = read(tmp_path, LONG.replace("X3        9.0", "X3        1e30"))
    assert said.format("X3") in bounded.notes
    no_side = read(tmp_path, MPS.replace("limit     4.0", "limit     1e30"))
    assert "1 row without a side is left out" in no_side.notes
    assert said.format("limit") in no_side.notes
    assert no_side.G is None
    assert no_side.A.shape == (2, 3)


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
