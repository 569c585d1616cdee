"""Equations that an optimizer keeps: `constrain`."""

import copy
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from projlab.engine.select import check_variant
from projlab.errors import InputError, ProjlabError
from projlab.proof import certificate
from projlab.proof.certificate import Certificate
from projlab.system.options import check_b_error
from projlab.training import optimizers
from projlab.training.equations import StackedEquations
from projlab.training.expressions.expression import Equation, Expression, Inequality
from projlab.training.hooks import StepHooks
from projlab.training.residual_log import ResidualLog
from projlab.training.settings import Mode, Settings
from projlab.training.shards import whole
from projlab.training.watched import homes, names_in


def constrain(
    optimizer: Optimizer | Sequence[Optimizer],
    *equations: Equation,
    mode: Literal["tangent", "post", "metric"] = "tangent",
    variant: str = "auto",
    start: Literal["project", "raise"] = "project",
    module: torch.nn.Module | None = None,
    coupled_weight_decay: bool | None = None,
    log: int = 1024,
    b_error: Any = 0.0,
    multipliers: bool = False,
) -> "Handle":
    """Make every step of an optimizer end on the set of these equations and inequalities.

    From here on `optimizer.step()` keeps the equations to rounding, and ends at the constrained
    optimum wherever the unconstrained training would end at the unconstrained one:

        constrain(optimizer, expr(W).sum(dim=1) == 1, expr(W) >= 0)

    Parameters
    ----------
    optimizer
        Any torch optimizer but SparseAdam, or several whose parameters share equations: gradients
        of all are projected before a step of any, parameters of all after it. Wrappers that hand
        `step` on are looked through; others that call no step hooks are refused. Parameters of the
        equations that it does not hold, or that do not require grad, are constants, read at each
        step.
    equations
        What `==`, `<=` and `>=` make of expressions (`projlab.expr`). All of an optimizer, also of
        other calls, are one system. A row of an inequality that holds one entry is a bound.
    mode
        "tangent": gradients onto the null space before the step, so that the optimizer's averages
        never see what the constraint takes away, and parameters onto the set after it. Beside
        inequalities it is the tangent cone, what the gradient pushes against is held for the step,
        and momenta follow: see `projlab/training/blocks/polyhedral.py` for theory and limits.
        Coupled weight decay is taken into account; decoupled decay, which is the gradient of no
        objective under Adam, shrinks the parameters before they are projected.
        "post": only the projection after the step, the textbook recipe. Its limit is not the
        optimum under most optimizers, and it warns.
        "metric": projection after the step in the diagonal by which the optimizer divides; rows
        that share no entry, and SGD, Adam, AdamW, NAdam, Adamax, RMSprop and Adagrad.
    variant
        "auto", or one of `projlab.variants()` for every block.
    start
        Infeasible parameters are projected now ("project"), or refused ("raise").
    module
        Its names for the parameters appear in messages, rows and `repr`, and find them in copies
        (`Handle.project`). A parameter or buffer of the equations that is replaced in it later is a
        `ProjlabError` before the next step moves anything.
    coupled_weight_decay
        Whether weight_decay * x is added to the gradient; needed only for an optimizer with weight
        decay that is not torch's own.
    log
        How many of the last steps' largest residuals are kept, on the device; 0 for none, which
        saves one reading of the parameters a step.
    b_error
        How far the right sides may be off, absolute: a number or, for one equation, an array that
        broadcasts to it; for several, a number for all or a list with one of these for each.
        Equations that contradict each other by no more are taken to mean right sides that agree:
        independent rows keep theirs. `Handle.residual()` tells of those given.
    multipliers
        Keep the shadow prices of each step, which projects the gradients that they are made of:
        then `Handle.multipliers()` has those of the last step where it is asked after one. One
        more reading of the gradients a step.

    Returns
    -------
    Handle
        To see, certify and remove the constraint; a context manager that removes it at its end.
        float16 and bfloat16 parameters are projected through float32: a row then holds up to the
        rounding of its entries, u * sum |a_i x_i|, with u = 4.9e-4 and 3.9e-3.

    Raises
    ------
    InputError
        Anything but equations and inequalities; LBFGS, mode="metric", a variant or sharded
        parameters beside inequalities; an optimizer that calls no step hooks; parameters that
        another constrained optimizer trains; SparseAdam; ZeroRedundancyOptimizer that overlaps
        with DDP, or beside inequalities; flat parameters of FSDP, DTensors of
        several meshes, or neither sharded nor replicated; equations without a parameter that is
        trained; parameters on several devices; `mode="metric"` where there is no such metric;
        settings unlike those of an earlier constraint on this optimizer; infeasible or non-finite
        parameters with start="raise".
    InconsistentError
        Equations that contradict each other, or bounds that no parameters keep, by name. Nothing
        has been changed then.
    MemoryLimitError, AccuracyError, RankDeficientError
        As `projlab.projector` for a block.

    References
    ----------
    Rosen, "The gradient projection method for nonlinear programming", J. SIAM 8 (1960).
    """
    several = _several(optimizer)
    _check(equations, mode, start, log, multipliers)
    equations = _stating(equations, b_error)
    if module is not None and not isinstance(module, torch.nn.Module):
        raise InputError(f"module is a {type(module).__name__}; it must be a torch.nn.Module")
    if mode == "metric":
        for each in several:
            optimizers.require_metric(each)
        if len(several) > 1:
            raise InputError(
                'mode="metric" takes one optimizer: each divides by a diagonal of its own scale, '
                'and at its own time. Use mode="tangent"'
            )
    settings = Settings(mode, check_variant(variant), coupled_weight_decay, log, multipliers)
    hooks = _hooks_of(several, settings)
    before, names_before, homes_before = hooks.stacked, hooks.module_names, hooks.homes
    names = dict(before.chosen_names)
    for e in equations:
        names.update(e.difference.names)
    own = {} if module is None else names_in(module)
    stacked = StackedEquations([*before.equations, *equations], {**own, **names})
    hooks.refuse_shared(stacked)
    try:
        hooks.module_names = {**names_before, **own}
        found = {} if module is None else homes(module)
        present = {id(p): found[id(p)] for p in stacked.parameters if id(p) in found}
        kept = {id(p): homes_before[id(p)] for p in before.parameters if id(p) in homes_before}
        hooks.homes = {**kept, **present}
        hooks.set_equations(stacked, len(before.equations))
        hooks.attach()
        handle = Handle(hooks, equations)
        if mode == "post" and (warning := _bias(several, hooks)):
            warnings.warn(warning, stacklevel=2)
        # last: whatever is raised so far, no parameter has moved
        hooks.start(start)
    except BaseException:
        hooks.module_names, hooks.homes = names_before, homes_before
        if not before.equations:
            hooks.detach()
        elif hooks.stacked is not before:
            hooks.keep_equations(before)
        raise
    return handle


