"""The one-off projection: a Gram matrix, its inverted Cholesky factor, and corrections.

For A (m, n), or (B, m, n) at once, with A A' = L L' and S = L^-1,

    x <- x - A'S'S (A x - b),   repeated with the true residual.

One pass leaves a fraction of the distance to the set that is about kappa^2 u. kappa^2 is bounded
from S itself, before x is looked at: with d the diagonal of A A', the trace of the inverse of the
equilibrated Gram matrix is sum_i d_i ||S e_i||^2, and kappa^2 is at most m times that. The same
bound proves full row rank. What is not proven so is left to the careful way.

Reference: Higham, ASNA, sections 10.1 and 21.3; Bjorck, "Numerical Methods for Least Squares
Problems", section 2.9.3 (corrections with the same factor).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.autograd import product
from projlab.numerics.precision import lowered, stated_precision


class Gram(NamedTuple):
    """Independent rows A (m, n) or (B, m, n), and S with S A A'S' = I."""

    A: Tensor
    S: Tensor
    left: float
    """At most this fraction of the distance to the set is left by one pass, in every system."""

    def solve(
        self, x: Tensor, b: Tensor | None, *, want_multipliers: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x - A'y with A (x - A'y) = b, or zero where None, and y where wanted.

        x is (n,) or (k, n), with b (m,) or (k, m); for B systems (B, k, n), with b (B, 1, m) or
        (B, k, m).
        """
        u = tolerance.unit_roundoff(x.dtype)
        y: Tensor | None = None
        left = self.left
        for done in range(1, tolerance.CORRECTIONS + 1):
            step = self._multipliers(self._residual(x, b))
            x = self._corrected(x, step)
            if want_multipliers:
                y = step if y is None else y + step
            if done >= 2 and (left <= u or self._settled(step, x, u)):
                break
            left *= self.left
        return x, y

    def _residual(self, x: Tensor, b: Tensor | None) -> Tensor:
        if b is None:
            return self.A.mv(x) if x.dim() == 1 else x @ self.A.mT
        if x.dim() == 1:
            return torch.addmv(b, self.A, x, beta=-1)
        if x.dim() == 2:
            return torch.addmm(b, x, self.A.mT, beta=-1)
        return torch.baddbmm(b, x, self.A.mT, beta=-1)

    def _multipliers(self, r: Tensor) -> Tensor:
        if r.dim() == 1:
            return self.S.mT.mv(self.S.mv(r))
        if r.dim() == 3:  # what @ comes down to, without its deliberations
            return torch.bmm(torch.bmm(r, self.S.mT), self.S)
        return (r @ self.S.mT) @ self.S

    def _corrected(self, x: Tensor, y: Tensor) -> Tensor:
        if x.dim() == 1:
            return torch.addmv(x, self.A.mT, y, alpha=-1)
        if x.dim() == 2:
            return torch.addmm(x, y, self.A, alpha=-1)
        return torch.baddbmm(x, y, self.A, alpha=-1)

    def _settled(self, step: Tensor, x: Tensor, u: float) -> bool:
        """Whether what the last correction left is below the rounding of x."""
        moved = torch.linalg.vector_norm(step @ self.A, dim=-1)
        return bool((self.left * moved <= u * torch.linalg.vector_norm(x, dim=-1)).all())


