"""Derivatives: of a kept projection in x, and of the one-off form in A, b and x.

With g = z + A'w, z the tangent projection of g, the gradient of <g, P(x0)> is z in x0, w in b and
-(y z' + w x*') in A: `systems.Exact` knows them all.
"""

import sympy  # noqa: F401  torch does at the first backward pass: once here, not in every fork
import torch

import projlab
from benchmarks import common, parameters
from projlab import tolerance


def _require(found, wanted, case, P):
    """Gradients are projections with the same factors: their error has the same bound."""
    m, n = case.shape
    scale = 3 * common.error_bound(case, P) * float(case.g.double().norm() / wanted.norm())
    error = common.relative(found.flatten(), wanted.flatten())
    allowed = max(
        scale, 3 * tolerance.dimension_factor(m, n) * tolerance.unit_roundoff(wanted.dtype)
    )
    if not error <= allowed:
        raise AssertionError(f"a gradient is off by {error:.2g}, more than {allowed:.2g} allowed")


class Kept:
    """Forward and backward of `P(x)`, for x that requires grad."""

    params = (
        common.VARIANTS,
        ("1x10", "3x10", "10x100", "100x1000", "500x2000"),
        parameters.DTYPES,
        parameters.DEVICES,
    )
    param_names = ("variant", "size", "dtype", "device")

    def setup(self, variant, size, dtype, device):
        self.case = common.system(size, dtype, device)
        self.P = common.projector(self.case, variant)
        self.x = self.case.x0.clone().requires_grad_()
        (found,) = self._run()
        _require(found, self.case.z, self.case, self.P)
        self.synchronize = common.synchroniser(device)

    def _run(self):
        return torch.autograd.grad(self.P(self.x), self.x, self.case.g)

    def time_backward(self, variant, size, dtype, device):
        self._run()
        self.synchronize()


class OneOff:
    """Forward and backward of `project(x, A, b)`, all three requiring grad."""

    params = (
        common.VARIANTS,
        ("1x10", "3x10", "10x100", "100x1000"),
        parameters.DTYPES,
        parameters.DEVICES,
    )
    param_names = ("variant", "size", "dtype", "device")

    def setup(self, variant, size, dtype, device):
        self.case = case = common.system(size, dtype, device)
        P = common.projector(case, variant)
        self.leaves = tuple(t.clone().requires_grad_() for t in (case.x0, case.A, case.b))
        in_x, in_A, in_b = self._run(variant)
        wanted = -(torch.outer(case.y, case.z) + torch.outer(case.w, case.x))
        _require(in_x, case.z, case, P)
        _require(in_A, wanted, case, P)
        _require(in_b, case.w, case, P)
        self.synchronize = common.synchroniser(device)

    def _run(self, variant):
        x, A, b = self.leaves
        projected = projlab.project(x, A, b, variant)
        return torch.autograd.grad(projected, self.leaves, self.case.g)

    def time_backward(self, variant, size, dtype, device):
        self._run(variant)
        self.synchronize()
