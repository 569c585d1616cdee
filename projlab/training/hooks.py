"""What runs before and after each step of an optimizer that keeps equations.

Before the step the gradients go onto the null space of A, so that momenta and second moments never
see a component that the constraint takes away; after it the parameters go onto the set. With a
closure the gradients exist only once it has run, so it is the closure that is wrapped.

Reference for the tangent mode: Rosen, "The gradient projection method for nonlinear programming",
J. SIAM 8 (1960).
"""

import copy
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from projlab import tolerance
from projlab.engine import compiled
from projlab.errors import InconsistentError, InputError, ProjlabError
from projlab.numerics.precision import lowered, outside_inference_mode, stated_precision
from projlab.training import copies, optimizers, swaps
from projlab.training.blocks.base import Shift
from projlab.training.equations import StackedEquations
from projlab.training.expressions.expression import Equation
from projlab.training.gradients import ProjectedMark, finite_as_before, gradient_of
from projlab.training.parameter_system import ParameterSystem
from projlab.training.residual_log import ResidualLog
from projlab.training.settings import Settings
from projlab.training.shards import here
from projlab.training.sleeping import SleepingParameters
from projlab.training.strays import StrayMoves
from projlab.training.twins import twins
from projlab.training.watched import (
    Home,
    Signature,
    Watched,
    WatchedParameters,
    homes,
    is_trained,
    names_in,
)

_ATTRIBUTE = "_projlab_hooks"
"""Where an optimizer keeps its hooks."""

_NONE: frozenset[int] = frozenset()

V = TypeVar("V")
F = TypeVar("F", bound=Callable[..., Any])

_constrained: "weakref.WeakSet[Optimizer]" = weakref.WeakSet()
"""All optimizers that have a constraint."""


def _ordinary(function: F) -> F:
    """Decorator: outside of inference mode, whose tensors nothing may change later."""

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        with outside_inference_mode():
            return function(*args, **keywords)

    return cast("F", call)


