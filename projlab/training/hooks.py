"""What runs before and after each step of an optimizer that keeps equations.

Before the step the gradients go onto the null space of A, so that momenta and second moments never
see a component that the constraint takes away; after it the parameters go onto the set. With a
closure the gradients exist only once it has run, so it is the closure that is wrapped.

Reference for the tangent mode: Rosen, "The gradient projection method for nonlinear programming",
J. SIAM 8 (1960).
"""

import copy
import math
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from projlab import tolerance
from projlab.engine import compiled
from projlab.errors import InputError, ProjlabError
from projlab.numerics.precision import lowered, stated_precision
from projlab.training import copies, optimizers
from projlab.training.blocks.base import Shift
from projlab.training.equations import StackedEquations
from projlab.training.parameter_system import ParameterSystem
from projlab.training.residual_log import ResidualLog

Mode = Literal["tangent", "post", "metric"]
_ATTRIBUTE = "_projlab_hooks"
"""Where an optimizer keeps its hooks."""

_NONE: frozenset[int] = frozenset()


class Settings(NamedTuple):
    """What all constraints of one optimizer share."""

    mode: Mode
    variant: str
    coupled: bool | None
    log: int

    def __str__(self) -> str:
        decay = "" if self.coupled is None else f", coupled_weight_decay={self.coupled}"
        return f'mode="{self.mode}", variant="{self.variant}", log={self.log}{decay}'


class Signature(NamedTuple):
    """What blocks depend on of a parameter, beside its values."""

    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    stride: tuple[int, ...]
    requires_grad: bool

    @staticmethod
    def of(p: Tensor) -> "Signature":
        """Of a parameter as it is now."""
        return Signature(p.dtype, p.device, p.shape, p.stride(), p.requires_grad)


class Watched(NamedTuple):
    """A parameter of the equations, as it was when the blocks were made."""

    parameter: Tensor
    name: str
    signature: Signature
    place: tuple[int, int] | None
    """Its group and its position there; None where the optimizer does not hold it."""


