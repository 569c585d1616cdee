"""Networks whose rows hold at every step, and faults that are noticed."""

import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import projlab
from projlab_validation.training import networks
from projlab_validation.training.judge import FEASIBLE
from tests.validation.training.runs import BRIEF, verdict


def trained(name, dtype="float32", profile=BRIEF):
    return {record.mode: record for record in networks.measure(name, profile, dtype, "here")}


def test_rows_of_a_layer_s_weights_hold_and_the_loss_is_beside_the_unconstrained_one():
    pytest.importorskip("sklearn.datasets")
    by_mode = trained("network_digits")
    free = by_mode["unconstrained"]
    assert free.loss == free.free_loss == by_mode["tangent"].free_loss
    assert 0 < free.noise < free.loss
    assert by_mode["tangent"].feasibility <= FEASIBLE * 2.0**-24 < free.feasibility
    assert (by_mode["tangent"].m, by_mode["tangent"].steps) == (64, 4)


def test_without_scikit_learn_the_digits_are_skipped_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    (record,) = trained("network_digits").values()
    assert verdict(record) == "skip"
    assert "scikit-learn" in record.reason


def test_element_totals_hold_in_every_output():
    by_mode = trained("network_balance")
    assert list(by_mode) == ["layer", "penalty", "unconstrained"]
    assert by_mode["layer"].feasibility <= FEASIBLE * 2.0**-24
    assert min(by_mode[way].feasibility for way in ("penalty", "unconstrained")) > 1e-3
    assert verdict(by_mode["unconstrained"]) == verdict(by_mode["penalty"]) == "expected"


def test_reactions_conserve_every_element():
    E, X, totals, Y = networks.states()
    assert np.allclose(Y @ E.T, totals, rtol=1e-14)
    assert 0.02 < np.linalg.norm(Y - X) / np.linalg.norm(X) < 1


@pytest.mark.parametrize("name", ["network_digits", "network_balance"])
def test_a_constraint_that_is_never_applied_fails(name, monkeypatch):
    if name == "network_digits":
        pytest.importorskip("sklearn.datasets")

    monkeypatch.setattr(projlab, "constrain", lambda *_: None)
    monkeypatch.setattr(projlab.nn.AffineProjection, "forward", lambda _, x, b: x)
    records = networks.measure(name, BRIEF, "float32", "here")
    held = [r for r in records if r.mode in ("tangent", "layer")]
    assert held
    assert {verdict(r) for r in held} == {"fail"}


def test_a_layer_that_forgets_its_equations_in_a_state_dict_fails(monkeypatch):
    monkeypatch.setattr(
        networks.Balanced, "load_state_dict", lambda self, _: self.train(), raising=False
    )
    (record,) = trained("network_balance").values()
    assert verdict(record) == "fail"
    assert "state dict" in record.reason


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_noise_leaves_the_rows_alone_however_many_the_steps(dtype):
    records = networks.measure("network_noise", replace(BRIEF, noise_exponent=3), dtype, "")
    assert [r.steps for r in records] == [1, 10, 100, 1000] * 2
    assert {verdict(r) for r in records} == {"pass"}


unheeded = pytest.mark.filterwarnings("ignore:constrained parameters were moved:UserWarning")
"""The handle notices too, in words that end no measurement but a test's."""


def stepping(monkeypatch, step):
    """Constrain as ever, and then step by `step(optimizer, handle, honest_step)`."""
    honest = projlab.constrain

    def constrain(optimizer, *equations):
        handle = honest(optimizer, *equations)
        optimizer.step = partial(step, optimizer, handle, optimizer.step)
        return handle

    monkeypatch.setattr(projlab, "constrain", constrain)


@unheeded
def test_a_step_without_its_projection_is_noticed(monkeypatch):
    def forgetful(optimizer, handle, honest_step):
        """Run no hooks any more after the fifth step."""
        if handle.steps < 5:
            return honest_step()
        return type(optimizer).step.__wrapped__(optimizer)

    stepping(monkeypatch, forgetful)
    (record,) = networks.measure("network_noise", BRIEF, "float64", "")
    assert verdict(record) == "fail"
    assert "applied at 5 of 10 steps" in record.reason


@unheeded
def test_rows_that_are_let_go_are_noticed(monkeypatch):
    def moving(optimizer, handle, honest_step):
        """Move what was projected."""
        honest_step()
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0].add_(1e-13)

    stepping(monkeypatch, moving)
    records = networks.measure("network_noise", BRIEF, "float64", "")
    assert [verdict(r) for r in records] == ["fail"] * 4
