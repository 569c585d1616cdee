"""The errors that projlab raises."""

import projlab
from projlab.errors import few, first_few


def test_the_errors_have_one_base():
    for name in projlab.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(projlab, name), projlab.ProjlabError)
    assert issubclass(projlab.InputError, ValueError)
    for name in ("InconsistentError", "RankDeficientError", "AccuracyError", "MemoryLimitError"):
        assert not issubclass(getattr(projlab, name), ValueError)


def test_the_first_few_of_many_are_named_and_the_rest_counted():
    rows = [f"row {i}" for i in range(7)]
    assert few(rows[:5]) == rows[:5]
    assert few(rows) == [*rows[:5], "and 2 more"]
    assert first_few(rows[:2]) == "row 0; row 1"
    assert first_few(rows) == "row 0; row 1; row 2; row 3; row 4; and 2 more rows"