class StepHooks:
    """All constraints of one optimizer, or of several together, as one system.

    It is applied at each step of each of them, to the parameters of all: projections of one set
    after each of several moves end where one projection after all of them does.
    """

    def __init__(self, optimizers: Sequence[Optimizer], settings: Settings) -> None:
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self.settings = settings
        self.handles: weakref.WeakSet[Any] = weakref.WeakSet()
        """Those of its constraints, which follow where optimizers are copied."""
        self.module_names: dict[int, str] = {}
        """Names that modules have for parameters, by identity."""
        self.homes: dict[int, Home] = {}
        """Where they have those that are in equations."""
        self.stacked = StackedEquations([], {})
        self.log = ResidualLog(settings.log, torch.device("cpu"))
        self._removers: list[Any] = []
        self._held: frozenset[int] = frozenset()
        self._projected = ProjectedMark()
        self._begun = False
        """Whether a step has begun. One that calls its parent class's calls hooks twice."""
        self._raised = False
        """Whether its closure raised, so that the next one is no part of it."""
        self._prices: list[tuple[StackedEquations, Tensor]] = []
        """Of the last step, where they are kept."""
        self._moves = StrayMoves()

    @staticmethod
    def of(optimizer: Optimizer) -> "StepHooks | None":
        """Those of an optimizer, where it has a constraint."""
        hooks: StepHooks | None = optimizer.__dict__.get(_ATTRIBUTE)
        return hooks

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers; they keep the hooks alive, not the other way."""
        found = [optimizer for reference in self._optimizers if (optimizer := reference())]
        if len(found) < len(self._optimizers):
            raise ProjlabError("the optimizer of this constraint no longer exists")
        return found

    def _groups(self) -> list[dict[str, Any]]:
        """The groups of all optimizers, one after the other."""
        if len(self._optimizers) == 1 and (only := self._optimizers[0]()) is not None:
            groups: list[dict[str, Any]] = only.param_groups
            return groups
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    # ---- equations

    @_ordinary
    def set_equations(self, stacked: StackedEquations, taken: int = 0) -> None:
        """Take over equations, all or (where something is refused) nothing.

        The first ones, `taken` of them, were taken before.
        """
        system, watched = self._derived(stacked, taken)
        self.stacked = stacked
        self._adopt(system, watched)

    @_ordinary
    def set_right_sides(self, stacked: StackedEquations) -> None:
        """The same equations with other right sides; parameters onto the new set, or nothing."""
        before = self.stacked
        self.check()
        try:
            if not self._took(stacked):
                self.set_equations(stacked, len(stacked.equations))
            self.start("project")
        except BaseException:
            if not self._took(before):
                self.keep_equations(before)
            raise

    def _took(self, stacked: StackedEquations) -> bool:
        """Whether they could be taken over with the factors that there are."""
        if not self.system.take(stacked):
            return False
        self.stacked, self._prices = stacked, []
        self._sleeping.forget()
        return True

    @_ordinary
    def keep_equations(self, stacked: StackedEquations, *, stepping: bool = False) -> None:
        """Derive anew what was taken before, also where constants have left it no point since."""
        taken = len(stacked.equations)
        try:
            system, watched = self._derived(stacked, taken, stepping=stepping)
        except InconsistentError:
            system, watched = self._derived(stacked, taken, stepping=stepping, strict=False)
        self.stacked = stacked
        self._adopt(system, watched)

    def _derived(
        self,
        stacked: StackedEquations,
        taken: int,
        *,
        stepping: bool = False,
        strict: bool = True,
    ) -> tuple[ParameterSystem, list[Watched]]:
        """The system of the equations, and the parameters that it was made for."""
        groups = self._groups()
        owners = [self.optimizers[i] for i in self._owners_of_groups()]
        place = {
            id(p): (g, i) for g, group in enumerate(groups) for i, p in enumerate(group["params"])
        }
        watched, varying = [], set()
        for p in stacked.parameters:
            name = stacked.parameter_names[p]
            optimizers.require_plain_parameter(p, name)
            if id(p) in place and self.settings.mode == "tangent":
                g = place[id(p)][0]
                optimizers.coupled_decay(owners[g], groups[g], self.settings.coupled)
            trained = is_trained(p, stepping=stepping and id(p) in place)
            if trained and id(p) in place:
                varying.add(id(p))
            signature = Signature.of(p, trained=trained)
            home = self.homes.get(id(p))
            watched.append(Watched(p, name, signature, place.get(id(p)), home))
        optimizers.require_apart([(w.parameter, w.name) for w in watched])
        system = ParameterSystem(
            stacked,
            lambda p: p,
            lambda p: id(p) in varying,
            self.settings.variant,
            strict=strict,
            taken=taken,
            apart=self.settings.mode == "metric",
        )
        if system.sided:
            own = {id(p) for p in system.parameters}
            optimizers.require_inequalities(
                [owners[place[i][0]] for i in own], metric=self.settings.mode == "metric"
            )
        if self.settings.mode == "metric":
            if system.ranks is not None:
                raise InputError(
                    'mode="metric" does not take sharded parameters. Use mode="tangent"'
                )
            _refuse_overlap(system)
        return system, watched

    def _adopt(self, system: ParameterSystem, watched: list[Watched]) -> None:
        self.system = system
        self._watched = WatchedParameters(watched, self._groups())
        self._owners = self._owners_of_groups()
        self._sleeping = SleepingParameters(system, self.settings.variant)
        device = system.device
        if self.log.device != device:
            self.log = ResidualLog(self.settings.log, device)
        self._group_of = self._watched.group_of(system.parameters)
        self._trained_groups = set(self._group_of)
        self._prices = []
        self._note()

    def _owners_of_groups(self) -> list[int]:
        return [i for i, each in enumerate(self.optimizers) for _ in each.param_groups]

    def _owner(self, g: int) -> Optimizer:
        """The optimizer of a group; by number, since hooks do not keep optimizers alive."""
        optimizer = self._optimizers[self._owners[g]]()
        assert optimizer is not None
        return optimizer

    def check(self, *, stepping: bool = False) -> None:
        """Derive the blocks again where a parameter changed dtype, device or standing.

        `stepping`: a step comes next, which moves frozen parameters too where they have gradients.

        Raises
        ------
        ProjlabError
            The optimizer no longer holds a parameter it held, or one was replaced in the module
            that was given, or changed its shape.
        """
        if self._watched.changed(self._groups(), stepping=stepping):
            self.homes = {
                id(p): home
                for p in self.stacked.parameters
                if id(p) in self.homes and (home := self.homes[id(p)].of(p)) is not None
            }
            self.keep_equations(self.stacked, stepping=stepping)

    def require_homes(self) -> None:
        """Raise `ProjlabError` where a parameter was replaced in the module that was given."""
        self._watched.require_homes()

    # ---- the hooks

    def attach(self) -> None:
        """Register the hooks, once."""
        if self._removers:
            return
        me = weakref.ref(self)

        def before(opt: Optimizer, args: Any, kwargs: Any) -> Any:
            hooks = me()
            return None if hooks is None else hooks._before(opt, args, kwargs)

        def after(opt: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001  # torch's own
            hooks = me()
            if hooks is not None:
                hooks._after(opt)

        def constrain(memo: dict[int, Any]) -> None:
            hooks = me()
            if hooks is not None:
                hooks._constrain_copy(memo)

        def swapped() -> None:
            hooks = me()
            if hooks is not None:
                hooks.apply()

        for optimizer in self.optimizers:
            optimizer.__dict__[_ATTRIBUTE] = self
            _constrained.add(optimizer)
            copies.answer(optimizer, constrain)
            self._removers.append(optimizer.register_step_pre_hook(before))
            self._removers.append(optimizer.register_step_post_hook(after))
            if swaps.swaps(optimizer):
                swaps.answer(optimizer, swapped)

    def detach(self) -> None:
        """Take the hooks off again."""
        for remover in self._removers:
            remover.remove()
        self._removers = []
        for reference in self._optimizers:
            optimizer = reference()
            if optimizer is not None:
                optimizer.__dict__.pop(_ATTRIBUTE, None)
                _constrained.discard(optimizer)
                copies.no_longer_answer(optimizer)
                swaps.no_longer_answer(optimizer)

    @_ordinary
    def _constrain_copy(self, memo: dict[int, Any]) -> None:
        """The same constraint on a deep copy of the optimizers, over their own parameters.

        Of several, once the last of them is copied.
        """
        own = self.optimizers
        copied = [memo[id(each)] for each in own if id(each) in memo]
        if len(copied) < len(own):
            return
        twin = StepHooks(copied, self.settings)
        # handles of the copy hold these very equations: the memo gives each its one copy
        equations = copy.deepcopy(self.stacked.equations, memo)
        twin.module_names = _of_copies(self.module_names, memo)
        names = _of_copies(self.stacked.chosen_names, memo)
        stacked = StackedEquations(equations, names)
        twin.homes = self._homes_of_copies(stacked, memo)
        twin.keep_equations(stacked)
        for p in self.system.parameters:
            if self._projected.on(p):
                twin._projected.put(memo[id(p)])
        twin.attach()
        for handle in self.handles:
            if id(handle) in memo:
                memo[id(handle)].follow(twin, copy.deepcopy(handle.equations, memo))

    def _modules(self) -> dict[int, torch.nn.Module]:
        """Those that were given, which have parameters of the equations, by identity."""
        found = [home.root() for home in self.homes.values()]
        return {id(module): module for module in found if module is not None}

    def _homes_of_copies(self, stacked: StackedEquations, memo: dict[int, Any]) -> dict[int, Home]:
        """Where modules that were copied already have the copies of parameters."""
        found: dict[int, Home] = {}
        for i in self._modules().keys() & memo.keys():
            if "_modules" in vars(memo[i]):  # else the optimizer is in it, and it is being copied
                found |= homes(memo[i])
        return {id(p): found[id(p)] for p in stacked.parameters if id(p) in found}

    @compiled.eager
    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with outside_inference_mode():
            self.check(stepping=True)
            if self.system.ranks is not None and getattr(optimizer, "found_inf", None) is not None:
                raise InputError(
                    "a GradScaler hands a fused optimizer's step its own rank's infinities: "
                    "constrain sharded parameters with fused=False, or train in bfloat16 without a "
                    "scaler"
                )
            self.watch(stacklevel=6)  # past `eager`, `before`, and what torch wraps a step in
            within = self._begun and not self._raised
            self._begun = self._raised = False  # until nothing more can fail here
            if self.settings.mode == "tangent":
                closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
                if closure is not None:
                    return self._with_gradients_of(optimizer, closure, args, kwargs)
                self._project_gradients(
                    optimizer, again=within and self._first(self._projected.was_on)
                )
            self._begun = True
            return None

    def _with_gradients_of(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """A step's arguments, whose closure's gradients are projected."""

        def wrapped() -> Any:
            try:
                loss = closure()
                self._project_gradients(optimizer, again=self._first(self._projected.on))
            except BaseException:
                self._raised = True
                raise
            return loss

        self._begun = True
        if "closure" in kwargs:
            return args, {**kwargs, "closure": wrapped}
        return (args[0], wrapped, *args[2:]), kwargs

    @compiled.eager
    @_ordinary
    def _after(self, optimizer: Optimizer) -> None:
        begun, self._begun = self._begun, False
        if not begun and not self._moves.moved:
            return
        # parameters are written through tensors without a graph: there is none to be kept out of
        if lowered(torch.float32, self.log.device.type):
            with _stated(self.log.device):
                self._project_and_log(optimizer, record=begun)
        else:
            self._project_and_log(optimizer, record=begun)

    def _project_and_log(self, optimizer: Optimizer, *, record: bool) -> None:
        self._held = self._without_gradient()
        residuals = self._project(_skip(optimizer, self.log.device))
        if self.log.size and record:
            self.log.record(self.system.known_to_all(residuals))
        if self.settings.mode == "tangent":
            self._first(self._projected.put)
        self._note()

    def _first(self, what: Callable[[Tensor], V]) -> V | None:
        """Of the first parameter that has a gradient."""
        for p in self.system.parameters:
            if p.grad is not None:
                return what(p)
        return None

    # ---- moves that no step made

    def _note(self) -> None:
        """Remember the parameters as they are now."""
        self._moves.note(self.system.parameters, self._watched.elsewhere)

    def watch(self, stacklevel: int, *, reading: bool = False) -> None:
        """Warn, once, of parameters that something else moved off the set since the last step."""
        if reading and self.system.ranks is not None:
            return  # who reads may be one rank alone, and rows are evaluated by all together
        if self._moves.suspected(stacklevel + 1, reading=reading):
            with self._computing():
                feasible, off = self.system.feasible(tolerance.HELD_ROUNDINGS)
            if not feasible:
                self._moves.warn(off, self.optimizers, stacklevel + 1)

    def _computing(self) -> AbstractContextManager[None]:
        """No graph, and products in their stated precision."""
        device = self.log.device
        return _stated(device) if lowered(torch.float32, device.type) else torch.no_grad()

    def _without_gradient(self) -> frozenset[int]:
        """Which parameters have no gradient, and are held where they are."""
        for p in self.system.parameters:
            if p.grad is None:
                break
        else:
            return _NONE
        return frozenset(i for i, p in enumerate(self.system.parameters) if p.grad is None)

    def _project(self, skip: Tensor | None) -> list[Tensor]:
        """Onto the set, and the residuals if they are logged."""
        log = self.log.size > 0
        if self.settings.mode == "metric":
            groups = self._groups()
            inverse = [
                optimizers.inverse_metric(self._owner(g), groups[g], p)
                if p.grad is not None
                else torch.zeros_like(p)
                for p, g in zip(self.system.parameters, self._group_of, strict=True)
            ]
            self.system.project_in_metric_(inverse, skip)
            if self._held:
                self.system.restore_(skip, tolerance.HELD_ROUNDINGS)
        elif not self._held:
            residuals: list[Tensor] = self.system.project_(skip, last=log)
            self._project_other_points(self.system, skip)
            return residuals
        else:
            awake = self._sleeping.awake_of(self._held)
            for system in awake.systems:
                system.project_(skip, last=False)
                self._project_other_points(system, skip)
            if awake.judged is None:
                return []
            awake.judged.restore_(skip, tolerance.HELD_ROUNDINGS)
            return awake.judged.residuals() if log else []
        left: list[Tensor] = self.system.residuals() if log else []
        return left

    def _project_other_points(self, system: ParameterSystem, skip: Tensor | None) -> None:
        """Onto the set what optimizers that swap weights keep beside the parameters."""
        group_of = None
        for optimizer in self.optimizers:
            if not swaps.swaps(optimizer):
                continue
            if group_of is None:
                pairs = zip(self.system.parameters, self._group_of, strict=True)
                group_of = {id(p): g for p, g in pairs}
            own = [swaps.other_point(self._owner(group_of[id(p)]), p) for p in system.parameters]
            if any(z is not None for z in own):
                points = [
                    p.detach() if z is None else z
                    for p, z in zip(system.parameters, own, strict=True)
                ]
                system.project_points_(points, skip)
            return

    @_ordinary
    def _project_gradients(self, optimizer: Optimizer, *, again: bool | None = False) -> None:
        """Onto the null space; of those projected `again` within a step no prices are made."""
        if lowered(torch.float32, self.log.device.type):
            with _stated(self.log.device):
                self._onto_null_space(optimizer, again=again)
        else:
            self._onto_null_space(optimizer, again=again)

    def _onto_null_space(self, optimizer: Optimizer, *, again: bool | None) -> None:
        if len(self._optimizers) > 1 and self._projected.on_all(self._trained_by(optimizer)):
            return
        scale = getattr(optimizer, "grad_scale", None)
        if self.settings.multipliers and not again:
            self._prices = self._priced(scale)
        for system in self._awake():
            gs, shift = [gradient_of(p) for p in system.parameters], self._shift(system, scale)
            with finite_as_before(gs):
                if system.sided:
                    system.ascend(self._of_each(system, optimizers.direction))
                    system.tangent_(gs, shift)
                elif self._ascends():
                    signs = self._of_each(system, optimizers.direction)
                    _tangent_of_each(system, gs, shift, signs)
                else:
                    system.tangent_(gs, shift)
            if system.sided:
                self._project_momenta(system)
        if len(self._optimizers) > 1:
            for p in self.system.parameters:
                self._projected.put(p)
        else:
            self._first(self._projected.put)

    def _ascends(self) -> bool:
        """Whether any group has `maximize`."""
        groups = self._groups()
        return any(groups[g].get("maximize", False) for g in self._trained_groups)

    def _awake(self) -> tuple[ParameterSystem, ...]:
        """The systems whose parameters have gradients."""
        held = self._without_gradient()
        return self._sleeping.awake_of(held).systems if held else (self.system,)

    def _priced(self, scale: Tensor | None) -> list[tuple[StackedEquations, Tensor]]:
        """Shadow prices by the gradients as they are, not projected yet."""
        found = []
        for system in self._awake():
            signs = self._of_each(system, optimizers.direction)
            gs = [gradient_of(p) for p in system.parameters]
            shift = self._shift(system, scale)
            if min(signs) < 0:
                gs = [g if sign > 0 else -g for g, sign in zip(gs, signs, strict=True)]
                if shift is not None:
                    shift = [own * sign for own, sign in zip(shift, signs, strict=True)]
            y = system.multipliers(gs, shift)
            found.append((system.stacked, y if scale is None else y / scale.to(y.device)))
        return found

    def _trained_by(self, optimizer: Optimizer) -> list[Tensor]:
        pairs = zip(self.system.parameters, self._group_of, strict=True)
        return [p for p, g in pairs if self._owner(g) is optimizer]

    def _of_each(
        self, system: ParameterSystem, what: Callable[[Optimizer, dict[str, Any], Tensor], V]
    ) -> list[V]:
        """What is asked of the optimizer and the group of each parameter of a system."""
        groups = self._groups()
        place = {id(p): g for p, g in zip(self.system.parameters, self._group_of, strict=True)}
        owned = [(place[id(p)], p) for p in system.parameters]
        return [what(self._owner(g), groups[g], p) for g, p in owned]

    def _project_momenta(self, system: ParameterSystem) -> None:
        """Momenta onto the face on which a step begins; of parameters without any, zeros."""
        found = self._of_each(system, optimizers.momenta)
        for name in {name for own in found for name in own}:
            system.velocities_(
                [
                    own.get(name, torch.zeros_like(p, requires_grad=False))
                    for own, p in zip(found, system.parameters, strict=True)
                ]
            )

    def _shift(self, system: ParameterSystem, scale: Tensor | None) -> Shift | None:
        """lambda * x that the optimizer will add to each gradient, in the gradient's scale."""
        groups = self._groups()
        for g in self._trained_groups:
            decay = groups[g].get("weight_decay", 0.0)
            if isinstance(decay, Tensor) or decay:
                return self._shift_by_decay(system, scale)
        return None

    def _shift_by_decay(self, system: ParameterSystem, scale: Tensor | None) -> Shift | None:
        groups = self._groups()
        decays = {g: self._decay(self._owner(g), groups[g]) for g in self._trained_groups}
        if all(not isinstance(d, Tensor) and d == 0 for d in decays.values()):
            return None
        place = {id(p): g for p, g in zip(self.system.parameters, self._group_of, strict=True)}
        shift: Shift = []
        for p in system.parameters:
            decay = decays[place[id(p)]]
            shift.append(decay if scale is None else decay * scale.to(p.device).reshape(()))
        return shift

    def _decay(self, owner: Optimizer, group: dict[str, Any]) -> float | Tensor:
        decay = optimizers.coupled_decay(owner, group, self.settings.coupled)
        return -decay if group.get("maximize", False) else decay

    # ---- what handles ask for

    @_ordinary
    def start(self, how: str) -> None:
        """Parameters onto the set, or `InputError`; what holds already keeps its bits."""
        if not self.system.finite():
            raise InputError("a constrained parameter holds NaN or infinity; nothing was changed")
        with self._computing():
            lost = self.system.overflowing()
        if lost is not None:
            raise InputError(
                f"{lost} is infinite, or no number, in the precision of its parameters, though "
                "these are finite: give smaller ones, or a wider dtype; nothing was changed"
            )
        if how == "project":
            values = self.system.values() if self.system.may_overflow else []
            kept = [p.clone() for p in values]
            self.apply()
            if values and not self.system.finite():
                with torch.no_grad():
                    for p, own in zip(values, kept, strict=True):
                        p.copy_(own)
                raise InputError(
                    "on the set of the constraints a parameter is infinite in its dtype: scale the "
                    "equations, or give a wider dtype; nothing was changed"
                )
            return
        with self._computing():
            feasible, off = self.system.feasible()
        if not feasible:
            raise InputError(
                f'the parameters do not satisfy {", ".join(off)}; with start="project" they are '
                "projected first"
            )

    @_ordinary
    def apply(self) -> None:
        """Project what there is, finite or not; rows that hold to rounding stay as they are."""
        self.check()
        with self._computing():
            self.system.restore_(None, tolerance.RESIDUAL_ROUNDINGS)
            self._project_other_points(self.system, None)
        self._note()

    @_ordinary
    def multipliers(self, equations: Sequence[Equation]) -> list[Tensor]:
        """Shadow prices of some of the equations, in their shapes; see `Handle.multipliers`."""
        self.check(stepping=True)  # of the step that the gradients are for
        own = [p for p in self.system.parameters if p.grad is not None]
        if own and not any(map(self._projected.on, own)):
            with self._computing():
                prices = self._priced(None)
        elif self._prices:
            prices = self._prices
        else:
            why = (
                "the gradients that parameters hold have been projected by a step, which takes out "
                "what multipliers are made of"
                if own
                else "no constrained parameter has a gradient"
            )
            raise ProjlabError(
                f"{why}: ask after backward() and before step(), or give multipliers=True to "
                "constrain, which keeps those of the last step"
            )
        system = self.system
        rows = {
            id(e): torch.zeros(e.rows, dtype=system.dtype, device=system.device) for e in equations
        }
        for stacked, y in prices:
            for start, e in stacked.numbered():
                if id(e) in rows:
                    rows[id(e)] += y[start : start + e.rows].to(system.dtype)
        return [rows[id(e)].view(e.shape) for e in equations]

    @_ordinary
    def project_copy(self, module: torch.nn.Module) -> None:
        """The same equations over a copy's parameters, onto their set."""
        names = dict(self.module_names)
        for own in self._modules().values():  # in which they may have moved since
            names |= names_in(own)
        wanted = {id(p): names.get(id(p)) for p in self.stacked.parameters}
        twin = twins(module, self.stacked.parameters, wanted, self.stacked.parameter_names)
        varying = {id(twin[id(p)]) for p in self.system.parameters}
        system = ParameterSystem(
            self.stacked,
            lambda p: twin[id(p)],
            lambda p: id(p) in varying,
            self.settings.variant,
            strict=False,
        )
        if not system.finite():
            raise InputError("a parameter of the copy holds NaN or infinity; nothing was changed")
        with self._computing():
            system.restore_(None, tolerance.RESIDUAL_ROUNDINGS)

    def learning_rates(self) -> set[Any]:
        """Of the groups of parameters that vary."""
        groups = self._groups()
        return {groups[g]["lr"] for g in self._trained_groups}

    def refuse_shared(self, stacked: StackedEquations) -> None:
        """Raise `InputError` where an equation holds what another constrained optimizer trains."""
        mine = self.optimizers
        own = {id(p) for group in self._groups() for p in group["params"]}
        for other in list(_constrained):
            if any(other is optimizer for optimizer in mine):
                continue
            theirs = {id(p) for group in other.param_groups for p in group["params"]}
            for p in stacked.parameters:
                if p.requires_grad and id(p) not in own and id(p) in theirs:
                    raise InputError(
                        f"{stacked.parameter_names[p]} is trained by another optimizer, "
                        f"{type(other).__name__}, which has a constraint too: each would take what "
                        "the other moves for a constant. Remove that constraint, and give both "
                        "optimizers and all their equations in one call: "
                        "constrain([one, other], ...)"
                    )


