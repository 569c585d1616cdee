"""The training section: optima that are optima, a judge that sees faults, a run to resume."""

import sys
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

import projlab
from projlab_validation.profiles import PROFILES
from projlab_validation.training import networks, section
from projlab_validation.training.judge import FEASIBLE, NOISES, allowed, judge, verdict_of
from projlab_validation.training.optimizers import LAST, OPTIMIZERS
from projlab_validation.training.problems import BUILDERS
from projlab_validation.training.train import TrainingRecord, takes, train

BY_NAME = {choice.name: choice for choice in OPTIMIZERS}
U = 2.0**-53
BRIEF = replace(
    PROFILES["quick"], training_steps=3, training_brief=True, network_steps=4, noise_exponent=1
)
ENDED = TrainingRecord(
    problem="train_article_2",
    optimizer="Adam",
    mode="tangent",
    weight_decay=0.0,
    dtype="float64",
    environment="here",
    m=1,
    n=2,
    steps=1000,
    status="ok",
    distance=1e-6,
    kkt=1e-6,
    feasibility=U,
    rate_sum=27.0,
    last_rate=5e-6,
    curvature_min=0.5,
    curvature_max=1.0,
    scale=2.0,
)


def verdict(record: TrainingRecord) -> str:
    row = asdict(record)
    return verdict_of(row, allowed(row))[0]


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_optimum_satisfies_the_optimality_conditions(name, decay):
    problem = BUILDERS[name]()
    p = problem.optimum(decay)
    assert np.allclose(problem.A @ p, problem.b, rtol=0, atol=1e-12)
    gradient = problem.loss.gradient(p) + decay * p
    multipliers = np.linalg.lstsq(problem.A.T, gradient)[0]
    assert np.linalg.norm(gradient - problem.A.T @ multipliers) <= 1e-11
    low, high = problem.curvature(p, decay)
    assert 0 < low <= high <= 1.5
    assert sum(int(np.prod(shape)) for shape in problem.shapes) == problem.A.shape[1]


@pytest.mark.parametrize("name", ["train_article_3", "train_logistic", "train_huber"])
def test_the_gradient_is_that_of_the_value(name):
    problem = BUILDERS[name]()
    p = torch.tensor(problem.start, requires_grad=True)
    value, gradient = problem.loss.of(p)
    (found,) = torch.autograd.grad(value, p)
    torch.testing.assert_close(gradient.detach(), found, rtol=0, atol=1e-14)


def test_the_article_s_optima():
    assert np.allclose(BUILDERS["train_article_2"]().optimum(0.0), [1.6, 0.8], atol=1e-15)
    assert np.allclose(BUILDERS["train_article_3"]().optimum(0.0), [1.5, -0.5, 1.0], atol=1e-15)


def test_every_optimizer_of_torch_is_there():
    classes = {choice.cls for choice in OPTIMIZERS}
    known = {getattr(torch.optim, name) for name in torch.optim.__all__ if name[0].isupper()}
    assert known - classes <= {torch.optim.Optimizer, torch.optim.SparseAdam}


def test_only_matrices_are_given_to_what_takes_nothing_else():
    assert takes(BY_NAME["Muon"], BUILDERS["train_mixture"]())
    assert not takes(BY_NAME["Muon"], BUILDERS["train_portfolio"]())


