"""One training run: where it ends, and what becomes of a fault."""

from dataclasses import asdict

import pytest

import projlab
from projlab.training.blocks.margins import MarginsBlock
from projlab.training.blocks.polyhedral import PolyhedralBlock
from projlab.training.handle import Handle
from projlab_validation.training.judge import allowed, verdict_of
from projlab_validation.training.problems import BUILDERS
from projlab_validation.training.train import takes, train
from tests.validation.training.runs import BY_NAME, verdict


def test_only_matrices_are_given_to_what_takes_nothing_else():
    assert takes(BY_NAME["Muon"], BUILDERS["train_mixture"]())
    assert not takes(BY_NAME["Muon"], BUILDERS["train_portfolio"]())


def test_tangent_ends_at_the_optimum_and_post_elsewhere():
    problem = BUILDERS["train_article_2"]()
    tangent = train(problem, BY_NAME["Adam"], "tangent", 0.05, steps=600)
    assert verdict(tangent) == "pass", tangent
    assert tangent.steps_to is not None
    assert tangent.steps_to < 600
    post = train(problem, BY_NAME["Adam"], "post", 0.0, steps=600)
    assert verdict(post) == "expected"
    assert post.distance > 0.1
    assert post.steps_to is None


def test_a_constraint_that_is_never_applied_fails(monkeypatch):
    monkeypatch.setattr(projlab, "constrain", lambda *_, **__: None)
    record = train(BUILDERS["train_article_2"](), BY_NAME["SGD"], "tangent", 0.0, steps=50)
    assert verdict(record) == "fail"


def test_sums_projected_as_if_each_left_the_others_alone_fail(monkeypatch):
    problem = BUILDERS["train_margins"]()
    honest = train(problem, BY_NAME["SGD"], "tangent", 0.0, steps=200)
    assert verdict(honest) == "pass", honest
    monkeypatch.setattr(MarginsBlock, "_separate", lambda self, means: means)
    record = train(problem, BY_NAME["SGD"], "tangent", 0.0, steps=200)
    assert verdict(record) == "fail"


def test_what_ends_elsewhere_fails_where_theory_promises_the_optimum(monkeypatch):
    honest = projlab.constrain
    monkeypatch.setattr(
        projlab, "constrain", lambda *equations, mode, log: honest(*equations, mode="post")
    )
    record = train(BUILDERS["train_article_2"](), BY_NAME["Adam"], "tangent", 0.0, steps=600)
    assert verdict(record) == "fail"


def test_bounds_are_kept_and_training_ends_at_their_optimum():
    problem = BUILDERS["train_mixture_within"]()
    assert not takes(BY_NAME["LBFGS"], problem)
    for name in ("SGD", "Adam", "Muon"):
        record = train(problem, BY_NAME[name], "tangent", 0.0, steps=400)
        assert verdict(record) == "pass", record
    assert verdict(train(problem, BY_NAME["Adam"], "post", 0.0, steps=400)) == "expected"


def test_clamping_after_the_step_alone_fails(monkeypatch):
    monkeypatch.setattr(PolyhedralBlock, "tangent", lambda *_: None)
    record = train(BUILDERS["train_mixture_within"](), BY_NAME["Adam"], "tangent", 0.0, steps=400)
    assert verdict(record) == "fail"
    assert record.distance > 0.1


@pytest.mark.parametrize("name", ["train_mixture_within", "train_portfolio"])
def test_multipliers_of_the_wrong_sign_fail(monkeypatch, name):
    honest = Handle.multipliers

    def negated(self):
        return tuple(-y for y in honest(self))

    problem = BUILDERS[name]()
    assert verdict(train(problem, BY_NAME["SGD"], "tangent", 0.0, steps=400)) == "pass"
    monkeypatch.setattr(Handle, "multipliers", negated)
    record = train(problem, BY_NAME["SGD"], "tangent", 0.0, steps=400)
    assert verdict(record) == "fail"
    assert "multipliers" in verdict_of(asdict(record), allowed(asdict(record)))[1]


def test_a_refusal_and_an_error_are_findings(monkeypatch):
    refused = train(BUILDERS["train_article_2"](), BY_NAME["RAdam"], "metric", 0.0, steps=5)
    assert (refused.status, verdict(refused)) == ("refused", "skip")

    def broken(*_, **__):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(projlab, "constrain", broken)
    failed = train(BUILDERS["train_article_2"](), BY_NAME["SGD"], "tangent", 0.0, steps=5)
    assert (failed.status, verdict(failed)) == ("error", "fail")
