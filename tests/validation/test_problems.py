import hashlib
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import scipy.sparse as sp

from projlab_validation.problems import GROUPS, catalogue, real, spectra
from projlab_validation.problems.problem import Problem, rank_is_clear

DATA = files("projlab_validation.data")


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
            == {"article", "spectra", "subjects", "drift", "real"}
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
        kept = [p.content_hash for p in catalogue(groups=["article", "spectra"])]
        assert kept == [p.content_hash for p in catalogue(groups=["article", "spectra"])]

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

    def test_rank_is_clear_a_factor_of_ten_above_the_cutoff(self):
        eps = 2.0**-52
        assert rank_is_clear(0.09 / (50 * eps), 20, 50, "float64")
        assert not rank_is_clear(0.11 / (50 * eps), 20, 50, "float64")


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
