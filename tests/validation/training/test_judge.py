"""The judge of training runs sees faults."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from projlab_validation.training.judge import FEASIBLE, NOISES, allowed, judge
from tests.validation.training.runs import ENDED, U, verdict


def test_a_step_of_fixed_size_may_be_off_by_its_last_ones():
    bound = 10 * 2**0.5 * 5e-6 * 2 / 2
    assert allowed(asdict(ENDED)) == pytest.approx(bound, rel=1e-6)
    assert verdict(replace(ENDED, distance=0.99 * bound)) == "pass"
    assert verdict(replace(ENDED, distance=1.01 * bound)) == "fail"


def test_a_step_along_the_gradient_contracts():
    plain = replace(ENDED, optimizer="SGD")
    assert allowed(asdict(plain)) == pytest.approx(np.exp(-13.5), rel=1e-6)


def test_an_infeasible_step_fails_wherever_the_run_ends():
    assert verdict(replace(ENDED, feasibility=1.01 * FEASIBLE * U)) == "fail"


def test_post_is_excused_only_where_the_step_is_not_along_the_gradient():
    assert verdict(replace(ENDED, mode="post", distance=0.1)) == "expected"
    assert verdict(replace(ENDED, mode="post", distance=0.1, optimizer="SGD")) == "fail"


def test_a_run_that_was_not_judged_is_no_pass():
    frame = judge(pd.DataFrame([asdict(replace(ENDED, distance=float("nan")))]))
    assert frame["verdict"].tolist() == ["fail"]


def test_a_loss_beyond_the_noise_fails():
    held = replace(
        ENDED, problem="network_digits", loss=1.0, free_loss=1.0, noise=0.1, distance=np.nan
    )
    assert verdict(replace(held, loss=1.0 + 0.99 * NOISES * 0.1)) == "pass"
    assert verdict(replace(held, loss=1.0 + 1.01 * NOISES * 0.1)) == "fail"
    assert verdict(replace(held, loss=np.nan)) == "fail"
    assert verdict(replace(held, feasibility=1.01 * FEASIBLE * U)) == "fail"
