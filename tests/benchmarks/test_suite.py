"""Each benchmark runs once on its smallest parameters, and refuses to time a wrong answer."""

import importlib
import inspect
import itertools
import math
from pathlib import Path

import pytest
import torch

import benchmarks
import projlab
from benchmarks import common, interleave, overhead, parameters, projection
from benchmarks.memory import held_bytes
from benchmarks.peers import PEERS, NotApplicable
from benchmarks.systems import exact
from benchmarks.training import EQUATIONS, WIDTHS, Training
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


class Wrong:
    """A projector whose answers are off."""

    def __init__(self, P):
        self.P = P
        self.variant, self.condition = P.variant, P.condition

    def __call__(self, x):
        return self.P(x) * (1 + 1e-9)

    def project_(self, x):
        return x.copy_(self(x))


def test_a_wrong_answer_is_not_timed(monkeypatch):
    right = projlab.projector
    monkeypatch.setattr(projlab, "projector", lambda *given: Wrong(right(*given)))
    with pytest.raises(AssertionError, match="forward error"):
        projection.Projection().setup("qr", "3x10", "float64", "cpu")


def test_a_wrong_peer_is_not_timed(monkeypatch):
    numpy = PEERS["numpy"]
    case = exact(3, 10)
    assert callable(numpy.prepare(case))
    wrong = case.x.numpy() * (1 + 1e-9)
    monkeypatch.setattr(type(numpy), "build", lambda self, case: lambda: wrong)
    with pytest.raises(NotApplicable, match="numpy is wrong by"):
        numpy.prepare(case)


def test_absent_devices_and_refusals_are_not_applicable():
    if not torch.cuda.is_available():
        with pytest.raises(NotImplementedError, match="CUDA"):
            common.system("3x10", "float64", "cuda")
    with pytest.raises(NotImplementedError, match="single_row refuses"):
        common.projector(exact(3, 10), "single_row")


@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.needs(*peer.packages) if peer.packages else ())
        for name, peer in sorted(PEERS.items())
    ],
)
@pytest.mark.parametrize(
    ("kind", "shape"), [("one", {}), ("shared", {"points": 4}), ("distinct", {"batch": 4})]
)
def test_peers_are_right_where_they_apply_and_say_where_not(name, kind, shape):
    peer, case = PEERS[name], exact(3, 10, **shape)
    if kind in peer.batches:
        assert callable(peer.prepare(case))
    else:
        with pytest.raises(NotApplicable, match=f"{name} does not do {kind} systems"):
            peer.prepare(case)


def test_errors_count_from_one_roundoff_up():
    assert common.in_roundoffs(0.0, "float64") == 1.0
    assert common.in_roundoffs(3e-16, "float64") == pytest.approx(2.7, abs=0.01)


def test_held_bytes_counts_each_storage_once():
    W = torch.zeros(10, 10, dtype=torch.float64)
    assert held_bytes([W, W[:2], {"again": (W,)}]) == 800
    assert held_bytes([W, torch.zeros(2)], besides=[W]) == 8


def test_interleaved_calls_alternate(monkeypatch):
    monkeypatch.setattr(interleave, "FEWEST", 3)
    monkeypatch.setattr(interleave, "SHORTEST", 0.0)
    called = []
    times = interleave.interleaved(
        {"a": lambda: called.append("a"), "b": lambda: called.append("b")}, budget=0.0
    )
    last = called[-6:]
    rounds = [tuple(last[i : i + 2]) for i in (0, 2, 4)]
    assert set(rounds) == {("a", "b"), ("b", "a")}, "neither always follows the other"
    assert times.ratio("a", "b") == times.best("a") / times.best("b")
    assert len(times.ratios("a", "b")) == 3


def test_the_textbook_recipe_is_feasible_in_either_form(monkeypatch):
    monkeypatch.setitem(WIDTHS, "tiny", (6, 5, 3))
    for limit in (overhead.DENSE, 0):
        monkeypatch.setattr(overhead, "DENSE", limit)
        for equations in EQUATIONS:
            here = Training("tiny", examples=2)
            after, form = overhead.recipe(here, equations)
            assert form.startswith("by columns") == (limit == 0 and equations == "column sums")
            here.step()
            after()
            A, b = overhead._dense([W.detach() for W in here.weights], equations)
            x = here._flat()
            bound = 32 * 2.0**-24 * (A.abs() @ x.abs() + abs(b))
            assert bool(((A @ x - b).abs() <= bound).all())


def test_overhead_as_a_table(monkeypatch):
    monkeypatch.setitem(WIDTHS, "tiny", (6, 5, 3))
    monkeypatch.setitem(overhead.SECONDS, "tiny", 0.01)
    monkeypatch.setattr(overhead, "EXAMPLES", (2,))
    found = list(overhead.rows(["tiny"]))
    assert [r.equations for r in found] == [e for e in EQUATIONS for _ in overhead.OPTIMIZERS]
    assert all(r.passes > 0 for r in found)
    text = overhead.markdown(found, "here")
    assert text.count("\n| tiny |") == len(found)
    assert text.endswith("here")
