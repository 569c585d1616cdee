"""A and b as the buffers of a module: dense A as it is, sparse A as its indices and its values.

Of B systems in one pattern, the values are (B, k).

Data-parallel training broadcasts plain tensors only, and safetensors stores no others: a sparse
tensor among the buffers would shut both out. Its shape is no tensor; a state dict has it in its
metadata, where a file format keeps that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from projlab.engine.kernels.native import PLAIN
from projlab.errors import InputError
from projlab.numerics.precision import outside_inference_mode
from projlab.system.constraint import AffineConstraint
from projlab.system.rows import Rows, StoredRows, as_rows, batch_tensor, coalesced, one_pattern

UNSEEN = torch.empty(0, device="cpu", dtype=torch.float32)
"""In the place of buffers that were assigned to since they were last looked at."""

ENTRIES = ("A", "A_indices", "A_values")
"""The buffers that hold A: the first one, or the other two."""

Named = dict[str, Tensor]


class Same(NamedTuple):
    """Which buffers are as they were when they were last looked at."""

    entries: bool
    indices: bool
    """As `entries` where A is dense."""
    b: bool

    @property
    def A(self) -> bool:  # noqa: N802  # the mathematics' own name
        """Both of those that hold A."""
        return self.entries and self.indices


class _Assembled(NamedTuple):
    """A sparse tensor that somebody was given as A, and what it was made of or last read into."""

    tensor: Tensor
    version: int
    indices: Tensor
    values: Tensor
    versions: tuple[int, int]

    @classmethod
    def followed(cls, tensor: Tensor, indices: Tensor, values: Tensor) -> "_Assembled":
        """A tensor that these buffers hold as it is now."""
        versions = indices._version, values._version
        return cls(tensor, tensor._version, indices, values, versions)

    def of(self, indices: Tensor, values: Tensor) -> bool:
        """Whether it is of these buffers, and they are as they were."""
        same = self.indices is indices and self.values is values
        return same and self.versions == (indices._version, values._version)


class SystemBuffers(nn.Module):
    """A module with the buffers A and b, or A_indices (2, k), A_values (k,) and b.

    `A` is readable and can be assigned to in either form. A sparse A is assembled when it is read;
    what is done to that tensor in place goes into the buffers at the module's next use.
    """

    b: Tensor
    A_indices: Tensor
    A_values: Tensor
    _known: tuple[Tensor, int, Tensor, int]
    """The entries of A, b, and how often each had been changed when they were last looked at."""
    _known_indices: tuple[Tensor, int]
    _size: tuple[int, int] | None
    """(m, n) of sparse A; None where A is dense."""
    _entries: str
    """The name of the buffer with the entries."""
    _assembled: "_Assembled | None"

    def __init__(self) -> None:
        super().__init__()
        # past `nn.Module.__setattr__`, which takes as long as a small factorisation
        vars(self).update(_size=None, _entries="A", _assembled=None)

    @property
    def A(self) -> Tensor:  # noqa: N802  # the mathematics' own name
        """(m, n) or (B, m, n); a sparse COO tensor where A is sparse."""
        if self._size is None:
            if "A" not in self._buffers:
                raise AttributeError(f"{type(self).__name__} has no buffer A")
            return self._own()["A"]
        self._write_back()
        own = self._own()
        indices, values = own["A_indices"], own["A_values"]
        if not constant(values) or not constant(indices):
            return assembled(indices, values, self._size)
        made = self._assembled
        if made is None or not made.of(indices, values):
            with outside_inference_mode():
                tensor = assembled(indices, values, self._size)
            vars(self)["_assembled"] = made = _Assembled.followed(tensor, indices, values)
        return made.tensor

    def _write_back(self) -> None:
        """What was done in place to the tensor that `A` gave, into the buffers."""
        made = self._assembled
        if made is None or made.tensor._version == made.version:
            return
        tensor = made.tensor
        if tensor.shape != self._shape():
            raise InputError(
                f"A was resized in place from {tuple(self._shape())} to {tuple(tensor.shape)}"
            )
        self._take(tensor)

    def _take(self, A: Tensor) -> None:
        """Hold the entries of this sparse tensor, and follow what is done to it in place."""
        coo = coalesced(A)
        indices, values = one_pattern(coo)
        # not as views of a sparse tensor, which the compiler takes for strided
        indices, values = indices.detach(), values if values.requires_grad else values.detach()
        self._put({"A_indices": indices, "A_values": values}, (coo.shape[-2], coo.shape[-1]))
        if A.layout is torch.sparse_coo and constant(values):
            vars(self)["_assembled"] = _Assembled.followed(A, indices, values)

    def _put(self, buffers: Named, size: tuple[int, int] | None) -> None:
        """These in the place of A, and of b where it is among them."""
        own = vars(self)
        before = own["_buffers"]
        if "b" not in buffers and "b" in before:
            buffers = {**buffers, "b": before["b"]}
        rest = {name: t for name, t in before.items() if name not in (*ENTRIES, "b")}
        own["_buffers"] = {**buffers, **rest}
        own.update(_size=size, _entries="A" if size is None else "A_values", _assembled=None)
        if "_known" in own:
            own.update(_known=(UNSEEN, 0, *self._known[2:]), _known_indices=(UNSEEN, 0))

    def _hold(self, constraint: AffineConstraint) -> None:
        """A and b of a constraint, in its memory."""
        rows = constraint.rows
        if isinstance(rows, StoredRows):
            with outside_inference_mode():  # tensors with a count of their changes
                indices = torch.stack([rows.rows, rows.cols])
            own = {"A_indices": indices, "A_values": rows.values, "b": constraint.b}
            self._put(own, rows.shape)
        else:
            self._put({"A": constraint.A, "b": constraint.b}, None)

    def _shape(self) -> torch.Size:
        """Of A."""
        if self._size is None:
            return self._own()["A"].shape
        return torch.Size((*self._own()["A_values"].shape[:-1], *self._size))

    def _own(self) -> Named:
        """The buffers of A and b, by name."""
        own: Any = self._buffers
        if self._size is None:
            return {"A": own["A"], "b": own["b"]}
        return {name: own[name] for name in ("A_indices", "A_values", "b")}

    def _look(self) -> None:
        """Remember the buffers as they are."""
        own = self._own()
        entries, b, indices = own[self._entries], own["b"], own.get("A_indices", UNSEEN)
        known = entries, entries._version, b, b._version
        vars(self).update(_known=known, _known_indices=(indices, indices._version))

    def _same(self) -> Same:
        """What has not been changed or assigned to since."""
        own: Any = self._buffers
        known, a, known_b, v = self._known
        entries, b = own[self._entries], own["b"]
        same = entries is known and entries._version == a
        same_b = b is known_b and b._version == v
        if self._size is None:
            return Same(same, same, same_b)
        indices, (known_indices, i) = own["A_indices"], self._known_indices
        return Same(same, indices is known_indices and indices._version == i, same_b)

    def _rows(self) -> Rows:
        """A as it stands in the buffers, checked and copied."""
        own = self._own()
        if self._size is None:
            return as_rows(own["A"])
        with outside_inference_mode():
            return as_rows(assembled(own["A_indices"], own["A_values"], self._size))

    def _holds(self, rows: Rows) -> bool:
        """Whether the buffers hold what these rows do: no, where they share memory with them."""
        entries, sparse = self._own()[self._entries], isinstance(rows, StoredRows)
        kept = rows.values if isinstance(rows, StoredRows) else rows.as_tensor()
        if entries.data_ptr() == kept.data_ptr() or sparse != (self._size is not None):
            return False  # of what was changed in place no copy tells
        if entries.dtype != kept.dtype or entries.device != kept.device:
            return False
        if not sparse:
            return entries.shape == kept.shape and torch.equal(entries, kept)
        found = self._rows()
        return (
            found.shape == rows.shape
            and found.nnz == rows.nnz
            and all(
                torch.equal(p, q) for p, q in zip(found.triplets(), rows.triplets(), strict=True)
            )
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """As of any module; a buffer that is assigned to is looked at before it is used."""
        started = "_known" in self.__dict__
        if started and name in (*ENTRIES, "b") and isinstance(value, nn.Parameter):
            raise InputError(
                f"{name} is a buffer, and no Parameter can take its place: assign "
                f"{name}.detach(), or give what is trained to each call"
            )
        if started and name == "A" and isinstance(value, Tensor):
            if value.layout is not torch.strided:
                self._take(value)
                return
            if self._size is not None:
                self._put({"A": value}, None)
                return
        super().__setattr__(name, value)
        if not started:
            return
        if name == self._entries:
            vars(self)["_known"] = (UNSEEN, 0, *self._known[2:])
        elif name == "b":
            vars(self)["_known"] = (*self._known[:2], UNSEEN, 0)
        elif name == "A_indices":
            vars(self)["_known_indices"] = (UNSEEN, 0)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Without the buffers of A and b, which are not converted or loaded as others are."""
        own = self._own()
        for name in own:
            del self._buffers[name]
        try:
            yield
        finally:
            self._buffers = {**own, **self._buffers}

    def _through(self, fn: Callable[[Tensor], Tensor]) -> Named:
        """The buffers after a move; indices stay integers."""
        return {
            name: fn(t).long() if name == "A_indices" else fn(t) for name, t in self._own().items()
        }

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._write_back()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None and self._size is not None:
            metadata.setdefault(prefix[:-1], {})["A_shape"] = self._size

    def _stored(self, state_dict: Named, prefix: str) -> tuple[str, ...]:
        """Names of the buffers that a state dict holds, or has to: in its own form, or in ours.

        Earlier versions stored sparse A as one sparse tensor.
        """
        other = self._size is None and prefix + "A_values" in state_dict
        sparse = other or self._size is not None
        if sparse and not (prefix + "A" in state_dict and prefix + "A_values" not in state_dict):
            return ("A_indices", "A_values", "b")
        return ("A", "b")

    def _assembled_from(self, found: Named, metadata: dict[str, Any]) -> Tensor:
        """A of a state dict, by the names of its buffers; `InputError` where these are none."""
        if "A" in found:
            return found["A"]
        size = metadata.get("A_shape", self._size) or self._shape()[-2:]
        return assembled(found["A_indices"], found["A_values"], (int(size[0]), int(size[1])))


