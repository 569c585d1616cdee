"""Polyhedron: equations, inequalities and bounds, checked once, immutable.

Names as qpsolvers has them: {x : A x = b, G x <= h, lb <= x <= ub}.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projlab.errors import InconsistentError, InputError, first_few
from projlab.numerics.precision import outside_inference_mode, stated_precision
from projlab.system.constraint import AffineConstraint
from projlab.system.inputs import (
    check_vector,
    refuse_elsewhere,
    refuse_watched,
    require_finite,
    to_tensor,
)
from projlab.system.operator_rows import REMEDY, OperatorRows, is_operator
from projlab.system.rows import Rows, as_rows


class Polyhedron:
    """The set {x : A x = b, G x <= h, lb <= x <= ub}; any part may be left out.

    Parameters
    ----------
    A, b
        Equations, as `AffineConstraint` takes them, or an AffineConstraint as A (then no b). One
        system, not a batch.
    G, h
        Inequalities: G as A; h a scalar or (p,), where inf leaves a row out.
    lb, ub
        Bounds: scalars or (n,); -inf and inf leave a variable free on that side. lb = ub fixes it.
    n
        How many variables, where neither A, G nor a bound of shape (n,) says so.
    names
        m + p names of the equations and then the inequalities, for messages; "row 0", "row 1", ...
        and "inequality 0", ... by default.

    Raises
    ------
    InputError
        Wrong shapes, complex or NaN entries, different devices, a tensor that requires grad, or
        nothing that says how many variables there are.
    InconsistentError
        A lower bound above its upper bound, by name.
    """

    equations: AffineConstraint | None
    """A x = b; None where there are none."""
    inequalities: Rows | None
    """G; None where there are none."""
    h: Tensor
    """(p,)."""
    lb: Tensor
    """(n,), or () where one bound holds for all."""
    ub: Tensor
    """(n,) or ()."""
    n: int
    given_names: tuple[str, ...] | None

    def __init__(
        self,
        A: Any = None,
        b: Any = None,
        G: Any = None,
        h: Any = None,
        lb: Any = None,
        ub: Any = None,
        *,
        n: int | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        for name, value in (("A", A), ("b", b), ("G", G), ("h", h), ("lb", lb), ("ub", ub)):
            refuse_watched(
                value,
                name,
                "a set is a constant; detach it, or call projlab.project(x, ...), which "
                "differentiates in all of them",
            )
        with outside_inference_mode():
            equations = _equations(A, b)
            inequalities, right = _inequalities(G, h)
            device = _device(equations, inequalities, lb, ub)
            bounds = _bound(lb, "lb", -torch.inf, device), _bound(ub, "ub", torch.inf, device)
        width = _width(equations, inequalities, *bounds, n)
        given = _names(names, equations, right)
        vars(self).update(
            equations=equations,
            inequalities=inequalities,
            h=right,
            lb=bounds[0],
            ub=bounds[1],
            n=width,
            given_names=given,
            _device=device,
        )
        self._refuse_crossed()

    @classmethod
    def of(cls, *parts: Any, n: int | None = None) -> "Polyhedron":
        """The intersection of sets: polyhedra, AffineConstraint, scipy's LinearConstraint, Bounds.

        A row of a LinearConstraint whose two sides are equal is an equation, one with two finite
        sides gives two inequalities, and an infinite side none.
        """
        given = [_as_parts(part) for part in parts]
        matrices: dict[str, list[tuple[Any, Any]]] = {"A": [], "G": []}
        for part in given:
            for name, right in (("A", "b"), ("G", "h")):
                if name in part:
                    matrices[name].append((part[name], part[right]))
        lower = [part["lb"] for part in given if "lb" in part]
        upper = [part["ub"] for part in given if "ub" in part]
        A, b = _stacked(matrices["A"])
        G, h = _stacked(matrices["G"])
        widths = [part["n"] for part in given if "n" in part]
        if len(set(widths)) > 1:
            raise InputError(
                f"the parts have {widths[0]} and {next(w for w in widths if w != widths[0])} "
                "variables; they must agree"
            )
        if n is None and widths:
            n = widths[0]
        return cls(
            A,
            b,
            G,
            h,
            _combined(lower, torch.maximum),
            _combined(upper, torch.minimum),
            n=n,
            names=_joined_names(given),
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Polyhedron is immutable; build a new one to change {name!r}")

    @property
    def m(self) -> int:
        """Number of equations."""
        return 0 if self.equations is None else self.equations.m

    @property
    def p(self) -> int:
        """Number of inequalities."""
        return len(self.h)

    @property
    def dtype(self) -> torch.dtype | None:
        """The widest of A's and G's, or of bounds given as tensors; None where nothing says."""
        dtypes = [r.dtype for r in (self.equations, self.inequalities) if r is not None]
        if not dtypes:
            dtypes = [t.dtype for t in (self.lb, self.ub) if t.dim()]
        wide = None
        for dtype in dtypes:
            wide = dtype if wide is None else torch.promote_types(wide, dtype)
        return wide

    @property
    def device(self) -> torch.device:
        """Of every part."""
        device: torch.device = vars(self)["_device"]
        return device

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One an equation and then one an inequality."""
        if self.given_names is not None:
            return self.given_names
        equations = () if self.equations is None else self.equations.names
        return (*equations, *(f"inequality {i}" for i in range(self.p)))

    @property
    def bounded(self) -> bool:
        """Whether any bound is finite."""
        return bool(torch.isfinite(self.lb).any()) or bool(torch.isfinite(self.ub).any())

    def to(self, device: torch.device) -> "Polyhedron":
        """The same set on another device."""
        if device == self.device:
            return self
        A, G = self.equations, self.inequalities
        return Polyhedron(
            None if A is None else A.like(A.rows.to(device=device), A.b.to(device)),
            None,
            None if G is None else G.to(device=device),
            None if G is None else self.h.to(device),
            self.lb.to(device),
            self.ub.to(device),
            n=self.n,
            names=self.given_names,
        )

    def residual(self, x: Tensor) -> Tensor:
        """A x - b for x (..., n); (..., m)."""
        if self.equations is None:
            check_vector(x, self.n, None, self.device)
            return x.new_zeros(*x.shape[:-1], 0)
        return self.equations.residual(x)

    def slack(self, x: Tensor) -> Tensor:
        """h - G x for x (..., n); (..., p), negative where an inequality is violated."""
        check_vector(x, self.n, None, self.device)
        if self.inequalities is None:
            return x.new_zeros(*x.shape[:-1], 0)
        dtype = torch.promote_types(x.dtype, self.inequalities.dtype)
        with stated_precision(self.device):
            return self.h.to(dtype) - self.inequalities.to(dtype).matvec(x.to(dtype))

    def violation(self, x: Tensor) -> Tensor:
        """By how much x (..., n) misses the constraint that it misses most, in its units; (...)."""
        parts = [
            self.residual(x).abs(),
            -self.slack(x),
            torch.stack([self.lb.to(x) - x, x - self.ub.to(x)]).amax(0),
        ]
        worst = [part.amax(-1) for part in parts if part.shape[-1]]
        wide = torch.promote_types(worst[0].dtype, worst[-1].dtype)
        return torch.stack([w.to(wide) for w in worst]).amax(0).clamp_min(0)

    def _refuse_crossed(self) -> None:
        crossed = (self.lb > self.ub).expand(self.n) if self.lb.numel() else self.lb > self.ub
        if self.lb.is_meta or not bool(crossed.any()):
            return
        lower, upper = self.lb.expand(self.n), self.ub.expand(self.n)
        shown = [
            f"x[{j}] >= {float(lower[j]):.17g} and x[{j}] <= {float(upper[j]):.17g}"
            for j in crossed.nonzero().flatten().tolist()
        ]
        raise InconsistentError(f"no x satisfies the bounds: {first_few(shown)}. Mend lb or ub")

    def __repr__(self) -> str:
        def sided(bound: Tensor) -> int:
            return int(torch.isfinite(bound).expand(self.n).sum())

        return (
            f"Polyhedron({self.m} equations, {self.p} inequalities, {sided(self.lb)} lower and "
            f"{sided(self.ub)} upper bounds on {self.n} variables, {self.device})"
        )


