"""The errors that projlab raises."""

import projlab


def test_the_errors_have_one_base():
    for name in projlab.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(projlab, name), projlab.ProjlabError)
    assert issubclass(projlab.InputError, ValueError)
    for name in ("InconsistentError", "RankDeficientError", "AccuracyError", "MemoryLimitError"):
        assert not issubclass(getattr(projlab, name), ValueError)