class MatrixBuffers(nn.Module):
    """A module with matrices A and G among its buffers, each of them dense, sparse or None.

    A sparse one is A_indices (2, k) and A_values (k,), as of `SystemBuffers`: it is assembled when
    it is read, and what is done to that tensor in place goes into the buffers at the next use.
    """

    _sizes: dict[str, tuple[int, int]]
    """(m, n) of each that is sparse."""
    _assembled: dict[str, _Assembled]

    def __init__(self) -> None:
        super().__init__()
        vars(self).update(_sizes={}, _assembled={})

    @property
    def A(self) -> Tensor | None:  # noqa: N802  # the mathematics' own name
        """(m, n), a sparse COO tensor where it is sparse; None without equations."""
        return self._matrix("A")

    @property
    def G(self) -> Tensor | None:  # noqa: N802  # the mathematics' own name
        """(p, n), a sparse COO tensor where it is sparse; None without inequalities."""
        return self._matrix("G")

    def _matrix(self, name: str) -> Tensor | None:
        if name not in self._sizes:
            return self._buffers[name]
        self._write_back()
        indices, values = self._stored_as(name)
        if not constant(values) or not constant(indices):
            return assembled(indices, values, self._sizes[name], name)
        made = self._assembled.get(name)
        if made is None or not made.of(indices, values):
            with outside_inference_mode():
                tensor = assembled(indices, values, self._sizes[name], name)
            self._assembled[name] = made = _Assembled.followed(tensor, indices, values)
        return made.tensor

    def _stored_as(self, name: str) -> tuple[Tensor, Tensor]:
        indices, values = (self._buffers[key] for key in _parts(name))
        assert indices is not None
        assert values is not None
        return indices, values

    def _write_back(self) -> None:
        """What was done in place to tensors that were given as A or G, into the buffers."""
        for name, made in list(self._assembled.items()):
            if made.tensor._version == made.version:
                continue
            del self._assembled[name]
            if name not in self._sizes:
                continue
            indices, values = self._stored_as(name)
            if indices is not made.indices or values is not made.values:
                continue  # others were put in their place since
            size = self._sizes[name]
            if made.tensor.shape != size:
                raise InputError(
                    f"{name} was resized in place from {size} to {tuple(made.tensor.shape)}"
                )
            self._hold(name, made.tensor)

    def _hold(self, name: str, matrix: Tensor | None) -> None:
        """A matrix in the place of the one of this name, in its own memory, and followed there."""
        if matrix is None or matrix.layout is torch.strided:
            self._sizes.pop(name, None)
            self._put(name, {name: matrix})
            return
        with outside_inference_mode():  # tensors with a count of their changes
            coo = coalesced(matrix)
            indices, values = coo.indices(), coo.values()
            values = values if values.requires_grad else values.detach()
        self._sizes[name] = (coo.shape[0], coo.shape[1])
        indices = indices.detach()
        self._put(name, dict(zip(_parts(name), (indices, values), strict=True)))
        if matrix.layout is torch.sparse_coo and constant(values):
            self._assembled[name] = _Assembled.followed(matrix, indices, values)

    def _put(self, name: str, held: dict[str, Tensor | None]) -> None:
        """These where the buffers of the matrix are, or last."""
        places = (name, *_parts(name))
        ordered: dict[str, Tensor | None] = {}
        for key, t in self._buffers.items():
            ordered.update(held if key in places else {key: t})
        vars(self)["_buffers"] = {**ordered, **held}

    def __setattr__(self, name: str, value: Any) -> None:
        """As of any module, where A and G are buffers in whichever form they are given."""
        if name not in ("A", "G"):
            super().__setattr__(name, value)
        elif value is None or (isinstance(value, Tensor) and not isinstance(value, nn.Parameter)):
            self._hold(name, value)
        else:
            raise InputError(
                f"{name} is a buffer, and a {type(value).__name__} is assigned to it; assign a "
                "tensor that is no Parameter, or None"
            )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._write_back()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None:
            own = metadata.setdefault(prefix[:-1], {})
            own.update({f"{name}_shape": size for name, size in self._sizes.items()})

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        self._write_back()
        given = {}
        for name in ("A", "G"):
            own = self._matrix_size(name)
            parts = [key for key in _parts(name) if prefix + key in state_dict]
            if own is not None and len(parts) == 1:
                # beside the other as it stood: a matrix that nobody gave
                (other,) = set(_parts(name)) - set(parts)
                error_msgs.append(
                    f"{prefix}{other}: missing beside {prefix}{parts[0]}; a matrix is loaded whole"
                )
            given[name] = found = self._form(name, state_dict, prefix, local_metadata)
            if found is not None and own is not None and found != own:
                error_msgs.append(
                    f"size mismatch for {prefix}{name}: the state dict holds {found}, the set "
                    f"{own}; one of other sizes is set up anew"
                )
        if error_msgs:
            return
        for name, size in given.items():
            if size is not None and self._matrix_size(name) is not None:
                self._make_room(name, state_dict, prefix, size)
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def _matrix_size(self, name: str) -> tuple[int, ...] | None:
        """(m, n), or None where there is no such matrix."""
        dense = self._buffers.get(name)
        return self._sizes.get(name) or (None if dense is None else tuple(dense.shape))

    def _form(
        self, name: str, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]
    ) -> tuple[int, ...] | None:
        """The size of the matrix in a state dict, as far as it is known; None where it has none.

        One sparse tensor, as earlier versions stored it, is taken apart there.
        """
        indices, values = (prefix + key for key in _parts(name))
        whole = state_dict.get(prefix + name)
        if isinstance(whole, Tensor) and values not in state_dict:
            if whole.layout is not torch.strided:
                coo = coalesced(whole)
                del state_dict[prefix + name]
                state_dict |= {indices: coo.indices(), values: coo.values()}
            return tuple(whole.shape)
        if isinstance(state_dict.get(indices), Tensor) and values in state_dict:
            return tuple(metadata.get(f"{name}_shape") or self._matrix_size(name) or ()) or None
        return None

    def _make_room(
        self, name: str, state_dict: dict[str, Any], prefix: str, size: tuple[int, ...]
    ) -> None:
        """Buffers of the form, and the sizes, that a state dict has the matrix in."""
        parts = _parts(name) if prefix + _parts(name)[1] in state_dict else (name,)
        found = {key: state_dict[prefix + key] for key in parts}
        own = {key: self._buffers.get(key) for key in parts}
        if all(t is not None and t.shape == found[key].shape for key, t in own.items()):
            return
        old = self._stored_as(name)[1] if name in self._sizes else self._buffers[name]
        assert old is not None
        room = {
            key: torch.empty(
                t.shape,
                dtype=torch.long if key == f"{name}_indices" else old.dtype,
                device=old.device,
            )
            for key, t in found.items()
        }
        self._sizes.pop(name, None)
        if len(parts) > 1:
            self._sizes[name] = (size[0], size[1])
        self._put(name, {**room})


