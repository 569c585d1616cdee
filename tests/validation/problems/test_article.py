"""The three examples of the article."""

from projlab_validation.problems import catalogue
from tests.validation.problems.catalogued import problem


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
