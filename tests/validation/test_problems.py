import hashlib
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import scipy.sparse as sp

from projlab_validation.oracles.exact import _integers
from projlab_validation.oracles.system import equations, factor
from projlab_validation.problems import GROUPS, catalogue, real, spectra
from projlab_validation.problems.problem import Problem, rank_is_clear

DATA = files("projlab_validation.data")
BUILT = ("classical", "scaling", "deficient", "shapes", "starts")
"""Groups whose problems are one function each."""


def problem(name, dtype="float64"):
    (found,) = catalogue(names=[name], dtypes=[dtype])
    return found


def names(**selection):
    return [p.name for p in catalogue(**selection)]


class TestCatalogue:
    def test_every_group_is_there(self):
        assert (
            {p.group for p in catalogue()}
            == set(GROUPS)
            == {
                "article",
                "spectra",
                "classical",
                "scaling",
                "deficient",
                "shapes",
                "starts",
                "drift",
                "real",
            }
        )

    def test_name_and_dtype_tell_problems_apart(self):
        keys = [(p.name, p.dtype) for p in catalogue()]
        assert len(keys) == len(set(keys))

    def test_content_tells_problems_apart(self):
        hashes = [p.content_hash for p in catalogue(dtypes=["float64"])]
        assert len(hashes) == len(set(hashes))

    def test_every_float32_problem_exists_in_float64(self):
        assert set(names(dtypes=["float32"])) < set(names(dtypes=["float64"]))

    def test_selects_by_group_name_and_dtype(self):
        assert names(groups=["article"], dtypes=["float32"]) == [
            "article_1",
            "article_2",
            "article_3",
        ]
        assert names(names=["mm_hs51"]) == ["mm_hs51", "mm_hs51"]
        assert names(groups=["article"], names=["mm_hs51"]) == []

    @pytest.mark.parametrize("argument", ["groups", "names", "dtypes"])
    def test_unknown_selection_says_what_there_is(self, argument):
        with pytest.raises(ValueError, match=f"{argument}: got nonsense; want any of "):
            catalogue(**{argument: ["nonsense"]})

    def test_builds_nothing_before_it_is_asked(self, monkeypatch):
        def refuse(name):
            raise AssertionError(name)

        monkeypatch.setattr(real, "_load", refuse)
        problems = catalogue(groups=["real"], dtypes=["float64"])
        with pytest.raises(AssertionError, match="netlib_afiro"):
            next(problems)

    def test_is_the_same_each_time(self):
        groups = ["article", "spectra", *BUILT]
        kept = [p.content_hash for p in catalogue(groups=groups)]
        assert kept == [p.content_hash for p in catalogue(groups=groups)]

    @pytest.mark.parametrize("group", GROUPS)
    def test_float32_problems_hold_float32_numbers(self, group):
        for p in catalogue(groups=[group], dtypes=["float32"]):
            for part in (p.csr().data, p.b, p.x0):
                assert part.dtype == np.float64
                assert np.array_equal(part, part.astype(np.float32).astype(np.float64)), p.name

    def test_shapes_fit(self):
        for p in catalogue():
            assert p.A.shape == (p.m, p.n)
            assert p.b.shape == (p.m,)
            assert p.x0.shape == (p.n,)
            assert p.dense().shape == (p.m, p.n) or p.m * p.n > 1e7


