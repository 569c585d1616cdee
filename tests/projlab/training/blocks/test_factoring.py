"""From a plan to a block: which variant factors it, and what contradicts itself."""

from functools import partial

import pytest
import torch

import projlab
from projlab import constrain, expr
from projlab.training.blocks import factoring
from tests.projlab.training.helpers import F64, blocks_of, parameter, vector


@pytest.mark.parametrize("variant", ["qr", "pinv", "cholesky"])
def test_a_variant_by_name_is_taken_for_every_block(variant):
    W, p = parameter(4, 3), parameter(5)
    A = torch.randn(2, 5, dtype=F64)
    blocks = blocks_of([W, p], expr(W).sum(1) == 1, A @ expr(p) == 0, variant=variant)
    assert {b.variant for b in blocks} == {variant}


@pytest.mark.parametrize("variant", projlab.variants())
def test_one_row_is_projected_alike_by_every_variant(variant):
    """Also in a metric, which takes single rows whatever the variant: no Gram matrix is needed."""
    a = torch.randn(7, dtype=F64)
    ends = []
    for name in (variant, "single_row"):
        p = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=F64))
        optimizer = torch.optim.SGD([p], lr=0.1)
        (block,) = constrain(
            optimizer, a @ expr(p) == 3, variant=name, mode="metric"
        )._hooks.system.blocks
        assert block.variant == name
        ends.append(p.detach())
    torch.testing.assert_close(*ends)


def state(*parameters):
    return [p.detach().clone() for p in parameters]


@pytest.mark.parametrize(
    ("equations", "message"),
    [
        (lambda p, q: (expr(p).sum() == 1, expr(p).sum() == 2), r"p1.sum\(\) == 1 and p1.sum"),
        (
            lambda p, q: (expr(p)[0] + expr(p)[1] == 1, expr(p)[0] == 0, expr(p)[1] == 0),
            r"\(p1\[1\] == 0\) = \(p1\[0\] \+ p1\[1\] == 1\) - \(p1\[0\] == 0\)",
        ),
        (lambda p, q: (0 * expr(p)[:2] == 1,), r"0 \* p1\[0\] == 1 holds no parameter"),
    ],
)
def test_conflicting_equations_are_refused_by_name(equations, message):
    p, q = vector(1.0, 2.0, 3.0), vector(1.0)
    before = state(p, q)
    optimizer = torch.optim.SGD([p, q], lr=0.1)
    constrain(optimizer, expr(q) == 1)
    with pytest.raises(projlab.InconsistentError, match=message):
        constrain(optimizer, *equations(p, q))
    assert all(torch.equal(a, b) for a, b in zip(state(p, q), before, strict=True))
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_a_conflict_in_one_of_many_equal_blocks_is_named():
    W = torch.nn.Parameter(torch.zeros(2, 3, dtype=F64))
    right = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 3.0]], dtype=F64)
    A = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=F64)
    with pytest.raises(projlab.InconsistentError, match=r"\(\(A @ W0\)\[1, 2\] == 3\) = 2 \*"):
        constrain(torch.optim.SGD([W], lr=0.1), A @ expr(W) == right)
    right[1, 2] = 2.0
    handle = constrain(torch.optim.SGD([W], lr=0.1), A @ expr(W) == right)
    with pytest.raises(projlab.ProjlabError):
        handle.apply()  # nobody kept the optimizer
    torch.testing.assert_close(A @ W.detach(), right)


REDUNDANT = torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [1.0, 0.0, 3.0]], dtype=F64)


def test_redundant_rows_of_equal_blocks_are_not_analysed_block_by_block(monkeypatch):
    analysed, built = [], []

    def counted(*arguments, calls, function, **keywords):
        calls.append(1)
        return function(*arguments, **keywords)

    for name, calls in (("analyse", analysed), ("build_one", built)):
        function = getattr(factoring, name)
        monkeypatch.setattr(factoring, name, partial(counted, calls=calls, function=function))
    W = parameter(3, 500)
    right = REDUNDANT @ torch.randn(3, 500, dtype=F64)
    (block,) = blocks_of([W], REDUNDANT @ expr(W) == right)
    assert block.shape[:2] == (500, 3)
    assert len(built) == 1
    assert not analysed
    torch.testing.assert_close(REDUNDANT @ W.detach(), right)
    right[1, 400] += 1e-3
    with pytest.raises(projlab.InconsistentError, match=r"\(A @ W0\)\[1, 400\]"):
        constrain(torch.optim.SGD([W], lr=0.1), REDUNDANT @ expr(W) == right)
    assert len(analysed) == 1


@pytest.mark.parametrize("block", [0, 3])
def test_what_counts_as_rounding_is_what_counts_everywhere(block):
    W, x = parameter(3, 5), torch.randn(3, 5, dtype=F64)
    refused = {}
    for who in ("constrain", "projector"):
        for exponent in range(-52, 0):
            right = REDUNDANT @ x
            right[1, block] += 2.0**exponent
            try:
                if who == "constrain":
                    constrain(torch.optim.SGD([W], lr=0.1), REDUNDANT @ expr(W) == right)
                else:
                    projlab.projector(REDUNDANT, right[:, block])
            except projlab.InconsistentError:
                refused[who] = exponent
                break
    assert refused["constrain"] == refused["projector"]


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_single_rows_need_no_factor(scale, monkeypatch):
    monkeypatch.setattr(factoring, "build_one", None)
    p = parameter(4, 3)
    values = torch.randn(4, 3, dtype=F64) * scale
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, (values * expr(p)).sum(1) == 0)
    (block,) = handle._hooks.system.blocks
    assert block.variant == "single_row"
    with torch.no_grad():
        p += torch.randn_like(p)
        x = p.clone()
        block.subtract(block.residual(torch.zeros(4, 1, dtype=F64)))
    for i in range(4):
        unit = values[i] / scale
        torch.testing.assert_close(p[i].detach(), projlab.projector(unit, 0.0)(x[i]))


def test_of_many_contradictions_five_are_shown():
    p = vector(1.0, 2.0)
    A = torch.ones(8, 2, dtype=F64)
    with pytest.raises(projlab.InconsistentError, match=r"; and 2 more rows\. Nothing was changed"):
        constrain(torch.optim.SGD([p], lr=0.1), A @ expr(p) == torch.arange(8.0))
