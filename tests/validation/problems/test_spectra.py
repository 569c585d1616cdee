"""Prescribed spectra are those prescribed."""

import numpy as np

from projlab_validation.problems import catalogue, spectra
from projlab_validation.problems.problem import rank_is_clear
from tests.validation.problems.catalogued import names


class TestSpectra:
    def test_shapes_run_from_one_row_to_the_largest(self):
        assert min(spectra.SHAPES) == (1, 4)
        assert (30, 100) in spectra.SHAPES
        assert max(spectra.SHAPES) == (150, 400)

    def test_singular_values_are_those_prescribed(self):
        for p in catalogue(groups=["spectra"]):
            prescribed = np.geomspace(1, 1 / float(p.name.split("_")[1]), p.m)
            values = np.linalg.svd(p.A, compute_uv=False)
            # Weyl: rounding A moves each by at most u ‖A‖_F, building and decomposing it by a
            # small multiple of (m + n) u64.
            u, u64 = np.finfo(p.dtype).eps / 2, 2.0**-53
            allowed = u * np.linalg.norm(p.A) + 8 * (p.m + p.n) * u64
            assert np.max(np.abs(values - prescribed)) <= allowed, p.name

    def test_factors_have_no_preferred_direction(self):
        """Without the sign fix, QR of a Gaussian always has the first entry of Q negative."""
        first = [spectra.haar(np.random.default_rng(seed), 3, 3)[0, 0] for seed in range(200)]
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
