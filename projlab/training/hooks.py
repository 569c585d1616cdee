"""What stands between an optimizer and its constraint: hooks around each step.

Before the step the gradients go onto the null space of A, so that momenta and second moments never
see a component that the constraint takes away; after it the parameters go onto the set. With a
closure the gradients exist only once it has run, so it is the closure that is wrapped.

Reference for the tangent mode: Rosen, "The gradient projection method for nonlinear programming",
J. SIAM 8 (1960).
"""

import copy
import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from projlab import tolerance
from projlab.engine import compiled
from projlab.errors import InputError, ProjlabError
from projlab.numerics.precision import lowered, stated_precision
from projlab.training import optimizer_rules as optimizers
from projlab.training.blocks import Shift
from projlab.training.equations import Rows, System, reads_values
from projlab.training.expressions.expression import Equation
from projlab.training.expressions.labels import ParameterNames

Mode = Literal["tangent", "post", "metric"]
_ATTRIBUTE = "_projlab_attachment"
_LARGEST = torch.finfo(torch.float32).max


class Settings(NamedTuple):
    """What all constraints of one optimizer share."""

    mode: Mode
    variant: str
    coupled: bool | None
    log: int


class Signature(NamedTuple):
    """What the blocks were made for; compared at each step."""

    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    stride: tuple[int, ...]
    requires_grad: bool


def signature(p: Tensor) -> Signature:
    """Of a parameter as it is now."""
    return Signature(p.dtype, p.device, p.shape, p.stride(), p.requires_grad)


def unchanged(p: Tensor, s: Signature) -> bool:
    """Whether a parameter still has this signature; at every step, so without making another."""
    return (
        p.dtype is s.dtype
        and p.requires_grad is s.requires_grad
        and p.shape == s.shape
        and p.stride() == s.stride
        and p.device == s.device
    )


