"""A x = b over the parameters that an optimizer trains, applied block by block."""

import copy
import math
from collections.abc import Callable, Sequence, Set
from functools import partial

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.kernels import sums as kernels
from projlab.errors import InputError, ProjlabError
from projlab.numerics.scaling import exact_power, scale
from projlab.numerics.transfer import capturing, reads_values, sent
from projlab.proof import certificate
from projlab.proof.certificate import Certificate
from projlab.system.constraint import AffineConstraint
from projlab.system.inputs import working_dtype
from projlab.training.agreement import agreed
from projlab.training.blocks.base import Block, Shift, TouchedEntries, largest_of_all, widest_dtype
from projlab.training.blocks.factoring import inconsistent, make_block
from projlab.training.blocks.polyhedral import PolyhedralBlock
from projlab.training.blocks.shards import shards_blocks
from projlab.training.blocks.sums import SumsBlock
from projlab.training.equations import StackedEquations
from projlab.training.expressions.expression import Inequality
from projlab.training.expressions.maps import LinearMap, Sums, in_units, magnitude, placed
from projlab.training.grids import MarginsPlan
from projlab.training.memory_order import flat, in_memory_order, is_dense, laid_out
from projlab.training.partition import EquationRows, MatrixPlan, Plan, SumsPlan, alike, split
from projlab.training.polyhedra import polyhedral_blocks, shared_polyhedra
from projlab.training.shards import Ranks, form, here, whole
from projlab.training.sides import parted
from projlab.training.ties import TiesPlan

_ORDINARY = 1e6
"""Right sides up to this are met within float32, unless coefficients are below 1e-32."""


def _require_no_capture(device: torch.device) -> None:
    """Raise `ProjlabError` while operators are recorded: what is set up would not be kept."""
    if capturing(device):
        raise ProjlabError(
            "a CUDA graph is being captured, and the equations have yet to be factored for the "
            "parameters that have gradients now. Take a step with gradients in the same places "
            "before the capture"
        )


def _copy_back(ts: list[Tensor], own: list[Tensor]) -> None:
    """What was changed in copies."""
    if own is not ts:
        for t, changed in zip(ts, own, strict=True):
            if changed is not t:
                t.copy_(changed)


def _within(off: Tensor, limit: float, size: Tensor) -> Tensor:
    """Whether residuals are so small beside sizes; of sizes that overflow they are not known to."""
    return (off <= limit * size) & torch.isfinite(size)


