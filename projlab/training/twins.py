"""The parameters of a copy of a module that stand for those of equations, by name."""

from collections.abc import Sequence

import torch
from torch import Tensor

from projlab.errors import InputError, first_few
from projlab.training.expressions.labels import ParameterNames


def twins(
    module: torch.nn.Module,
    parameters: Sequence[Tensor],
    names: dict[int, str | None],
    shown: ParameterNames,
) -> dict[int, Tensor]:
    """For each parameter, by its identity, the tensor of that name in the copy.

    `names` are those of the module that was copied, None for what is not in it: constants, which
    stand for themselves. The copy may hold the module under a name of its own, as torch's
    `AveragedModel` does; `shown` names parameters in messages.
    """
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"module is a {type(module).__name__}; it must be a torch.nn.Module")
    unknown = [shown[p] for p in parameters if p.requires_grad and names[id(p)] is None]
    if unknown:
        raise InputError(
            f"it is not known which parameter of a copy stands for {first_few(unknown)}: give the "
            "module that holds it to constrain, as module="
        )
    wanted = {id(p): name for p in parameters if (name := names[id(p)]) is not None}
    held = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    ends = sorted(wanted.values(), key=len)
    prefixes = [
        name.removesuffix(ends[-1])
        for name in held
        if name == ends[-1] or name.endswith("." + ends[-1])
    ]
    fitting = [prefix for prefix in prefixes if all(prefix + name in held for name in ends)]
    if len(fitting) != 1:
        how = "more than one" if fitting else "no"
        raise InputError(
            f"{type(module).__name__} holds {how} copy of {first_few(ends)}; give the copy itself"
        )
    found = {id(p): p for p in parameters}
    for p in parameters:
        if id(p) in wanted:
            own = held[fitting[0] + wanted[id(p)]]
            if own.shape != p.shape:
                raise InputError(
                    f"{wanted[id(p)]} has shape {tuple(own.shape)} in the copy, "
                    f"{tuple(p.shape)} in the equations"
                )
            if own.is_meta:
                raise InputError(
                    f"{wanted[id(p)]} is on the device meta in the copy, and has no values to "
                    "project; move the copy to a device first"
                )
            found[id(p)] = own
    return found
