"""Surroundings are drawn by a seed, stand while something is done, and are put back."""

import os
import random
import warnings

import numpy as np
import pytest
import torch

from projlab_validation import surroundings
from projlab_validation.surroundings import Surroundings


def test_what_is_drawn_depends_on_the_seed_and_is_not_what_stands():
    several = [Surroundings.drawn(np.random.default_rng(seed)) for seed in range(30)]
    assert several == [Surroundings.drawn(np.random.default_rng(seed)) for seed in range(30)]
    assert {s.default_dtype for s in several} == {"float64", "float16", "bfloat16"}
    assert {s.grad_mode for s in several} == set(surroundings.GRAD_MODES)
    assert {s.threads for s in several} == {2, 3}


@pytest.mark.parametrize("mode", surroundings.GRAD_MODES)
def test_they_stand_inside_and_are_put_back_whatever_happens(mode):
    before = surroundings.state()
    drawn = Surroundings("float64", mode, 2)
    with drawn.entered():
        inside = surroundings.state()
    assert (inside["default dtype"], inside["threads"]) == (torch.float64, 2)
    assert inside["grad mode"] == (mode == "enable_grad")
    assert inside["inference mode"] == (mode == "inference_mode")
    assert surroundings.state() == before
    with pytest.raises(ZeroDivisionError), drawn.entered():
        raise ZeroDivisionError
    assert surroundings.state() == before


CHANGES = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "float32 matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "denormals": lambda: torch.set_flush_denormal(True),
    "numpy's error handling": lambda: np.seterr(all="ignore"),
    "environment variables": lambda: os.environ.update(PROJLAB_IS_THERE="1"),
    "warning filters": lambda: warnings.simplefilter("ignore"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_named_and_put_back(name):
    before = surroundings.state()
    CHANGES[name]()
    assert name in surroundings.mend(before, surroundings.state())
    assert surroundings.state() == before
    assert surroundings.mend(before, surroundings.state()) == []


def test_generators_stand_where_they_stood():
    before = surroundings.generators()
    with surroundings.generators_kept():
        surroundings.seed_generators(7)
        torch.rand(3)
        np.random.rand(3)  # noqa: NPY002  the global generator is what is asked about
        random.random()  # noqa: S311  as above
    after = surroundings.generators()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
