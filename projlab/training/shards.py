"""The part of a parameter that is here, where ranks hold it together: DTensor, as of FSDP2.

Equations are written over whole parameters. Each rank knows all coefficients, and which entries of
a parameter it holds; sums over entries are what ranks add up together.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from projlab.errors import InputError

REMEDY = (
    "Under torch.distributed.fsdp.fully_shard a layer made by projlab.nn.affine, or an "
    "AffineProjection behind one, keeps its equations too"
)
"""What serves where `constrain` does not."""


def is_shared(t: Tensor) -> bool:
    """Whether ranks hold the tensor together."""
    return hasattr(t, "device_mesh") and hasattr(t, "placements")


def here(t: Tensor) -> Tensor:
    """The entries on this rank, in the same memory: all of a plain tensor."""
    if not is_shared(t):
        return t
    with torch.no_grad():  # without which it costs hundreds of microseconds
        local: Tensor = t.to_local()  # type: ignore[attr-defined]
    return local.detach()


def whole(t: Tensor) -> Tensor:
    """All entries, gathered from the ranks: every rank has to ask."""
    if not is_shared(t):
        return t
    full: Tensor = t.detach().full_tensor()  # type: ignore[attr-defined]
    return full


def require_whole_or_sharded(parameter: Tensor, name: str) -> None:
    """Raise `InputError` for parts of a parameter of which it is not known where they belong."""
    # with use_orig_params=True, FSDP marks what it keeps as views of its flat parameter
    if any(getattr(parameter, mark, False) for mark in ("_is_flat_param", "_fsdp_flattened")):
        raise InputError(
            f"{name} is a flat parameter of FSDP, or a view of one: several parameters in one "
            "vector, of which a rank holds a piece. Use fully_shard (FSDP2), whose parameters "
            f"constrain takes, or DistributedDataParallel. {REMEDY}"
        )
    if not is_shared(parameter):
        return
    placements: Sequence[Any] = parameter.placements  # type: ignore[attr-defined]
    for placement in placements:
        # torch's strided shards are shards as well by type, and lie in another order
        if type(placement).__name__ not in ("Shard", "Replicate"):
            raise InputError(
                f"{name} is a DTensor with placements {tuple(placements)}: constrain takes Shard "
                f"and Replicate. {REMEDY}"
            )


class Ranks:
    """The ranks that hold the parameters of some equations together.

    Parameters
    ----------
    parameters
        All parameters of the equations, of which one is a DTensor at least. A plain one is taken
        to be the same on every rank, as a replicated one is.

    Raises
    ------
    InputError
        DTensors of different meshes.
    """

    def __init__(self, parameters: Sequence[Tensor], names: Sequence[str]) -> None:
        shared = [(p, name) for p, name in zip(parameters, names, strict=True) if is_shared(p)]
        first, first_name = shared[0]
        self.mesh: Any = first.device_mesh  # type: ignore[attr-defined]
        for p, name in shared:
            if p.device_mesh != self.mesh:  # type: ignore[attr-defined]
                raise InputError(
                    f"{first_name} and {name} are sharded over different device meshes: put the "
                    f"parameters of one equation on one mesh. {REMEDY}"
                )
        self.dims = [
            d
            for d in range(self.mesh.ndim)
            if any(p.placements[d].is_shard() for p, _ in shared)  # type: ignore[attr-defined]
        ]
        """Dimensions of the mesh over which some parameter is divided."""

    @staticmethod
    def of(parameters: Sequence[Tensor], names: Sequence[str]) -> "Ranks | None":
        """The ranks, where a parameter is a DTensor."""
        return Ranks(parameters, names) if any(map(is_shared, parameters)) else None

    def add_(self, t: Tensor) -> Tensor:
        """The sum over the ranks, in place, to the same bits on each of them."""
        from torch import distributed

        return self._reduced_(t, distributed.ReduceOp.SUM)

    def _reduced_(self, t: Tensor, op: Any) -> Tensor:
        from torch import distributed

        for d in self.dims:
            distributed.all_reduce(t, op, group=self.mesh.get_group(d))
        return t

    def anywhere(self, here: bool) -> bool:
        """Whether it is true on any rank."""
        flag = torch.tensor([float(here)], device=self.mesh.device_type, dtype=torch.float32)
        return bool(self.add_(flag) > 0)

    def counted(self, parameter: Tensor) -> bool:
        """Whether this rank's copy of the entries is the one that sums take."""
        coordinate = self.mesh.get_coordinate()
        for d in self.dims:
            shard = is_shared(parameter) and parameter.placements[d].is_shard()  # type: ignore[attr-defined]
            if not shard and coordinate[d] > 0:
                return False
        return True

    def held_by_all(self, parameter: Tensor) -> bool:
        """Whether every rank has all entries."""
        return not is_shared(parameter) or not any(
            parameter.placements[d].is_shard()  # type: ignore[attr-defined]
            for d in self.dims
        )

    def bounds(self, parameter: Tensor) -> list[tuple[int, int]]:
        """Of each dimension, the first index that is here and the first one beyond."""
        bounds = [(0, size) for size in parameter.shape]
        if not is_shared(parameter):
            return bounds
        coordinate = self.mesh.get_coordinate()
        for d, placement in enumerate(parameter.placements):  # type: ignore[attr-defined]
            if placement.is_shard():
                start, stop = bounds[placement.dim]
                each = _each(start, stop, self.mesh.size(d))
                low = min(start + coordinate[d] * each, stop)
                bounds[placement.dim] = (low, min(low + each, stop))
        shape = [stop - start for start, stop in bounds]
        if list(here(parameter).shape) != shape:
            raise InputError(
                f"a DTensor of shape {tuple(parameter.shape)} holds {tuple(here(parameter).shape)} "
                f"here, where its placements say {tuple(shape)}. {REMEDY}"
            )
        return bounds

    def owners(self, columns: Tensor, parameter: Tensor) -> Tensor:
        """The number of the one rank that holds each entry (row-major); -1 where several do."""
        if not is_shared(parameter) or not all(
            parameter.placements[d].is_shard()  # type: ignore[attr-defined]
            for d in self.dims
        ):
            return torch.full_like(columns, -1)
        index = torch.unravel_index(columns, parameter.shape)
        # of each index of a dimension, the part that it is in so far
        start = [torch.zeros(size, dtype=torch.long, device="cpu") for size in parameter.shape]
        stop = [torch.full_like(t, len(t)) for t in start]
        owner = torch.zeros_like(columns)
        for d in self.dims:
            k = parameter.placements[d].dim  # type: ignore[attr-defined]
            each = _each(start[k], stop[k], self.mesh.size(d))
            coordinate = (torch.arange(len(each), device="cpu") - start[k]) // each
            start[k] = start[k] + coordinate * each
            stop[k] = torch.minimum(start[k] + each, stop[k])
            owner = owner * self.mesh.size(d) + coordinate[index[k]]
        return owner

    @property
    def number(self) -> int:
        """Of this rank, as `owners` counts."""
        number, coordinate = 0, self.mesh.get_coordinate()
        for d in self.dims:
            number = number * self.mesh.size(d) + int(coordinate[d])
        return number

    def largest(self, value: Tensor) -> Tensor:
        """Of a number that is not negative, (), on each rank; NaN where one has it."""
        from torch import distributed

        # whether a maximum over ranks keeps NaN is the backend's: it is sent beside
        undefined = value.isnan()
        both = torch.stack([value.masked_fill(undefined, 0), undefined.to(value.dtype)])
        most = self._reduced_(both, distributed.ReduceOp.MAX)
        return torch.where(most[1] > 0, torch.nan, most[0])

    def places(self, columns: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Which entries are here, and where they are among those here; both row-major."""
        bounds = self.bounds(parameter)
        inside = torch.ones_like(columns, dtype=torch.bool)
        place = torch.zeros_like(columns)
        index = torch.unravel_index(columns, parameter.shape) if parameter.dim() else ()
        for i, (start, stop) in zip(index, bounds, strict=True):
            inside &= (i >= start) & (i < stop)
            place = place * (stop - start) + (i - start)
        return inside, place


IntOrTensor = TypeVar("IntOrTensor", int, Tensor)


def _each(start: IntOrTensor, stop: IntOrTensor, parts: int) -> IntOrTensor:
    """How many indices a part holds, as torch.chunk divides: the last may hold less, or nothing."""
    return -((start - stop) // parts)


def form(parameter: Tensor) -> Tensor:
    """A row-major tensor of the whole parameter's shape and dtype; nobody reads its memory."""
    return torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
