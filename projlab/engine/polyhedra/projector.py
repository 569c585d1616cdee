"""PolyhedralProjector: the projection onto a polyhedron, with the interface of a Projector."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_exporting

from projlab import tolerance
from projlab.engine import compiled
from projlab.engine.buffers import MatrixBuffers
from projlab.engine.kernels.native import PLAIN, recorded
from projlab.engine.polyhedra import closed, infeasible, threshold
from projlab.engine.polyhedra.general import General, largest
from projlab.engine.polyhedra.systems import System, redundant_equations, system_of
from projlab.engine.polyhedra.threshold import DisjointRows, limits
from projlab.engine.solver import needs_function
from projlab.errors import InconsistentError, InputError
from projlab.numerics.precision import set_up, stated_precision
from projlab.proof.certificate import Certificate
from projlab.proof.polyhedral import FaceRows, Gap, duality_gap
from projlab.proof.rounding import norms
from projlab.system.constraint import AffineConstraint
from projlab.system.inputs import (
    broadcast_shape,
    check_vector,
    refuse_elsewhere,
    refuse_kinds,
    refuse_overlap,
    require_finite,
    to_tensor,
    working_dtype,
)
from projlab.system.options import check_accuracy
from projlab.system.polyhedron import Polyhedron, refuse_b_error

VARIANTS = ("box", "disjoint_rows", "active_set")
"""Ways to project onto a polyhedron; "auto" takes the first that applies."""


class NotPolishedWarning(UserWarning):
    """An active set was not settled: the answer is near, by the bound that the warning states."""


class Multipliers(NamedTuple):
    """Shadow prices: x0 - x = A'y + G'z - lower + upper, all but y at least zero."""

    equations: Tensor
    """y (..., m)."""
    inequalities: Tensor
    """z (..., p), zero where an inequality is slack."""
    lower: Tensor
    """(..., n), zero where x is above lb."""
    upper: Tensor
    """(..., n), zero where x is below ub."""


@dataclass
class _Asked:
    """One call: vectors (k, n), and right sides and bounds that go with them."""

    x: Tensor
    right: Tensor
    """(k, m + p)."""
    lb: Tensor
    ub: Tensor
    own: bool
    """Whether right sides and bounds are the set's own, known to leave some x."""
    lead: torch.Size


