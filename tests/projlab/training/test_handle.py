"""`constrain`, and the handle that it returns."""

import copy
import pickle
import warnings

import pytest
import torch

import projlab
from projlab import constrain, expr
from tests.projlab.training.helpers import F64, backward, network, parameter, vector


def test_handle_shows_what_it_does():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    A = torch.randn(2, 16)
    handle = constrain(
        optimizer, expr(net[2].weight).sum(1) == 1, A @ expr(net[0].bias) == 0, module=net
    )
    text = repr(handle)
    assert 'mode="tangent"' in text
    assert "2.weight[0].sum() == 1, ... (5 rows)" in text
    assert "(A @ 0.bias)[0] == 0, ... (2 rows)" in text
    assert "[5 blocks of 1 row in 16 entries: single_row]" in text
    assert "[2 rows in 16 entries: qr]" in text
    assert handle.residual().shape == (7,)
    assert handle.residual().dtype == F64
    assert handle.steps == 0
    assert handle.residuals.shape == (0,)
    for _ in range(3):
        backward(net)
        optimizer.step()
    assert handle.steps == 3
    assert handle.residuals.shape == (3,)
    assert 0 <= handle.largest_residual < 1e-5
    assert handle.certify().verdict == "certified"
    handle.remove()
    assert repr(handle) == "Handle(removed)"
    with pytest.raises(projlab.ProjlabError, match="was removed"):
        handle.apply()


def test_residual_of_a_broken_constraint_is_seen():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, expr(p).sum() == 3)
    with torch.no_grad():
        p.add_(1.0)
    assert handle.residual().tolist() == [2.0]
    assert handle.certify().verdict == "failed"
    handle.apply()
    assert handle.residual().tolist() == [0.0]
    assert handle.certify().verdict == "certified"


