"""Which optimizer a constraint hooks onto: the one whose `step` calls hooks, inside its wrapper.

A wrapper that hands `step` on is looked through (Accelerate's, Lightning's). One of two steps, as
sharpness-aware minimisation (Foret et al., "Sharpness-aware minimization for efficiently improving
generalization", ICLR 2021), moves the parameters there and back, and then lets the optimizer inside
step, which is where the constraint belongs. Any other optimizer without hooks is refused.
"""

from typing import Any

from torch.optim import Optimizer

from projlab.errors import InputError

_HAND_ON = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning")
"""Packages whose wrappers call `step` of the optimizer inside, and do no more to parameters."""
_INSIDE = ("base_optimizer", "optimizer", "_optimizer", "base", "inner_optimizer", "optim")
"""Where wrappers keep the optimizer inside."""
_DEPTH = 8
"""Wrappers around each other, at most."""


def hooked(optimizer: object) -> Optimizer:
    """The optimizer whose step hooks are called at every step, or `InputError` without one."""
    for _ in range(_DEPTH):
        found = inside(optimizer)
        if found is None:
            break
        _, inner = found
        if not (_hands_on(optimizer) or _two_steps(optimizer)):
            break
        optimizer = inner
    if _two_steps(optimizer):
        raise InputError(
            f"{type(optimizer).__name__} is refused: it moves parameters in first_step and "
            "second_step, which call no step hooks, and holds no optimizer that does"
        )
    if isinstance(optimizer, Optimizer) and _calls_hooks(optimizer):
        return optimizer
    raise InputError(_why(optimizer))


def inside(optimizer: object) -> tuple[str, Any] | None:
    """The attribute with the optimizer inside a wrapper, and that optimizer."""
    for name in _INSIDE:
        inner = getattr(optimizer, name, None)
        if inner is not None and inner is not optimizer and callable(getattr(inner, "step", None)):
            return name, inner
    return None


def partitioned(optimizer: Optimizer) -> Optimizer | None:
    """The optimizer inside ZeroRedundancyOptimizer, which steps for the parameters of one rank.

    The one around it calls hooks, holds all parameters, and sends each to all ranks.
    """
    names = {cls.__name__ for cls in type(optimizer).__mro__}
    inner = getattr(optimizer, "optim", None) if "ZeroRedundancyOptimizer" in names else None
    return inner if isinstance(inner, Optimizer) else None


def _hands_on(optimizer: object) -> bool:
    packages = {cls.__module__.partition(".")[0] for cls in type(optimizer).__mro__}
    return not packages.isdisjoint(_HAND_ON)


def _two_steps(optimizer: object) -> bool:
    return all(callable(getattr(optimizer, n, None)) for n in ("first_step", "second_step"))


def _calls_hooks(optimizer: Optimizer) -> bool:
    registered = {"_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"} <= vars(
        optimizer
    ).keys()
    return registered and bool(getattr(type(optimizer).step, "hooked", False))


def _why(optimizer: object) -> str:
    kind = type(optimizer).__name__
    found = inside(optimizer)
    if found is not None:
        name, inner = found
        return (
            f"{kind} calls no step hooks, so that a constraint on it would never be applied; it "
            f"wraps {type(inner).__name__} as its .{name}: constrain that one, where the "
            "wrapper leaves parameters as its step made them, or takes averages of such"
        )
    if isinstance(optimizer, Optimizer):
        return (
            f"{kind} calls no step hooks, so that a constraint on it would never be applied: its "
            "__init__ has to call torch.optim.Optimizer.__init__"
        )
    return f"optimizer is a {kind}; constrain takes a torch.optim.Optimizer"
