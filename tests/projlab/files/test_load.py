"""Every format is read to the last bit, sparse stays sparse, and what was a choice is said."""

import bz2
import gzip
import io
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import projlab
from projlab import InputError, load
from projlab.files.find import find

from .written import (
    CSR,
    GOOD,
    MPS,
    NAMES,
    PARTS,
    WITHOUT_B,
    X0,
    A,
    B,
    csv,
    dense,
    mat,
    mtx,
    npy,
    npz,
    pt,
    saved,
    st,
    tensors,
    written,
)

SPARSE = ("csr", "csc", "coo", "bsr", "dia", "sparse", "matrix", "coordinates", "system")


@pytest.mark.parametrize("name", GOOD)
def test_a_whole_system_is_read_to_the_last_bit(name, tmp_path):
    system = load(written(tmp_path, name, GOOD[name]))
    np.testing.assert_array_equal(dense(system.A), A)
    np.testing.assert_array_equal(system.b, B)
    if system.x0 is not None:
        np.testing.assert_array_equal(system.x0, X0)
    assert (system.x0 is None) == (
        "csv" in name or "tsv" in name or name in ("sparse.pt", "Aeq.mat")
    )
    named = name in ("dense.npz", "csr.npz", "dense.mat") or "csv" in name or "tsv" in name
    assert system.names == (NAMES if named else None)
    assert system.A.dtype == system.b.dtype == np.float64
    assert sp.issparse(system.A) == name.startswith(SPARSE)


@pytest.mark.parametrize("name", WITHOUT_B)
@pytest.mark.parametrize(
    "right", ["b.npy", "b.csv", "b.mtx", "b.npz", "b.pt", "b.safetensors", "b.mat", "sparse.npz"]
)
def test_a_lone_matrix_takes_its_right_hand_side_from_another_file(name, right, tmp_path):
    content = {
        "b.npy": npy(B),
        "b.csv": csv("4", "0.1"),
        "b.mtx": mtx(B[:, None]),
        "b.npz": npz(b=B, A=A),
        "b.pt": pt(torch.from_numpy(B)),
        "b.safetensors": st(b=B),
        "b.mat": mat(rhs=B),
        "sparse.npz": saved(sp.csc_array(B[:, None])),
    }[right]
    system = load(written(tmp_path, name, WITHOUT_B[name]), b=written(tmp_path, right, content))
    np.testing.assert_array_equal(dense(system.A), A)
    np.testing.assert_array_equal(system.b, B)


@pytest.mark.parametrize("name", WITHOUT_B)
def test_a_right_hand_side_and_a_point_may_be_numbers(name, tmp_path):
    _, b, x0, _, _ = load(written(tmp_path, name, WITHOUT_B[name]), b=0, x0=-1.5)
    np.testing.assert_array_equal(b, [0, 0])
    np.testing.assert_array_equal(x0, [-1.5] * 3)


@pytest.mark.parametrize("b", [True, np.nan, np.inf, B, [1.0]], ids=repr)
def test_a_right_hand_side_of_another_kind_is_refused(b, tmp_path):
    with pytest.raises(InputError, match=r"b is .*; it must be"):
        load(written(tmp_path, "A.npy", npy(A)), b=b)


def test_what_is_loaded_is_what_a_projector_takes(tmp_path):
    A_, b, x0, names, notes = load(written(tmp_path, "s.npz", GOOD["csr.npz"]))
    assert notes == ()
    x = projlab.projector(A_, b)(torch.from_numpy(x0))
    np.testing.assert_allclose(A @ x.numpy(), B, atol=1e-15)
    assert projlab.AffineConstraint(A_, b, names).names == NAMES


def test_files_beside_the_matrix_are_its_right_hand_side_and_its_point(tmp_path):
    written(tmp_path, "well.mtx.gz", gzip.compress(mtx(CSR)))
    written(tmp_path, "well_b.csv.bz2", bz2.compress(csv("4", "0.1")))
    written(tmp_path, "well_x0.npy", npy(X0))
    (file,) = find([tmp_path])
    system = load(file)
    np.testing.assert_array_equal(system.b, B)
    np.testing.assert_array_equal(system.x0, X0)
    assert system.notes == (
        "b is read from well_b.csv.bz2",
        "well_b.csv.bz2: no header line",
        "x0 is read from well_x0.npy",
    )


