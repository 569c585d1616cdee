"""Derivatives of a projection, of every order, from one self-adjoint solve.

With K = [W A'; A 0] and z = (x*, y), K z = (W x, b). A perturbation gives dz = K^-1 (d(W x), db) -
K^-1 dK z, so that incoming gradients (g, h) of (x*, y) lead to (l, k) = K^-1 (g, h) and

    grad x = W l,   grad b = k,   grad A = -(y l' + k x*').

Of sparse A only its stored values count: the gradient is taken at their positions alone.

(l, k) is the same solve, with the same factors: it is called again, and so differentiable again.
Reference: Amos and Kolter, "OptNet", ICML 2017, section 3.1 (the equality-constrained case).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from projlab.engine.blocks import AnySolver
from projlab.errors import InputError, ProjlabError, RankDeficientError
from projlab.numerics.precision import stated_precision


class Pattern(NamedTuple):
    """Where sparse A (m, n) stores values (k,), or (B, k), which then are given in its place."""

    rows: Tensor
    cols: Tensor
    shape: tuple[int, int]


class Source(Protocol):
    """Where a solver comes from: one that exists, or one to be built from A and b."""

    @property
    def pattern(self) -> Pattern | None:
        """Of sparse A that is not constant."""

    def bind(self, x: Tensor, A: Tensor | None, b: Tensor | None) -> AnySolver:
        """The solver for plain tensors, built if need be."""

    @property
    def batched(self) -> bool:
        """Whether a constant constraint is a batch of systems."""

    def solvers(self) -> Sequence[AnySolver]:
        """Those that exist: one, or under `vmap` over A the one with a system a lane."""

    def stacked(self) -> "Source":
        """The source for one system a lane, under `vmap` over A."""


def solve(
    x: Tensor,
    A: Tensor | None,
    b: Tensor | None,
    source: Source,
    *,
    homogeneous: bool,
    dual: bool,
    want_multipliers: bool,
) -> tuple[Tensor, Tensor | None]:
    """x* and, where wanted, y (see `Solver.solve`), differentiable in x, A and b.

    A is None for constants, the stored values where the source has a pattern; b None for the
    constraint's own (or zero, where homogeneous); otherwise b is (m,), (B, m), or has the leading
    dimensions of x.
    """
    function: Any = _Solve
    out = function.apply(x, A, b, source, homogeneous, dual, want_multipliers)
    return out if want_multipliers else (out, None)


def _metric_inverse(v: Tensor, source: Source) -> Tensor:
    function: Any = _MetricInverse
    out: Tensor = function.apply(v, source)
    return out


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in the stated precision, and so its derivatives."""
    function: Any = _Product
    out: Tensor = function.apply(left, right)
    return out


