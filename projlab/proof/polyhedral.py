"""A bound on the distance to the projection onto a polyhedron, however x was found.

Any multipliers (y, z >= 0) give w = x0 - A'y - G'z and x^ = clamp(w, lb, ub), which minimises the
Lagrangian over the box. For x within its bounds let the right sides be what x makes of them,
b' = A x and h' = max(h, G x). On that set x is feasible, the duality gap is

    gap = sum_j ((x_j - w_j)^2 - (x^_j - w_j)^2) / 2 + z'(h' - G x),

each term of which is at least zero, and 1/2 ||x - x*||^2 <= gap, because the objective is strongly
convex with constant one. How far b' is from b, and h' from h, is `feasibility`; where x holds the
rows exactly, nothing is left out. w is evaluated in twice the precision, since terms of A'y cancel.

Reference: Boyd and Vandenberghe, "Convex optimization", 2004, sections 5.5.1 and 9.1.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from projlab import tolerance
from projlab.numerics.double_double import Pair, add, exact, negative
from projlab.proof.rounding import norms
from projlab.system.polyhedron import Polyhedron
from projlab.system.rows import Rows


@dataclass(frozen=True)
class Gap:
    """What multipliers prove of k points."""

    distance: Tensor
    """(k,) upper bound on ||x - x*||, x* on the set with the right sides that x has."""
    feasibility: Tensor
    """(k,) largest |A x - b| and G x - h over the norms of the row and of x, and of bounds."""
    nearest: Tensor
    """(k, n) x^."""


def duality_gap(
    polyhedron: Polyhedron,
    x0: Tensor,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    right: tuple[Tensor, Tensor],
    bounds: tuple[Tensor, Tensor],
) -> Gap:
    """Of points x (k, n) for x0 (k, n), with multipliers y (k, m) and z (k, p), all in float64.

    `right` holds b (k, m) and h (k, p), `bounds` lb and ub (k, n). Negative z count as zero.
    """
    lb, ub = bounds
    z = z.clamp_min(0)
    rows = (
        None if polyhedron.equations is None else polyhedron.equations.rows.to(torch.float64),
        None if polyhedron.inequalities is None else polyhedron.inequalities.to(torch.float64),
    )
    w, noise = _lagrangian(rows, x0, y, z)
    inside = x.clamp(lb, ub)
    nearest = w.clamp(lb, ub)
    apart = (inside - nearest).abs() + noise
    terms = apart * (((inside - w).abs() + (nearest - w).abs()) / 2 + noise)
    # on a bound that w is beyond, by more than its rounding, the term is zero
    held = ((inside == lb) & (w < lb - noise)) | ((inside == ub) & (w > ub + noise))
    total = torch.where(held | (lb == ub), 0.0, terms).sum(-1)
    size = norms(x) + norms(x0)
    parts = [norms(inside - x) / torch.where(size > 0, size, 1.0)]
    for part, multipliers, side, equal in zip(rows, (y, z), right, (True, False), strict=True):
        if part is None:
            continue
        used = torch.isfinite(side)
        over = torch.where(used, part.matvec(x) - side, 0.0)
        scale = part.row_norms() * size.unsqueeze(-1) + torch.where(used, side, 0.0).abs()
        off = over.abs() if equal else over.clamp_min(0)
        parts.append((off / torch.where(scale > 0, scale, 1.0)).amax(-1))
        if not equal:
            slack = torch.where(used, -over, 0.0).clamp_min(0)
            rounding = tolerance.sum_rounding(x.shape[-1], _U) * scale
            total = total + (multipliers * torch.where(slack > rounding, slack + rounding, 0)).sum(
                -1
            )
    distance = (2 * total).sqrt() * (1 + tolerance.PROOF_ROUNDING)
    return Gap(distance, torch.stack(parts).amax(0), nearest)


_U = tolerance.unit_roundoff("float64")


def _lagrangian(
    rows: tuple[Rows | None, Rows | None], x0: Tensor, y: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """x0 - A'y - G'z (k, n), rounded once, and a bound on that rounding."""
    found = []
    for k in range(len(x0)):
        pair = exact(x0[k])
        for part, multipliers in zip(rows, (y, z), strict=True):
            if part is not None and part.shape[0]:
                product: Pair = part.rmatvec_pair(exact(multipliers[k]))
                pair = add(pair, negative(product))
        found.append(pair.value())
    w = torch.stack(found)
    return w, 2 * _U * (w.abs() + x0.abs())
