"""From a plan to a block: which variant factors it, and what contradicts itself."""

import pytest
import torch

import projlab
from projlab import constrain, expr
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


def test_of_many_contradictions_five_are_shown():
    p = vector(1.0, 2.0)
    A = torch.ones(8, 2, dtype=F64)
    with pytest.raises(projlab.InconsistentError, match=r"; and 2 more rows\. Nothing was changed"):
        constrain(torch.optim.SGD([p], lr=0.1), A @ expr(p) == torch.arange(8.0))