def test_a_link_in_a_folder_that_leads_nowhere_is_found_and_refused(tmp_path):
    good = written(tmp_path, "a.npz", GOOD["dense.npz"])
    (tmp_path / "b.npz").symlink_to(tmp_path / "nowhere.npz")
    (tmp_path / "c.npz").mkdir()
    assert find([tmp_path]) == [good, tmp_path / "b.npz"]
    with pytest.raises(InputError, match=r"b\.npz: there is no such file"):
        load(tmp_path / "b.npz")


def test_of_two_files_beside_the_matrix_none_is_taken(tmp_path):
    path = written(tmp_path, "well.npz", npz(A=A))
    written(tmp_path, "well_b.npy", npy(B))
    written(tmp_path, "well_b.csv", csv("5", "6"))
    with pytest.raises(InputError, match=r"beside well_b\.npy and well_b\.csv; want one"):
        load(path)
    np.testing.assert_array_equal(load(path, b=tmp_path / "well_b.csv").b, [5, 6])


def test_a_file_beside_a_system_with_a_right_side_of_its_own_is_left_out(tmp_path):
    path = written(tmp_path, "well.npz", npz(A=A, b=B, x0=X0))
    written(tmp_path, "well_b.npy", npy(B + 1))
    written(tmp_path, "well_x0.npy", npy(X0 + 1))
    system = load(path)
    np.testing.assert_array_equal(system.b, B)
    assert system.notes == (
        "well_b.npy is left out: well.npz has its own b",
        "well_x0.npy is left out: well.npz has its own x0",
    )


def test_what_a_file_of_a_right_side_was_read_as_is_said(tmp_path):
    path = written(tmp_path, "A.npy", npy(A))
    right = written(tmp_path, "right.csv", csv(",b", "0,4", "1,0.1"))
    system = load(path, b=right)
    np.testing.assert_array_equal(system.b, B)
    assert system.notes == (
        "right.csv: the first line is a header: b in column 2 ('b')",
        "right.csv: column 1 counts the rows: taken as an index and left out",
    )


def test_a_right_side_belongs_to_the_rows_that_it_names(tmp_path):
    path = written(tmp_path, "A.csv", csv("name,u", "balance,1", "total,2"))
    right = written(tmp_path, "right.csv", csv("name,b", "balance,4", "total,0.1"))
    np.testing.assert_array_equal(load(path, b=right).b, B)
    turned = written(tmp_path, "turned.csv", csv("name,b", "total,0.1", "balance,4"))
    says = r"entry 0 of b 'total', and A\.csv its row 'balance'; want the same names"
    with pytest.raises(InputError, match=says):
        load(path, b=turned)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
@pytest.mark.parametrize("square", [False, True])
def test_each_sparse_format_of_scipy_is_honoured(kind, square, tmp_path):
    """A square CSC matrix read as CSR is the transpose, without a word."""
    wanted = np.arange(1.0, 17).reshape(4, 4) if square else np.arange(1.0, 9).reshape(4, 2)
    for matrix in (sp.csr_array(wanted), sp.csr_matrix(wanted)):
        system = load(written(tmp_path, "s.npz", saved(matrix.asformat(kind))), b=0)
        assert isinstance(system.A, sp.csr_array)
        np.testing.assert_array_equal(system.A.toarray(), wanted)
        assert system.notes == ()


def test_parts_of_a_square_matrix_without_a_format_are_rows_and_that_is_said(tmp_path):
    """CSC's are the same parts of the transpose."""
    csr = sp.csr_array(np.array([[1.0, 2.0], [0.0, 4.0]]))
    parts = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "shape": csr.shape}
    system = load(written(tmp_path, "s.npz", npz(**parts, b=B)))
    np.testing.assert_array_equal(system.A.toarray(), [[1, 2], [0, 4]])
    assert system.notes == ("no format is said: the parts of the matrix are taken as CSR's",)


def test_blocks_of_bsr_are_laid_out_as_scipy_does(tmp_path):
    wanted = np.arange(1.0, 25).reshape(4, 6)
    content = saved(sp.bsr_array(wanted, blocksize=(2, 3)))
    np.testing.assert_array_equal(load(written(tmp_path, "s.npz", content)).A.toarray(), wanted)