class _Solve(torch.autograd.Function):
    """(x, A, b) to x*, or to (x*, y) where the multipliers are wanted."""

    @staticmethod
    def forward(
        x: Tensor,
        A: Tensor | None,
        b: Tensor | None,
        source: Source,
        homogeneous: bool,
        dual: bool,
        want_multipliers: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        solver = source.bind(x, A, b)
        if b is not None:
            b = _beside(b, x, solver.batched).expand(*x.shape[:-1], b.shape[-1])
        projected, y = solver.solve(
            x, b, homogeneous=homogeneous, dual=dual, want_multipliers=want_multipliers
        )
        # autograd refuses to change a view in place, and nobody sees that these are views
        projected = projected.clone() if projected._is_view() else projected
        if y is None:
            return projected
        return projected, y.clone() if y._is_view() else y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, A, b, ctx.source, _, ctx.dual, ctx.want_multipliers = inputs
        ctx.b_shape = None if b is None else b.shape
        ctx.set_materialize_grads(False)
        if A is None:
            ctx.saved = False
        else:
            ctx.saved = True
            ctx.save_for_backward(A, *output)
            ctx.save_for_forward(A, *output)
        ctx.x_like = (x.shape, x.dtype, x.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        g = grads[0]
        h = grads[1] if ctx.want_multipliers else None
        A, projected, y = ctx.saved_tensors if ctx.saved else (None, None, None)
        if g is None and h is None:
            return (None,) * 7
        if g is None:
            shape, dtype, device = ctx.x_like
            g = torch.zeros(shape, dtype=dtype, device=device)
        needs_x, needs_A, needs_b = ctx.needs_input_grad[:3]
        grad_x, k = solve(
            g,
            A,
            h,
            ctx.source,
            homogeneous=h is None,
            dual=not ctx.dual,
            want_multipliers=needs_b or A is not None,
        )
        grad_A = grad_b = None
        if needs_A or needs_b:
            require_full_rank(ctx.source)
        if needs_A:
            assert A is not None
            assert projected is not None
            assert y is not None
            assert k is not None
            grad_A = in_rows(grad_x, k, projected, y, A, ctx.source, dual=ctx.dual)
        if needs_b:
            assert k is not None
            grad_b = sum_to(k, ctx.b_shape)
        return grad_x if needs_x else None, grad_A, grad_b, None, None, None, None

    @staticmethod
    def jvp(
        ctx: Any, dx: Tensor | None, dA: Tensor | None, db: Tensor | None, *_: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        shape, dtype, device = ctx.x_like
        if dx is None:
            dx = torch.zeros(shape, dtype=dtype, device=device)
        A, projected, y = ctx.saved_tensors if ctx.saved else (None, None, None)
        if not ctx.dual and (dA is not None or db is not None):
            require_full_rank(ctx.source)
        if A is not None:
            _refuse_forward_over_forward()
        if db is not None:
            batched = _batched(A, ctx.source)
            db = _beside(db, dx, batched).expand(*dx.shape[:-1], db.shape[-1])
        if dA is not None:
            assert projected is not None
            assert y is not None
            with stated_precision(dx.device):
                move = _rows_times(y, dA, source=ctx.source)
                dx = dx - (move if ctx.dual else _metric_inverse(move, ctx.source))
                point = _metric_inverse(projected, ctx.source) if ctx.dual else projected
                change = _rows_times(point, dA, source=ctx.source, transposed=True)
                db = -change if db is None else db - change
        moved, dy = solve(
            dx,
            A,
            db,
            ctx.source,
            homogeneous=db is None,
            dual=ctx.dual,
            want_multipliers=ctx.want_multipliers,
        )
        return moved if dy is None else (moved, dy)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        A: Tensor | None,
        b: Tensor | None,
        source: Any,
        homogeneous: bool,
        dual: bool,
        want_multipliers: bool,
    ) -> tuple[Any, Any]:
        size = info.batch_size
        x_dim, A_dim, b_dim = in_dims[:3]
        lanes = A_dim is not None
        if lanes and source.pattern is not None:
            raise InputError("vmap over the values of a sparse A: give dense A, or loop over them")
        batched = A.dim() == 4 if A is not None and lanes else _batched(A, source)
        if A is not None and A_dim is not None:
            A, x = _to_front(A, A_dim, size), _to_front(x, x_dim, size)
            b = None if b is None else _to_front(b, b_dim, size)
            if batched:
                A, x = A.flatten(0, 1), x.flatten(0, 1)
                b = None if b is None else b.flatten(0, 1)
            source, place = source.stacked(), 0
        else:
            x, b, place = spread(x, x_dim, b, b_dim, size, batched)
        projected, y = solve(
            x,
            A,
            b,
            source,
            homogeneous=homogeneous,
            dual=dual,
            want_multipliers=want_multipliers,
        )
        if lanes and batched:
            projected = projected.unflatten(0, (size, -1))
            y = None if y is None else y.unflatten(0, (size, -1))
        return (projected, place) if y is None else ((projected, y), (place, place))


class _MetricInverse(torch.autograd.Function):
    """v to W^-1 v, its own adjoint."""

    @staticmethod
    def forward(v: Tensor, source: Any) -> Tensor:
        metric = source.solvers()[0].metric
        if metric is None:
            return v.clone()
        with stated_precision(v.device):
            inverse: Tensor = metric.inverse(v)
            return inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.source = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, None]:
        return _metric_inverse(grads[0], ctx.source), None

    @staticmethod
    def jvp(ctx: Any, dv: Tensor, _: Any) -> Tensor:
        return _metric_inverse(dv, ctx.source)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], v: Tensor, source: Any) -> tuple[Any, Any]:
        return _metric_inverse(v, source), in_dims[0]


def _batched(A: Tensor | None, source: Source) -> bool:
    """Whether A, as `solve` takes it, is a batch of systems."""
    if A is None:
        return source.batched
    return A.dim() == (3 if source.pattern is None else 2)


def _beside(b: Tensor, x: Tensor, batched: bool) -> Tensor:
    """(m,) or (B, m) with the leading dimensions of x made room for."""
    while b.dim() < x.dim():
        b = b.unsqueeze(1 if batched else 0)
    return b


def sum_to(k: Tensor, shape: torch.Size) -> Tensor:
    """Sum gradients (..., m) over the dimensions that b was spread over."""
    first = len(shape) - 1  # 0 for (m,), 1 for (B, m)
    extra = k.dim() - len(shape)
    return k.sum(dim=tuple(range(first, first + extra))) if extra else k


