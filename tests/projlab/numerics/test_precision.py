"""Switches that lower the precision of a product: seen, put aside, and as they stood afterwards."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from projlab.numerics.precision import lowered, stated_precision
from tests.projlab.switches import SWITCHES, every_switch, state

CPU = torch.device("cpu")


def test_nothing_is_lowered_where_no_switch_is_set():
    assert not lowered(torch.float32, "cpu")
    assert not lowered(torch.float64, "cpu")


@every_switch
def test_a_switch_lowers_float32_and_never_float64(switch):
    with SWITCHES[switch]():
        assert lowered(torch.float32, "cpu")
        assert not lowered(torch.float64, "cpu")


def in_force():
    """Whether autocast is on, and what float32 products are made in: a switch that says nothing
    ("none") leaves them as they are."""
    autocast, _, _, legacy, *new = state()
    specific = {value for value in new[2:] if value is not None}
    return autocast, legacy == "highest" or (bool(specific) and specific <= {"ieee", "none"})


@every_switch
def test_inside_products_are_made_in_full(switch):
    with SWITCHES[switch]():
        before = state()
        with stated_precision(CPU):
            assert in_force() == (False, True)
            with stated_precision(CPU):
                assert in_force() == (False, True)
            assert in_force() == (False, True)
        assert state() == before


@every_switch
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_inside_leaves_the_switches_as_they_stood(error, switch):
    with SWITCHES[switch]():
        before = state()
        with pytest.raises(error, match="inside"), stated_precision(CPU):
            raise error("inside")
        assert state() == before


@every_switch
@pytest.mark.parametrize("first", ["mine", "theirs"])
def test_threads_that_overlap_leave_the_switches_as_they_stood(first, switch):
    """Whoever leaves first: the other one still counts on them."""
    entered, leave = Event(), Event()

    def other():
        with stated_precision(CPU):
            entered.set()
            leave.wait()
            return in_force()

    with SWITCHES[switch](), ThreadPoolExecutor(1) as pool:
        before = state()
        try:
            if first == "theirs":
                theirs = pool.submit(other)
                entered.wait()
                assert lowered(torch.float32, "cpu")
            with stated_precision(CPU):
                if first == "mine":
                    theirs = pool.submit(other)
                    entered.wait()
                assert in_force() == (False, True)
        finally:
            leave.set()
        assert theirs.result() == (False, True)
        assert state() == before


def test_without_a_switch_nothing_is_touched():
    before = state()
    with stated_precision(CPU):
        assert in_force() == (False, True)
    assert state() == before


MIXED = {
    "old, then one new": lambda: (
        torch.set_float32_matmul_precision("high"),
        setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    ),
    "old, then the other new": lambda: (
        torch.set_float32_matmul_precision("medium"),
        setattr(torch.backends.mkldnn.matmul, "fp32_precision", "ieee"),
    ),
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "new, below an old one at its highest": lambda: setattr(
        torch.backends.mkldnn.matmul, "fp32_precision", "bf16"
    ),
    "generic": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


def standing():
    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError as error:
        old = str(error)
    backends = torch.backends
    new = [s.fp32_precision for s in (backends, backends.cuda.matmul, backends.mkldnn.matmul)]
    return [old, *new]


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch is older")
@pytest.mark.parametrize("name", MIXED)
def test_old_and_new_switches_mixed_stand_afterwards_as_they_stood(name):
    fresh = standing()
    try:
        MIXED[name]()
        stood = standing()
        assert stood != fresh
        assert lowered(torch.float32, "cpu")
        with stated_precision(torch.device("cpu")):
            assert not {"tf32", "bf16"} & set(standing()[2:])
        assert standing() == stood
    finally:
        torch.backends.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        for switch in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
            switch.fp32_precision = "none"