class TestContentHash:
    base = Problem("p", "g", np.array([[1.0, 0.0]]), np.array([2.0]), np.array([3.0, 4.0]),
                   "float64", 0, "")  # fmt: skip

    def test_is_sixteen_hex_digits_of_the_content_alone(self):
        assert len(self.base.content_hash) == 16
        assert int(self.base.content_hash, 16) >= 0
        assert replace(self.base, name="q", seed=1).content_hash == self.base.content_hash

    def test_does_not_depend_on_storage(self):
        stored = sp.csr_array(self.base.A)
        explicit_zero = sp.csr_array((np.array([1.0, 0.0]), np.array([0, 1]), np.array([0, 2])))
        for A in (stored, explicit_zero):
            assert replace(self.base, A=A).content_hash == self.base.content_hash

    @pytest.mark.parametrize(
        "change",
        [
            {"A": np.array([[1.0, 1e-300]])},
            {"A": np.array([[1.0]]), "x0": np.array([3.0])},
            {"b": np.array([np.nextafter(2.0, 3.0)])},
            {"x0": np.array([4.0, 3.0])},
            {"dtype": "float32"},
        ],
        ids=["A", "shape", "b", "x0", "dtype"],
    )
    def test_depends_on_every_number(self, change):
        assert replace(self.base, **change).content_hash != self.base.content_hash


class TestArticle:
    def test_systems_are_the_article_s(self):
        assert problem("article_1").A.tolist() == [[1, 1]]
        assert problem("article_1").b.tolist() == [1]
        assert problem("article_2").A.tolist() == [[1, -2]]
        assert problem("article_2").b.tolist() == [0]
        assert problem("article_3").A.tolist() == [[1, 1, 0], [0, 1, 1]]
        assert problem("article_3").b.tolist() == [1, 0.5]

    def test_rows_are_named(self):
        for p in catalogue(groups=["article"]):
            assert len(p.row_names) == p.m


class TestSpectra:
    def test_shapes_run_from_one_row_to_the_largest(self):
        assert min(spectra.SHAPES) == (1, 4)
        assert (30, 100) in spectra.SHAPES
        assert max(spectra.SHAPES) == (150, 400)

    def test_singular_values_are_those_prescribed(self):
        for p in catalogue(groups=["spectra"]):
            prescribed = np.geomspace(1, 1 / float(p.name.split("_")[1]), p.m)
            found = np.linalg.svd(p.A, compute_uv=False)
            # Weyl: rounding A moves each by at most u ‖A‖_F, building and decomposing it by a
            # small multiple of (m + n) u64.
            u, u64 = np.finfo(p.dtype).eps / 2, 2.0**-53
            allowed = u * np.linalg.norm(p.A) + 8 * (p.m + p.n) * u64
            assert np.max(np.abs(found - prescribed)) <= allowed, p.name

    def test_factors_have_no_preferred_direction(self):
        """Without the sign fix, QR of a Gaussian always has the first entry of Q negative."""
        first = [spectra._haar(np.random.default_rng(seed), 3, 3)[0, 0] for seed in range(200)]
        # A fair coin leaves 60 ... 140 heads in 200 with probability 1 − 1e-8.
        assert 60 < sum(value > 0 for value in first) < 140

    def test_float32_stops_where_its_rank_would_be_a_matter_of_taste(self):
        offered = names(groups=["spectra"], dtypes=["float32"])
        assert "spectra_1e3_30x100" in offered
        assert not [name for name in offered if "1e6" in name]
        assert "spectra_1e12_30x100" in names(groups=["spectra"], dtypes=["float64"])

    def test_float64_goes_on_to_where_the_rank_is_ambiguous(self):
        clear = {
            p.name: rank_is_clear(float(p.name.split("_")[1]), p.m, p.n, "float64")
            for p in catalogue(groups=["spectra"], dtypes=["float64"])
        }
        beyond = {f"spectra_{k}_{s}" for k in ("1e14", "1e15") for s in ("3x10", "10x20")}
        assert {name for name, is_clear in clear.items() if not is_clear} == beyond
        assert {"spectra_1e13_3x10", "spectra_1e13_10x20"} < set(clear)

    def test_rank_is_clear_a_factor_of_ten_above_the_cutoff(self):
        eps = 2.0**-52
        assert rank_is_clear(0.09 / (50 * eps), 20, 50, "float64")
        assert not rank_is_clear(0.11 / (50 * eps), 20, 50, "float64")