def _several(optimizer: object) -> list[Optimizer]:
    """The optimizers to hook onto, one or more."""
    if not isinstance(optimizer, (list, tuple)):
        return [optimizers.require_optimizer(optimizer)]
    several = [optimizers.require_optimizer(each) for each in optimizer]
    if not several:
        raise InputError("no optimizer is given")
    holder: dict[int, int] = {}
    for i, each in enumerate(several):
        for group in each.param_groups:
            for p in group["params"]:
                if holder.setdefault(id(p), i) != i:
                    raise InputError(
                        f"optimizers {holder[id(p)]} and {i} hold the same parameter, of shape "
                        f"{tuple(p.shape)}; let one of them train it"
                    )
    return several


def _hooks_of(several: list[Optimizer], settings: Settings) -> StepHooks:
    """Those that these optimizers have together, or new ones."""
    found = [StepHooks.of(each) for each in several]
    hooks = found[0]
    if any(each is not hooks for each in found):
        raise InputError(
            "one of these optimizers has a constraint of its own, or shares one with another: "
            "remove it, and give all optimizers and equations in one call"
        )
    if hooks is None:
        return StepHooks(several, settings)
    if len(several) > 1 and len(hooks.optimizers) > len(several):
        raise InputError(
            "these optimizers share a constraint with another one: give that one as well"
        )
    if len(several) > len(hooks.optimizers):
        raise InputError("an optimizer is given twice")
    if hooks.settings != settings:
        raise InputError(
            f"this optimizer has a constraint with {hooks.settings}; all its constraints are one "
            f"system, and {settings} was asked for"
        )
    return hooks