class StepHooks:
    """All constraints of one optimizer, as one system that is applied at each step."""

    def __init__(self, optimizer: Optimizer, settings: Settings) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.settings = settings
        self.stacked = StackedEquations([], {})
        self.copied: dict[int, Tensor] = {}
        """Where the optimizer is a copy: its parameters by the originals' identity."""
        self.log = ResidualLog(settings.log, torch.device("cpu"))
        self._removers: list[Any] = []
        self._held: frozenset[int] = frozenset()

    @staticmethod
    def of(optimizer: Optimizer) -> "StepHooks | None":
        """Those of an optimizer, where it has a constraint."""
        hooks: StepHooks | None = optimizer.__dict__.get(_ATTRIBUTE)
        return hooks

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; it keeps the hooks alive, not the other way."""
        optimizer = self._optimizer()
        if optimizer is None:
            raise ProjlabError("the optimizer of this constraint no longer exists")
        return optimizer

    def actual(self, parameter: Tensor) -> Tensor:
        """The tensor that stands for a parameter of the equations."""
        return self.copied.get(id(parameter), parameter)

    # ---- equations

    def set_equations(self, stacked: StackedEquations) -> None:
        """Take over equations, all or (where something is refused) nothing."""
        system, watched = self._derived(stacked)
        self.stacked = stacked
        self._adopt(system, watched)

    def _derived(self, stacked: StackedEquations) -> tuple[ParameterSystem, list[Watched]]:
        """The system of the equations, and the parameters that it was made for."""
        groups = self.optimizer.param_groups
        place = {
            id(p): (g, i) for g, group in enumerate(groups) for i, p in enumerate(group["params"])
        }
        watched = []
        for original in stacked.parameters:
            p, name = self.actual(original), stacked.parameter_names[original]
            optimizers.require_plain_parameter(p, name)
            if id(p) in place and self.settings.mode == "tangent":
                group = groups[place[id(p)][0]]
                optimizers.coupled_decay(self.optimizer, group, self.settings.coupled)
            watched.append(Watched(p, name, Signature.of(p), place.get(id(p))))
        system = ParameterSystem(
            stacked,
            self.actual,
            lambda p: id(p) in place and p.requires_grad,
            self.settings.variant,
            apart=self.settings.mode == "metric",
        )
        if self.settings.mode == "metric":
            _refuse_overlap(system)
        return system, watched

    def _adopt(self, system: ParameterSystem, watched: list[Watched]) -> None:
        self.system = system
        self._watched = watched
        self._groups = self._group_sizes()
        self._by_held: dict[frozenset[int], ParameterSystem] = {frozenset(): system}
        device = system.values()[0].device
        if self.log.device != device:
            self.log = ResidualLog(self.settings.log, device)
        group_of = {id(w.parameter): w.place[0] for w in watched if w.place is not None}
        self._group_of = [group_of[id(p)] for p in system.parameters]
        self._trained_groups = set(self._group_of)

    def _group_sizes(self) -> list[int]:
        return [len(group["params"]) for group in self.optimizer.param_groups]

    def check(self) -> None:
        """Derive the blocks again where a parameter changed dtype, device or standing.

        Raises
        ------
        ProjlabError
            The optimizer no longer holds a parameter it held, or one changed its shape.
        """
        groups = self.optimizer.param_groups
        if self._as_watched(groups):
            return
        present = {id(p) for group in groups for p in group["params"]}
        for p, name, signature, place in self._watched:
            if place is not None and id(p) not in present:
                raise ProjlabError(
                    f"the optimizer no longer holds {name}: its parameter was replaced. "
                    "Remove this constraint, and constrain the new parameter"
                )
            if p.shape != signature.shape:
                raise ProjlabError(
                    f"{name} changed its shape from {tuple(signature.shape)} to "
                    f"{tuple(p.shape)}. Remove this constraint, and write it for the new shape"
                )
        self._adopt(*self._derived(self.stacked))

    def _as_watched(self, groups: list[dict[str, Any]]) -> bool:
        """Whether all parameters are as they were; asked at each step, so in one plain loop."""
        if self._groups != [len(group["params"]) for group in groups]:
            return False
        for p, _, (dtype, device, shape, stride, trained), place in self._watched:
            if (
                p.dtype is not dtype
                or p.requires_grad is not trained
                or p.shape != shape
                or p.stride() != stride
                or p.device != device
            ):
                return False
            if place is not None and groups[place[0]]["params"][place[1]] is not p:
                return False
        return True

    # ---- the hooks

    def attach(self) -> None:
        """Register the hooks, once."""
        if self._removers:
            return
        optimizer, me = self.optimizer, weakref.ref(self)
        optimizer.__dict__[_ATTRIBUTE] = self

        def before(opt: Optimizer, args: Any, kwargs: Any) -> Any:  # noqa: ARG001  # torch's own
            hooks = me()
            return None if hooks is None else hooks._before(args, kwargs)

        def after(opt: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001  # torch's own
            hooks = me()
            if hooks is not None:
                hooks._after()

        def constrain(copied: Optimizer, memo: dict[int, Any]) -> None:
            hooks = me()
            if hooks is not None:
                hooks._constrain_copy(copied, memo)

        copies.answer(optimizer, constrain)
        self._removers = [
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        ]

    def detach(self) -> None:
        """Take the hooks off again."""
        for remover in self._removers:
            remover.remove()
        self._removers = []
        optimizer = self._optimizer()
        if optimizer is not None:
            optimizer.__dict__.pop(_ATTRIBUTE, None)
            copies.no_longer_answer(optimizer)

    def _constrain_copy(self, optimizer: Optimizer, memo: dict[int, Any]) -> None:
        """The same constraint on a deep copy of the optimizer, over its own parameters."""
        twin = StepHooks(optimizer, self.settings)
        twin.copied = {id(p): copy.deepcopy(self.actual(p), memo) for p in self.stacked.parameters}
        twin.set_equations(self.stacked)
        twin.attach()

    @compiled.eager
    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.check()
        if self.settings.mode != "tangent":
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._project_gradients()
            return None

        def wrapped() -> Any:
            loss = closure()
            self._project_gradients()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": wrapped}
        return (args[0], wrapped, *args[2:]), kwargs

    @compiled.eager
    def _after(self) -> None:
        # parameters are written through tensors without a graph: there is none to be kept out of
        if lowered(torch.float32, self.log.device.type):
            with _stated(self.log.device):
                self._project_and_log()
        else:
            self._project_and_log()

    def _project_and_log(self) -> None:
        self._held = self._without_gradient()
        residuals = self._project(self._skip())
        if self.log.size:
            self.log.record(residuals)

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

    def _skip(self) -> Tensor | None:
        """Where a gradient scaler found an infinity, the optimizer leaves everything as it is."""
        infinite = getattr(self.optimizer, "found_inf", None)
        if infinite is None:
            return None
        skip: Tensor = infinite.to(self.log.device) > 0
        return skip.reshape(())

    def _project(self, skip: Tensor | None) -> list[Tensor]:
        """Onto the set, and the residuals if they are logged."""
        log = self.log.size > 0
        if self.settings.mode == "metric":
            groups = self.optimizer.param_groups
            inverse = [
                optimizers.inverse_metric(self.optimizer, groups[g], p)
                if p.grad is not None
                else torch.zeros_like(p)
                for p, g in zip(self.system.parameters, self._group_of, strict=True)
            ]
            self.system.project_in_metric_(inverse, skip)
            if self._held:
                self.system.restore_(skip, tolerance.HELD_ROUNDINGS)
        elif not self._held:
            return self.system.project_(skip, last=log)
        else:
            self._moving(self._held).project_(skip, last=False)
            self.system.restore_(skip, tolerance.HELD_ROUNDINGS)
        return self.system.residuals() if log else []

    def _moving(self, held: frozenset[int]) -> ParameterSystem:
        """The system in which parameters without a gradient are constants."""
        if held not in self._by_held:
            moving = {id(p) for i, p in enumerate(self.system.parameters) if i not in held}
            self._by_held[held] = ParameterSystem(
                self.stacked,
                self.actual,
                lambda p: id(p) in moving,
                self.settings.variant,
                strict=False,
            )
        return self._by_held[held]

    def _project_gradients(self) -> None:
        if lowered(torch.float32, self.log.device.type):
            with _stated(self.log.device):
                self._onto_null_space()
        else:
            self._onto_null_space()

    def _onto_null_space(self) -> None:
        held = self._without_gradient()
        system = self._moving(held) if held else self.system
        gs = []
        for p in system.parameters:
            g = p.grad
            assert g is not None
            if g.layout is not torch.strided:
                raise InputError(
                    "a constrained parameter has a sparse gradient, which a projection onto "
                    "the null space fills; use sparse=False in its embedding"
                )
            gs.append(g.detach() if g.requires_grad else g)
        system.tangent_(gs, self._shift(system))

    def _shift(self, system: ParameterSystem) -> Shift | None:
        """lambda * x that the optimizer will add to each gradient, in the gradient's scale."""
        groups = self.optimizer.param_groups
        for g in self._trained_groups:
            decay = groups[g].get("weight_decay", 0.0)
            if isinstance(decay, Tensor) or decay:
                return self._shift_by_decay(system)
        return None

    def _shift_by_decay(self, system: ParameterSystem) -> Shift | None:
        optimizer = self.optimizer
        decays = {g: self._decay(optimizer.param_groups[g]) for g in self._trained_groups}
        if all(not isinstance(d, Tensor) and d == 0 for d in decays.values()):
            return None
        scale = getattr(optimizer, "grad_scale", None)
        place = {id(p): g for p, g in zip(self.system.parameters, self._group_of, strict=True)}
        shift: Shift = []
        for p in system.parameters:
            decay = decays[place[id(p)]]
            shift.append(decay if scale is None else decay * scale.to(p.device).reshape(()))
        return shift

    def _decay(self, group: dict[str, Any]) -> float | Tensor:
        decay = optimizers.coupled_decay(self.optimizer, group, self.settings.coupled)
        return -decay if group.get("maximize", False) else decay

    # ---- what handles ask for

    def start(self, how: str) -> None:
        """Parameters onto the set, or `InputError`; what holds already keeps its bits."""
        for p in self.system.parameters:
            # a finite sum has finite terms, and is a fiftieth of the work
            if not math.isfinite(p.detach().sum()) and not bool(torch.isfinite(p.detach()).all()):
                raise InputError(
                    "a constrained parameter holds NaN or infinity; nothing was changed"
                )
        if how == "project":
            self.apply()
            return
        with self._computing():
            feasible, off = self.system.feasible()
        if not feasible:
            raise InputError(
                f'the parameters do not satisfy {", ".join(off)}; with start="project" they are '
                "projected first"
            )

    def apply(self) -> None:
        """Project the parameters now; rows that hold to rounding stay as they are."""
        self.check()
        with self._computing():
            self.system.restore_(None, tolerance.RESIDUAL_ROUNDINGS)

    def learning_rates(self) -> set[Any]:
        """Of the groups of parameters that vary."""
        return {self.optimizer.param_groups[g]["lr"] for g in self._trained_groups}


def _refuse_overlap(system: ParameterSystem) -> None:
    """Raise `InputError` where rows share a parameter entry: no projection in a metric there."""
    for block in system.blocks:
        if not block.disjoint:
            names = system.stacked.row_names(block.rows.flatten()[:2])
            raise InputError(
                f'mode="metric" takes rows that share no parameter entry, but {names[0]} and '
                f'{names[-1]} are in one block ({block}). Use mode="tangent"'
            )


@contextmanager
def _stated(device: torch.device) -> Iterator[None]:
    with torch.no_grad(), stated_precision(device):
        yield
