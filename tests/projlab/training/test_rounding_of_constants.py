"""Constants on both sides, sleeping parameters and coarse ones: what rounding may have moved."""

import copy
import warnings

import pytest
import torch

from projlab import InconsistentError, InputError, constrain, expr

F64 = torch.float64


def vector(*values, dtype=F64):
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def constrained(*stated, of):
    return constrain(torch.optim.SGD(of, lr=0.1), *stated)


MEANT_ALIKE = {
    "bounds that meet": (lambda p: [expr(p) >= 0.1, 1 - expr(p) >= 0.9], [0.1, 0.1]),
    "a bound that meets a row": (
        lambda p: [expr(p) >= 0.1, 1 - expr(p) >= 0.9, expr(p)[0] + 2 * expr(p)[1] <= 3],
        [0.1, 0.1],
    ),
    "one entry twice": (lambda p: [expr(p)[0] == 0.1, expr(p)[0] + 100 == 100.1], [0.1, 0.0]),
    "a sum twice": (
        lambda p: [expr(p).sum() + 1e4 == 1e4 + 0.3, expr(p).sum() == 0.3],
        [0.15, 0.15],
    ),
    "rows that follow from others": (
        lambda p: [
            expr(p)[0] + expr(p)[1] == 0.2,
            expr(p)[0] - expr(p)[1] == 0.0,
            1e3 + 3 * expr(p)[0] + expr(p)[1] == 1e3 + 0.4,
        ],
        [0.1, 0.1],
    ),
    "an equation between bounds": (
        lambda p: [expr(p) <= 0.1, 10 + expr(p).sum() == 10.2],
        [0.1, 0.1],
    ),
}


@pytest.mark.parametrize("name", MEANT_ALIKE)
def test_constants_that_agree_but_for_rounding(name):
    stated, expected = MEANT_ALIKE[name]
    p = vector(0.0, 0.0)
    constrained(*stated(p), of=[p])
    torch.testing.assert_close(p.data, torch.tensor(expected, dtype=F64), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "stated",
    [
        lambda p: [expr(p) >= 0.1, 1 - expr(p) >= 0.9 + 1e-13],
        lambda p: [expr(p)[0] == 0.1, expr(p)[0] + 100 == 100.1 + 1e-11],
        lambda p: [expr(p) <= 0.1, 10 + expr(p).sum() == 10.2 + 1e-12],
        lambda p: [expr(p) >= 0.1, expr(p) <= 0.09999999999999998],  # no rounding of constants
    ],
)
def test_more_than_rounding_is_refused(stated):
    p = vector(0.0, 0.0)
    with pytest.raises(InconsistentError):
        constrained(*stated(p), of=[p])
    assert p.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("i", range(100))
def test_what_a_sleeping_parameter_leaves_is_met_to_rounding(i):
    """What is left for the other is a bound, which it may miss by the rounding of both."""
    a, b = vector(0.01 * i), vector(0.9)
    optimizer = torch.optim.SGD([a, b], lr=0.1)
    handle = constrain(optimizer, expr(a) + expr(b) <= 0.7)
    b.grad = torch.tensor([-1.0], dtype=F64)
    assert handle.multipliers()[0].item() == 1.0
    before = b.item()
    optimizer.step()
    assert b.grad.item() == 0.0
    assert abs(b.item() - before) <= 1e-15
    b.grad = torch.tensor([1.0], dtype=F64)  # away from it
    assert handle.multipliers()[0].item() == 0.0
    optimizer.step()
    assert b.item() == pytest.approx(before - 0.1)