def refuse_b_error(A: AffineConstraint) -> None:
    """Raise `InputError` for equations that state an error of b."""
    if A.b_error is not None:
        raise InputError(
            "A is an AffineConstraint with b_error, which sets with inequalities or bounds do "
            "not take: leave it out, or state two inequalities for such a row"
        )


def _equations(A: Any, b: Any) -> AffineConstraint | None:
    if A is None:
        if b is not None:
            raise InputError("b is given without A; give both, or neither")
        return None
    known = isinstance(A, AffineConstraint)
    if known:
        if b is not None:
            raise InputError("A is an AffineConstraint and holds its own b; give no other")
        refuse_b_error(A)
    # before its products are tried, which a transform may not let through
    if isinstance(A.rows, OperatorRows) if known else is_operator(A):
        raise InputError(f"A is an operator; with inequalities or bounds {REMEDY}")
    equations: AffineConstraint = A if known else AffineConstraint(A, b)
    if equations.batch is not None:
        raise InputError(
            f"A is a batch of {equations.batch} systems; with inequalities or bounds it must be "
            "(m, n). Right sides and bounds may differ from vector to vector: P(x, b=..., lb=...)"
        )
    return equations


def _inequalities(G: Any, h: Any) -> tuple[Rows | None, Tensor]:
    if G is None:
        if h is not None:
            raise InputError("h is given without G; give both, or neither")
        return None, torch.zeros(0, dtype=torch.float64, device="cpu")
    if is_operator(G):
        raise InputError(f"G is an operator; {REMEDY.replace('of A', 'of G')}")
    try:
        rows = as_rows(G)
    except InputError as error:
        raise InputError(re.sub(r"\bA\b", "G", str(error))) from None  # rows are named A elsewhere
    if rows.batch is not None:
        raise InputError(f"G has shape {(rows.batch, *rows.shape)}; it must be (p, n)")
    if h is None:
        raise InputError("h is missing: give a scalar or one value a row of G")
    refuse_elsewhere(h, "h", "G", rows.device)
    right = to_tensor(h, "h")
    if right.dim() > 0 and right.shape != (rows.shape[0],):
        raise InputError(
            f"h has shape {tuple(right.shape)}; with this G it must be a scalar or "
            f"({rows.shape[0]},)"
        )
    _require_not_nan(right, "h")
    if bool((right == -torch.inf).any()):
        raise InputError("h holds -inf, which no x satisfies; inf leaves an inequality out")
    return rows, right.to(rows.device).expand(rows.shape[0]).contiguous()