class PolyhedralProjector(MatrixBuffers):
    """Projection onto {x : A x = b, G x <= h, lb <= x <= ub}; built by `projlab.projector`.

    `P(x)` projects x (..., n); b, h, lb and ub given beside x, with x's leading dimensions or
    without, replace the set's own. Differentiable in x and in those, twice and more: a derivative
    is that of the projection onto the face where x ends. Where the face changes, the projection has
    a kink, and the derivative is the one from within the face that was found: for a box, x on its
    bound counts as free. Where active rows depend on each other the derivative in b and h is the
    one of least norm. Where several sets of active constraints describe x, at a degenerate vertex
    say, derivatives and multipliers are those of one of them, which calls before may decide;
    `forget` starts anew.

    The parts are buffers, and what is used: after a change in place or by assignment the next call
    sets up again. The search runs in float64; the result has x's dtype. The general method starts
    from the last call's active set where there are as many vectors, and x is the active set's
    alone: it depends on the start by rounding only.
    """

    b: Tensor | None
    h: Tensor | None
    lb: Tensor
    ub: Tensor
    _polyhedron: Polyhedron
    _system: System
    _variant: str
    _reason: str
    _status: str
    _rows: DisjointRows | None
    _general: General | None

    def __init__(
        self, polyhedron: Polyhedron, variant: str = "auto", *, sides_follow: bool = False
    ) -> None:
        """`sides_follow`: b, h and bounds come with each call, so that no set is looked at here."""
        super().__init__()
        if variant not in ("auto", *VARIANTS):
            raise InputError(
                f"variant={variant!r}; with inequalities or bounds it must be "
                + ", ".join(f'"{v}"' for v in ("auto", *VARIANTS))
            )
        vars(self).update(_asked_variant=variant, _sides_follow=sides_follow)
        with set_up(), stated_precision(polyhedron.device):
            self._set_up(polyhedron)
        A = polyhedron.equations
        G = polyhedron.inequalities
        self._hold("A", None if A is None else A.A)
        self.register_buffer("b", None if A is None else A.b)
        self._hold("G", None if G is None else G.as_tensor())
        self.register_buffer("h", None if G is None else polyhedron.h)
        self.register_buffer("lb", polyhedron.lb)
        self.register_buffer("ub", polyhedron.ub)
        self._watch()

    def _set_up(self, polyhedron: Polyhedron) -> None:
        system = system_of(polyhedron, redundant_equations(polyhedron.equations))
        variant, reason, rows = _chosen(polyhedron, system, vars(self)["_asked_variant"])
        general = General(system, polyhedron.names) if variant == "active_set" else None
        vars(self).update(
            _polyhedron=polyhedron,
            _system=system,
            _variant=variant,
            _reason=reason,
            _rows=rows,
            _general=general,
            _status="polished",
            _own_sides=None,
            _zero_rows=_zero_rows(system),
        )
        if not vars(self)["_sides_follow"]:
            self._refuse_empty()

    def _refuse_empty(self) -> None:
        """Raise `InconsistentError` where no x is in the set."""
        polyhedron = self.polyhedron
        asked = self._asked(
            torch.zeros(1, polyhedron.n, dtype=torch.float64, device=polyhedron.device), {}
        )
        self._refuse_zero_rows(asked.right)
        if self._rows is not None:
            self._refuse_out_of_reach(_detached(asked))
        elif self._general is not None:
            self._general.answer(asked.x, asked.right, asked.lb, asked.ub, checked=False)

    def _refuse_zero_rows(self, right: Tensor) -> None:
        """Raise `InconsistentError` where a row without coefficients asks for more than zero."""
        rows, system = vars(self)["_zero_rows"], self._system
        if rows is None:
            return
        sides = right.detach()[:, rows]
        bad = (sides < 0) | ((sides != 0) & system.is_equation[rows])
        if bool(bad.any()):
            i, k = bad.nonzero()[0].tolist()
            row = int(rows[k])
            sign = "=" if bool(system.is_equation[row]) else "<="
            raise InconsistentError(
                f"no x satisfies the constraints: {self.polyhedron.names[row]} has no "
                f"coefficients, and reads 0 {sign} {float(sides[i, k]):.6g}"
            )

    def _refuse_out_of_reach(self, asked: _Asked) -> None:
        assert self._rows is not None
        rows = self._rows.to(torch.float64, asked.x.device)
        least, largest, noise = limits(rows, asked.lb, asked.ub)
        right = asked.right
        noise = noise + tolerance.unit_roundoff("float64") * right.abs()
        low = right < least - noise
        high = (right > largest + noise) & ~rows.inequality
        bad = (low | high).nonzero()
        if len(bad):
            i, row = bad[0].tolist()
            v = torch.zeros(rows.m, dtype=torch.float64, device=asked.x.device)
            v[row] = 1.0 if bool(low[i, row]) else -1.0
            system = self._system
            infeasible.raise_empty(
                system, asked.right[i], asked.lb[i], asked.ub[i], v, self.polyhedron.names
            )
            raise InconsistentError("no x satisfies the constraints")

    @property
    def polyhedron(self) -> Polyhedron:
        """The set, as given or as the buffers have it since."""
        return self._polyhedron

    @property
    def variant(self) -> str:
        """Its name: "box", "disjoint_rows" or "active_set"."""
        return self._variant

    @property
    def reason(self) -> str:
        """Why this variant, in a sentence."""
        return self._reason

    @property
    def status(self) -> str:
        """Of the last call: "polished", or "not polished" where a warning stated a bound."""
        return self._status

    @property
    def effort(self) -> Any:
        """What the last search of the general method took; None for closed forms."""
        return None if self._general is None else self._general.effort

    @property
    def device(self) -> torch.device:
        """Of every part."""
        return self.polyhedron.device

    if TYPE_CHECKING:  # nn.Module leaves it untyped

        def __call__(
            self, x: Tensor, b: Any = None, h: Any = None, lb: Any = None, ub: Any = None
        ) -> Tensor:
            """See `forward`."""

    def forward(
        self,
        x: Tensor,
        b: Any = None,
        h: Any = None,
        lb: Any = None,
        ub: Any = None,
    ) -> Tensor:
        """Project x (..., n); see the class."""
        if is_exporting():
            raise InputError(
                "a projection onto bounds and inequalities searches by values for what it rests "
                "on, which no exported program can; export what comes before it"
            )
        if b is None and h is None and lb is None and ub is None:
            found = self._at_once(x)
            if found is not None:
                return found
        return self._projected(x, {"b": b, "h": h, "lb": lb, "ub": ub})[0]

    def forget(self) -> None:
        """Start the next search from nothing, as the first one did."""
        if self._general is not None:
            self._general.forget()

    def project_(self, x: Tensor) -> Tensor:
        """Project x in place, without a graph, and return it."""
        if isinstance(x, Tensor) and x.layout is torch.strided and not x.is_contiguous():
            refuse_overlap(x)
        with torch.no_grad():
            projected = self.forward(x)  # which refuses what is no vector, before it is written to
            x.copy_(projected)
        return x

    def multipliers(
        self, x: Tensor, b: Any = None, h: Any = None, lb: Any = None, ub: Any = None
    ) -> Multipliers:
        """Lagrange multipliers of equations, inequalities and bounds; in the caller's units."""
        given = {"b": b, "h": h, "lb": lb, "ub": ub}
        projected, y = self._projected(x, given)
        units = self._system.in_units(y)
        m = self._system.equations
        wide = torch.promote_types(y.dtype, x.dtype)
        pull = self._system.rows.to(wide).rmatvec(y.to(wide)) if y.shape[-1] else 0.0
        w = x.to(wide) - pull
        moved = projected.to(wide) - w
        at_low, at_high = self._at_bounds(x, projected, given)
        return Multipliers(
            units[..., :m].to(x.dtype),
            units[..., m:].clamp_min(0).to(x.dtype),
            torch.where(at_low, moved, 0.0).clamp_min(0).to(x.dtype),
            torch.where(at_high, -moved, 0.0).clamp_min(0).to(x.dtype),
        )

    def _at_bounds(
        self, x: Tensor, projected: Tensor, given: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        asked = self._asked(x, given)
        lb, ub = (t.expand(asked.x.shape).reshape(x.shape) for t in (asked.lb, asked.ub))
        return projected <= lb.to(x.dtype), projected >= ub.to(x.dtype)

    def certify(
        self,
        x0: Tensor,
        x: Tensor,
        accuracy: float | None = None,
        *,
        b: Any = None,
        h: Any = None,
        lb: Any = None,
        ub: Any = None,
    ) -> Certificate:
        """Bound the forward error of anybody's x as the projection of x0, by a duality gap.

        Multipliers come from this projector's own answer; the bound holds whatever they are (see
        `projlab/proof/polyhedral.py`). It is the distance to the projection onto the set whose
        right sides are those that x has; `feasibility` says how far these are from b and h, and
        more than rounding fails.
        """
        self._follow()
        if accuracy is not None:
            accuracy = check_accuracy(accuracy)
        for vectors in (x0, x):
            check_vector(vectors, self.polyhedron.n, None, self.device)
            if not vectors.numel():
                raise InputError(f"there is no vector to certify in shape {tuple(vectors.shape)}")
        if x.shape != x0.shape:
            raise InputError(f"x0 has shape {tuple(x0.shape)}, x {tuple(x.shape)}; they must match")
        x0, x = x0.detach(), x.detach()
        u = tolerance.unit_roundoff(x.dtype)
        with torch.no_grad():
            return self.certified(x0, x, accuracy, {"b": b, "h": h, "lb": lb, "ub": ub}, u)

    def certified(
        self, x0: Tensor, x: Tensor, accuracy: float | None, given: dict[str, Any], u: float
    ) -> Certificate:
        """`certify`, of points that are known to u, and with its checks made."""
        asked = self._asked(x0.double(), given)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotPolishedWarning)
            found, y = self._solved(asked)
        points, reference = x.double().reshape(-1, self.polyhedron.n), found.double()
        y = y.double().clone()  # those kept for the next search stay
        away, faces = self._moved_by_rows(asked, y, points, reference)
        rows = self._system.rows.to(torch.float64)
        for i, face in enumerate(faces):
            if face is not None:
                y[i] = face.explaining(rows, asked.x[i], reference[i], y[i])
        prices = self._system.in_units(y)
        gaps = [self._gap(asked, t, prices) for t in (points, reference)]
        settled = self._general is None or self.status == "polished"
        return _certificate(
            asked, points, reference, gaps, away, faces, accuracy, u, settled=settled
        )

    def _moved_by_rows(
        self, asked: _Asked, y: Tensor, x: Tensor, reference: Tensor
    ) -> tuple[tuple[Tensor, Tensor], list[FaceRows | None]]:
        """(k,) how far rows that x, and the reference, miss move the projection; and the faces.

        NaN where that is not known: for faces that are large, or were not settled.
        """
        rows, right = self._system.rows.to(torch.float64), asked.right
        away = x.new_zeros(2, len(x))
        found: list[FaceRows | None] = []
        if self.variant == "box" or not rows.shape[0]:
            return (away[0], away[1]), found
        equation = self._system.is_equation
        active = equation | (y > 0)
        free = (reference > asked.lb) & (reference < asked.ub)
        known: dict[bytes, FaceRows | None] = {}
        effort = None if self._general is None else self._general.effort
        for i in range(len(x)):
            if effort is not None and not bool(effort.polished[i]):
                found.append(None)
                away[:, i] = torch.nan
                continue
            key = torch.cat([active[i], free[i]]).cpu().numpy().tobytes()
            if key not in known:
                known[key] = FaceRows.of(rows, active[i], free[i])
            face = known[key]
            found.append(face)
            for row, points in zip(away, (x, reference), strict=True):
                one = points[i : i + 1]
                row[i] = (
                    torch.nan
                    if face is None
                    else face.moved(rows, ~equation, one, right[i : i + 1])[0]
                )
        return (away[0], away[1]), found

    def _gap(self, asked: _Asked, x: Tensor, y: Tensor) -> Gap:
        m = self._system.equations
        units = self._system.exponent
        right = torch.ldexp(asked.right, -units)
        if self._system.left_out is not None:
            right = torch.where(self._system.left_out, torch.inf, right)
        sides = right[:, :m], right[:, m:]
        return duality_gap(
            self.polyhedron, asked.x, x, y[:, :m], y[:, m:], sides, (asked.lb, asked.ub)
        )

    def with_rows(self, x: Tensor, given: dict[str, Any], A: Any, G: Any) -> Tensor:
        """`forward` where autograd watches A or G: dense tensors with this set's own values."""
        whole = torch.cat(
            [t.double().reshape(-1, self.polyhedron.n) for t in (A, G) if t is not None]
        )
        for unit in self._system.units:
            whole = whole * unit.unsqueeze(-1)
        return self._projected(x, given, whole)[0]

    def _at_once(self, x: Tensor) -> Tensor | None:
        """One vector by the general method's kernel, which needs nothing that `_projected` does.

        None where there is more to it: a graph, a batch, another dtype, a closed form.
        """
        if not (
            self._general is not None
            and type(x) in PLAIN
            and x.dtype is torch.float64
            and x.dim() == 1
            and x.is_cpu
            and not recorded()
            and not needs_function(x, None)
        ):
            return None
        self._follow()
        general = self._general
        if general is None or x.shape[0] != self.polyhedron.n:
            return None
        if any(t is not None and needs_function(t, None) for t in self._buffers.values()):
            return None
        sides = vars(self)["_own_sides"]
        if sides is None:
            asked = self._asked(x.detach(), {})
            parts = tuple(t.contiguous() for t in (asked.right, asked.lb, asked.ub))
            sides = vars(self)["_own_sides"] = *parts, largest(asked.right)
        right, lb, ub, size = sides
        one = x.detach().unsqueeze(0)
        found = general.answer(one, right, lb, ub, checked=True, largest_right=size)
        self._say_status(lambda: self._asked(x, {}), found.x, found.y)
        return found.x[0]

    @compiled.eager
    def _projected(
        self, x: Tensor, given: dict[str, Any], entries: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Projection and multipliers (..., m + p), in the system's units, of x's shape."""
        self._follow()
        asked = self._asked(x, given)
        with stated_precision(self.device):
            found, y = self._solved(asked, entries)
        projected = found.reshape(x.shape).to(x.dtype)
        return projected, y.reshape(*asked.lead, y.shape[-1])

    def _solved(self, asked: _Asked, entries: Tensor | None = None) -> tuple[Tensor, Tensor]:
        watched = not torch._C._are_functorch_transforms_active()
        if self.variant == "box":
            found = closed.box(asked.x, asked.lb.to(asked.x), asked.ub.to(asked.x))
            return found, asked.x.new_zeros(len(asked.x), 0)
        if self._rows is not None:
            if watched and not asked.own:
                self._refuse_out_of_reach(_detached(asked))
            rows = self._rows.to(asked.x.dtype, asked.x.device)
            bounds = asked.lb.to(asked.x), asked.ub.to(asked.x)
            if entries is None and not _differentiated(asked):
                plain = threshold.project(rows, asked.x, asked.right, *bounds)
                return plain.x, plain.multipliers
            a = None
            if entries is not None:
                if len(entries) > 1:
                    raise InputError(
                        'variant="disjoint_rows" differentiates in the entries of one row; for '
                        'several take "active_set"'
                    )
                a = entries[0].to(asked.x.dtype)
            return closed.rows_with_bounds(rows, asked.x, asked.right, *bounds, a)
        general = self._general
        assert general is not None
        sides = asked.right, asked.lb, asked.ub
        if entries is None and not _differentiated(asked):
            found, y, *_ = general.answer(asked.x, *sides, checked=asked.own)
        else:
            found, y = general.differentiable(asked.x, *sides, entries, checked=asked.own)
        if watched:
            self._say_status(lambda: asked, found, y)
        return found, y

    def _say_status(self, asked: Callable[[], _Asked], found: Tensor, y: Tensor) -> None:
        assert self._general is not None
        effort = self._general.effort
        assert effort is not None
        vars(self)["_status"] = "polished" if bool(effort.polished.all()) else "not polished"
        if self.status == "polished":
            return
        i = ~effort.polished
        some = _detached(asked(), i)
        with torch.no_grad():
            gap = self._gap(some, found[i].detach(), self._system.in_units(y[i].detach()))
        warnings.warn(
            f"the active sets of {int(i.sum())} of {len(i)} projections were not settled: each is "
            f"within {float(gap.distance.max()):.2g} of the projection onto the set whose rows are "
            f"moved by {float(gap.feasibility.max()):.2g} of their size",
            NotPolishedWarning,
            stacklevel=2,
        )

    def _asked(self, x: Tensor, given: dict[str, Any]) -> _Asked:
        polyhedron = self.polyhedron
        check_vector(x, polyhedron.n, None, polyhedron.device)
        lead, n = x.shape[:-1], polyhedron.n
        m, p = polyhedron.m, polyhedron.p
        own = all(value is None for value in given.values())
        sizes = {"b": m, "h": p, "lb": n, "ub": n}
        parts = {
            name: _beside(given.get(name), name, size, lead, polyhedron.device)
            for name, size in sizes.items()
        }
        if parts["b"] is None and polyhedron.equations is not None:
            parts["b"] = polyhedron.equations.b
        for name in ("h", "lb", "ub"):
            if parts[name] is None:
                parts[name] = getattr(polyhedron, name)
        k = lead.numel()
        work = torch.float64 if self._general is not None or self._narrow(x) else x.dtype
        work = working_dtype(work)

        def whole(name: str, size: int, dtype: torch.dtype) -> Tensor:
            part = parts[name]
            if part is None:
                part = torch.zeros(0, dtype=dtype, device=polyhedron.device)
            part = part.to(dtype)
            if part.dim() > 1 or size == 0:
                return part.expand(*lead, size).reshape(k, size)
            return part if self._rows is not None and part.dim() == 0 else part.expand(k, size)

        right = torch.cat(
            [
                whole("b", m, torch.float64).expand(k, m),
                whole("h", p, torch.float64).expand(k, p),
            ],
            -1,
        )
        right = self._system.scaled(right) if right.shape[-1] else right
        sides = torch.float64 if self._general is not None else work
        lb, ub = whole("lb", n, sides), whole("ub", n, sides)
        if not own and not torch._C._are_functorch_transforms_active():
            _refuse_crossed(lb, ub)
            self._refuse_zero_rows(right)
        return _Asked(x.reshape(k, n).to(work), right, lb, ub, own, lead)

    def _narrow(self, x: Tensor) -> bool:
        """Whether the set's entries are wider than x."""
        dtype = self.polyhedron.dtype
        return dtype is not None and torch.promote_types(dtype, x.dtype) is torch.float64

    def _watch(self) -> None:
        known = {name: (t, -1 if t is None else t._version) for name, t in self._buffers.items()}
        vars(self)["_known_parts"] = known

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PolyhedralProjector":
        """Move: the parts stay exact, whatever vectors are converted to."""

        def moved(t: Tensor) -> Tensor:
            found = fn(t)
            return found if found.dtype is t.dtype else t.to(found.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]  # torch leaves it bare
        return self

    def _follow(self) -> None:
        """Set up again where buffers changed."""
        self._write_back()
        now = self._buffers
        known = vars(self)["_known_parts"]
        if now.keys() == known.keys() and all(
            t is known[name][0] and (t is None or t._version == known[name][1])
            for name, t in now.items()
        ):
            return
        for name, part in now.items():
            if part is not None and torch._C._functorch.is_functorch_wrapped_tensor(part):
                raise InputError(
                    f"{name} is watched by a transform of torch.func, and the parts of a set are "
                    "constants: give right sides and bounds beside x, as P(x, b, h, lb, ub) takes "
                    "them"
                )
        parts = {"A": self.A, "b": self.b, "G": self.G, "h": self.h, "lb": self.lb, "ub": self.ub}
        with set_up(), stated_precision(self.device):
            self._set_up(Polyhedron(n=self.polyhedron.n, names=self.polyhedron.names, **parts))
        self._watch()

    def extra_repr(self) -> str:
        """Sizes and variant."""
        polyhedron = self.polyhedron
        return f"m={polyhedron.m}, p={polyhedron.p}, n={polyhedron.n}, variant={self.variant!r}"


def _differentiated(asked: _Asked) -> bool:
    """Whether autograd or a transform watches the call."""
    return needs_function(asked.x, asked.right) or needs_function(asked.lb, asked.ub)


def _detached(asked: _Asked, which: Tensor | None = None) -> _Asked:
    n = asked.x.shape[-1]
    k = len(asked.x)
    parts = [asked.x, asked.right, asked.lb.expand(k, n), asked.ub.expand(k, n)]
    x, right, lb, ub = (t.detach() if which is None else t.detach()[which] for t in parts)
    return _Asked(x, right, lb.double(), ub.double(), asked.own, asked.lead)


_IMPOSSIBLE = {
    "b": (math.inf, -math.inf),
    "h": (-math.inf,),
    "lb": (math.inf,),
    "ub": (-math.inf,),
}
"""Values of right sides and bounds that leave no x."""


def _beside(
    value: Any, name: str, size: int, lead: torch.Size, device: torch.device
) -> Tensor | None:
    """A right side or bound given beside x, (size,) or (..., size), or `InputError`."""
    if value is None:
        return None
    if size == 0 and name in "bh":
        raise InputError(f"{name} is given, but the set has no {'AG'['bh'.index(name)]}")
    refuse_elsewhere(value, name, "the set", device)
    tensor = (
        value if isinstance(value, Tensor) and value.is_floating_point() else to_tensor(value, name)
    )
    tensor = tensor.to(device)
    if not torch._C._are_functorch_transforms_active():
        if bool(torch.isnan(tensor).any()):
            require_finite(torch.where(torch.isinf(tensor), 0, tensor).detach(), name)
        impossible = _IMPOSSIBLE[name]
        if any(bool((tensor == value).any()) for value in impossible):
            raise InputError(
                f"{name} holds {' or '.join(str(value) for value in impossible)}, which no x "
                "satisfies"
            )
    fits = tensor.dim() == 0 or tensor.shape[-1] == size
    try:
        fits = fits and broadcast_shape(tensor.shape, (*lead, size)) == (*lead, size)
    except RuntimeError:
        fits = False
    if not fits:
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}; beside x of shape {(*lead, '…')} it must be "
            f"a scalar, ({size},)" + (f" or {(*lead, size)}" if lead else "")
        )
    return tensor


