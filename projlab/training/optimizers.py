"""What is known of torch's optimizers: which are refused, their weight decay, their metric."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from projlab.errors import InputError
from projlab.system.inputs import overlaps_itself, places
from projlab.training import shards, wrappers

_DECOUPLED = ("AdamW", "Muon", "Adafactor")
_COUPLED = (
    "SGD",
    "Adam",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "ASGD",
    "Rprop",
    "LBFGS",
)
_METRICS = ("SGD", "AdamW", "Adam", "NAdam", "Adamax", "RMSprop", "Adagrad")
BIASED_BY_POST = (
    "Adam, AdamW, Adamax, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Adafactor, Rprop, LBFGS and "
    "Muon, and SGD and ASGD with different learning rates for the parameters of one equation"
)


def kind(optimizer: Optimizer, names: tuple[str, ...]) -> str | None:
    """The first of these torch optimizers that it is, by class, or None."""
    for name in names:
        cls = getattr(torch.optim, name, None)  # Muon is younger than the oldest torch
        if cls is not None and isinstance(optimizer, cls):
            return name
    return None


def require_optimizer(optimizer: object) -> Optimizer:
    """The optimizer to hook onto, or `InputError` with the reason why there is none."""
    optimizer = wrappers.hooked(optimizer)
    if getattr(optimizer, "_overlap_with_ddp", False):
        raise InputError(
            f"{type(optimizer).__name__} with overlap_with_ddp=True is refused: it moves "
            "parameters within backward(), and its step() does nothing. Leave overlap_with_ddp out"
        )
    if isinstance(wrappers.partitioned(optimizer) or optimizer, torch.optim.SparseAdam):
        raise InputError(
            "SparseAdam is refused: it moves only the rows a batch touched, and keeps no state for "
            "the gradient that a projection onto the null space has everywhere. Use Adam with "
            "sparse=False embeddings"
        )
    for group in optimizer.param_groups:
        if group.get("differentiable", False):
            raise InputError(
                "an optimizer with differentiable=True is refused: the constraint is applied in "
                "place, outside the graph"
            )
    return optimizer


def require_plain_parameter(parameter: Tensor, name: str) -> None:
    """Raise `InputError` for parameters that hold a part of a tensor, or several tensors."""
    if parameter.is_meta:
        raise InputError(
            f"{name} is on the device meta, where it has no values: give the module its memory "
            "(`to_empty`, and load its state) before it is constrained"
        )
    shards.require_whole_or_sharded(parameter, name)
    if parameter.is_inference():
        raise InputError(
            f"{name} was made under torch.inference_mode(), which keeps no count of changes; make "
            "the module outside, or give it a clone() made outside"
        )
    if shards.is_shared(parameter):
        return
    if type(parameter) not in (Tensor, torch.nn.Parameter) and hasattr(
        parameter, "__tensor_flatten__"
    ):
        raise InputError(
            f"{name} is a {type(parameter).__name__}, a tensor made of others; constrain plain "
            "parameters"
        )


def coupled_decay(
    optimizer: Optimizer, group: dict[str, Any], coupled: bool | None
) -> float | Tensor:
    """The lambda of which the optimizer adds lambda * x to its gradient; 0 for decoupled decay.

    `coupled` says it for optimizers that are not torch's own.
    """
    optimizer = wrappers.partitioned(optimizer) or optimizer
    decay = group.get("weight_decay", 0.0)
    if not isinstance(decay, Tensor) and not decay:
        return 0.0
    if coupled is not None:
        return decay if coupled else 0.0
    if group.get("decoupled_weight_decay", False) or kind(optimizer, _DECOUPLED):
        return 0.0
    if kind(optimizer, _COUPLED):
        return decay
    raise InputError(
        f"{type(optimizer).__name__} has weight_decay={decay}, and it is not known whether it adds "
        "weight_decay * x to the gradient (as Adam does) or shrinks x by itself (as AdamW does): "
        "pass coupled_weight_decay=True or False"
    )


def require_apart(named: Sequence[tuple[Tensor, str]]) -> None:
    """Raise `InputError` where two parameters hold one number of memory, or one holds it twice.

    What a step, or a projection, does to the one moves the other behind its back.
    """
    of_device: dict[torch.device, list[tuple[int, int, Tensor, str]]] = {}
    for p, name in named:
        if p.layout is not torch.strided or shards.is_shared(p) or p.is_meta or not p.numel():
            continue
        if overlaps_itself(p):
            raise InputError(
                f"{name} holds one number of memory at several places, of shape "
                f"{tuple(p.shape)} and strides {p.stride()}; give it memory of its own: clone()"
            )
        # not the storage's: two storages may begin at different places of one numpy array
        first = p.data_ptr()
        if not first:  # a tensor that wraps another has no memory to compare
            continue
        last = sum((size - 1) * stride for size, stride in zip(p.shape, p.stride(), strict=True))
        end = first + (last + 1) * p.itemsize
        of_device.setdefault(p.device, []).append((first, end, p, name))
    for spans in of_device.values():
        spans.sort(key=lambda span: span[:2])
        for i, (first, end, p, name) in enumerate(spans):
            for start, _, q, other in spans[i + 1 :]:
                if start >= end:
                    break
                if np.intersect1d(_bytes(p, first), _bytes(q, start)).size:
                    raise InputError(
                        f"{name} and {other} overlap in memory: a step of one moves the other. "
                        "Give them memory of their own, or take one parameter and its slices"
                    )


def _bytes(p: Tensor, first: int) -> "np.typing.NDArray[np.int64]":
    """Where the entries of p begin in memory, in bytes."""
    return first + (places(p) - int(p.storage_offset())) * p.itemsize


def require_metric(optimizer: Optimizer) -> None:
    """Raise `InputError` unless the optimizer divides by a diagonal that its state shows."""
    if kind(optimizer, _METRICS) is None:
        raise InputError(
            f'mode="metric" projects in the diagonal by which the optimizer divides, and '
            f"{type(optimizer).__name__} has none that can be read after a step; it is there for "
            f'{", ".join(_METRICS)}. Use mode="tangent"'
        )
    for group in optimizer.param_groups:
        if group.get("centered", False):
            raise InputError(
                'mode="metric" with centered RMSprop is refused: its diagonal, a difference of '
                'averages, may vanish. Use mode="tangent"'
            )


def inverse_metric(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> Tensor:
    """The diagonal by which the last step multiplied the (averaged) gradient, up to one factor.

    Common factors of all parameters do not change a projection; bias corrections do not matter
    either but beside eps, where they are taken along.
    """
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    name = kind(optimizer, _METRICS)
    divisor: Tensor
    if name == "SGD":
        divisor = torch.ones_like(parameter)
    elif not state:
        return torch.zeros_like(parameter)
    elif name == "Adagrad":
        divisor = state["sum"].sqrt() + group["eps"]
    elif name == "RMSprop":
        divisor = state["square_avg"].sqrt() + group["eps"]
    elif name == "Adamax":
        divisor = state["exp_inf"]  # holds eps already
    else:
        square: Tensor = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
        step = state["step"]  # a tensor is left where it is: a CPU scalar needs no copy
        if not isinstance(step, Tensor):
            step = torch.tensor(float(step), dtype=torch.float32, device="cpu")
        divisor = square.sqrt() / (1 - group["betas"][1] ** step).sqrt() + group["eps"]
    inverse: Tensor = group["lr"] / divisor
    return inverse


_MOMENTA = ("momentum_buffer", "exp_avg")


def momenta(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> dict[str, Tensor]:  # noqa: ARG001  # asked as `direction` is
    """What the optimizer keeps of past gradients and moves against, by name; of its state's own."""
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    found = {name: state.get(name) for name in _MOMENTA}
    return {
        name: m
        for name, m in found.items()
        if isinstance(m, Tensor) and m.shape == parameter.shape and m.device == parameter.device
    }


def direction(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> float:  # noqa: ARG001  # asked as `momenta` is
    """1 where the optimizer goes against the gradient, -1 where it goes along it."""
    return -1.0 if group.get("maximize", False) else 1.0


def require_inequalities(several: Sequence[Optimizer], *, metric: bool) -> None:
    """Raise `InputError` where an optimizer or a mode cannot keep inequalities and be right."""
    if metric:
        raise InputError(
            'mode="metric" takes equations alone; with inequalities mode="tangent" is right under '
            "every scaling"
        )
    for optimizer in several:
        if wrappers.partitioned(optimizer) is not None:
            raise InputError(
                f"{type(optimizer).__name__} with inequalities is refused: momenta, which have to "
                "stay on the face that a step begins on, are kept by other ranks. Use the "
                "optimizer itself, on every rank"
            )
        if kind(optimizer, ("LBFGS",)):
            raise InputError(
                "LBFGS with inequalities is refused: it searches along a line through several "
                "points within a step, which leave the set, and its curvature pairs belong to "
                "another face after each. Use SGD with momentum, or Adam"
            )