def in_rows(
    grad_x: Tensor,
    k: Tensor,
    projected: Tensor,
    y: Tensor,
    A: Tensor,
    source: Source,
    *,
    dual: bool,
) -> Tensor:
    """The gradient in A, -(y l' + k x*'), of a solve that gave (x*, y), and (W l, k) backward."""
    length, point = (
        (grad_x, _metric_inverse(projected, source))
        if dual
        else (_metric_inverse(grad_x, source), projected)
    )
    pattern = source.pattern
    return -(_outer(y, length, A, pattern) + _outer(k, point, A, pattern))


def _outer(left: Tensor, right: Tensor, A: Tensor, pattern: Pattern | None) -> Tensor:
    """Sum over the vectors of left right', in the shape of A."""
    if pattern is not None:
        products = left[..., pattern.rows] * right[..., pattern.cols]
        return products.reshape(*A.shape[:-1], -1, A.shape[-1]).sum(-2)
    lead = A.shape[:-2]
    vectors = left.shape[len(lead) : -1].numel()  # of m = 0 rows -1 would be ambiguous
    left = left.reshape(*lead, vectors, left.shape[-1])
    right = right.reshape(*lead, vectors, right.shape[-1])
    return product(left.mT, right)


def _rows_times(v: Tensor, A: Tensor, *, source: Source, transposed: bool = False) -> Tensor:
    """v A, or v A', over the last dimension, per element for batched A."""
    pattern = source.pattern
    if pattern is not None:
        rows, cols, (m, n) = pattern
        taken, given, length = (cols, rows, m) if transposed else (rows, cols, n)
        values = A.reshape(*A.shape[:-1], *[1] * (v.dim() - A.dim()), A.shape[-1])
        products = v[..., taken] * values
        return products.new_zeros(*products.shape[:-1], length).index_add(-1, given, products)
    A = A.mT if transposed else A
    if A.dim() == 2:
        return v @ A
    lead = v.shape[:-1]
    product: Tensor = v.reshape(A.shape[0], -1, v.shape[-1]) @ A
    return product.reshape(*lead, A.shape[-1])


class _Product(torch.autograd.Function):
    """A matrix product whose derivatives, too, are computed in the stated precision."""

    generate_vmap_rule = True

    @staticmethod
    def forward(left: Tensor, right: Tensor) -> Tensor:
        with stated_precision(left.device):
            return left @ right

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        left, right = ctx.saved_tensors
        return product(grads[0], right.mT), product(left.mT, grads[0])

    @staticmethod
    def jvp(ctx: Any, dl: Tensor | None, dr: Tensor | None) -> Tensor:
        left, right = ctx.saved_tensors
        if dl is None:
            assert dr is not None
            return product(left, dr)
        return product(dl, right) if dr is None else product(dl, right) + product(left, dr)


def require_full_rank(source: Source) -> None:
    """Raise `RankDeficientError` where a derivative in A or b does not exist."""
    for solver in source.solvers():
        if not solver.full_rank:
            raise RankDeficientError(
                f"the derivative in A and b exists at full row rank only; the numerical rank is "
                f"{min(solver.facts.ranks)} of {solver.shape[0]} rows. Remove the redundant rows "
                "(projlab.diagnose names them), or detach A and b."
            )


def _refuse_forward_over_forward() -> None:
    """torch runs a custom function's `jvp` with forward mode off: an outer level would see zero."""
    levels = [level.key() for level in torch._C._functorch.get_interpreter_stack() or []]
    if levels.count(torch._C._functorch.TransformType.Jvp) > 1:
        raise ProjlabError(
            "forward-mode over forward-mode differentiation of project is not supported: torch "
            "drops the inner derivative. Use jacfwd(jacrev(...)) or torch.func.hessian."
        )


def _to_front(t: Tensor, dim: int | None, size: int) -> Tensor:
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def spread(
    x: Tensor, x_dim: int | None, b: Tensor | None, b_dim: int | None, size: int, batched: bool
) -> tuple[Tensor, Tensor | None, int]:
    """x and b with the dimension that `vmap` maps over put where a solver takes it, and where."""
    place = 1 if batched else 0
    x = _to_front(x, x_dim, size).movedim(0, place)
    if b is None:
        return x, None, place
    if b_dim is not None:
        b = b.movedim(b_dim, place)
        while b.dim() < x.dim():  # one right-hand side a lane, for all its vectors
            b = b.unsqueeze(-2)
    elif b.dim() > place + 1:
        b = b.unsqueeze(place)
    else:
        return x, b, place
    return x, b.expand(*x.shape[:-1], b.shape[-1]), place