def _refuse_crossed(lb: Tensor, ub: Tensor) -> None:
    crossed = (lb > ub).detach()
    if bool(crossed.any()):
        where = [int(i) for i in crossed.nonzero()[0]] if crossed.dim() else [0]
        lower, upper = (t.detach().expand(crossed.shape)[crossed][0] for t in (lb, ub))
        raise InconsistentError(
            f"no x satisfies the bounds: x[{where[-1]}] >= {float(lower):.17g} and x[{where[-1]}] "
            f"<= {float(upper):.17g}. Mend lb or ub"
        )


def _chosen(
    polyhedron: Polyhedron, system: System, asked: str
) -> tuple[str, str, DisjointRows | None]:
    """The variant, the reason, and the rows where no two share a column."""
    m = system.shape[0]
    if m == 0:
        if asked not in ("auto", "box"):
            raise InputError(f'variant="{asked}" needs rows; bounds alone are variant "box"')
        return "box", "box: there are bounds alone", None
    if asked == "box":
        raise InputError('variant="box" takes bounds alone; there are rows beside them')
    shared = None if asked == "active_set" else system.rows.overlap()
    if shared is not None and asked == "disjoint_rows":
        i, j, column = shared
        names = polyhedron.names
        raise InputError(
            f'variant="disjoint_rows", but {names[i]} and {names[j]} share x[{column}]'
        )
    empty = bool((system.rows.row_max() == 0).any())
    loose = bool(torch.isinf(polyhedron.h).any())
    if asked == "active_set" or shared is not None or empty or loose:
        why = "asked for by name" if asked == "active_set" else "rows share variables"
        return "active_set", f"active_set: {why}; faces are searched for, and polished", None
    of_row, column_of, values = system.rows.triplets()
    n = polyhedron.n
    a = torch.zeros(n, dtype=torch.float64, device=system.device)
    a = a.index_put((column_of,), values)
    segment = torch.zeros(n, dtype=torch.long, device=system.device)
    segment = segment.index_put((column_of,), of_row)
    rows = DisjointRows(a, None if m == 1 else segment, m, ~system.is_equation)
    what = "there is one row" if m == 1 else f"no two of {m} rows share a variable"
    return (
        "disjoint_rows",
        f"disjoint_rows: {what}: its multiplier is found by a search over breakpoints",
        rows,
    )