class Attachment:
    """All constraints of one optimizer, as one system; `Attachment.of` finds or makes it."""

    def __init__(self, optimizer: Optimizer, settings: Settings) -> None:
        self._optimizer = weakref.ref(optimizer)
        self.settings = settings
        self.equations: list[Equation] = []
        self.given: dict[int, str] = {}
        """Names by the identity of a parameter of the equations."""
        self.copies: dict[int, Tensor] = {}
        """Where the optimizer is a copy: its parameters by the originals' identity."""
        self._removers: list[Any] = []
        self._held: frozenset[int] = frozenset()
        self.log = torch.zeros(0)
        self.count: Tensor | int = 0
        """Steps logged: on the device, or a number where values are at hand."""
        self._largest: Tensor | float = 0.0

    @staticmethod
    def of(optimizer: Optimizer) -> "Attachment | None":
        """The optimizer's attachment, where it has one."""
        found: Attachment | None = optimizer.__dict__.get(_ATTRIBUTE)
        return found

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; it keeps the attachment alive, not the other way."""
        optimizer = self._optimizer()
        if optimizer is None:
            raise ProjlabError("the optimizer of this constraint no longer exists")
        return optimizer

    def actual(self, parameter: Tensor) -> Tensor:
        """The tensor that stands for a parameter of the equations."""
        return self.copies.get(id(parameter), parameter)

    # ---- equations

    def set_equations(self, equations: list[Equation], given: dict[int, str]) -> None:
        """Take over equations, all or (where something is refused) nothing."""
        made = self._made(equations, given)
        self.equations, self.given = equations, given
        self._adopt(*made)

    def _made(
        self, equations: list[Equation], given: dict[int, str]
    ) -> tuple[System, list[Tensor], list[tuple[int, int] | None]]:
        originals = list({id(p): p for e in equations for p in e.parameters}.values())
        names = ParameterNames(given, originals)
        place = {
            id(p): (g, i)
            for g, group in enumerate(self.optimizer.param_groups)
            for i, p in enumerate(group["params"])
        }
        parameters = [self.actual(p) for p in originals]
        for original, p in zip(originals, parameters, strict=True):
            optimizers.refuse_parameter(p, names[original])
            if id(p) in place:
                group = self.optimizer.param_groups[place[id(p)][0]]
                if self.settings.mode == "tangent":
                    optimizers.coupled_decay(self.optimizer, group, self.settings.coupled)
        system = System(
            Rows(equations, names),
            self.actual,
            lambda p: id(p) in place and p.requires_grad,
            self.settings.variant,
            apart=self.settings.mode == "metric",
        )
        if self.settings.mode == "metric":
            self._refuse_overlap(system)
        return system, parameters, [place.get(id(p)) for p in parameters]

    def _refuse_overlap(self, system: System) -> None:
        for block in system.blocks:
            if not block.disjoint:
                names = [system.rows.name(int(i)) for i in block.rows.flatten()[:2]]
                raise InputError(
                    f'mode="metric" takes rows that share no parameter entry, but {names[0]} and '
                    f'{names[-1]} are in one block ({block}). Use mode="tangent"'
                )

    def _adopt(
        self, system: System, parameters: list[Tensor], places: list[tuple[int, int] | None]
    ) -> None:
        self.system = system
        self._parameters = parameters
        self._signatures = [signature(p) for p in parameters]
        self._places = places
        self._groups = self._group_sizes()
        self._by_held: dict[frozenset[int], System] = {frozenset(): system}
        if self.log.numel() == 0 or self.log.device != system.values()[0].device:
            device = system.values()[0].device
            self.log = torch.full((max(self.settings.log, 1),), torch.nan, device=device)
            self.count, self._largest = 0, 0.0
            if reads_values(device):
                self._written = self.log.numpy()
            else:
                self.count = torch.zeros((), dtype=torch.long, device=device)
                self._largest = torch.zeros((), device=device)
        group_of = {
            id(p): place[0]
            for p, place in zip(parameters, places, strict=True)
            if place is not None
        }
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
        same = self._groups == self._group_sizes() and all(
            unchanged(p, s) for p, s in zip(self._parameters, self._signatures, strict=True)
        )
        held = same and all(
            place is None or groups[place[0]]["params"][place[1]] is p
            for p, place in zip(self._parameters, self._places, strict=True)
        )
        if held:
            return
        present = {id(p) for group in groups for p in group["params"]}
        names = self.system.rows.names
        originals = list({id(p): p for e in self.equations for p in e.parameters}.values())
        for original, p, s, place in zip(
            originals, self._parameters, self._signatures, self._places, strict=True
        ):
            if place is not None and id(p) not in present:
                raise ProjlabError(
                    f"the optimizer no longer holds {names[original]}: its parameter was replaced. "
                    "Remove this constraint, and constrain the new parameter"
                )
            if p.shape != s.shape:
                raise ProjlabError(
                    f"{names[original]} changed its shape from {tuple(s.shape)} to "
                    f"{tuple(p.shape)}. Remove this constraint, and write it for the new shape"
                )
        self._adopt(*self._made(self.equations, self.given))

    # ---- the hooks

    def attach(self) -> None:
        """Register the hooks, once."""
        if self._removers:
            return
        optimizer, me = self.optimizer, weakref.ref(self)
        optimizer.__dict__[_ATTRIBUTE] = self
        optimizer.__dict__["__deepcopy__"] = _deepcopy(weakref.ref(optimizer))
        optimizer.__dict__["__getstate__"] = _getstate(weakref.ref(optimizer))

        def before(opt: Optimizer, args: Any, kwargs: Any) -> Any:  # noqa: ARG001  # torch's own
            attachment = me()
            return None if attachment is None else attachment._before(args, kwargs)

        def after(opt: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001  # torch's own
            attachment = me()
            if attachment is not None:
                attachment._after()

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
            for name in (_ATTRIBUTE, "__deepcopy__", "__getstate__"):
                optimizer.__dict__.pop(name, None)

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
        with self._computing():
            self._held = self._without_gradient()
            residuals = self._project(self._skip())
            if self.settings.log:
                self._record(residuals)

    def _computing(self) -> AbstractContextManager[None]:
        """No graph, and products in their stated precision."""
        device = self.log.device
        return _stated(device) if lowered(torch.float32, device.type) else torch.no_grad()

    def _without_gradient(self) -> frozenset[int]:
        if all(p.grad is not None for p in self.system.parameters):
            return frozenset()
        return frozenset(i for i, p in enumerate(self.system.parameters) if p.grad is None)

    def _skip(self) -> Tensor | None:
        """Where a gradient scaler found an infinity, the optimizer leaves everything as it is."""
        found = getattr(self.optimizer, "found_inf", None)
        if found is None:
            return None
        skip: Tensor = found.to(self.log.device) > 0
        return skip.reshape(())

    def _project(self, skip: Tensor | None) -> list[Tensor]:
        """Onto the set, and the residuals if they are logged."""
        log = self.settings.log > 0
        if self.settings.mode == "metric":
            groups = self.optimizer.param_groups
            inverse = [
                optimizers.inverse_metric(self.optimizer, groups[g], p)
                if p.grad is not None
                else torch.zeros_like(p)
                for p, g in zip(self.system.parameters, self._group_of, strict=True)
            ]
            self.system.weighted_(inverse, skip)
            if self._held:
                self.system.mend_(skip, tolerance.HELD_ROUNDINGS)
        elif not self._held:
            return self.system.project_(skip, last=log)
        else:
            self._moving(self._held).project_(skip, last=False)
            self.system.mend_(skip, tolerance.HELD_ROUNDINGS)
        return self.system.residuals() if log else []

    def _moving(self, held: frozenset[int]) -> System:
        """The system in which parameters without a gradient are constants."""
        if held not in self._by_held:
            still = {id(self.system.parameters[i]) for i in held}
            all_of_it = {id(p) for p in self.system.parameters}
            self._by_held[held] = System(
                self.system.rows,
                self.actual,
                lambda p: id(p) in all_of_it and id(p) not in still,
                self.settings.variant,
                strict=False,
            )
        return self._by_held[held]

    def _project_gradients(self) -> None:
        with self._computing():
            held = self._without_gradient()
            system = self._moving(held) if held else self.system
            shift = self._shift(system)
            gs, own = [], []
            for p in system.parameters:
                g = p.grad
                assert g is not None
                if g.layout != torch.strided:
                    raise InputError(
                        "a constrained parameter has a sparse gradient, which a projection onto "
                        "the null space fills; use sparse=False in its embedding"
                    )
                g = g.detach()
                # blocks made for a contiguous parameter read through flat views
                gs.append(g.contiguous() if p.is_contiguous() else g)
                own.append(g)
            system.tangent_(gs, shift)
            for g, projected in zip(own, gs, strict=True):
                if projected is not g:
                    g.copy_(projected)

    def _shift(self, system: System) -> Shift | None:
        """lambda * x that the optimizer will add to each gradient, in the gradient's scale."""
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

    def _record(self, residuals: list[Tensor]) -> None:
        if not isinstance(self.count, Tensor):
            worst = 0.0
            for r in residuals:
                size = r.abs_().max().item()
                if size > worst or size != size:  # NaN, which then stays: it compares as nothing
                    worst = size
            self._written[self.count % len(self.log)] = math.inf if worst > _LARGEST else worst
            self.count += 1
            if worst > self._largest or worst != worst:
                self._largest = worst
            return
        largest = self._largest
        assert isinstance(largest, Tensor)
        sizes = [torch.linalg.vector_norm(r, math.inf).to(torch.float32) for r in residuals]
        value = torch.stack(sizes).amax() if sizes else torch.zeros_like(largest)
        self.log.index_copy_(0, (self.count % len(self.log)).reshape(1), value.reshape(1))
        self.count.add_(1)
        torch.maximum(largest, value, out=largest)

    # ---- what handles ask for

    def apply(self) -> None:
        """Project the parameters now; rows that hold to rounding stay as they are."""
        self.check()
        with self._computing():
            self.system.mend_(None, tolerance.RESIDUAL_ROUNDINGS)

    def residuals(self) -> Tensor:
        """The largest residual of each of the last steps, oldest first, on the CPU."""
        count, log = int(self.count), self.log.cpu()
        if not self.settings.log or count <= len(log):
            return log[: count if self.settings.log else 0]
        return torch.roll(log, -(count % len(log)))

    def largest(self) -> float:
        """The largest residual of all steps."""
        return float(self._largest)