def _bound(value: Any, name: str, none: float, device: torch.device) -> Tensor:
    if value is None:
        return torch.tensor(none, dtype=torch.float64, device=device)
    refuse_elsewhere(value, name, "the other parts", device)
    bound = to_tensor(value, name).to(device)
    if bound.dim() > 1:
        raise InputError(f"{name} has shape {tuple(bound.shape)}; it must be a scalar or (n,)")
    _require_not_nan(bound, name)
    if bool((bound == -none).any()):
        raise InputError(f"{name} holds {-none}, which no x satisfies; {none} is no bound")
    return bound


def _require_not_nan(value: Tensor, name: str) -> None:
    if not value.is_meta and bool(torch.isnan(value).any()):
        require_finite(torch.where(torch.isinf(value), 0, value), name)


def _device(
    equations: AffineConstraint | None, inequalities: Rows | None, lb: Any, ub: Any
) -> torch.device:
    devices = [part.device for part in (equations, inequalities) if part is not None]
    devices += [t.device for t in (lb, ub) if isinstance(t, Tensor) and t.dim() > 0]
    if len(set(devices)) > 1:
        raise InputError(f"the parts of the set are on {devices[0]} and {devices[-1]}; move some")
    if devices:
        return devices[0]
    loose = [t.device for t in (lb, ub) if isinstance(t, Tensor)]
    return loose[0] if loose else torch.device("cpu")


def _width(
    equations: AffineConstraint | None,
    inequalities: Rows | None,
    lb: Tensor,
    ub: Tensor,
    n: int | None,
) -> int:
    said = []
    if equations is not None:
        said.append(("A", equations.n))
    if inequalities is not None:
        said.append(("G", inequalities.shape[1]))
    said += [(name, len(t)) for name, t in (("lb", lb), ("ub", ub)) if t.dim()]
    if n is not None:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise InputError(f"n is {n!r}; it must be an integer, the number of variables")
        said.append(("n", int(n)))
    if not said:
        raise InputError(
            "nothing says how many variables there are: give A, G, a bound of shape (n,), or n="
        )
    first, width = said[0]
    for name, other in said[1:]:
        if other != width:
            raise InputError(f"{first} has {width} variables, {name} has {other}; they must agree")
    if width < 1:
        raise InputError("the set has no variables; there must be at least one")
    return width


def _names(
    names: Sequence[str] | None, equations: AffineConstraint | None, h: Tensor
) -> tuple[str, ...] | None:
    m = 0 if equations is None else equations.m
    if names is None:
        return None
    total = m + len(h)
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or len(names) != total or not all(isinstance(s, str) for s in names):
        raise InputError(
            f"names must be {total} strings, one an equation and then one an inequality; "
            f"got {names!r}"
        )
    return tuple(names)