def _certificate(
    asked: _Asked,
    x: Tensor,
    reference: Tensor,
    gaps: list[Gap],
    away: tuple[Tensor, Tensor],
    faces: list[FaceRows | None],
    accuracy: float | None,
    u: float,
    *,
    settled: bool,
) -> Certificate:
    """Bounds of each, and the verdict of the worst."""
    n, m = x.shape[-1], asked.right.shape[-1]
    gap = gaps[0]
    known = torch.isfinite(away[1])
    far, near = (
        g.distance + g.outside + torch.where(known, moved, 0.0)
        for g, moved in zip(gaps, away, strict=True)
    )
    apart = norms(x - reference)
    # the reference's way round is as good a bound where it is known
    upper = torch.where(known, torch.minimum(far, apart + near), far)
    length = norms(reference)
    shortest = torch.maximum(length - near, norms(x) - far)
    size = torch.where(shortest > 0, shortest, norms(asked.x))
    size = size.clamp_min(torch.finfo(x.dtype).tiny)
    longest = torch.where(shortest > 0, length + near, size).clamp_min(torch.finfo(x.dtype).tiny)
    upper = upper / size
    lower = torch.where(known, ((apart - near) / longest).clamp_min(0), 0.0)
    amplification = (norms(asked.x) + norms(asked.x - x)) / size
    condition = [1.0 if face is None else face.condition for face in faces] or [1.0] * len(x)
    growth = tolerance.dimension_factor(max(m, 1), n) * u * amplification
    allowed = growth * torch.tensor(condition, dtype=x.dtype, device=x.device)
    wanted = allowed if accuracy is None else torch.full_like(allowed, accuracy)
    feasible = tolerance.feasibility_bound(u=u, m=max(m, 1), n=n)
    verdict, reason = _verdict(gap, upper, lower, wanted, feasible)
    if not bool(known.all()) and verdict != "failed":
        verdict = verdict if settled else "uncertifiable"
        reason += (
            ", of the projection onto the set with the right sides that x has: how far rows that "
            "are off move it is not measured of a large face, or of one that was not settled"
        )

    def shaped(t: Tensor) -> Any:
        return t.reshape(asked.lead) if len(asked.lead) else float(t)

    return Certificate(
        feasibility=shaped(gap.feasibility),
        stationarity=shaped(gap.distance / (norms(asked.x) + norms(x)).clamp_min(1e-300)),
        forward_error_bound=shaped(upper),
        forward_error_at_least=shaped(lower),
        accuracy=shaped(wanted),
        verdict=verdict,
        reason=reason,
    )