def test_several_calls_are_one_system_applied_once():
    p = vector(1.0, 2.0, 4.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    first = constrain(optimizer, expr(p).sum() == 6)
    second = constrain(optimizer, expr(p)[0] == 2 * expr(p)[1])
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    assert len(optimizer._optimizer_step_post_hooks) == 1
    assert len(first.blocks) == 1
    assert first.residual().shape == (1,)
    p.grad = torch.randn(3, dtype=F64)
    optimizer.step()
    A = torch.tensor([[1.0, 1.0, 1.0], [1.0, -2.0, 0.0]], dtype=F64)
    torch.testing.assert_close(A @ p.detach(), torch.tensor([6.0, 0.0], dtype=F64))
    torch.testing.assert_close(A @ p.grad, torch.zeros(2, dtype=F64))
    assert first.steps == 1
    first.remove()
    assert second.blocks == ("1 row in 2 entries: single_row",)
    second.remove()
    assert not optimizer._optimizer_step_pre_hooks
    assert "_projlab_hooks" not in vars(optimizer)
    pickle.dumps(optimizer)


def test_one_system_has_one_setting():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    constrain(optimizer, expr(p).sum() == 3)
    with pytest.raises(projlab.InputError, match='a constraint with mode="tangent"'):
        constrain(optimizer, expr(p)[0] == 1, variant="qr")
    assert p.tolist() == [1.0, 2.0]


def test_context_manager_removes_it():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    with constrain(optimizer, expr(p).sum() == 3):
        p.grad = torch.ones(2, dtype=F64)
        optimizer.step()
        assert p.tolist() == [1.0, 2.0]
    p.grad = torch.ones(2, dtype=F64)
    optimizer.step()
    assert p.tolist() == [0.9, 1.9]


def test_infeasible_start_is_projected_or_refused():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(projlab.InputError, match=r"do not satisfy p0\.sum\(\) == 5"):
        constrain(optimizer, expr(p).sum() == 5, start="raise")
    assert p.tolist() == [1.0, 2.0]
    assert not optimizer._optimizer_step_pre_hooks
    constrain(optimizer, expr(p).sum() == 5)
    assert p.tolist() == [2.0, 3.0]
    q = vector(0.1, 0.2)
    bits = q.detach().clone()
    constrain(torch.optim.SGD([q], lr=0.1), expr(q).sum() == 0.3, start="raise")
    assert torch.equal(q, bits)  # holds up to rounding: not touched


def test_post_warns_and_names_the_optimizers():
    p = vector(1.0, 2.0)
    with pytest.warns(UserWarning, match=r"under Adam:.*Adam, AdamW.*LBFGS"):
        constrain(torch.optim.Adam([p]), expr(p).sum() == 1, mode="post")
    q = vector(1.0, 2.0)
    groups = [{"params": [p], "lr": 0.1}, {"params": [q], "lr": 0.2}]
    with pytest.warns(UserWarning, match="different learning rates"):
        constrain(torch.optim.SGD(groups), expr(p).sum() == expr(q).sum(), mode="post")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        constrain(torch.optim.SGD([p], lr=0.1), expr(p).sum() == 1, mode="post")


REFUSED = {
    "no equation": (lambda p: [True], {}, "equation 0 is a bool"),
    "nothing trained": (lambda p: [expr(vector(1.0)) == 1], {}, "no parameter that this"),
    "mode": (lambda p: [expr(p) == 1], {"mode": "dual"}, "mode='dual'"),
    "start": (lambda p: [expr(p) == 1], {"start": "no"}, "start='no'"),
    "log": (lambda p: [expr(p) == 1], {"log": -1}, "log=-1"),
    "module": (lambda p: [expr(p) == 1], {"module": 3}, "module is a int"),
    "variant": (lambda p: [expr(p) == 1], {"variant": "lu"}, "lu"),
    "rows that overlap, in a metric": (
        lambda p: [torch.ones(2, 2, dtype=F64) @ expr(p) == 3],
        {"mode": "metric"},
        "share no parameter entry",
    ),
    "nothing": (lambda p: [], {}, "no equation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_before_anything_changes(name):
    equations, keywords, message = REFUSED[name]
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(projlab.InputError, match=message):
        constrain(optimizer, *equations(p), **keywords)
    assert p.tolist() == [1.0, 2.0]
    assert not optimizer._optimizer_step_pre_hooks


def test_a_parameter_that_holds_nan_is_refused():
    nan = vector(torch.nan)
    with pytest.raises(projlab.InputError, match="NaN"):
        constrain(torch.optim.SGD([nan], lr=0.1), expr(nan) == 1)


def test_equations_that_hold_no_entry_are_certified():
    p = vector(1.0, 2.0)
    optimizer = torch.optim.SGD([p], lr=0.1)
    handle = constrain(optimizer, 0 * expr(p)[:2] == 0)
    assert handle.blocks == ()
    certificate = handle.certify()
    assert certificate.verdict == "certified"
    assert certificate.forward_error_bound == 0.0
    p.grad = torch.ones(2, dtype=F64)
    optimizer.step()
    assert handle.largest_residual == 0.0


def test_certificates_of_several_blocks_are_one_the_worst():
    W, p = torch.nn.Parameter(torch.ones(3, 4, dtype=F64)), vector(1.0, 2.0)
    optimizer = torch.optim.SGD([W, p], lr=0.1)
    handle = constrain(optimizer, expr(W).sum(1) == 4, expr(p).sum() == 3)
    assert len(handle.blocks) == 2
    assert handle.certify().verdict == "certified"
    with torch.no_grad():
        W[1] += 1.0
    broken = handle.certify()
    assert broken.verdict == "failed"
    assert isinstance(broken.forward_error_bound, float)
    # row 1 is (2, 2, 2, 2), its projection (1, 1, 1, 1); nothing else is off
    assert broken.forward_error_bound == pytest.approx(1.0)
    assert broken.forward_error_at_least == 0.0
    assert broken.feasibility == pytest.approx(4 / (2 * (4 + 4) + 4))


def test_what_was_frozen_or_replaced_since_stands_in_the_way_of_nothing():
    """Found by drawn orders of calls: equations that were taken once are not refused later."""
    W, v = parameter(2, 3), parameter(4)
    optimizer = torch.optim.SGD([W, v], lr=0.1)
    rows = constrain(optimizer, expr(W).sum(1) == 1)
    total = constrain(optimizer, 2 * expr(W).sum() == 4)
    W.requires_grad_(False)
    v.grad = torch.ones_like(v)
    optimizer.step()  # two equations that hold nothing that varies are not one stated twice
    tied = constrain(optimizer, expr(v)[0] == expr(v)[1])
    with pytest.raises(projlab.InconsistentError):
        constrain(optimizer, expr(v)[0] - expr(v)[1] == 1)
    with pytest.raises(projlab.InputError, match="no parameter that this optimizer trains"):
        constrain(optimizer, expr(W)[0, 0] == 1)
    tied.set_right_side(None)
    total.remove()
    optimizer.param_groups[0]["params"][1] = torch.nn.Parameter(v.detach().clone())
    with pytest.raises(projlab.ProjlabError, match="no longer holds"):
        optimizer.step()
    for handle in (rows, tied):
        handle.remove()
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.filterwarnings("ignore:no parameters satisfy")  # once for each time it is derived
def test_equations_that_have_lost_their_points_stand_in_the_way_of_nothing():
    """A buffer leaves a set and a sum without points, until it comes back."""
    w, v, rest = vector(0.25, 0.25, 0.5), vector(1.0, 2.0), vector(1.0, 2.0)
    cap, total = torch.ones(1, dtype=F64), torch.full((1,), 3.0, dtype=F64)
    optimizer = torch.optim.SGD([w, v, rest], lr=0.1)
    held = [
        constrain(optimizer, expr(w).sum() == 1, expr(w) <= expr(cap)),
        constrain(optimizer, expr(v).sum() == expr(total), 2 * expr(v).sum() == 6),
    ]
    other = constrain(optimizer, expr(rest).sum() == 3)

    def step():
        for p in (w, v, rest):
            p.grad = torch.arange(p.numel(), dtype=F64) if p.requires_grad else None
        optimizer.step()

    cap.fill_(0.2)
    total.fill_(5.0)
    step()
    rest.requires_grad_(False)
    step()
    twin = copy.deepcopy(optimizer)
    assert twin._optimizer_step_pre_hooks
    rest.requires_grad_(True)
    step()
    other.remove()
    with pytest.raises(projlab.InconsistentError):
        constrain(optimizer, expr(rest).sum() == 3)
    with pytest.raises(projlab.InconsistentError):
        held[1].set_right_side(None, 8)
    cap.fill_(1.0)
    total.fill_(3.0)
    step()
    for handle in held:
        assert handle.residual().abs().max() < 1e-15
        assert handle.certify().verdict == "certified"
        handle.remove()


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_spread(lost):
    """A sum would hand it to every other entry."""
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = constrain(optimizer, expr(net.weight).sum(1) == 1, expr(net.weight) >= 0, module=net)
    average = copy.deepcopy(net)
    for module, project, whose in (
        (net, handle.apply, "a constrained parameter"),
        (average, lambda: handle.project(average), "a parameter of the copy"),
    ):
        with torch.no_grad():
            module.weight[0] = torch.tensor([lost, 1.0, 2.0])
        before = module.weight.detach().clone()
        with pytest.raises(projlab.InputError, match=f"{whose} holds NaN or infinity"):
            project()
        assert torch.equal(module.weight.nan_to_num(9), before.nan_to_num(9))