def _check(
    equations: tuple[Any, ...], mode: object, start: object, log: object, multipliers: object
) -> None:
    for i, e in enumerate(equations):
        if not isinstance(e, Equation):
            raise InputError(
                f"equation {i} is a {type(e).__name__}; write it with projlab.expr, as in "
                "expr(W).sum(dim=1) == 1 or expr(W) >= 0"
            )
    if not equations:
        raise InputError("no equation is given; write one with projlab.expr")
    if mode not in ("tangent", "post", "metric"):
        raise InputError(f'mode={mode!r}; it must be "tangent", "post" or "metric"')
    if start not in ("project", "raise"):
        raise InputError(f'start={start!r}; it must be "project" or "raise"')
    if not isinstance(log, int) or isinstance(log, bool) or log < 0:
        raise InputError(f"log={log!r}; it must be a number of steps, 0 for none")
    if not isinstance(multipliers, bool):
        raise InputError(f"multipliers={multipliers!r}; it must be True or False")


def _stating(equations: tuple[Equation, ...], b_error: Any) -> tuple[Equation, ...]:
    """The equations, with how far their right sides may be off."""
    each = [b_error] * len(equations)
    if len(equations) > 1:
        if isinstance(b_error, (list, tuple)):
            if len(b_error) != len(equations):
                raise InputError(
                    f"b_error has {len(b_error)} entries for {len(equations)} equations; give one "
                    "number for all, or a list with one entry for each"
                )
            each = list(b_error)
        elif getattr(b_error, "ndim", 0):
            raise InputError(
                f"b_error is an array of shape {tuple(b_error.shape)} for {len(equations)} "
                "equations; give one number for all, or a list with one entry for each"
            )
    return tuple(
        _with_error(i, e, own) for i, (e, own) in enumerate(zip(equations, each, strict=True))
    )


def _with_error(i: int, equation: Equation, b_error: Any) -> Equation:
    error = check_b_error(b_error)
    if not isinstance(error, Tensor):
        return equation
    if isinstance(equation, Inequality):
        raise InputError(
            f"b_error is of equations, and number {i} is an inequality: loosen its right side, and "
            "give a list of errors with 0 for it"
        )
    try:
        rows = error.cpu().expand(equation.shape)
    except RuntimeError:
        raise InputError(
            f"b_error has shape {tuple(error.shape)}; of equation {i} it must broadcast to "
            f"{tuple(equation.shape)}"
        ) from None
    return equation.stating(rows.reshape(-1))


def _bias(several: list[Optimizer], hooks: StepHooks) -> str | None:
    """The warning of mode "post", where its limit is not the optimum."""
    plain = all(isinstance(each, (torch.optim.SGD, torch.optim.ASGD)) for each in several)
    if plain and len(hooks.learning_rates()) == 1:
        return None
    names = " and ".join(dict.fromkeys(type(each).__name__ for each in several))
    return (
        f'mode="post" under {names}: projecting after the step alone does not '
        f"end at the constrained optimum under {optimizers.BIASED_BY_POST}, because their steps "
        'are not along the gradient that was projected. mode="tangent" does'
    )


def _with_right(i: int, equation: Equation, right: Any) -> Equation:
    """The equation with other numbers on its right."""
    if right is None:
        return equation
    if equation.right.terms:
        raise InputError(
            f"equation {i} holds parameters on its right, which are read at each step: change "
            "their values instead"
        )
    if isinstance(right, Expression):
        raise InputError(f"right side {i} is an expression; it must be a number or an array")
    return equation.again(right)


