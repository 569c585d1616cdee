"""Parameters that get no gradient in a step, or are frozen midway: experts, dropped layers."""

import pytest
import torch

from projlab import constrain, expr
from projlab.training import parameter_system, sleeping
from tests.projlab.training.helpers import F64, Fresh, parameter, vector

EXPERTS = 24


def mixture():
    torch.manual_seed(0)
    A = torch.randn(3, 20, dtype=F64)
    experts = [(parameter(4, 5), parameter(20)) for _ in range(EXPERTS)]
    optimizer = torch.optim.SGD([p for pair in experts for p in pair], lr=0.1)
    equations = [e for W, p in experts for e in (expr(W).sum(1) == 1, A @ expr(p) == 2)]
    return A, experts, optimizer, constrain(optimizer, *equations)


def test_experts_that_sleep_stay_and_cost_nothing(monkeypatch):
    A, experts, optimizer, handle = mixture()
    monkeypatch.setattr(parameter_system, "make_block", None)  # nothing is factored
    hooks = handle._hooks
    for k in range(60):
        awake = torch.randperm(EXPERTS, generator=torch.Generator().manual_seed(k))[:4].tolist()
        before = [(W.detach().clone(), p.detach().clone()) for W, p in experts]
        for i, pair in enumerate(experts):
            for p in pair:
                p.grad = torch.randn_like(p) if i in awake else None
        optimizer.step()
        for i, (W, p) in enumerate(experts):
            same = torch.equal(W, before[i][0]) and torch.equal(p, before[i][1])
            assert same == (i not in awake)
            if i in awake:
                torch.testing.assert_close(W.grad.sum(1), torch.zeros(4, dtype=F64))
                torch.testing.assert_close(A @ p.grad, torch.zeros(3, dtype=F64))
        assert handle.residual().abs().max() < 1e-13
    assert hooks._sleeping.patterns <= sleeping.PATTERNS
    assert not hooks._sleeping._moving
    assert handle.steps == 60


def test_operations_of_a_step_grow_with_what_is_awake():
    counts = {}
    for awake in (1, 2, EXPERTS - 1):
        _, experts, optimizer, _ = mixture()
        for pair in experts[:awake]:
            for p in pair:
                p.grad = torch.randn_like(p)
        optimizer.step()
        with Fresh() as fresh:
            optimizer.step()
        counts[awake] = len(fresh.sizes)
    assert counts[1] <= counts[2] < counts[EXPERTS - 1] / 2


def test_what_is_partly_awake_is_kept_for_a_few_patterns():
    p, q, r = vector(1.0, 2.0), vector(3.0), vector(4.0, 5.0)
    optimizer = torch.optim.SGD([p, q, r], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() + expr(q).sum() == 6, expr(r).sum() == 9)
    for pattern in range(1, 8):
        before = [x.detach().clone() for x in (p, q, r)]
        for i, x in enumerate((p, q, r)):
            x.grad = torch.randn_like(x) if pattern >> i & 1 else None
        optimizer.step()
        for x, old in zip((p, q, r), before, strict=True):
            if x.grad is None:
                assert torch.equal(x, old)
        assert handle.residual().abs().max() < 1e-14
    assert len(handle._hooks._sleeping._moving) == 2


def test_a_step_without_any_gradient_changes_nothing():
    _, experts, optimizer, handle = mixture()
    before = [W.detach().clone() for W, _ in experts]
    optimizer.step()
    assert handle.steps == 1
    assert all(torch.equal(W, old) for (W, _), old in zip(experts, before, strict=True))


@pytest.mark.parametrize("others", [False, True])
def test_an_equation_frozen_midway_is_a_constant(others):
    p, q = vector(1.0, 2.0), vector(3.0, 4.0)
    optimizer = torch.optim.SGD([p, q], lr=0.1)
    equations = [expr(p).sum() == 3, expr(q).sum() == 7] if others else [expr(p).sum() == 3]
    handle = constrain(optimizer, *equations)
    for x in (p, q):
        x.grad = torch.tensor([1.0, 3.0], dtype=F64)
    optimizer.step()
    p.requires_grad_(False)
    p.grad = None
    frozen = p.detach().clone()
    for _ in range(2):
        optimizer.step()
    assert torch.equal(p, frozen)
    assert handle.residual().abs().max() < 1e-15
    assert handle.certify().verdict == "certified"
    assert handle.steps == 3
    p.requires_grad_(True)
    p.grad = torch.tensor([1.0, 3.0], dtype=F64)
    optimizer.step()
    assert not torch.equal(p, frozen)
    assert handle.residual().abs().max() < 1e-14
