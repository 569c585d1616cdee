"""The table of the real systems: what a row says, and which ways set-up takes."""

import re

import pytest
import scipy.sparse

from benchmarks.real_systems import DATA, main, read, row
from projlab import AffineConstraint


def test_the_systems_are_where_the_table_looks_for_them():
    assert len(list(DATA.glob("*.npz"))) == 49


@pytest.mark.parametrize(
    ("name", "variant", "way"),
    [
        ("netlib_adlittle", "qr", "triangle"),
        ("netlib_afiro", "qr", "triangle"),
        ("mm_boyd2", "single_row", "blocks"),
        ("netlib_brandy", "qr", "some rows"),
        ("netlib_bore3d", "sparse_cholesky", "sparse factor"),
        ("mm_values", "single_row", "decided"),
    ],
)
def test_a_row_says_how_the_factor_came_about(name, variant, way):
    cells = row(name, read(DATA / f"{name}.npz"), 60.0)
    assert cells[0] == name
    assert cells[2:4] == (variant, way)
    assert all(re.fullmatch(r"[\d.e-]+ (m?s)", cells[i]) for i in (4, 5, 7))
    assert float(cells[6]) > 0
    assert cells[8].endswith(" certified")


def test_what_would_take_too_long_is_left_out():
    cells = row("netlib_capri", read(DATA / "netlib_capri.npz"), 1e-9)
    assert cells[5:7] == ("", "")
    assert cells[8] == ""


def test_a_system_without_a_solution_is_said_to_have_none():
    A = scipy.sparse.csr_array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    cells = row("contradiction", AffineConstraint(A, [1.0, 2.0, 0.0]), 1.0)
    assert cells == ("contradiction", "3 × 2", "InconsistentError", *[""] * 6)


def test_an_unknown_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["real_systems", "nothing"])
    assert main() == 2
    assert "no system 'nothing'" in capsys.readouterr().err
