"""The training section: optima that are optima, a judge that sees faults, a run to resume."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

import projlab
from projlab_validation.training import section
from projlab_validation.training.judge import FEASIBLE, allowed, judge, verdict_of
from projlab_validation.training.optimizers import LAST, OPTIMIZERS
from projlab_validation.training.problems import BUILDERS
from projlab_validation.training.train import TrainingRecord, takes, train

BY_NAME = {choice.name: choice for choice in OPTIMIZERS}
U = 2.0**-53
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


def test_the_article_s_optima():
    assert np.allclose(BUILDERS["train_article_2"]().optimum(0.0), [1.6, 0.8], atol=1e-15)
    assert np.allclose(BUILDERS["train_article_3"]().optimum(0.0), [1.5, -0.5, 1.0], atol=1e-15)


def test_every_optimizer_of_torch_is_there():
    import torch

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
            projlab, "constrain", lambda *equations, mode: honest(*equations, mode="post")
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
                ["train_article_2"],
                ["float64"],
                steps=3,
                brief=True,
                environment="here",
                jobs=1,
            )
            for record in records
        ]

    assert len(go()) == 4
    assert go() == []
    next((tmp_path / "training").glob("*.Adam.*")).unlink()
    assert {record.optimizer for record in go()} == {"Adam"}
    frame = section.read(tmp_path, "here")
    assert len(frame) == 4
    assert section.read(tmp_path, "elsewhere").empty