def _parts(name: str) -> tuple[str, str]:
    """The buffers of a sparse matrix of this name."""
    return f"{name}_indices", f"{name}_values"


def assembled(indices: Tensor, values: Tensor, size: tuple[int, int], name: str = "A") -> Tensor:
    """The sparse COO tensor of these entries, which it shares; `InputError` where there is none."""
    indices, values = (t.clone() if t.is_inference() else t for t in (indices, values))
    plain = indices.dtype is torch.int64 and indices.dim() == 2 and values.dim() in (1, 2)
    if not plain or indices.shape != (2, values.shape[-1]):
        raise InputError(
            f"{name}_indices has shape {tuple(indices.shape)} and dtype {indices.dtype}, "
            f"{name}_values shape {tuple(values.shape)}; they must be (2, k), int64, and (k,) or "
            "(B, k)"
        )
    if not indices.is_meta:
        limit = torch.tensor(size, device=indices.device, dtype=torch.long).unsqueeze(-1)
        outside = ((indices < 0) | (indices >= limit)).any(0).nonzero()
        if len(outside):
            k = int(outside[0])
            raise InputError(
                f"{name}_indices[:, {k}] is {tuple(indices[:, k].tolist())}, outside of {name}, "
                f"which is {size[0]} x {size[1]}"
            )
    ordered = indices[0] * size[1] + indices[1]
    in_order = indices.is_meta or bool((ordered[1:] > ordered[:-1]).all())
    if values.dim() == 2:
        return batch_tensor(indices, values, size, in_order=in_order)
    return torch.sparse_coo_tensor(
        indices,
        values,
        size,
        device=values.device,
        is_coalesced=in_order or None,
        check_invariants=False,
    )


def constant(t: Tensor) -> bool:
    """Whether t is a plain tensor that nobody differentiates in, with a count of its changes."""
    return (
        type(t) in PLAIN
        and not t.requires_grad
        and not t.is_inference()
        and (forward_ad._current_level < 0 or forward_ad.unpack_dual(t).tangent is None)
    )
