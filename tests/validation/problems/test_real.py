"""The real systems are those of the index, and float32 ones the same rounded."""

import hashlib
from importlib.resources import files

import numpy as np
import pytest

import projlab
from projlab_validation.problems import catalogue, real
from tests.validation.problems.catalogued import names, problem

DATA = files("projlab_validation.data")


class TestReal:
    def test_all_49_are_there_as_the_index_describes_them(self):
        index = real.index()
        problems = list(catalogue(groups=["real"], dtypes=["float64"]))
        assert len(problems) == 49
        for p in problems:
            row = index[p.name]
            assert (p.m, p.n, p.nnz) == (int(row["m"]), int(row["n"]), int(row["nnz"]))
            assert p.reference == row["source"]
            assert p.consistent == (row["consistent"] == "yes")

    def test_data_is_shipped_with_sources_and_licences(self):
        readme = DATA.joinpath("README.md").read_text(encoding="utf-8")
        for name, row in real.index().items():
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
        ],
    )
    def test_is_not_offered_in_float32_where_the_rank_is_unclear(self, name, why):
        assert names(names=[name]) == [name], why

    def test_is_offered_in_float32_however_long_its_rows_are(self):
        """What rounding of 93263 entries can do to a singular value does not grow with them."""
        assert names(names=["mm_boyd2"]) == ["mm_boyd2", "mm_boyd2"]

    def test_margins_that_contradict_each_other_do_so_in_float32_too(self):
        """By 1 in 12,000, which is 700 roundings of b."""
        p = problem("survey_nhanes2", "float32")
        assert not p.consistent
        says = r"row 0 = row 25 \+ .*its b is 24146000 and the combination's is 24144000"
        with pytest.raises(projlab.InconsistentError, match=says):
            projlab.projector(p.csr().astype(np.float32), p.b.astype(np.float32))

    @pytest.mark.parametrize("part", [0, 1, 2], ids=["A", "b", "x0"])
    @pytest.mark.parametrize("extreme", [1e39, -1e39, 1e-39], ids=["above", "below", "tiny"])
    def test_is_not_offered_in_float32_where_an_entry_does_not_survive(
        self, monkeypatch, part, extreme
    ):
        parts = real.load("mm_hs51")
        assert real.survives_float32("mm_hs51")
        (parts[0].data if part == 0 else parts[part])[0] = extreme
        monkeypatch.setattr(real, "load", lambda name: parts)
        assert not real.survives_float32("mm_hs51")
        assert real.names("float32") == ()
