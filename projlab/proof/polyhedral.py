"""A bound on the distance to the projection onto a polyhedron, however x was found.

Any multipliers (y, z >= 0) give w = x0 - A'y - G'z and x^ = clamp(w, lb, ub), which minimises the
Lagrangian over the box. For x within its bounds let the right sides be what x makes of them,
b' = A x and h' = max(h, G x). On that set x is feasible, the duality gap is

    gap = sum_j ((x_j - w_j)^2 - (x^_j - w_j)^2) / 2 + z'(h' - G x),

each term of which is at least zero, and 1/2 ||x - x*||^2 <= gap, because the objective is strongly
convex with constant one. How far b' is from b, and h' from h, is `feasibility`; where x holds the
rows exactly, nothing is left out. w is evaluated in twice the precision, since terms of A'y cancel.

What rows are off by moves the projection, too: on the face where it ends, with the rows M it rests
on in the free columns, from right sides r to r + d by M^+ d, at most ||d|| / sigma_min(M).

Reference: Boyd and Vandenberghe, "Convex optimization", 2004, sections 5.5.1 and 9.1.2; Hoffman,
"On approximate solutions of systems of linear inequalities", J. Res. Nat. Bur. Standards 49 (1952).
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
    outside: Tensor
    """(k,) how far x is from its bounds."""
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
    return Gap(distance, torch.stack(parts).amax(0), norms(inside - x), nearest)


_U = tolerance.unit_roundoff("float64")

_MEASURED = 1e9
"""Of a face of m rows in n columns, m n min(m, n) up to which singular values are computed: a
second."""


@dataclass(frozen=True)
class FaceRows:
    """The rows that a projection rests on, in the columns that are free, and what they tell."""

    rows: Tensor
    """The numbers of those with an entry there."""
    smallest: float
    """Of their singular values, above the cutoff of the rank."""
    condition: float
    columns: Tensor
    """The numbers of the free columns with an entry in them."""
    matrix: Tensor | None = None
    """Of these rows and columns; None where no column is in two rows."""

    @classmethod
    def of(cls, M: Rows, active: Tensor, free: Tensor) -> "FaceRows | None":
        """Of M (m, n), with active (m,) and free (n,); None where it would take too long."""
        i, j, values = (t.cpu() for t in M.triplets())
        here = active.cpu()[i] & free.cpu()[j] & (values != 0)
        i, j, values = i[here], j[here], values[here].double()
        rows, row = torch.unique(i, return_inverse=True)
        columns, column = torch.unique(j, return_inverse=True)
        m, n = len(rows), len(columns)
        face: Tensor | None = None
        if not m:
            return cls(rows, 1.0, 1.0, columns)
        if n == len(j):  # no column is in two rows
            sigma = torch.zeros(m, dtype=torch.float64, device="cpu")
            sigma = sigma.index_add(0, row, values.square()).sqrt().sort(descending=True).values
        elif float(m) * n * min(m, n) > _MEASURED:
            return None
        else:
            face = torch.zeros(m, n, dtype=torch.float64, device="cpu")
            face = face.index_put((row, column), values)
            sigma = torch.linalg.svdvals(face)
        largest = float(sigma[0])
        # what is below counts as zero, as it does where a rank is decided
        sigma = sigma[sigma > tolerance.rank_cutoff(m, n, _U) * largest]
        smallest = float(sigma[-1]) - tolerance.dimension_factor(m, n) * _U * largest
        if smallest <= 0:
            return None
        return cls(rows, smallest, largest / smallest, columns, face)

    def explaining(self, M: Rows, x0: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Multipliers (m,) nearer to those that make x of x0 in the free columns, from y near."""
        if self.matrix is None:
            return y
        w = add(exact(x0), negative(M.rmatvec_pair(exact(y)))).value()
        off = (w - x)[self.columns.to(x.device)].cpu()
        more = torch.linalg.lstsq(self.matrix.mT, off.unsqueeze(-1), driver="gelsd").solution
        return y.index_add(0, self.rows.to(y.device), more.squeeze(-1).to(y))

    def moved(self, M: Rows, inequality: Tensor, x: Tensor, right: Tensor) -> Tensor:
        """(k,) how far from x (k, n) rows that are off move the projection, at most.

        `right` is (k, m), `inequality` (m,).
        """
        if not len(self.rows):
            return x.new_zeros(len(x))
        off = torch.stack(
            [
                add(M.matvec_pair(exact(one)), negative(exact(side))).value()
                for one, side in zip(x, right, strict=True)
            ]
        )
        off = torch.where(inequality & ~(off > 0), 0.0, off).abs()
        sizes = M.row_norms() * norms(x).unsqueeze(-1)
        noise = _U * (off + tolerance.sum_rounding(x.shape[-1], _U) * sizes)
        total = norms((off + noise)[:, self.rows.to(x.device)])
        return total / self.smallest * (1 + tolerance.PROOF_ROUNDING)


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