def _verdict(
    gap: Gap, upper: Tensor, lower: Tensor, wanted: Tensor, feasible: float
) -> tuple[Any, str]:
    finite = torch.isfinite(upper) & torch.isfinite(gap.feasibility)
    if not bool(finite.all()):
        return "failed", "x is not finite"
    worst = float(gap.feasibility.max())
    if worst > feasible:
        return "failed", f"x misses a row or a bound by {worst:.2g} of its size"
    i = int((upper / wanted).argmax())
    if bool((upper <= wanted).all()):
        return "certified", f"the bound {float(upper[i]):.2g} is within {float(wanted[i]):.2g}"
    if bool((lower > wanted).any()):
        i = int((lower / wanted).argmax())
        return "failed", f"at least {float(lower[i]):.2g} off, more than {float(wanted[i]):.2g}"
    return "uncertifiable", (
        f"the duality gap proves {float(upper[i]):.2g}, not {float(wanted[i]):.2g}"
    )


def _zero_rows(system: System) -> Tensor | None:
    """Numbers of rows without coefficients; None where there are none."""
    if not system.shape[0]:
        return None
    rows = (system.rows.row_max() == 0).nonzero().squeeze(-1)
    return rows if len(rows) else None


def project_polyhedron(
    x: Tensor, A: Any, b: Any, G: Any, h: Any, lb: Any, ub: Any, variant: str
) -> Tensor:
    """The one-off form, differentiable in x, A, b, G, h, lb and ub (A and G dense)."""
    if not isinstance(x, Tensor) or not x.dim():
        check_vector(x, 1, None, torch.device("cpu"))
    refuse_kinds(x, "x")
    check_vector(x, x.shape[-1], None, x.device)
    if not torch._C._are_functorch_transforms_active():
        require_finite(x.detach(), "x")
    if isinstance(A, Polyhedron):
        if any(part is not None for part in (b, G, h, lb, ub)):
            raise InputError("A is a Polyhedron and holds every part; give no other")
        return PolyhedralProjector(A, variant)(x)
    names: tuple[str, ...] = ()
    if isinstance(A, AffineConstraint):
        if b is not None:
            raise InputError("A is an AffineConstraint and holds its own b; give no other")
        refuse_b_error(A)
        names = A.names
        A, b = A.A, A.b
    for name, matrix, right, of in (("A", A, b, "b"), ("G", G, h, "h")):
        if (matrix is None) != (right is None):
            missing, there = (of, name) if right is None else (name, of)
            raise InputError(f"{missing} is missing, {there} is given; give both, or neither")
    watched = _watched(A, "A"), _watched(G, "G")
    # compressed rows have no detach under a transform, and need none
    plain = [t.detach() if own else t for t, own in zip((A, G), watched, strict=True)]
    zero = [None if t is None else 0.0 for t in (A, G)]
    equations = plain[0]
    if names:
        m = len(names)
        nothing = torch.zeros(m, dtype=torch.float64, device=x.device)
        equations = AffineConstraint(plain[0], nothing, names)
        zero[0] = None
    polyhedron = Polyhedron(equations, zero[0], plain[1], zero[1], n=x.shape[-1])
    if any(watched) and variant == "auto" and polyhedron.m + polyhedron.p > 1:
        variant = "active_set"  # where rows share no column, zeros have derivatives too
    projector = PolyhedralProjector(polyhedron, variant, sides_follow=True)
    given = {"b": b, "h": h, "lb": lb, "ub": ub}
    if not any(watched):
        return projector(x, **given)
    dense = [
        None if t is None else (t if isinstance(t, Tensor) else to_tensor(t, name)).to_dense()
        for t, name in zip((A, G), "AG", strict=True)
    ]
    return projector.with_rows(x, given, *dense)


def _watched(matrix: Any, name: str) -> bool:
    """Whether derivatives in A or G are asked for."""
    if not isinstance(matrix, Tensor):
        return False
    if matrix.layout is torch.strided and torch._C._functorch.is_batchedtensor(matrix):
        raise InputError(
            f"{name} is mapped over by vmap; with inequalities or bounds give one {name}, and a "
            "right side and bounds for each x"
        )
    forward = forward_ad._current_level >= 0 and matrix.layout is torch.strided
    tangent = forward and forward_ad.unpack_dual(matrix).tangent is not None
    if not (matrix.requires_grad or tangent):
        return False
    if matrix.layout is not torch.strided:
        raise InputError(
            f"{name} requires grad but is sparse; project differentiates in dense {name} only"
        )
    return True
