"""The catalogue: what it holds, and how it is asked."""

import numpy as np
import pytest

from projlab_validation.problems import GROUPS, catalogue, real
from tests.validation.problems.catalogued import BUILT, names


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
                "sparse",
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

        monkeypatch.setattr(real, "load", refuse)
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
            assert p.m * p.n > 1e7 or p.dense().shape == (p.m, p.n)