def integer_system(p):
    """A, b times a power of two, in Python's integers; sums of their products are exact."""
    A, e = _integers(p.dense())
    b, s = _integers(p.b)
    rows = [A[i : i + p.n] for i in range(0, p.m * p.n, p.n)]
    return [[v << s for v in row] for row in rows], [v << e for v in b]


def exact_rank(rows):
    """By elimination without fractions (Bareiss 1968)."""
    rows, rank, before = [list(row) for row in rows], 0, 1
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        top = rows[rank]
        for i in range(rank + 1, len(rows)):
            factor_ = rows[i][column]
            rows[i] = [
                (top[column] * v - factor_ * t) // before for v, t in zip(rows[i], top, strict=True)
            ]
        before, rank = top[column], rank + 1
    return rank


class TestBuilt:
    problems = tuple(catalogue(groups=BUILT))

    def test_every_problem_says_what_it_is(self):
        for p in self.problems:
            assert len(p.reference.split()) > 5, p.name
            assert p.name.startswith(f"{p.group}_")
            assert p.seed == int.from_bytes(hashlib.sha256(p.name.encode()).digest()[:4], "big")

    def test_the_rank_is_clear_in_the_dtype_that_it_is_offered_in(self):
        for p in self.problems:
            E, f = equations(p, equilibrate=True)
            system = factor(E, f, p.x0, float(np.finfo(p.dtype).eps))
            assert rank_is_clear(system.condition, p.m, p.n, p.dtype), p.name
            rest = system.singular_values[system.rank :]
            assert np.max(rest, initial=0) < system.cutoff / 5, p.name

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_rank_and_consistency_are_exact_as_claimed(self, dtype):
        ranks = {
            "deficient_duplicates": 4,
            "deficient_combinations": 5,
            "deficient_zero_rows": 4,
            "deficient_magic": 3,
            "deficient_transport": 7,
            "deficient_contradicting_duplicates": 4,
            "deficient_one_direction": 1,
            "deficient_flow": 3,
            "deficient_contradicting_combination": 5,
            "deficient_contradicting_zero_row": 4,
            "deficient_contradicting_transport": 7,
            "shapes_tall": 4,
        }
        met = 0
        for p in self.problems:
            if p.dtype == dtype and p.name in ranks:
                rows, b = integer_system(p)
                extended = [[*row, right] for row, right in zip(rows, b, strict=True)]
                assert exact_rank(rows) == ranks[p.name] < p.m, p.name
                assert (exact_rank(extended) == ranks[p.name]) is p.consistent, p.name
                met += 1
        offered = set(names(groups=BUILT, dtypes=[dtype]))
        assert met == len(offered & set(ranks)) >= 6

    def test_what_is_not_built_deficient_has_full_row_rank(self):
        for p in self.problems:
            if p.group != "deficient" and p.m <= p.n:
                assert p.consistent
                assert exact_rank(integer_system(p)[0]) == p.m, p.name

    def test_decimals_are_off_by_a_rounding(self):
        p = problem("deficient_decimals")
        assert exact_rank(integer_system(p)[0]) == 4
        assert np.array_equal(np.rint(10 * p.A[:3]).sum(0), np.rint(10 * p.A[3]))

    def test_starts_are_where_they_say(self):
        at = {p.name.removeprefix("starts_"): p for p in self.problems if p.group == "starts"}
        assert not (at["feasible"].A @ at["feasible"].x0 - at["feasible"].b).any()
        assert not at["zero"].x0.any()
        assert at["zero"].b.any()
        assert not at["origin"].x0.any()
        assert not at["origin"].b.any()
        assert np.linalg.norm(at["huge_1e150"].x0) > 1e150
        assert 0 < np.linalg.norm(at["tiny_1e_minus_150"].x0) < 1e-149
        for name in ("answer_zero", "answer_tiny"):
            p = at[name]
            outside = p.x0 - np.linalg.lstsq(p.A.T, p.x0)[0] @ p.A
            assert np.linalg.norm(outside) < 1e-13 * np.linalg.norm(p.x0)
            assert np.linalg.norm(p.b) < 1e-7

    def test_entries_reach_from_1e_minus_150_to_1e150(self):
        sizes = np.abs(np.concatenate([p.csr().data for p in catalogue(groups=["scaling"])]))
        assert sizes.max() > 1e149
        assert sizes.min() < 1e-149
        squares = sizes**2
        assert np.isfinite(squares).all()
        assert (squares > 0).all()

    def test_shapes_reach_from_one_entry_to_thousands_of_columns(self):
        shapes = {(p.m, p.n) for p in self.problems}
        assert {(1, 1), (1, 2), (8, 8), (12, 4), (3, 2000)} < shapes
        assert any(m > n for m, n in shapes)

    def test_many_share_a_shape_so_that_what_is_kept_between_calls_is_met(self):
        shapes = [(p.m, p.n) for p in self.problems if p.dtype == "float64" and p.consistent]
        assert shapes.count((4, 12)) > 10