class ParameterSystem:
    """A x = b over the parameters that vary, b less what the constant parameters contribute.

    Parameters
    ----------
    stacked
        The equations.
    actual
        The tensor that stands for a parameter of the equations (itself, but for copies).
    varies
        Whether a parameter may be moved; the others are constants, read at each step.
    variant
        "auto" or a name, for every block.
    strict
        Whether rows that contradict each other, or hold nothing that varies, are refused; else
        they are met as well as they can be.
    taken
        How many equations, the first ones, were taken before: one whose parameters were all frozen
        since then is a constant that nothing can change, and is left out.
    apart
        Keep single rows of many lengths apart: a diagonal metric needs them so.
    """

    def __init__(
        self,
        stacked: StackedEquations,
        actual: Callable[[Tensor], Tensor],
        varies: Callable[[Tensor], bool],
        variant: str,
        *,
        strict: bool = True,
        taken: int = 0,
        apart: bool = False,
    ) -> None:
        self.stacked, self.actual = stacked, actual
        self._exponents = stacked.exponents
        """Rows are divided by two to these, (rows,), and all that is told of them is in the units
        of the caller again; None where none is far from one."""
        self._units: list[Tensor] | None = None
        """Two to these, block by block, where residuals are told."""
        self.ranks = Ranks.of(
            [actual(p) for p in stacked.parameters],
            [stacked.parameter_names[p] for p in stacked.parameters],
        )
        """Those that hold the parameters together; None where each has its own."""
        self.apart_by_rank = False
        """Whether some equations are known to one rank each."""
        self._variant = variant
        self.parameters: list[Tensor] = []
        """Those that vary, each once."""
        self._constants: list[tuple[int, int, LinearMap]] = []
        """The first row and the last but one of a constant term, and its map."""
        fresh = taken if strict else len(stacked.equations)
        self._equations = self._varying(varies, fresh)
        self._forms = self.parameters if self.ranks is None else [form(p) for p in self.parameters]
        """Of the shapes that equations are written for."""
        self.device = device = self._device()
        _require_no_capture(device)
        data = self._data()
        self.dtype = widest_dtype([actual(p) for p in stacked.parameters])
        self._b = sent(
            self._divided(stacked.right_side()),
            device,
            torch.float32 if device.type == "mps" else torch.float64,
        )
        self._rounding = self._divided_rounding(stacked)
        """(rows,) of b, where it is made of several constants; None where none is."""
        if strict:
            self._require_range()
        # rows that may contradict each other have factors that no b has a part in
        b = self.current_b().double().cpu() if strict else self._divided(stacked.right_side())
        error = stacked.b_error() if strict else None
        error = None if error is None else self._divided(error)
        parts = parted(self._equations, [p.numel() for p in self.parameters])
        self.sided = bool(len(parts.bounds.rows) or parts.together or len(parts.void))
        """Whether there are inequalities."""
        if self.sided and variant != "auto":
            raise InputError(
                f'variant="{variant}" is one of equations; beside inequalities leave variant="auto"'
            )
        self._parts = parts
        self._repeated: list[tuple[int, list[int], int]] = []
        """Of sums that are stated again: the first row, those of the others, how many there are."""
        distinct = self._distinct(b, error) if strict else parts.apart
        plans, empty = split(
            distinct,
            self._forms,
            sums=variant in ("auto", "single_row"),
            structured=variant == "auto" and self.ranks is None,
            join=not apart,
        )
        first = sum(e.rows for e in stacked.equations[:fresh])
        self._refuse_empty(empty[empty >= first], b, error)
        if error is not None:
            meant = agreed(plans, self._forms, b, error, data, stacked.row_names)
            self._b += (meant - b).to(self._b)
            b = meant
        self._sums = [plan for plan in plans if isinstance(plan, SumsPlan)]
        self.blocks: list[Block] = self._blocks(plans, b, variant, data, strict=strict)
        if self.sided:
            empty = self._add_polyhedra(b, strict=strict)
            self._refuse_empty(empty[empty >= first], b, error)
        self._any_b = (
            not self.sided
            and len(distinct) == len(self._equations)
            and not len(empty)
            and all(block.independent for block in self.blocks)
        )
        """Whether rows are independent, so that they have a solution whatever b is."""
        self._fix()
        self._reads = reads_values(device)
        """Whether values are looked at, to save passes: only where that does not wait."""
        self._strides = [p.stride() for p in self.parameters]
        self._addresses: list[int] = []
        self._shares_blocks = False
        """Whether another system may have bound the blocks to other memory since."""
        self._points: list[Tensor] | None = None
        """What is projected in place of the parameters, meanwhile."""

    def _add_polyhedra(self, b: Tensor, *, strict: bool) -> Tensor:
        """Blocks of inequalities, bounds and the equations that these meet; empty rows."""
        blocks, empty = self._polyhedra(b, strict=strict)
        if self.ranks is not None:
            # what is refused is refused by the whole, on every rank alike
            blocks, apart = shared_polyhedra(
                self._parts, self.parameters, self._forms, self.ranks, b, self._unequal
            )
            self.apart_by_rank |= apart
        self.blocks += blocks
        return empty

    def _polyhedra(self, b: Tensor, *, strict: bool) -> tuple[list[PolyhedralBlock], Tensor]:
        """The same over whole parameters, or their forms."""
        return polyhedral_blocks(
            self._parts,
            self._forms,
            b,
            self._unequal,
            self._row_names,
            self._entry_name,
            strict=strict,
            of_constants=self._of_constants(),
        )

    def _row_names(self, rows: Tensor) -> list[str]:
        """Names of rows beside which their numbers are told."""
        names = self.stacked.row_names(rows)
        if self._exponents is None:
            return names
        exponents = self._exponents[rows.flatten().cpu()].tolist()
        return [
            f"{name}, over 2**{e}," if e else name for name, e in zip(names, exponents, strict=True)
        ]

    @property
    def _unequal(self) -> Tensor:
        """(rows,) which rows are inequalities."""
        return torch.cat(
            [
                torch.full((e.rows,), isinstance(e, Inequality), dtype=torch.bool, device="cpu")
                for e in self.stacked.equations
            ]
        )

    def _entry_name(self, parameter: int, column: int) -> str:
        """As in "W0[3, 1]"."""
        p = self.parameters[parameter]
        name = next(
            self.stacked.parameter_names[q] for q in self.stacked.parameters if self.actual(q) is p
        )
        numbers = torch.arange(p.numel(), device="cpu").view(p.shape)
        if is_dense(laid := self._forms[parameter]):
            own = torch.empty_strided(p.shape, laid.stride(), dtype=torch.long, device="cpu")
            column = int(flat(own.copy_(numbers))[column])
        index = [
            str(int(i))
            for i in torch.unravel_index(
                torch.tensor(column, dtype=torch.long, device="cpu"), p.shape
            )
        ]
        return f"{name}[{', '.join(index)}]" if index else name

    def _blocks(
        self, plans: list[Plan], b: Tensor, variant: str, data: torch.dtype, *, strict: bool
    ) -> list[Block]:
        """The plans, factored."""
        coarsest, names = self._coarsest([]), self.stacked.row_names

        def factored(
            plan: MarginsPlan | TiesPlan | MatrixPlan, parameters: Sequence[Tensor], variant: str
        ) -> Block:
            return make_block(plan, parameters, b, variant, data, coarsest, names, strict=strict)

        if self.ranks is not None:
            known = [plan for plan in plans if isinstance(plan, SumsPlan | MatrixPlan)]
            if not known:
                return []
            found, self.apart_by_rank = shards_blocks(
                known, self.parameters, self._forms, self.ranks, variant, factored
            )
            return found
        return self._sums_blocks(self._sums) + [
            factored(plan, self.parameters, variant)
            for plan in plans
            if not isinstance(plan, SumsPlan)
        ]

    def _sums_blocks(self, plans: Sequence[SumsPlan]) -> list[Block]:
        """Sums that are laid out alike, together; a kernel for all of them where it pays."""
        entries = sum(plan.rows.numel() * t.count for plan in plans for _, t in plan.terms)
        natively = kernels.wanted(entries, self.device)
        return [
            SumsBlock(same, self.parameters, natively=natively)
            for same in alike(plans, self.parameters)
        ]

    def _fix(self) -> None:
        """Give each block its part of b."""
        self._right = [block.right_side(self._b) for block in self.blocks]
        if not self._constants:
            for block, b in zip(self.blocks, self._right, strict=True):
                block.fix(b)

    def part(self, equations: Set[int]) -> "ParameterSystem":
        """The same system without the blocks of other equations than these, by their numbers.

        They must share no varying parameter with the others (`families`). Blocks are those of the
        system itself, but for sums, of which nothing is stored.
        """
        if len(equations) == len(self._equations):
            return self
        if self.ranks is not None:
            varying = {id(p) for p in self.parameters}
            return ParameterSystem(
                StackedEquations(
                    [self.stacked.equations[i] for i in sorted(equations)],
                    self.stacked.chosen_names,
                ),
                self.actual,
                lambda p: id(p) in varying,
                self._variant,
                strict=False,
            )
        own = torch.zeros(len(self._b), dtype=torch.bool, device="cpu")
        for i in equations:
            e = self._equations[i]
            own[e.start : e.start + e.height] = True
        part = copy.copy(self)
        sums = [plan for plan in self._sums if bool(own[plan.rows.flatten()[0]])]
        part.blocks = self._sums_blocks(sums)
        part.blocks += [
            block
            for block in self.blocks
            if not isinstance(block, SumsBlock) and bool(own[int(block.rows.flatten()[0])])
        ]
        part._fix()
        part._units = None
        part._shares_blocks = True
        return part

    def families(self) -> list[tuple[set[int], set[int]]]:
        """Equations that share varying parameters, directly or through others, and these.

        By their numbers in the system; equations without any are in none.
        """
        families: list[tuple[set[int], set[int]]] = []
        for i, e in enumerate(self._equations):
            found, held = {i}, {p for p, _ in e.terms}
            if not held:
                continue
            apart = []
            for equations, parameters in families:
                if parameters.isdisjoint(held):
                    apart.append((equations, parameters))
                else:
                    found, held = found | equations, held | parameters
            families = [*apart, (found, held)]
        return families

    @property
    def reads_constants(self) -> bool:
        """Whether b changes with parameters that are constants here."""
        return bool(self._constants)

    def take(self, stacked: StackedEquations) -> bool:
        """Take over equations that differ in their right sides alone, where factors stay as is.

        False, and nothing done, where rows depend on each other, so that b has to be judged.
        """
        if not self._any_b:
            return False
        self.stacked = stacked
        self._b = self._divided(stacked.right_side()).to(self._b)
        self._rounding = self._divided_rounding(stacked)
        self._fix()
        return True

    def _divided_rounding(self, stacked: StackedEquations) -> Tensor | None:
        known = stacked.rounding()
        return None if known is None else self._divided(known).to(self._b)

    def _divided(self, rows: Tensor) -> Tensor:
        """Numbers of the rows, (rows,), in the units in which rows are kept."""
        return rows if self._exponents is None else scale(rows, -self._exponents)

    def _told(self, rows: Tensor) -> Tensor:
        """Numbers of the rows, (rows,), in those of the caller."""
        if self._exponents is None:
            return rows
        return scale(rows.double(), sent(self._exponents, rows.device)).to(rows.dtype)

    def _varying(self, varies: Callable[[Tensor], bool], fresh: int) -> list[EquationRows]:
        """The equations over parameters that vary; the other terms become constants.

        Of equations from number `fresh` on, one that holds nothing that varies is refused.
        """
        index: dict[int, int] = {}
        equations = []
        for i, (start, e) in enumerate(self.stacked.numbered()):
            terms: list[tuple[int, LinearMap]] = []
            for term in e.difference.terms:
                p = self.actual(term.parameter)
                if self._exponents is not None:
                    term = in_units(term, self._exponents[start : start + e.rows])
                if not varies(p):
                    self._constants.append((start, start + e.rows, placed(term, p.device)))
                    continue
                if id(p) not in index:
                    index[id(p)] = len(self.parameters)
                    self.parameters.append(p)
                terms.append(
                    (index[id(p)], in_memory_order(term, p) if self.ranks is None else term)
                )
            if i >= fresh and not terms:
                raise InputError(
                    f"{e.describe(self.stacked.parameter_names)} holds no parameter that this "
                    "optimizer trains"
                )
            relation = isinstance(e, Inequality)
            equations.append(EquationRows(start, e.shape, tuple(terms), relation))
        return equations

    def _device(self) -> torch.device:
        """The one device of all parameters, or `InputError`."""
        first: dict[torch.device, Tensor] = {}
        for p in self.stacked.parameters:
            first.setdefault(self.actual(p).device, p)
        if len(first) > 1:
            names = self.stacked.parameter_names
            where = " and ".join(f"{names[p]} on {d}" for d, p in first.items())
            raise InputError(f"the equations span devices: {where}; move the parameters to one")
        return next(iter(first))

    def _data(self) -> torch.dtype:
        """The precision of coefficients and of right sides: constants bring their own."""
        return self._coarsest([self.actual(term.parameter).dtype for _, _, term in self._constants])

    def _coarsest(self, besides: list[torch.dtype]) -> torch.dtype:
        """float32 where a coefficient, a given right side or one of these is no finer."""
        dtypes = besides + [e.difference.data for e in self.stacked.equations]
        coarse = any(working_dtype(d) is torch.float32 for d in dtypes)
        return torch.float32 if coarse else torch.float64

    @property
    def may_overflow(self) -> bool:
        """Whether a point of the set may be beyond the range of a parameter."""
        narrow = any(p.dtype is torch.float16 for p in self.parameters)
        finite = torch.where(torch.isinf(self._b), 0, self._b).abs()
        return narrow or (len(finite) > 0 and float(finite.max()) > _ORDINARY)

    def _require_range(self) -> None:
        """Raise `InputError` for right sides that the parameters' precision cannot hold."""
        lost = torch.isfinite(self._b) & torch.isinf(self._b.to(self.dtype))
        if bool(lost.any()):
            i = int(lost.nonzero()[0])
            value, name = float(self._told(self._b)[i]), self.stacked.row_name(i)
            advice = "scale the equation"
            if self._exponents is not None and int(self._exponents[i]):
                name, advice = f"{name}, over its coefficients,", "none of their values meets it"
            raise InputError(
                f"the right side {value:.6g} of {name} is infinite in {self.dtype}, the precision "
                f"of its parameters; {advice}"
            )

    def _distinct(self, b: Tensor, error: Tensor | None) -> list[EquationRows]:
        """Without sums that are stated twice; `InconsistentError` where they differ in b only."""
        kept: dict[object, EquationRows] = {}
        repeated: dict[int, tuple[int, list[int], int]] = {}
        # what changes with a constant may differ later
        changing = {start for start, _, _ in self._constants}
        for e in self._parts.apart:
            key: object = id(e)
            if e.start not in changing and e.terms and all(isinstance(t, Sums) for _, t in e.terms):
                key = tuple((p, t.scale, t.out, t.inner, t.offset) for p, t in e.terms)  # type: ignore[union-attr]
            first = kept.setdefault(key, e)
            if first is e:
                continue
            repeated.setdefault(first.start, (first.start, [], e.height))[1].append(e.start)
            both = [slice(same.start, same.start + same.height) for same in (first, e)]
            one, two = (b[rows] for rows in both)
            bound = tolerance.repeated_factor(tolerance.unit_roundoff(self._data()))
            allowed = bound * (one.abs() + two.abs())
            if error is not None:
                allowed += error[both[0]] + error[both[1]]
            off = ((one - two).abs() > allowed).nonzero()
            if len(off):
                i = int(off[0])
                names = [self.stacked.row_name(same.start + i) for same in (first, e)]
                raise inconsistent([" and ".join(names)])
        self._repeated = list(repeated.values())
        return list(kept.values())

    def _refuse_empty(self, empty: Tensor, b: Tensor, error: Tensor | None) -> None:
        """Raise `InconsistentError` for a row without entries whose b is not zero to rounding."""
        sizes = self._divided(self.stacked.right_side().abs())
        rounding = tolerance.unit_roundoff(self.dtype) * sizes
        if len(empty) and (constants := self._of_constants()) is not None:
            rounding = rounding + constants.cpu()
        unequal = {
            i for e in self._equations if e.inequality for i in range(e.start, e.start + e.height)
        }
        for row in empty.tolist():
            stated = 0.0 if error is None else float(error[row])
            off = -float(b[row]) if row in unequal else abs(float(b[row]))
            if off > tolerance.RESIDUAL_ROUNDINGS * float(rounding[row]) + stated:
                name = self.stacked.row_name(row)
                raise inconsistent([f"{name} holds no parameter that varies"])

    def current_b(self) -> Tensor:
        """b less what the constants contribute now, (rows,)."""
        return self._less_constants(judged=False)[0]

    def _of_constants(self) -> Tensor | None:
        """(rows,) the rounding of what constants contribute; None where it is none."""
        return self._less_constants(judged=True)[1]

    def _less_constants(self, *, judged: bool) -> tuple[Tensor, Tensor | None]:
        """b less what the constants contribute now, and if `judged` the rounding of that, (rows,).

        What is left for the parameters that vary may be much less than what it was left of.
        """
        rounding = self._rounding if judged else None
        if not self._constants:
            return self._b, rounding
        b = self._b.clone()
        if judged:
            rounding = torch.zeros_like(b) if rounding is None else rounding.clone()
        for start, stop, term in self._constants:
            p = whole(self.actual(term.parameter).detach())
            b[start:stop] -= term.evaluate(p, self.dtype)
            if rounding is not None:
                u = tolerance.unit_roundoff(p.dtype)
                rounding[start:stop] += u * magnitude(term, p, self.dtype)
        return b, rounding

    def right_sides(self) -> list[Tensor]:
        """b for each block."""
        if not self._constants:
            return self._right
        b, rounding = self._less_constants(judged=self.sided)
        for block in self.blocks:
            if isinstance(block, PolyhedralBlock):
                block.of_constants = rounding
        return [block.right_side(b) for block in self.blocks]

    def values(self) -> list[Tensor]:
        """The entries here of the parameters that vary, without graph."""
        return [here(p.detach()) for p in self.parameters]

    def _current(self) -> list[tuple[Block, Tensor]]:
        """Each block, bound to the parameters' present memory, and its right side."""
        self._bind()
        return list(zip(self.blocks, self.right_sides(), strict=True))

    def _bind(self) -> None:
        """Blocks to the parameters' present memory."""
        if self._points is not None:
            return
        if self.ranks is not None:
            values = self.values()
            for block in self.blocks:
                block.bind(values)
            return
        addresses = [p.data_ptr() for p in self.parameters]
        if addresses != self._addresses or self._shares_blocks:
            values = self.values()
            for block in self.blocks:
                block.bind(values)
            self._addresses = addresses

    def project_(self, skip: Tensor | None, *, last: bool = True) -> list[Tensor]:
        """Onto the set, in place; the residuals before the last correction, or after it if `last`.

        Nothing moves where `skip` is true.
        """
        reads = skip is None and self._reads
        self._bind()
        left = [
            block.project_(b, skip, reads=reads, last=last)
            for block, b in zip(self.blocks, self.right_sides(), strict=True)
        ]
        return self._residuals_told(left)

    def _residuals_told(self, residuals: list[Tensor]) -> list[Tensor]:
        """In the units of the caller; a block's one number for all of its rows in their largest."""
        if self._exponents is None:
            return residuals
        if self._units is None:
            self._units = [self._units_of(block) for block in self.blocks]
        return [
            r.double() * (unit if unit.shape == r.shape else unit.max())
            for unit, r in zip(self._units, residuals, strict=True)
        ]

    def _units_of(self, block: Block) -> Tensor:
        """Of each of a block's residuals the unit, in the shape of its row numbers."""
        assert self._exponents is not None
        exponents = self._exponents[block.rows.cpu()]
        if isinstance(block, PolyhedralBlock):  # whose last ones are those of bounds
            exponents = torch.cat([exponents[:, :-1], torch.zeros_like(exponents[:, -1:])], -1)
        return sent(exact_power(exponents, torch.float64), block.rows.device)

    def project_points_(self, points: list[Tensor], skip: Tensor | None) -> None:
        """Other tensors of the parameters' shapes and dtypes onto the set, in place."""
        points = [here(t) for t in points]
        self._points = [laid_out(t, p) for t, p in zip(points, self.values(), strict=True)]
        try:
            for block in self.blocks:
                block.bind(self._points)
            self.project_(skip, last=False)
            for t, own in zip(points, self._points, strict=True):
                if t is not own:
                    t.copy_(own)
        finally:
            self._points, self._addresses = None, []

    def restore_(self, skip: Tensor | None, factor: float) -> None:
        """Onto the set; blocks whose rows all hold up to `factor` roundings keep their bits."""
        for block, b in self._current():
            holds = partial(self._holds, block, b, factor=factor)
            block.restore_(b, skip, holds, reads=self._reads)

    def project_in_metric_(self, inverse: list[Tensor], skip: Tensor | None) -> None:
        """Onto the set in the diagonal metric whose inverse is given for each parameter."""
        inverse = [laid_out(w, p) for w, p in zip(inverse, self.parameters, strict=True)]
        for block, b in self._current():
            block.project_in_metric(b, inverse, skip)
            block.project_in_metric(b, inverse, skip)

    def tangent_(self, gs: list[Tensor], shift: Shift | None) -> None:
        """Gradients onto the null space, in place: T(g + shift x) - shift x.

        Of a part, gradients that its blocks do not touch are passed over, whatever they are.
        """
        if shift is not None or self.sided:
            self._bind()
        if self.sided:
            for block, b in zip(self.blocks, self.right_sides(), strict=True):
                block.b = b
        if self.ranks is not None:
            own = [self._gradient_here(g, p) for g, p in zip(gs, self.parameters, strict=True)]
            for block in self.blocks:
                block.tangent(own, shift)
            return
        # blocks read gradients as they read the parameters
        own = self._laid(gs)
        for block in self.blocks:
            block.tangent(own, shift)
        _copy_back(gs, own)

    def multipliers(self, gs: list[Tensor], shift: Shift | None) -> Tensor:
        """Shadow prices y, (rows,), by gradients of descent; nothing changes.

        A'y = -Q (g + shift x), or where an inequality is met the multipliers of the projection of
        -g onto the tangent cone.
        """
        self._bind()
        y = torch.zeros(len(self._b), dtype=self.dtype, device=self.device)
        if self.ranks is not None:
            own = [self._gradient_here(g, p) for g, p in zip(gs, self.parameters, strict=True)]
        else:
            own = self._laid(gs)
        for block, b in zip(self.blocks, self.right_sides(), strict=True):
            block.b = b
            block.price(y, own, shift)
        if self.ranks is not None and self.apart_by_rank:
            self._from_all_ranks(y)
        for first, others, height in self._repeated:
            share = y[first : first + height] / (1 + len(others))
            for start in (first, *others):
                y[start : start + height] = share
        return y if self._exponents is None else self._divided(y.double().cpu()).to(y)

    def _laid(self, gs: list[Tensor]) -> list[Tensor]:
        """Tensors of the parameters' shapes as these lie in memory."""
        if [g.stride() for g in gs] == self._strides:
            return gs
        return [laid_out(g, p) for g, p in zip(gs, self.parameters, strict=True)]

    def ascend(self, signs: list[float]) -> None:
        """Say of each parameter whether its optimizer descends (1) or ascends (-1)."""
        for block in self.blocks:
            if isinstance(block, PolyhedralBlock):
                block.signs = None if min(signs) > 0 else signs

    def velocities_(self, ms: list[Tensor]) -> None:
        """Momenta, one a parameter, onto the faces that the last gradient left, in place."""
        if self.ranks is not None:
            ms = own = [self._gradient_here(m, p) for m, p in zip(ms, self.parameters, strict=True)]
        else:
            own = self._laid(ms)
        for block in self.blocks:
            if isinstance(block, PolyhedralBlock):
                block.velocities_(own)
        _copy_back(ms, own)

    def _gradient_here(self, g: Tensor, p: Tensor) -> Tensor:
        """The entries here of a gradient, which are to be those of its parameter."""
        if getattr(g, "placements", ()) != getattr(p, "placements", ()):
            raise InputError(
                f"the gradient of a sharded parameter has placements {g.placements}, and the "  # type: ignore[attr-defined]
                f"parameter {p.placements}: redistribute it before the step"  # type: ignore[attr-defined]
            )
        return here(g)

    def finite(self) -> bool:
        """Whether all entries of the parameters that vary are finite, on every rank."""
        # a finite sum has finite terms, and is a fiftieth of the work
        finite = all(math.isfinite(p.sum()) or bool(torch.isfinite(p).all()) for p in self.values())
        return finite if self.ranks is None else not self.ranks.anywhere(not finite)

    def overflowing(self) -> str | None:
        """What of finite parameters has no finite residual, and cannot be projected, on any rank.

        A row of its name; of sharded parameters "an equation".
        """
        name = None
        for block, b in self._current():
            lost = ~torch.isfinite(block.residual(b))
            if bool(lost.any()):
                rows = block.rows.to(lost.device)
                row = int(rows[lost][0]) if rows.shape == lost.shape else int(rows.flatten()[0])
                name = f"the residual of {self.stacked.row_name(row)}"
                break
        if self.ranks is None:
            return name
        return "the residual of an equation" if self.ranks.anywhere(name is not None) else None

    def residuals(self) -> list[Tensor]:
        """A x - b, block by block; of sharded parameters those that this rank knows."""
        return self._residuals_told([block.residual(b) for block, b in self._current()])

    def known_to_all(self, residuals: list[Tensor]) -> list[Tensor]:
        """The residuals; where a rank has equations of its own, the largest on any rank."""
        if self.ranks is None or not self.apart_by_rank:
            return residuals
        return [self.ranks.largest(largest_of_all(residuals, self.device))]

    def _holds(self, block: Block, b: Tensor, r: Tensor, factor: float) -> Tensor:
        """Which rows hold up to `factor` roundings of the coarsest parameter."""
        off = r.abs()
        limit = factor * max(tolerance.unit_roundoff(p.dtype) for p in self.parameters)
        if block.large and self._reads:
            holds = _within(off, limit, block.magnitude_at_least(b))
            fails = off > limit * block.magnitude_at_most(b)
            if bool((holds | fails).all()) or (not block.disjoint and bool(fails.any())):
                return holds
        return _within(off, limit, block.magnitude(b))

    def feasible(self, factor: float = tolerance.RESIDUAL_ROUNDINGS) -> tuple[bool, list[str]]:
        """Whether every row holds up to `factor` roundings, and some that do not; waits for it."""
        off: list[int] = []
        for block, b in self._current():
            r = block.residual(b)
            holds = self._holds(block, b, r, factor)
            if not bool(holds.all()):
                off += block.named(holds, b)[:3].tolist()
        if self.ranks is not None and self.apart_by_rank:
            fails = torch.zeros(len(self._b), dtype=self.dtype, device=self.device)
            fails[off] = 1
            off = self._from_all_ranks(fails).nonzero().flatten()[:3].tolist()
        return not off, [self.stacked.row_name(i) for i in off]

    def _from_all_ranks(self, y: Tensor) -> Tensor:
        """Put there what other ranks know of their own equations, (rows,), in place."""
        assert self.ranks is not None
        own = torch.zeros_like(y)
        for block in self.blocks:
            if block.alone:
                numbers = block.numbers
                if block.counted:
                    own[numbers] = y[numbers]
                y[numbers] = 0
        return y.add_(self.ranks.add_(own))

    def certificates(self, accuracy: float | None) -> list[Certificate]:
        """Of the current parameters as their own projection, block by block."""
        polyhedra = [block for block, _ in self._current() if isinstance(block, PolyhedralBlock)]
        b = self.current_b()
        if self.ranks is not None and self.sided:
            values = [whole(p.detach()).contiguous().cpu() for p in self.parameters]
            polyhedra, _ = self._polyhedra(b.cpu(), strict=False)
            for block in polyhedra:
                block.bind(values)
        found = [block.certified(b.to(block.numbers.device), accuracy) for block in polyhedra]
        if self._parts.apart or not found:
            found += [
                certificate.certify(x, x, constraint, accuracy=accuracy)
                for x, constraint in self.points()
            ]
        return found

    def points(self) -> list[tuple[Tensor, AffineConstraint]]:
        """The parameters of equations alone, block by block: points (k, n), and a constraint."""
        ts, b = self.values(), self.current_b().double().cpu()
        if self.ranks is not None:
            ts = [whole(p.detach()).contiguous() for p in self.parameters]
        plans, _ = split(self._parts.apart, self._forms, sums=True, structured=False, join=True)
        points: list[tuple[Tensor, AffineConstraint]] = []
        if not plans:
            # no equation holds an entry: every point is its own projection
            x = ts[0].reshape(-1) if ts else torch.zeros(1, dtype=self.dtype, device=self.device)
            none = AffineConstraint(x.new_zeros(0, len(x)), x.new_zeros(0))
            return [(x, none)]
        for plan in plans:
            assert isinstance(plan, SumsPlan | MatrixPlan)
            x, A = self._point(plan, ts)
            right = b[plan.rows].reshape(len(x), -1).to(x.device)
            if A.dim() == 3:
                points.append((x, AffineConstraint(A, right)))
                continue
            distinct, which = torch.unique(right, dim=0, return_inverse=True)
            points += [
                (x[which == i], AffineConstraint(A, distinct[i])) for i in range(len(distinct))
            ]
        return points

    def _point(self, plan: SumsPlan | MatrixPlan, ts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, n) of the parameters that a plan touches, and its A (m, n) or (B, m, n)."""
        if isinstance(plan, SumsPlan):
            blocks = plan.rows.numel()
            parts = [t.view(ts[p]).reshape(blocks, -1) for p, t in plan.terms]
            a = [
                torch.full((t.count,), t.scale, dtype=torch.float64, device="cpu")
                for _, t in plan.terms
            ]
            A = torch.cat(a).unsqueeze(0)
        else:
            parts = [TouchedEntries(p, self._forms[p.parameter]).read(ts) for p in plan.pieces]
            A = plan.A
        x = torch.cat(parts, 1)
        return x, A.to(x.device)