def _as_parts(part: Any) -> dict[str, Any]:
    """The arguments of `Polyhedron` that one part gives."""
    kind = type(part)
    if isinstance(part, AffineConstraint):
        equations = _equations(part, None)
        assert equations is not None
        return {"A": equations.A, "b": equations.b, "n": equations.n, "A names": equations.names}
    if isinstance(part, Polyhedron):
        parts = {} if part.equations is None else _as_parts(part.equations)
        if part.inequalities is not None:
            parts |= {"G": part.inequalities.as_tensor(), "h": part.h}
            parts |= {"G names": part.names[part.m :]}
        if part.m:
            parts |= {"A names": part.names[: part.m]}
        return parts | {"lb": part.lb, "ub": part.ub, "n": part.n}
    if kind.__module__.startswith("scipy.optimize") and kind.__name__ == "Bounds":
        sides = {"lb": to_tensor(part.lb, "lb"), "ub": to_tensor(part.ub, "ub")}
        # scipy keeps a number as an array of one
        return {name: t.reshape(()) if t.numel() == 1 else t for name, t in sides.items()}
    if kind.__module__.startswith("scipy.optimize") and kind.__name__ == "LinearConstraint":
        return _of_linear_constraint(part)
    raise InputError(
        f"a part of a polyhedron is a {kind.__name__}; it must be a Polyhedron, an "
        "AffineConstraint, or scipy's LinearConstraint or Bounds"
    )


def _joined_names(parts: list[dict[str, Any]]) -> list[str] | None:
    """Names of all rows, where a part has names of its own; None for the usual ones."""
    if not any(f"{kind} names" in part for part in parts for kind in "AG"):
        return None
    found: dict[str, list[str]] = {"A": [], "G": []}
    for kind, usual in (("A", "row"), ("G", "inequality")):
        names = found[kind]
        for part in parts:
            if kind in part:
                own = part.get(f"{kind} names")
                count = len(part[kind])
                numbered = [f"{usual} {len(names) + i}" for i in range(count)]
                plain = [f"{usual} {i}" for i in range(count)]
                names += numbered if own is None or list(own) == plain else list(own)
    return found["A"] + found["G"]


def _of_linear_constraint(part: Any) -> dict[str, Any]:
    rows = as_rows(part.A)
    m = rows.shape[0]
    lower, upper = to_tensor(part.lb, "lb").expand(m), to_tensor(part.ub, "ub").expand(m)
    for side, name in ((lower, "lb"), (upper, "ub")):
        _require_not_nan(side, f"the LinearConstraint's {name}")
    crossed = (lower > upper).nonzero().flatten().tolist()
    if crossed:
        i = crossed[0]
        raise InconsistentError(
            f"row {i} of the LinearConstraint must be at least {float(lower[i]):.17g} and at most "
            f"{float(upper[i]):.17g}: no x is. Mend its lb or ub"
        )
    equal = lower == upper
    above, below = ~equal & torch.isfinite(upper), ~equal & torch.isfinite(lower)
    parts: dict[str, Any] = {"n": rows.shape[1]}
    if bool(equal.any()):
        kept = equal.nonzero().flatten()
        parts |= {"A": rows.select(kept).as_tensor(), "b": lower[kept]}
    if bool(above.any()) or bool(below.any()):
        top, bottom = above.nonzero().flatten(), below.nonzero().flatten()
        signs = torch.cat(
            [
                torch.ones(len(top), dtype=torch.float64, device="cpu"),
                -torch.ones(len(bottom), dtype=torch.float64, device="cpu"),
            ]
        ).to(rows.dtype)
        G = rows.select(torch.cat([top, bottom])).multiply_rows(signs)
        parts |= {"G": G.as_tensor(), "h": torch.cat([upper[top], -lower[bottom]])}
    return parts


def _stacked(parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Rows of several parts one below the other, sparse where any is."""
    if not parts:
        return None, None
    matrices = [matrix for matrix, _ in parts]
    if any(matrix.layout is not torch.strided for matrix in matrices):
        matrices = [matrix.to_sparse_coo() for matrix in matrices]
    dtype = matrices[0].dtype
    for matrix in matrices:
        dtype = torch.promote_types(dtype, matrix.dtype)
    widths = {matrix.shape[1] for matrix in matrices}
    if len(widths) > 1:
        raise InputError(f"the parts have {sorted(widths)} variables; they must agree")
    rights = [right.double() for _, right in parts]
    return torch.cat([matrix.to(dtype) for matrix in matrices]), torch.cat(rights)


def _combined(bounds: list[Tensor], choose: Any) -> Tensor | None:
    combined: Tensor | None = None
    for bound in bounds:
        if combined is None:
            combined = bound
            continue
        shapes = {b.shape for b in (combined, bound) if b.dim()}
        if len(shapes) > 1:
            raise InputError(f"bounds of shapes {sorted(map(tuple, shapes))} do not go together")
        dtype = torch.promote_types(combined.dtype, bound.dtype)
        combined = choose(combined.to(dtype), bound.to(dtype))
    return combined