class TestReal:
    def test_all_49_are_there_as_the_index_describes_them(self):
        index = real._index()
        problems = list(catalogue(groups=["real"], dtypes=["float64"]))
        assert len(problems) == 49
        for p in problems:
            row = index[p.name]
            assert (p.m, p.n, p.nnz) == (int(row["m"]), int(row["n"]), int(row["nnz"]))
            assert p.reference == row["source"]
            assert p.consistent == (row["consistent"] == "yes")

    def test_data_is_shipped_with_sources_and_licences(self):
        readme = DATA.joinpath("README.md").read_text(encoding="utf-8")
        for name, row in real._index().items():
            assert DATA.joinpath(f"{name}.npz").is_file()
            (entry,) = [line for line in readme.splitlines() if line.startswith(f"- `{name}` ")]
            assert "Licence: " in entry
            assert row["licence"]

    def test_x0_is_the_source_s_own_where_it_has_one(self):
        with DATA.joinpath("io_chile_ras.npz").open("rb") as file, np.load(file) as arrays:
            assert np.array_equal(problem("io_chile_ras").x0, arrays["x0"])

    def test_x0_is_drawn_from_the_name_where_the_source_has_none(self):
        p = problem("netlib_afiro")
        seed = int.from_bytes(hashlib.sha256(b"netlib_afiro").digest()[:4], "big")
        assert p.seed == seed
        assert np.array_equal(p.x0, np.random.default_rng(seed).standard_normal(p.n))

    def test_float32_is_the_float64_system_rounded(self):
        double, single = problem("lto_dc3_simple"), problem("lto_dc3_simple", "float32")
        for wide, narrow in (
            (double.A.data, single.A.data),
            (double.b, single.b),
            (double.x0, single.x0),
        ):
            assert np.array_equal(narrow, wide.astype(np.float32))
            assert not np.array_equal(narrow, wide)

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("netlib_fffff800", "kappa 7e5: its rank in float32 is noise"),
            ("ss_nnc1374", "kappa 7e11"),
            ("metab_human_gem", "kappa is not known"),
            ("mm_boyd2", "n = 93263: the cutoff in float32 is a hundredth"),
        ],
    )
    def test_is_not_offered_in_float32_where_the_rank_is_unclear(self, name, why):
        assert names(names=[name]) == [name], why

    @pytest.mark.parametrize("part", [0, 1, 2], ids=["A", "b", "x0"])
    @pytest.mark.parametrize("extreme", [1e39, -1e39, 1e-39], ids=["above", "below", "tiny"])
    def test_is_not_offered_in_float32_where_an_entry_does_not_survive(
        self, monkeypatch, part, extreme
    ):
        parts = real._load("mm_hs51")
        assert real._survives_float32("mm_hs51")
        (parts[0].data if part == 0 else parts[part])[0] = extreme
        monkeypatch.setattr(real, "_load", lambda name: parts)
        assert not real._survives_float32("mm_hs51")
        assert real._names.__wrapped__("float32") == ()
