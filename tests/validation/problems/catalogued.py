"""Problems by name, as the tests of their families ask for them."""

from projlab_validation.problems import catalogue

BUILT = ("classical", "scaling", "deficient", "shapes", "starts")
"""Groups whose problems are one function each."""


def problem(name, dtype="float64"):
    (one,) = catalogue(names=[name], dtypes=[dtype])
    return one


def names(**selection):
    return [p.name for p in catalogue(**selection)]