def test_entries_in_one_place_are_summed_and_that_is_said(tmp_path):
    coo = sp.coo_array(([1.0, 2.0, 5.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    system = load(written(tmp_path, "s.npz", saved(coo)))
    np.testing.assert_array_equal(system.A.toarray(), [[0, 3], [5, 0]])
    assert system.notes == ("1 entry stands where another does: summed",)


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_a_narrow_matrix_stays_narrow(kind, tmp_path):
    system = load(written(tmp_path, "s.npz", npz(A=A.astype(kind), b=B)))
    assert (system.A.dtype, system.b.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(system.A, A.astype(kind).astype(np.float32))
    assert any("exact in float32" in note for note in system.notes) == (kind == "float16")


NARROW = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_narrow_floats_of_torch_are_widened_exactly_and_that_is_said(kind, suffix, tmp_path):
    if suffix == "safetensors" and kind.endswith("fnuz"):
        pytest.skip("safetensors has no such dtype")
    narrow = torch.from_numpy(A).to(getattr(torch, kind))
    content = {"A": narrow, "b": torch.from_numpy(B)}
    if suffix == "pt":
        path = written(tmp_path, "s.pt", pt(content))
    else:
        from safetensors.torch import save

        path = written(tmp_path, "s.safetensors", save(content))
    system = load(path)
    assert system.notes == (f"A is stored in {kind}, each entry exact in float32",)
    np.testing.assert_array_equal(system.A, narrow.to(torch.float64).numpy())


def test_integers_that_float64_rounds_are_told(tmp_path):
    large = np.array([[2**53 + 1, 1]])
    notes = load(written(tmp_path, "s.npz", npz(A=large, b=1))).notes
    assert notes == ("A is stored in int64, rounded to float64",)
    assert load(written(tmp_path, "s.npz", npz(A=large - 1, b=1))).notes == ()


def test_another_dtype_may_be_asked_for_and_overflow_is_refused(tmp_path):
    path = written(tmp_path, "s.npz", npz(A=A, b=B, x0=X0))
    system = load(path, dtype="float32")
    assert {system.A.dtype, system.b.dtype, system.x0.dtype} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(system.A, A.astype(np.float32))
    path = written(tmp_path, "s.npz", npz(A=1e300 * A, b=B))
    with pytest.raises(InputError, match="overflow in float32; want float64"):
        load(path, dtype="float32")
    path = written(tmp_path, "s.npz", npz(A=[[1.0, 1e-40]], b=1.0))
    with pytest.raises(InputError, match=r"below 1\.2e-38, which float32 does not keep; want"):
        load(path, dtype="float32")
    assert load(path).A[0, 1] == 1e-40
    with pytest.raises(InputError, match="dtype is 'float16'; it must be"):
        load(path, dtype="float16")


NESTED = {"step": 3, "model": {"eq": tensors(A=A, b=B, x0=X0), "w": torch.ones(2)}}
FLAT = {"proj.A": torch.from_numpy(A), "proj.b": torch.from_numpy(B), "w": torch.ones(2)}


class TestKey:
    @pytest.mark.parametrize(
        ("name", "content", "key"),
        [
            ("s.pt", pt(NESTED), "model.eq"),
            ("s.pt", pt(NESTED), "model.eq.A"),
            ("s.pt", pt(FLAT), "proj"),
            ("s.pt", pt(FLAT), "proj.A"),
            ("s.safetensors", st(**{"proj.A": A, "proj.b": B}), "proj"),
            ("s.npz", npz(S=A, b=B), "S"),
            ("s.mat", mat(model={"S": sp.csc_array(A), "b": B[:, None]}), "model.S"),
            ("s.mat", mat(outer={"model": {"A": A, "b": B}}), "outer.model"),
        ],
    )
    def test_it_names_what_holds_the_matrix_or_the_matrix(self, name, content, key, tmp_path):
        system = load(written(tmp_path, name, content), key=key)
        np.testing.assert_array_equal(dense(system.A), A)
        np.testing.assert_array_equal(system.b, B)

    @pytest.mark.parametrize("content", [NESTED, FLAT])
    def test_without_it_the_error_says_which(self, content, tmp_path):
        key = "model.eq" if content is NESTED else "proj"
        with pytest.raises(InputError, match=rf"want a key: {key} \(load\(key=…\), --key\)"):
            load(written(tmp_path, "s.pt", pt(content)))

    def test_one_that_is_not_there_is_refused_with_what_is(self, tmp_path):
        with pytest.raises(InputError, match=r"holds no 'nets', but step, model \(eq, w\)"):
            load(written(tmp_path, "s.pt", pt(NESTED)), key="nets")

    def test_a_format_without_names_has_none(self, tmp_path):
        with pytest.raises(InputError, match="parts have no names; want no key 'A'"):
            load(written(tmp_path, "s.mtx", mtx(A)), key="A")

    def test_a_checkpoint_that_holds_itself_is_read(self, tmp_path):
        content = {"A": torch.from_numpy(A), "b": torch.from_numpy(B)}
        content["self"] = content
        assert load(written(tmp_path, "s.pt", pt(content))).notes == ("left out: self",)


class TestNotes:
    def test_equations_stand_before_inequalities(self, tmp_path):
        system = load(written(tmp_path, "s.npz", npz(A=A + 1, b=B + 1, Aeq=A, beq=B, lb=0)))
        np.testing.assert_array_equal(system.A, A)
        np.testing.assert_array_equal(system.b, B)
        said = "the inequalities are A and b", "the equations are Aeq and beq"
        assert system.notes == said
        np.testing.assert_array_equal(system.G, A + 1)
        np.testing.assert_array_equal(system.h, B + 1)
        np.testing.assert_array_equal(system.lb, [0, 0, 0])

    def test_the_right_side_of_inequalities_is_none_of_equations(self, tmp_path):
        system = load(written(tmp_path, "s.npz", npz(Aeq=A, b=B)))
        assert system.b is None
        assert system.notes == ("left out: b", "the equations are Aeq and beq")

    def test_parts_that_nothing_asks_for_may_be_anything(self, tmp_path):
        buffer = io.BytesIO(npz(A=A, b=B, more=np.array([None, {}], dtype=object)))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("notes.txt", "made by hand")
        system = load(written(tmp_path, "s.npz", buffer.getvalue()))
        assert system.notes == ("left out: more, notes.txt",)


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path):
    path = written(tmp_path, "s.npz", npz(A=A, b=B, **{"\x1b[2J": B}))
    assert load(path).notes == (r"left out: '\x1b[2J'",)
    path = written(tmp_path, "s.pt", pt({"\x1b[2J": {"A": torch.ones(2)}}))
    with pytest.raises(InputError, match=r"a key: \\x1b\[2J") as refusal:
        load(path)
    assert str(refusal.value).isprintable()


class TestMasked:
    """A masked array is no file, but numbers below a mask are numbers that nobody meant."""

    MASKED = np.ma.masked_array(A, mask=A == 3)

    @pytest.mark.parametrize(
        ("A_", "b", "name"),
        [
            (MASKED, B, "A"),
            (np.ma.masked_array(A), B, "A"),
            ([MASKED[0], MASKED[1]], B, "A"),
            (A, np.ma.masked_equal(B, 4), "b"),
            (A, (np.ma.masked, 1.0), "b"),
        ],
    )
    def test_it_is_refused_with_the_remedy(self, A_, b, name):
        with pytest.raises(InputError, match=rf"{name} is a masked array.*{name}\.filled\(0\.0\)"):
            projlab.AffineConstraint(A_, b)
        with pytest.raises(InputError, match=f"{name} is a masked array"):
            projlab.project(torch.zeros(3), A_, b)

    def test_objects_are_refused_with_the_remedy(self):
        with pytest.raises(InputError, match=r"A has dtype object; .*: A\.astype\(float\)"):
            projlab.AffineConstraint(A.astype(object), B)

    def test_a_masked_array_saved_as_text_is_refused(self, tmp_path):
        text = "\n".join(",".join(map(str, row)) for row in self.MASKED)
        with pytest.raises(
            InputError, match="holds '--' where a number belongs, in line 3, column 2"
        ):
            load(written(tmp_path, "s.csv", "u,v,w\n" + text))


def test_safetensors_missing_is_said_with_the_remedy(tmp_path, monkeypatch):
    import sys

    path = written(tmp_path, "s.safetensors", st(A=A, b=B))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install projlab\[suite\]"):
        load(path)


def test_a_header_that_claims_too_much_is_not_believed(tmp_path):
    huge = {**PARTS, "shape": np.array([2, 2**50])}
    with pytest.raises(InputError, match="claims to hold"):
        load(written(tmp_path, "s.npz", npz(**huge, b=B)))


def test_mps_may_be_packed(tmp_path):
    for name, content in (
        ("s.mps", MPS.encode()),
        ("s.mps.gz", gzip.compress(MPS.encode())),
        ("s.mps.bz2", bz2.compress(MPS.encode())),
    ):
        system = load(written(tmp_path, name, content))
        np.testing.assert_array_equal(system.A.toarray(), [[1, 0, 2], [0, 3, 0.5]])
        np.testing.assert_array_equal(system.b, [4, 0.1])
        assert system.names == NAMES


class TestInequalitiesAndBounds:
    G, H = np.array([[1.0, 1.0, 1.0]]), np.array([2.0])
    LB, UB = np.zeros(3), np.array([1.0, np.inf, 5.0])

    @pytest.mark.parametrize(
        ("name", "content", "key"),
        [
            ("s.npz", npz(A=A, b=B, G=G, h=H, lb=LB, ub=UB), None),
            ("s.mat", mat(A=A, b=B, G=sp.csc_array(G), h=H, lb=LB, ub=UB), None),
            ("s.mat", mat(s={"A": A, "b": B, "G": G, "h": H, "lb": LB, "ub": UB}), "s"),
        ],
    )
    def test_they_are_read_by_the_names_of_qpsolvers(self, name, content, key, tmp_path):
        system = load(written(tmp_path, name, content), key=key)
        G = system.G.toarray() if sp.issparse(system.G) else system.G
        np.testing.assert_array_equal(G, self.G)
        np.testing.assert_array_equal(system.h, self.H)
        np.testing.assert_array_equal(system.lb, self.LB)
        np.testing.assert_array_equal(system.ub, self.UB)
        assert not any("left out" in note for note in system.notes)
        assert system.bounded
        assert len(system) == 5

    def test_bounds_may_be_one_number_and_equations_may_be_missing(self, tmp_path):
        system = load(written(tmp_path, "s.npz", npz(G=self.G, h=np.array(2.0), lb=np.array(0.0))))
        assert system.A.shape == (0, 3)
        np.testing.assert_array_equal(system.lb, np.zeros(3))
        assert system.ub is None
        x = projlab.projector(system.polyhedron)(torch.full((3,), 1.0, dtype=torch.float64))
        np.testing.assert_allclose(x, [2 / 3] * 3, rtol=1e-15)

    def test_another_right_side_or_dtype_keeps_them(self, tmp_path):
        path = written(tmp_path, "s.npz", npz(A=A, b=B, G=self.G, h=self.H, ub=self.UB))
        system = load(path, b=1, dtype="float32")
        np.testing.assert_array_equal(system.b, [1, 1])
        assert (system.G.dtype, system.h.dtype, system.ub.dtype) == (np.float32,) * 3
        np.testing.assert_array_equal(system.ub, self.UB)
        wide = npz(A=A, b=B, lb=np.full(3, -1e300))
        with pytest.raises(InputError, match="overflow in float32"):
            load(written(tmp_path, "w.npz", wide), dtype="float32")

    @pytest.mark.parametrize(
        ("parts", "says"),
        [
            ({"h": H}, "holds h and no G"),
            ({"G": G}, "holds G and no h"),
            ({"G": np.ones((1, 2)), "h": H}, "holds G of shape (1, 2); want (p, 3), to fit A"),
            ({"G": G, "h": -np.inf}, "holds h[0] = -inf; want a number that some x satisfies"),
            ({"lb": np.array([0, np.nan, 0])}, "holds lb[1] = nan; want numbers"),
            ({"ub": np.ones(2)}, "holds ub of shape (2,); want (3,), to fit A"),
        ],
    )
    def test_parts_that_do_not_fit_are_refused(self, parts, says, tmp_path):
        with pytest.raises(InputError) as refusal:
            load(written(tmp_path, "s.npz", npz(A=A, b=B, **parts)))
        assert says in str(refusal.value)
