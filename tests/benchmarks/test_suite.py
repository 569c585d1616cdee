"""Each benchmark runs once on its smallest parameters, and is named and compared properly."""

import importlib
import inspect
import itertools
import math
from pathlib import Path

import pytest

import benchmarks
import projlab
from benchmarks import interleave, parameters, projection
from projlab_reports import regressions

KINDS = ("time", "track", "peakmem")
MODULES = sorted(path.stem for path in Path(benchmarks.__path__[0]).glob("*.py"))
SMALLEST = {"1x10", "3x10", "float64", "cpu", 32, "1e5", "qr", "auto", "one", "numpy", "well"}


def timed(cls):
    return [name for name in dir(cls) if name.split("_")[0] in KINDS]


def classes():
    for module in MODULES:
        if module == "__init__":
            continue
        imported = importlib.import_module(f"benchmarks.{module}")
        for _, cls in inspect.getmembers(imported, inspect.isclass):
            if cls.__module__ == imported.__name__ and timed(cls):
                yield cls


CLASSES = list(classes())


def name_of(cls):
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


def smallest(cls):
    """Parameters of the class in the set above; all of an axis of which none is."""
    axes = [[v for v in axis if v in SMALLEST] or axis for axis in getattr(cls, "params", ())]
    return itertools.product(*axes)


def test_every_kind_of_benchmark_is_there():
    assert {name_of(cls).partition(".")[0] for cls in CLASSES} >= {
        "projection",
        "factorisation",
        "gradient",
        "batched",
        "training",
        "certificate",
        "ratios",
    }
    kinds = {method.split("_")[0] for cls in CLASSES for method in timed(cls)}
    assert kinds == set(KINDS)


@pytest.mark.parametrize("cls", CLASSES, ids=name_of)
def test_it_runs(cls, monkeypatch):
    monkeypatch.setattr(interleave, "FEWEST", 1)
    monkeypatch.setattr(interleave, "MOST", 1)
    monkeypatch.setattr(projection.Drift, "steps", projection.Drift.moves)
    ran = 0
    for choice in smallest(cls):
        benchmark = cls()
        try:
            if hasattr(benchmark, "setup"):
                benchmark.setup(*choice)
        except NotImplementedError:
            continue
        for method in timed(cls):
            value = getattr(benchmark, method)(*choice)
            if method.startswith("track_"):
                samples = value["samples"] if isinstance(value, dict) else [value]
                assert all(math.isfinite(v) and v > 0 for v in samples)
        ran += 1
    assert ran


@pytest.mark.parametrize("cls", CLASSES, ids=name_of)
def test_parameters_are_named_and_distinct(cls):
    axes = getattr(cls, "params", ())
    assert len(axes) == len(getattr(cls, "param_names", ()))
    assert all(len(set(axis)) == len(axis) for axis in axes)


def test_whatever_is_measured_in_roundoffs_is_compared_so():
    in_u = {
        method
        for cls in CLASSES
        for method in timed(cls)
        if getattr(getattr(cls, method), "unit", getattr(cls, "unit", None)) == "u"
    }
    assert in_u == regressions.IN_ROUNDOFFS


def test_every_variant_is_measured():
    assert set(projlab.variants()) < set(projection.Projection.params[0])


def test_quick_leaves_out_sizes_that_there_are():
    assert set(parameters.LARGE) < set(parameters.SIZES)