class TestTraining:
    def test_tangent_ends_at_the_optimum_and_post_elsewhere(self):
        problem = BUILDERS["train_article_2"]()
        tangent = train(problem, BY_NAME["Adam"], "tangent", 0.05, steps=600)
        assert verdict(tangent) == "pass", tangent
        assert tangent.steps_to is not None
        assert tangent.steps_to < 600
        post = train(problem, BY_NAME["Adam"], "post", 0.0, steps=600)
        assert verdict(post) == "expected"
        assert post.distance > 0.1
        assert post.steps_to is None

    def test_a_constraint_that_is_never_applied_fails(self, monkeypatch):
        monkeypatch.setattr(projlab, "constrain", lambda *_, **__: None)
        found = train(BUILDERS["train_article_2"](), BY_NAME["SGD"], "tangent", 0.0, steps=50)
        assert verdict(found) == "fail"

    def test_what_ends_elsewhere_fails_where_theory_promises_the_optimum(self, monkeypatch):
        honest = projlab.constrain
        monkeypatch.setattr(
            projlab, "constrain", lambda *equations, mode, log: honest(*equations, mode="post")
        )
        found = train(BUILDERS["train_article_2"](), BY_NAME["Adam"], "tangent", 0.0, steps=600)
        assert verdict(found) == "fail"

    def test_a_refusal_and_an_error_are_findings(self, monkeypatch):
        refused = train(BUILDERS["train_article_2"](), BY_NAME["RAdam"], "metric", 0.0, steps=5)
        assert (refused.status, verdict(refused)) == ("refused", "skip")

        def broken(*_, **__):
            raise ZeroDivisionError("planted")

        monkeypatch.setattr(projlab, "constrain", broken)
        failed = train(BUILDERS["train_article_2"](), BY_NAME["SGD"], "tangent", 0.0, steps=5)
        assert (failed.status, verdict(failed)) == ("error", "fail")


class TestJudge:
    def test_a_step_of_fixed_size_may_be_off_by_its_last_ones(self):
        bound = 10 * 2**0.5 * 5e-6 * 2 / 2
        assert allowed(asdict(ENDED)) == pytest.approx(bound, rel=1e-6)
        assert verdict(replace(ENDED, distance=0.99 * bound)) == "pass"
        assert verdict(replace(ENDED, distance=1.01 * bound)) == "fail"

    def test_a_step_along_the_gradient_contracts(self):
        plain = replace(ENDED, optimizer="SGD")
        assert allowed(asdict(plain)) == pytest.approx(np.exp(-13.5), rel=1e-6)

    def test_an_infeasible_step_fails_wherever_the_run_ends(self):
        assert verdict(replace(ENDED, feasibility=1.01 * FEASIBLE * U)) == "fail"

    def test_post_is_excused_only_where_the_step_is_not_along_the_gradient(self):
        assert verdict(replace(ENDED, mode="post", distance=0.1)) == "expected"
        assert verdict(replace(ENDED, mode="post", distance=0.1, optimizer="SGD")) == "fail"

    def test_a_run_that_was_not_judged_is_no_pass(self):
        frame = judge(pd.DataFrame([asdict(replace(ENDED, distance=float("nan")))]))
        assert frame["verdict"].tolist() == ["fail"]


def test_the_rate_is_held_and_then_falls():
    adam = BY_NAME["Adam"]
    assert adam.factor(0, 100) == adam.factor(50, 100) == 1.0
    assert adam.factor(100, 100) == pytest.approx(LAST)


def test_a_resumed_section_trains_only_what_is_missing(tmp_path, monkeypatch):
    few = tuple(BY_NAME[name] for name in ("SGD", "Adam"))
    monkeypatch.setattr(section, "OPTIMIZERS", few)

    def go():
        return [
            record
            for records in section.run(
                tmp_path,
                ["train_article_2", "network_noise"],
                BRIEF,
                ["float64"],
                environment="here",
                jobs=1,
            )
            for record in records
        ]

    assert len(go()) == 8
    assert go() == []
    next((tmp_path / "training").glob("*.Adam.*")).unlink()
    assert {(record.problem, record.optimizer) for record in go()} == {("train_article_2", "Adam")}
    frame = section.read(tmp_path, "here")
    assert len(frame) == 8
    assert set(judge(frame)["verdict"]) <= {"pass", "expected", "fail"}
    assert section.read(tmp_path, "elsewhere").empty


def trained(name, dtype="float32", profile=BRIEF):
    return {record.mode: record for record in networks.measure(name, profile, dtype, "here")}