def _of_copies(names: dict[int, str], memo: dict[int, Any]) -> dict[int, str]:
    """Names by the identity of what was copied, by that of the copies."""
    return {id(memo[i]): name for i, name in names.items() if i in memo}


def _refuse_overlap(system: ParameterSystem) -> None:
    """Raise `InputError` where rows share a parameter entry: no projection in a metric there."""
    for block in system.blocks:
        if not block.disjoint:
            names = system.stacked.row_names(block.rows.flatten()[:2])
            raise InputError(
                f'mode="metric" takes rows that share no parameter entry, but {names[0]} and '
                f'{names[-1]} are in one block ({block}). Use mode="tangent"'
            )


def _skip(optimizer: Optimizer, device: torch.device) -> Tensor | None:
    """Where a gradient scaler found an infinity, the optimizer leaves everything as it is."""
    infinite = getattr(optimizer, "found_inf", None)
    if infinite is None:
        return None
    skip: Tensor = here(infinite).to(device) > 0
    return skip.reshape(())


@contextmanager
def _stated(device: torch.device) -> Iterator[None]:
    with torch.no_grad(), stated_precision(device):
        yield


def _tangent_of_each(
    system: ParameterSystem, gs: list[Tensor], shift: Shift | None, signs: list[float]
) -> None:
    """As `tangent_`, where some ascend: what optimizers turn round is on the null space then."""
    turned = [g for g, sign in zip(gs, signs, strict=True) if sign < 0]
    if shift is not None:
        shift = [own * sign for own, sign in zip(shift, signs, strict=True)]
    for g in turned:
        g.neg_()
    try:
        system.tangent_(gs, shift)
    finally:
        for g in turned:
            g.neg_()