def factored(A: Tensor, u: float) -> tuple[Gram | None, Tensor | None]:
    """The factor of A (m, n) or (B, m, n), m <= n, for data of unit roundoff u.

    None where full row rank is not proven, or corrections might not come down to rounding; then,
    for B systems, with a mask (B,) of those of which both are proven. One wait for the device.
    """
    (m, n), single = A.shape[-2:], A.dim() == 2
    work = tolerance.unit_roundoff(A.dtype)
    G = A @ A.mT if single else torch.bmm(A, A.mT)
    L, _ = torch.linalg.cholesky_ex(G)
    eye = torch.eye(m, dtype=A.dtype, device=A.device)
    S = torch.linalg.solve_triangular(L, eye if single else eye.expand_as(L), upper=False)
    d = G.diagonal(dim1=-2, dim2=-1)
    # of one system in one product, which is one call less
    squares = S.square()
    condition2 = m * (squares.mv(d).sum() if single else (squares.sum(-2) * d).sum(-1))
    limit = tolerance.gram_condition2_limit(m, n, data=u, work=work)
    low, high = tolerance.square_range(A.dtype)
    worst, least, most = _on_host(condition2 if single else condition2.amax(), *torch.aminmax(d))
    if not worst <= limit and low <= least and most <= high:
        # the Frobenius norm of the equilibrated Gram matrix bounds its largest eigenvalue sharper
        # than its trace does
        largest = (G.square() / (d.unsqueeze(-1) * d.unsqueeze(-2))).sum((-2, -1)).sqrt()
        condition2 = condition2 * (largest / m)
        (worst,) = _on_host(condition2.amax())
    if worst <= limit and low <= least and most <= high:  # false for NaN
        return Gram(A, S, tolerance.gram_contraction(m, n, worst, work)), None
    if single:
        return None, None
    return None, (condition2 <= limit) & ((d >= low) & (d <= high)).all(-1)


def _on_host(*values: Tensor) -> tuple[float, ...]:
    """Numbers, with one wait where a device has to be waited for."""
    if values[0].is_cpu:
        return tuple([value.item() for value in values])
    return tuple(torch.stack(values).tolist())


def solved(
    gram: Gram, x: Tensor, b: Tensor | None, *, want_multipliers: bool
) -> tuple[Tensor, Tensor | None]:
    """`Gram.solve`, whatever precision switches the caller has set."""
    if lowered(x.dtype, x.device.type):
        with stated_precision(x.device):
            return gram.solve(x, b, want_multipliers=want_multipliers)
    return gram.solve(x, b, want_multipliers=want_multipliers)


class GramSolve(torch.autograd.Function):
    """(x, A, b) to (x*, y), differentiable any number of times in reverse mode.

    The derivatives are those of `projlab.engine.autograd`, here without transforms, and with the
    factor that is there already.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, A: Tensor, b: Tensor | None, gram: Gram
    ) -> tuple[Tensor, Tensor]:
        """The projection of x, shaped as `Gram.solve` takes it, and the multipliers."""
        projected, y = solved(gram, x, b, want_multipliers=True)
        assert y is not None
        ctx.gram, ctx.b_shape = gram, None if b is None else b.shape
        # A may be the caller's own memory: a change of it before the gradient is asked for is told.
        # The result may be changed in place where A needs no gradient
        ctx.save_for_backward(A, *((projected, y) if ctx.needs_input_grad[1] else ()))
        ctx.set_materialize_grads(False)
        return projected, y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, h: Tensor | None) -> tuple[Any, ...]:
        """Gradients of x, A and b."""
        if g is None and h is None:
            return None, None, None, None
        needs_x, needs_A, needs_b = ctx.needs_input_grad[:3]
        A, projected, y = (*ctx.saved_tensors, None, None)[:3]
        if g is None:
            assert h is not None
            g = h.new_zeros(*h.shape[:-1], A.shape[-1])
        if torch.is_grad_enabled():
            function: Any = GramSolve
            length, k = function.apply(g, A, h, ctx.gram)
        else:
            length, k = solved(ctx.gram, g, h, want_multipliers=needs_A or needs_b)
        grad_A = None
        if needs_A:
            assert projected is not None
            assert y is not None
            left, right = torch.cat(_rows(y, k), -2), torch.cat(_rows(length, projected), -2)
            grad_A = -product(left.mT, right)
        grad_b = k.sum_to_size(ctx.b_shape) if needs_b else None
        return length if needs_x else None, grad_A, grad_b, None


def _rows(*vectors: Tensor) -> list[Tensor]:
    return [v.unsqueeze(0) if v.dim() == 1 else v for v in vectors]
