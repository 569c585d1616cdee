"""Programs drawn at random: an expression's matrix is the Jacobian of the same torch code.

Names of rows are evaluated as the code that they look like.
"""

import math
import re

import hypothesis
import hypothesis.strategies as st
import torch

from projlab import expr
from projlab.training.expressions.expression import Expression
from projlab.training.expressions.labels import ParameterNames
from tests.projlab.training.expressions.parameters import F64

SIZES = st.integers(1, 4)


def matrix(e, parameter):
    """(entries of e, entries of the parameter)."""
    M = torch.zeros(math.prod(e.shape), parameter.numel(), dtype=F64)
    for term in e.terms:
        if term.parameter is parameter:
            i, j, values = term.triplets()
            M.index_put_((i, j), values, accumulate=True)
    return M


def constants(draw, shape):
    whole = st.lists(st.integers(-3, 3), min_size=math.prod(shape), max_size=math.prod(shape))
    return torch.tensor(draw(whole), dtype=F64).reshape(shape)


def dims_of(draw, ndim):
    return tuple(draw(st.lists(st.integers(0, ndim - 1), min_size=1, max_size=ndim, unique=True)))


def index(draw, shape):
    key = []
    for size in shape[: draw(st.integers(1, len(shape)))]:
        kinds = ["int", "slice", "none", "list", "range", "mask", "array"]
        kind = draw(st.sampled_from(kinds[:3] if key else kinds))  # arrays for the first alone
        if kind == "none":
            key += [None, slice(None)]
        elif kind == "int":
            key.append(draw(st.integers(-size, size - 1)))
        elif kind == "slice":
            start = draw(st.integers(0, size - 1))
            key.append(slice(start, draw(st.integers(start + 1, size)), draw(st.integers(1, 2))))
        elif kind == "range":
            return range(draw(st.integers(1, size)))
        elif kind == "mask":
            return torch.tensor([True, *[draw(st.booleans()) for _ in range(size - 1)]])
        else:
            found = draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=5))
            return found if kind == "list" else torch.tensor(found)
    return tuple(key)


def step(draw, e, t, used):
    """One more operation on both; constants are noted, under the letter that names have for them.

    A constant that names do not show as it is has the letter "?".
    """
    shape, ndim = tuple(t.shape), t.dim()
    choices = ["scale", "negate", "weights", "plus", "wide", "reshape", "stack", "roll"]
    if ndim:
        choices += [
            "sum",
            "mean",
            "index",
            "flip",
            "permute",
            "cat",
            "unsqueeze",
            "einsum",
            "outer",
        ]
    if ndim > 1:
        choices += ["diagonal", "transpose", "flatten"]
    if ndim in (1, 2):
        choices += ["matrix", "right"]
    kind = draw(st.sampled_from(choices))
    both = (e, t)
    if kind == "scale":
        return [2.5 * v for v in both]
    if kind == "negate":
        return [-v for v in both]
    if kind in ("weights", "wide"):
        C = constants(draw, shape if kind == "weights" else (2, *shape))
        used.append(("c", C))
        return [C * v for v in both]
    if kind == "plus":
        C = constants(draw, shape)
        used.append(("c", C))
        return [v + C - v / 4 for v in both]
    if kind == "outer":
        return [v.unsqueeze(0) + 2 * v.unsqueeze(1) for v in both]
    if kind == "reshape":
        return [v.reshape(-1) if ndim != 1 else v.reshape(1, -1) for v in both]
    if kind == "stack":
        dim = draw(st.integers(-ndim - 1, ndim))
        return [torch.stack([v, 2 * v], dim) for v in both]
    if kind == "roll":
        n = draw(st.integers(-3, 3))
        return [v.roll(n) for v in both]
    if kind in ("sum", "mean", "flip"):
        dims = dims_of(draw, ndim)
        if kind == "flip":
            return [torch.flip(v, dims) for v in both]
        keepdim = draw(st.booleans())
        return [getattr(v, kind)(dims, keepdim=keepdim) for v in both]
    if kind == "index":
        key = index(draw, shape)
        return [v[key] for v in both]
    if kind == "permute":
        order = draw(st.permutations(range(ndim)))
        return [v.permute(order) for v in both]
    if kind == "cat":
        dim = draw(st.integers(-ndim, ndim - 1))
        return [torch.cat([v, v], dim) for v in both]
    if kind == "unsqueeze":
        dim = draw(st.integers(-ndim - 1, ndim))
        return [v.unsqueeze(dim) for v in both]
    if kind == "einsum":
        letters = "abcdefgh"[:ndim]
        C = constants(draw, (2, shape[0]))
        used.append(("?", C))
        left = draw(st.permutations(letters + "z"))[: draw(st.integers(0, ndim + 1))]
        return [torch.einsum(f"z{letters[0]},{letters}->{''.join(left)}", C, v) for v in both]
    if kind == "diagonal":
        offset = draw(st.integers(-1, 1))
        return [v.diagonal(offset) for v in both]
    if kind == "transpose":
        return [v.transpose(0, -1) for v in both]
    if kind == "flatten":
        return [v.flatten(0, 1) for v in both]
    C = constants(draw, (2, shape[0] if kind == "matrix" else shape[-1]))
    used.append(("A", C if kind == "matrix" else C.T))
    return [C @ v if kind == "matrix" else v @ C.T for v in both]


def assert_names(e, value, parameter, used):
    """Rows' names that can be evaluated have the values of the rows, printed to six digits."""
    known = {"p0": parameter, "W0": parameter}
    known["cat"] = lambda *parts: torch.cat([part.reshape(-1) for part in parts])
    known.update(used if len(used) == 1 else [])
    equation = e == 0
    names = ParameterNames({}, equation.parameters)
    for row, wanted in enumerate(value.flatten()):
        text = equation.row_name(row, names).removesuffix(" == 0")
        unknown = {"A", "c"} - {*known}
        if "..." in text or unknown & {*re.findall(r"\b[Ac]\b", text)}:
            continue
        found = torch.as_tensor(eval(text, known), dtype=F64)  # noqa: S307  our own text
        assert found.numel() == 1, text
        torch.testing.assert_close(
            found.reshape(()), wanted, rtol=1e-5, atol=1e-4, msg=lambda m, t=text: f"{t}: {m}"
        )


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.data())
def test_a_program_of_an_expression_is_the_jacobian_of_the_program(data):
    draw = data.draw
    shape = tuple(draw(st.lists(SIZES, min_size=0, max_size=3)))
    parameter = torch.nn.Parameter(
        torch.arange(1.0, 1 + math.prod(shape), dtype=F64).reshape(shape)
    )
    operations = draw(st.integers(1, 5))
    e, found = expr(parameter), parameter.detach()
    program, used = [], []

    def run(t, choices):
        replay = iter(choices)
        for _ in range(operations):
            _, t = step(lambda _: next(replay), t, t, [])
        return t

    def recording(strategy):
        program.append(draw(strategy))
        return program[-1]

    for _ in range(operations):
        e, found = step(recording, e, found, used)
        if found.numel() == 0 or found.numel() > 400 or found.dim() > 5:
            return
    assert isinstance(e, Expression)
    assert e.shape == found.shape
    jacobian = torch.autograd.functional.jacobian(lambda t: run(t, program), parameter.detach())
    wanted = jacobian.reshape(found.numel(), parameter.numel())
    torch.testing.assert_close(matrix(e, parameter), wanted, rtol=1e-12, atol=1e-12)
    repr(e)
    repr(e == 0)
    assert_names(e, found, parameter.detach(), used)