class Handle:
    """A constraint on an optimizer, as `constrain` returns it."""

    def __init__(self, hooks: StepHooks, equations: tuple[Equation, ...]) -> None:
        self._hooks: StepHooks | None = hooks
        """None after removal."""
        self._equations = equations
        self._gone = "this constraint was removed from its optimizer"
        """What is said where there are no hooks."""
        hooks.handles.add(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Handle":
        """That of the optimizer's copy, where it is copied as well, before or after; else none."""
        copied = self._left_behind()
        if self._hooks is not None:
            optimizer = self._hooks.optimizers[-1]
            twin = StepHooks.of(memo[id(optimizer)]) if id(optimizer) in memo else None
            if twin is not None:
                copied.follow(twin, copy.deepcopy(self._equations, memo))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """Equations belong to the tensors of one process: what is loaded says what to do."""
        return Handle._left_behind, ()

    @staticmethod
    def _left_behind() -> "Handle":
        handle = Handle.__new__(Handle)
        handle._hooks, handle._equations = None, ()
        handle._gone = (
            "this handle was copied or loaded without its optimizer: call projlab.constrain on "
            "the optimizer of the copy"
        )
        return handle

    def follow(self, hooks: StepHooks, equations: tuple[Equation, ...]) -> None:
        """Become the handle of a copied optimizer's constraint."""
        self._hooks, self._equations = hooks, equations
        hooks.handles.add(self)

    @property
    def _active(self) -> StepHooks:
        if self._hooks is None:
            raise ProjlabError(self._gone)
        return self._hooks

    @property
    def equations(self) -> tuple[Equation, ...]:
        """As given."""
        return self._equations

    @property
    def mode(self) -> Mode:
        """As given."""
        return self._active.settings.mode

    def apply(self) -> None:
        """Project the parameters now, as after loading weights; feasible ones keep their bits.

        Where the optimizer has other constraints, onto all of them.

        Raises
        ------
        InputError
            A parameter holds NaN or infinity, or would on the set. Nothing has been changed then.
        """
        hooks = self._active
        hooks.check()
        hooks.start("project")

    def project(self, module: torch.nn.Module) -> None:
        """Project a copy of the module that was given to `constrain`, as an average of weights.

        The copy's parameters are found by their names, also inside a wrapper such as torch's
        `AveragedModel`; they go onto the set of all constraints of the optimizer, in place. What
        holds already keeps its bits.

        Raises
        ------
        InputError
            A parameter of the equations that was not in `module=`; a copy that has not all of the
            names, or holds them more than once, or in other shapes, or NaN or infinity.
        """
        self._active.project_copy(module)

    def set_right_side(self, *right: Any) -> None:
        """Other numbers on the right of `==`, one argument for each equation of this handle.

        A number or an array that broadcasts to the equation; None leaves an equation as it is. The
        parameters go onto the new set at once, and factors serve on where rows are independent;
        where they depend on each other the equations are judged again.

        Raises
        ------
        InputError
            Not one argument for each equation; an equation with parameters on its right, which are
            read at each step and can be changed themselves; shapes that do not broadcast; numbers
            that are not finite.
        InconsistentError
            The equations contradict each other now. Nothing has been changed then.
        """
        hooks = self._active
        if len(right) != len(self._equations):
            raise InputError(
                f"{len(right)} right sides are given for {len(self._equations)} equations; give "
                "one for each, None where it stays"
            )
        fresh = {
            id(e): _with_right(i, e, b)
            for i, (e, b) in enumerate(zip(self._equations, right, strict=True))
        }
        replaced = [fresh.get(id(e), e) for e in hooks.stacked.equations]
        hooks.set_right_sides(StackedEquations(replaced, hooks.stacked.chosen_names))
        self._equations = tuple(fresh[id(e)] for e in self._equations)

    def residual(self) -> Tensor:
        """A x - b of this handle's rows, (rows,), in float64; zero where an inequality holds.

        Of sharded parameters, which are gathered: every rank has to ask, as of `certify`.
        """
        hooks = self._active
        hooks.require_homes()
        residuals = []
        for e in self._equations:
            r = -e.right_side()
            with torch.no_grad():
                for term in e.difference.terms:
                    p = whole(term.parameter.detach())
                    r = r.to(p.device) + term.evaluate(p, torch.float64)
            residuals.append(r.clamp_min(0) if isinstance(e, Inequality) else r)
        return torch.cat(residuals)

    def multipliers(self) -> tuple[Tensor, ...]:
        """Shadow prices: what one more unit of each right side would change the loss by, negated.

        One tensor for each of `equations`, in its shape; in the widest dtype of the parameters,
        float32 at least, on their device. They are the Lagrange multipliers y of

            L(x, y) = f(x) + y'(A x - b),      df*/db = -y,

        at the gradient that the parameters hold: y = -(A')^+ grad f for equations, so that
        grad f + A'y is the projected gradient; beside inequalities those of the projection of
        -grad f onto the tangent cone. At the constrained optimum they are the exact prices, on the
        way there those of the linearised problem. Rows are the ones written, in their units.

        - Inequalities and bounds have y >= 0, zero where they are slack: what a unit of room is
          worth. One more unit on the right of `<=` changes the loss by -y, of `>=` by +y.
        - Rows that depend on each other have no price each, only a sum along changes of b that keep
          them consistent; of the possible y this is the one of least norm when each row is scaled
          to a norm of about one (by a power of two). At a vertex where more rows and bounds meet
          than needed it is one of the possible ones.
        - f is what a training ends at the constrained optimum of: the loss with coupled weight
          decay (SGD, Adam), without decoupled one (AdamW) and without ASGD's `lambd`. With
          maximize=True it is minus the objective.
        - Parameters without a gradient are constants, as in a step; equations in which nothing
          moves have price zero.
        - Gradients are taken as they stand: of a GradScaler's scaled loss they have its scale until
          `scaler.unscale_(optimizer)`; clipped ones give prices of what is left.

        Steps cost nothing for it: ask between `backward()` and `step()`, which projects gradients
        (in mode "tangent") and so takes out what prices are made of. `constrain(...,
        multipliers=True)` keeps those of each step, and these are returned after it. Of sharded
        parameters every rank has to ask. What is kept goes into no copy and no state_dict.

        Raises
        ------
        ProjlabError
            No parameter has a gradient, or all were projected by the last step, and none are kept.

        References
        ----------
        Boyd and Vandenberghe, "Convex Optimization" (2004), section 5.6; Nocedal and Wright,
        "Numerical Optimization", 2nd ed. (2006), eq. 18.21 (least-squares multipliers).
        """
        return tuple(self._active.multipliers(self._equations))

    def certify(self, accuracy: float | None = None) -> Certificate:
        """Bound how far the parameters are from the set, relative to their norm.

        `projlab.certify` of the current parameters as their own projection, block by block: the
        figures are the worst of the blocks, of which every bound also holds for the whole.
        Entries of parameters that no equation touches do not count.

        Raises
        ------
        MemoryLimitError
            As `projlab.certify`.
        InconsistentError
            Right sides or bounds that are read at each step have left the set without points.
        """
        self._active.require_homes()
        with torch.no_grad():
            return certificate.worst(self._active.system.certificates(accuracy))

    def remove(self) -> None:
        """Take these equations off the optimizer; parameters stay as they are."""
        hooks = self._active
        own = {id(e) for e in self._equations}
        rest = [e for e in hooks.stacked.equations if id(e) not in own]
        if rest:
            hooks.keep_equations(StackedEquations(rest, hooks.stacked.chosen_names))
        else:
            hooks.detach()
        self._hooks = None

    @property
    def residuals(self) -> Tensor:
        """The largest |A x - b| after each of the last `log` steps, oldest first, (k,), float32.

        Over all equations of the optimizer. Kept on the device; reading it waits for the device.
        """
        return self._read().last()

    @property
    def largest_residual(self) -> float:
        """The largest |A x - b| after any step so far."""
        return self._read().largest()

    @property
    def steps(self) -> int:
        """How many steps the constraint was applied at; counted on the device with `log`."""
        return int(self._read().steps)

    def _read(self) -> ResidualLog:
        """The log; warns where parameters were moved besides what it tells."""
        hooks = self._active
        hooks.watch(stacklevel=4, reading=True)
        return hooks.log

    @property
    def blocks(self) -> tuple[str, ...]:
        """One line for each kind of block: how many equal ones, their size, the variant."""
        return tuple(str(block) for block in self._active.system.blocks)

    def __enter__(self) -> "Handle":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._hooks is not None:
            self.remove()

    def __repr__(self) -> str:
        if self._hooks is None:
            return "Handle(removed)"
        names = self._hooks.stacked.parameter_names
        lines = [f'Handle(mode="{self.mode}")']
        lines += [f"  {e.describe(names)}" for e in self._equations]
        return "\n".join(lines + [f"  [{block}]" for block in self.blocks])