def test_bounds_that_cross_by_the_rounding_of_constants_meet_at_the_exact_one():
    """Found by drawn equations: a false warning, and an error of `certify`."""
    w, cap = vector(0.5, 0.2), torch.tensor([0.4, 0.5], dtype=F64)
    optimizer = torch.optim.SGD([w], lr=0.1)
    handle = constrain(optimizer, expr(w) >= 0, expr(w) + expr(cap) <= 1)
    cap[0] = 1 + 2.0**-52
    for push in (-1.0, 1.0, -1.0):
        w.grad = torch.tensor([push, 1.0], dtype=F64)
        optimizer.step()
        assert w[0].item() == 0.0
    assert handle.largest_residual == 0.0
    assert handle.certify().verdict == "certified"
    w.grad = torch.tensor([-1.0, 1.0], dtype=F64)
    lower, upper = handle.multipliers()
    assert (lower.tolist(), upper.tolist()) == ([0.0, 1.0], [1.0, 0.0])
    cap[0] = 1 + 1e-9
    with pytest.warns(UserWarning, match="no parameters satisfy the constraints as they are now"):
        optimizer.step()


def test_bounds_that_no_constant_touches_are_exact():
    """Those of other rows have no room, which would keep the kernels away, too."""
    w, v, frozen = vector(0.5, 0.3, 0.2), vector(0.4), vector(0.1)
    optimizer = torch.optim.SGD([w, v], lr=0.1)
    frozen.requires_grad_(False)
    handle = constrain(optimizer, expr(w).sum() == 1, expr(w) >= 0.1, expr(v) + expr(frozen) <= 0.7)
    system = handle._active.system
    of_constants = {}
    for block, b in system._current():
        on, sides = block._sides(system.current_b()).on, block._sides_of(b)
        of_constants[block.variant] = bool((on[0] == sides.lb).all() & (on[1] == sides.ub).all())
        assert (sides.listed is not None) is of_constants[block.variant]
    assert of_constants == {"disjoint_rows": True, "box": False}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_parameters_on_the_set_are_certified_in_their_own_precision(seed, bounded, dtype):
    draw = torch.Generator().manual_seed(seed)
    w = torch.nn.Parameter(torch.rand(5 + seed, generator=draw).to(dtype))
    beside = [expr(w) <= 5, expr(w) >= -5] if bounded else []
    handle = constrained(expr(w).sum() == 1, *beside, of=[w])
    assert handle.certify().verdict == "certified"


@pytest.mark.parametrize("how", ["apply", "project"])
def test_a_set_that_a_buffer_empties_is_said_outside_of_steps(how):
    cap = torch.tensor(1.0)
    module = torch.nn.Linear(3, 1, bias=False)
    w = module.weight
    optimizer = torch.optim.SGD([w], lr=0.1)
    handle = constrain(optimizer, expr(w).sum() <= expr(cap), expr(w) >= 0, module=module)
    act = handle.apply if how == "apply" else lambda: handle.project(copy.deepcopy(module))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        act()
    cap.fill_(-1.0)
    with pytest.warns(UserWarning, match="no parameters satisfy the constraints as they are now"):
        act()


def test_sums_that_overflow_are_refused():
    w = vector(*[1e38] * 4, dtype=torch.float32)
    with pytest.raises(InputError, match=r"residual of .*sum.* is infinite.*nothing was changed"):
        constrained(expr(w).sum() == 2e38, of=[w])
    assert w.data.tolist() == torch.full((4,), 1e38).tolist()


def test_sums_within_bounds_do_not_overflow():
    w = vector(*[1e38] * 4, dtype=torch.float32)
    constrained(expr(w).sum() == 2e38, expr(w) >= 0, of=[w])
    torch.testing.assert_close(w.data, torch.full((4,), 5e37))


def test_a_copy_on_meta_and_gradients_of_inference_are_refused():
    module = torch.nn.Linear(3, 1, bias=False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    handle = constrain(optimizer, expr(module.weight).sum() <= 1, module=module)
    with pytest.raises(InputError, match="weight is on the device meta in the copy"):
        handle.project(copy.deepcopy(module).to("meta"))
    before = module.weight.detach().clone()
    with torch.inference_mode():
        module.weight.grad = torch.ones(1, 3)
        with pytest.raises(InputError, match=r"gradient that was made under torch\.inference_mode"):
            optimizer.step()
    assert torch.equal(module.weight.detach(), before)
    module.weight.grad = torch.ones(1, 3)
    with torch.inference_mode():
        optimizer.step()