def _deepcopy(reference: "weakref.ref[Optimizer]") -> Callable[[dict[int, Any]], Optimizer]:
    """What `copy.deepcopy` calls: the copy gets the same constraint on its own parameters."""

    def deepcopy(memo: dict[int, Any]) -> Optimizer:
        optimizer = reference()
        assert optimizer is not None
        attachment = Attachment.of(optimizer)
        with _bare(optimizer):
            copied: Optimizer = copy.deepcopy(optimizer, memo)
        if attachment is not None:
            twin = Attachment(copied, attachment.settings)
            originals = {id(p): p for e in attachment.equations for p in e.parameters}
            twin.copies = {
                key: copy.deepcopy(attachment.actual(p), memo) for key, p in originals.items()
            }
            twin.set_equations(list(attachment.equations), dict(attachment.given))
            twin.attach()
        return copied

    return deepcopy


def _getstate(reference: "weakref.ref[Optimizer]") -> Callable[[], dict[str, Any]]:
    """What pickle calls: torch drops every hook, and the constraint with them."""

    def getstate() -> dict[str, Any]:
        optimizer = reference()
        assert optimizer is not None
        warnings.warn(
            "a pickled or shallowly copied optimizer does not take its constraint along (torch "
            "drops step hooks): call projlab.constrain on it again, or save state_dict() instead",
            stacklevel=3,
        )
        state: dict[str, Any] = type(optimizer).__getstate__(optimizer)
        return state

    return getstate


@contextmanager
def _stated(device: torch.device) -> Iterator[None]:
    with torch.no_grad(), stated_precision(device):
        yield


@contextmanager
def _bare(optimizer: Optimizer) -> Iterator[None]:
    """The optimizer without what answers for copies."""
    names = ("__deepcopy__", "__getstate__")
    own = {name: optimizer.__dict__.pop(name) for name in names if name in optimizer.__dict__}
    try:
        yield
    finally:
        optimizer.__dict__.update(own)
