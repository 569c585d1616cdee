"""Parameters as they were when blocks were made of them, and whether they still are."""

import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from projlab.errors import ProjlabError
from projlab.training.shards import is_shared


def is_trained(p: Tensor, *, stepping: bool) -> bool:
    """Whether a parameter is trained, or, where its optimizer steps next, moved all the same.

    torch's optimizers move frozen parameters too, by momentum and decay, as long as they have a
    gradient: `zero_grad(set_to_none=False)` leaves them one of zeros.
    """
    return p.requires_grad or (stepping and p.grad is not None)


class Signature(NamedTuple):
    """What blocks depend on of a parameter, beside its values."""

    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    stride: tuple[int, ...]
    trained: bool

    @staticmethod
    def of(p: Tensor, *, trained: bool) -> "Signature":
        """Of a parameter as it is now."""
        return Signature(p.dtype, p.device, p.shape, p.stride(), trained)


class Link(NamedTuple):
    """A module in the one around it."""

    held: Mapping[str, torch.nn.Module | None]
    """What the one around it holds."""
    key: str
    module: torch.nn.Module

    @property
    def broken(self) -> bool:
        """Whether another module is there now, or none."""
        return self.held.get(self.key) is not self.module


class Home(NamedTuple):
    """Where a module has a parameter or buffer."""

    root: "weakref.ref[torch.nn.Module]"
    """The module that was given, which may hold the optimizer."""
    links: tuple[Link, ...]
    """From there to the module whose own it is."""
    tensors: Mapping[str, Tensor | None]
    """That one's own dictionary of them."""
    key: str

    def of(self, p: Tensor) -> "Home | None":
        """Where it is now, as in a wrapper around its module; None where it is no longer."""
        root = self.root()
        if root is None or not any(link.broken for link in self.links):
            return self if self.tensors.get(self.key) is p else None
        return homes(root).get(id(p))


def homes(module: torch.nn.Module) -> dict[int, Home]:
    """Where each parameter and buffer of a module is, by its identity."""
    root = weakref.ref(module)
    links: dict[int, tuple[Link, ...]] = {id(module): ()}
    found: dict[int, Home] = {}
    for owner in module.modules():
        own = links[id(owner)]
        for key, child in owner._modules.items():
            if child is not None:
                links.setdefault(id(child), (*own, Link(owner._modules, key, child)))
        for tensors in (owner._parameters, owner._buffers):
            for key, t in tensors.items():
                if t is not None and not is_shared(t):  # FSDP puts whole ones in their place
                    found.setdefault(id(t), Home(root, own, tensors, key))
    return found


def names_in(module: torch.nn.Module) -> dict[int, str]:
    """What a module calls its parameters and buffers, by their identity."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {id(t): name for name, t in named}


class Watched(NamedTuple):
    """A parameter of the equations, as it was when the blocks were made."""

    parameter: Tensor
    name: str
    signature: Signature
    place: tuple[int, int] | None
    """Its group, of all optimizers' groups, and its position there; None where none holds it."""
    home: Home | None
    """Where the module that was given has it; None where none has."""

    def require_home(self) -> None:
        """Raise `ProjlabError` where the module has another tensor in its place, or computes it."""
        if self.home is not None and self.home.of(self.parameter) is None:
            raise ProjlabError(
                f"{self.name} was replaced in its module, as load_state_dict(assign=True), "
                "parametrisations, pruning and another module in the place of its own do: this "
                "constraint is over what was there before. Remove it, and constrain what the "
                "module trains now"
            )


class WatchedParameters:
    """All parameters of the equations, and the optimizers' groups, as they were."""

    def __init__(self, parameters: Sequence[Watched], groups: Sequence[dict[str, Any]]) -> None:
        self._watched = parameters
        self._sizes = [len(group["params"]) for group in groups]
        self.elsewhere = [w for w in parameters if w.place is None and w.signature.trained]
        """Trained, but not by these optimizers."""
        found = [link for w in parameters if w.home is not None for link in w.home.links]
        self._links = list({(id(link.held), link.key): link for link in found}.values())

    def require_homes(self) -> None:
        """Raise `ProjlabError` where a module no longer has one of them."""
        for w in self._watched:
            w.require_home()

    def group_of(self, parameters: Sequence[Tensor]) -> list[int]:
        """The group of each of these, which all have one."""
        groups = {id(w.parameter): w.place[0] for w in self._watched if w.place is not None}
        return [groups[id(p)] for p in parameters]

    def changed(self, groups: list[dict[str, Any]], *, stepping: bool = False) -> bool:
        """Whether a parameter is not what it was in dtype, device, memory or standing.

        `stepping`: a step comes next, which moves frozen parameters too where they have gradients.

        Raises
        ------
        ProjlabError
            One is no longer held by the groups, was replaced in its module, or changed its shape.
        """
        if self._unchanged(groups, stepping):
            return False
        present = {id(p) for group in groups for p in group["params"]}
        self.require_homes()
        for p, name, signature, place, _ in self._watched:
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
        return True

    def _unchanged(self, groups: list[dict[str, Any]], stepping: bool) -> bool:
        """Whether all are as they were; asked at each step, so in one plain loop."""
        if self._sizes != [len(group["params"]) for group in groups]:
            return False
        if any(held.get(key) is not module for held, key, module in self._links):
            return False
        for p, _, (dtype, device, shape, stride, trained), place, home in self._watched:
            if (
                p.dtype is not dtype
                or p.shape != shape
                or p.stride() != stride
                or p.device != device
            ):
                return False
            if not (trained and p.requires_grad) and trained is not is_trained(
                p, stepping=stepping and place is not None
            ):
                return False
            if home is not None and home.tensors.get(home.key) is not p:
                return False
            if place is not None and groups[place[0]]["params"][place[1]] is not p:
                return False
        return True
