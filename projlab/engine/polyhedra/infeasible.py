"""Whether a polyhedron is empty, and the rows and bounds that prove it.

The least sum of violations of the rows over the box is a linear programme; where it is more than
zero its multipliers v combine the rows into one that no x within the bounds can satisfy:
v'(M x) <= v'r for every x of the set, but min over the box of (M'v)'x > v'r. That inequality is
checked here, with bounds on its rounding; nothing is taken from the solver on trust.

Reference: Farkas, "Theorie der einfachen Ungleichungen", J. Reine Angew. Math. 124 (1902);
Schrijver, "Theory of linear and integer programming", 1986, section 7.3.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse import csr_array, eye_array, hstack
from torch import Tensor

from projlab import tolerance
from projlab.engine.polyhedra.systems import System
from projlab.errors import InconsistentError, few


def proof(system: System, right: Tensor, lb: Tensor, ub: Tensor) -> Tensor | None:
    """Multipliers v (m,) that prove one set empty, or None where none is found."""
    if 0 in system.shape:
        return None
    found = _programme(system, right, lb, ub)
    if found is None:
        return None
    v, x = found
    if proves(system, right, lb, ub, v):
        return v
    # what is off by less than the solver tolerates is on another scale from where it ended
    x = x.clamp(lb, ub)
    rest = right - system.times(x[None])[0]
    off = torch.where(system.is_equation, rest.abs(), (-rest).clamp_min(0))
    size = float(off.max())
    u = system.roundoff
    known = torch.where(torch.isfinite(right), right, 0.0).abs()
    sizes = system.rows.abs().matvec(x.abs()) + known
    if not size > tolerance.ANSWERED * u * float(sizes.max()):
        return None
    found = _programme(system, rest / size, (lb - x) / size, (ub - x) / size)
    return found[0] if found is not None and proves(system, right, lb, ub, found[0]) else None


def _programme(
    system: System, right: Tensor, lb: Tensor, ub: Tensor
) -> tuple[Tensor, Tensor] | None:
    """The multipliers (m,) of the least sum of violations, and where it is (n,)."""
    m, n = system.shape
    finite = torch.isfinite(right)
    i, j, values = (t.cpu().numpy() for t in system.rows.triplets())
    M = csr_array((values, (i, j)), shape=(m, n))
    p = system.equations
    keep = finite[p:].cpu().numpy()
    r = right.cpu().numpy()
    equations, inequalities = M[:p], M[p:][keep]
    q = inequalities.shape[0]
    A_eq = hstack([equations, eye_array(p), -eye_array(p), csr_array((p, q))]) if p else None
    A_ub = hstack([inequalities, csr_array((q, 2 * p)), -eye_array(q)]) if q else None
    bounds = np.concatenate(
        [
            np.stack([lb.cpu().numpy(), ub.cpu().numpy()], -1),
            np.tile([0.0, np.inf], (2 * p + q, 1)),
        ]
    )
    found: Any = linprog(  # type: ignore[call-overload]  # its stubs take no sparse matrices
        np.concatenate([np.zeros(n), np.ones(2 * p + q)]),
        A_ub=A_ub,
        b_ub=r[p:][keep] if q else None,
        A_eq=A_eq,
        b_eq=r[:p] if p else None,
        bounds=bounds,
        method="highs",
    )
    if found.status != 0:
        return None
    v = torch.zeros(m, dtype=torch.float64, device="cpu")
    if p:
        v[:p] = torch.from_numpy(-found.eqlin.marginals)
    if q:
        v[p:][torch.from_numpy(keep)] = torch.from_numpy(-found.ineqlin.marginals).clamp_min(0)
    at = torch.from_numpy(found.x[:n]).to(right.device)
    return _tidy(v).to(right.device), at


def _tidy(v: Tensor) -> Tensor:
    """Without what is rounding beside the largest; entries near small integers are those."""
    largest = v.abs().max()
    if not bool(largest > 0):
        return v
    v = v / largest
    v = torch.where(v.abs() < tolerance.COMBINATION_NOISE, 0.0, v)
    whole = (v * 12).round() / 12
    return torch.where((v - whole).abs() < tolerance.COMBINATION_NOISE, whole, v)


def proves(system: System, right: Tensor, lb: Tensor, ub: Tensor, v: Tensor) -> bool:
    """Whether v'(M x) > v'r for all x within the bounds, beyond what rounding can do."""
    if bool((v[system.equations :] < 0).any()) or not bool((v != 0).any()):
        return False
    least, gap, noise = _evaluated(system, right, lb, ub, v)
    return bool(torch.isfinite(least)) and float(gap) > float(noise)


def _evaluated(
    system: System, right: Tensor, lb: Tensor, ub: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """min of (M'v)'x over the box, its excess over v'r, and what rounding may make of that.

    Rounding of the data too: rows given in float32 contradict each other by that.
    """
    u = system.roundoff
    c, sizes = system.transposed(v[None])[0], system.sizes(v[None])[0]
    error = tolerance.ANSWERED * u * sizes
    c = torch.where(c.abs() <= error, 0.0, c)
    bound = torch.where(c > 0, lb, ub)
    terms = torch.where(c == 0, 0.0, c * bound)
    used = v != 0
    side = torch.where(used, v * torch.where(used, right, 0.0), 0.0)
    n = terms.shape[-1] + len(v)
    finite = torch.where(torch.isfinite(bound), bound, 0.0).abs()
    noise = tolerance.sum_rounding(n, u) * (terms.abs().sum() + side.abs().sum())
    noise = noise + (error * finite).sum()
    least = terms.sum()
    return least, least - side.sum(), noise


def raise_empty(
    system: System, right: Tensor, lb: Tensor, ub: Tensor, v: Tensor, names: Sequence[str]
) -> None:
    """Raise `InconsistentError` with the combination of rows, and the bounds that it breaks."""
    v = v / system.in_units(v).abs().max()  # the largest coefficient a reader sees is one
    least, gap, _ = _evaluated(system, right, lb, ub, v)
    c = system.transposed(v[None])[0]
    u = system.roundoff
    c = torch.where(c.abs() <= tolerance.ANSWERED * u * system.sizes(v[None])[0], 0.0, c)
    units = system.in_units(v)
    rows = [f"{float(units[i]):.6g} * {names[i]}" for i in (v != 0).nonzero().flatten().tolist()]
    sides = []
    for j in (c != 0).nonzero().flatten().tolist():
        relation, bound = (">=", lb) if float(c[j]) > 0 else ("<=", ub)
        sides.append(f"x[{j}] {relation} {float(bound[j]):.6g}")
    side = float((v * torch.where(v != 0, right, 0.0)).sum())
    relation = "=" if not bool((v[system.equations :] != 0).any()) else "<="
    within = (
        f" while {', '.join(few(sides))} keep it at {float(least):.6g} or more"
        if sides
        else (f" while it is {float(least):.6g} for every x")
    )
    raise InconsistentError(
        f"no x satisfies the constraints: {' + '.join(few(rows))} asks for a sum {relation} "
        f"{side:.6g},{within} ({float(gap):.3g} apart). Mend b, h or the bounds"
    )