class TestNetworks:
    def test_rows_of_a_layer_s_weights_hold_and_the_loss_is_beside_the_unconstrained_one(self):
        pytest.importorskip("sklearn.datasets")
        found = trained("network_digits")
        free = found["unconstrained"]
        assert free.loss == free.free_loss == found["tangent"].free_loss
        assert 0 < free.noise < free.loss
        assert found["tangent"].feasibility <= FEASIBLE * 2.0**-24 < free.feasibility
        assert (found["tangent"].m, found["tangent"].steps) == (64, 4)

    def test_without_scikit_learn_the_digits_are_skipped_by_name(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        (record,) = trained("network_digits").values()
        assert verdict(record) == "skip"
        assert "scikit-learn" in record.reason

    def test_element_totals_hold_in_every_output(self):
        found = trained("network_balance")
        assert list(found) == ["layer", "penalty", "unconstrained"]
        assert found["layer"].feasibility <= FEASIBLE * 2.0**-24
        assert min(found[way].feasibility for way in ("penalty", "unconstrained")) > 1e-3
        assert verdict(found["unconstrained"]) == verdict(found["penalty"]) == "expected"

    def test_reactions_conserve_every_element(self):
        E, X, totals, Y = networks.states()
        assert np.allclose(Y @ E.T, totals, rtol=1e-14)
        assert 0.02 < np.linalg.norm(Y - X) / np.linalg.norm(X) < 1

    @pytest.mark.parametrize("name", ["network_digits", "network_balance"])
    def test_a_constraint_that_is_never_applied_fails(self, name, monkeypatch):
        if name == "network_digits":
            pytest.importorskip("sklearn.datasets")

        monkeypatch.setattr(projlab, "constrain", lambda *_: None)
        monkeypatch.setattr(projlab.nn.AffineProjection, "forward", lambda _, x, b: x)
        records = networks.measure(name, BRIEF, "float32", "here")
        held = [r for r in records if r.mode in ("tangent", "layer")]
        assert held
        assert {verdict(r) for r in held} == {"fail"}

    def test_a_layer_that_forgets_its_equations_in_a_state_dict_fails(self, monkeypatch):
        monkeypatch.setattr(
            networks.Balanced, "load_state_dict", lambda self, _: self.train(), raising=False
        )
        (record,) = trained("network_balance").values()
        assert verdict(record) == "fail"
        assert "state dict" in record.reason

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_noise_leaves_the_rows_alone_however_many_the_steps(self, dtype):
        records = networks.measure("network_noise", replace(BRIEF, noise_exponent=3), dtype, "")
        assert [r.steps for r in records] == [1, 10, 100, 1000] * 2
        assert {verdict(r) for r in records} == {"pass"}

    def test_a_step_without_its_projection_is_noticed(self, monkeypatch):
        from projlab.training.hooks import StepHooks

        honest = StepHooks._after

        def lazy(self):
            if self.log.steps != 5:
                honest(self)

        monkeypatch.setattr(StepHooks, "_after", lazy)
        (record,) = networks.measure("network_noise", BRIEF, "float64", "")
        assert verdict(record) == "fail"
        assert "applied at 5 of 10 steps" in record.reason

    def test_rows_that_are_let_go_are_noticed(self, monkeypatch):
        from projlab.training.hooks import StepHooks

        monkeypatch.setattr(StepHooks, "_project", lambda self, _: self.system.residuals())
        records = networks.measure("network_noise", BRIEF, "float64", "")
        assert [verdict(r) for r in records if r.optimizer == "Adam"] == ["fail"] * 2

    def test_a_loss_beyond_the_noise_fails(self):
        held = replace(
            ENDED, problem="network_digits", loss=1.0, free_loss=1.0, noise=0.1, distance=np.nan
        )
        assert verdict(replace(held, loss=1.0 + 0.99 * NOISES * 0.1)) == "pass"
        assert verdict(replace(held, loss=1.0 + 1.01 * NOISES * 0.1)) == "fail"
        assert verdict(replace(held, loss=np.nan)) == "fail"
        assert verdict(replace(held, feasibility=1.01 * FEASIBLE * U)) == "fail"
