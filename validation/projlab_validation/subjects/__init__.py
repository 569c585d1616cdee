"""Subjects: somebody else's ``project(x, A, b)``, named ``package.module:callable``.

A subject gets dense float64 or float32 tensors A (m, n), b (m,) and x (n,) or (k, n), of consistent
systems of unambiguous rank, and returns the projection in x's shape. The modules of this package
are adapters of what people use today, each an optional install that is imported only when named.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import inspect
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from projlab import InputError

__all__ = [
    "PEERS",
    "PeerSubject",
    "Subject",
    "installed_peers",
    "is_subject",
    "load",
    "source_digest",
]

Subject = Callable[..., Any]

SPARSE = "takes_sparse"
"""A subject with a true attribute of this name gets A of the group "sparse" as a torch COO tensor,
not coalesced: entries come in no order, and several may share a place. Other subjects get the
small ones dense."""


@dataclass(frozen=True)
class PeerSubject:
    """An adapter of what people use today.

    Attributes
    ----------
    name
        Of its module in this package.
    distribution
        What must be installed for it.
    description
        What it computes, in a sentence.
    equations, bounds
        Whether it is asked about equations, and about polyhedra: `project(x, A, b)`, and
        `project(x, A, b, G, h, lb, ub)`.
    """

    name: str
    distribution: str
    description: str
    equations: bool = True
    bounds: bool = False

    @property
    def spec(self) -> str:
        """What `--subject` calls it."""
        return f"{__name__}.{self.name}:project"


PEERS = (
    PeerSubject(
        "article", "torch", "The article's recipe: the pseudoinverse of the rows as given."
    ),
    PeerSubject(
        "unpivoted_qr", "torch", "The QR factorisation that everyone writes, without pivoting."
    ),
    PeerSubject(
        "scipy_projections", "scipy", "The null-space projection of scipy's trust-constr, by QR."
    ),
    PeerSubject("cvxpy", "cvxpy", "A quadratic program, solved by Clarabel to tight tolerances."),
    PeerSubject(
        "jaxopt",
        "jaxopt",
        "projection_affine_set: the KKT system by GMRES, compiled; projection_polyhedron: OSQP.",
        bounds=True,
    ),
    PeerSubject(
        "botorch",
        "botorch",
        "project_to_equality_constraints: one solve with the Gram matrix; SLSQP for polyhedra.",
        bounds=True,
    ),
    PeerSubject(
        "cvxpylayers",
        "cvxpylayers",
        "A cvxpy program as a layer of torch, solved by SCS.",
        equations=False,
        bounds=True,
    ),
    PeerSubject(
        "qpth", "qpth", "OptNet's batched interior point in torch.", equations=False, bounds=True
    ),
    PeerSubject(
        "qpax", "qpax", "A primal-dual interior point in JAX.", equations=False, bounds=True
    ),
)
"""Every adapter of this package."""


def installed_peers() -> tuple[PeerSubject, ...]:
    """The peers whose distribution is installed here; none is imported to find out."""
    here = {d.name.lower() for d in importlib.metadata.distributions() if d.name}
    return tuple(peer for peer in PEERS if peer.distribution in here)


def is_subject(variant: str) -> bool:
    """Whether a record's variant column names a subject; no variant has a colon in its name."""
    return ":" in variant


def takes_sparse(variant: str) -> bool:
    """Whether this is a subject that asks for systems that stay sparse: see `SPARSE`."""
    return is_subject(variant) and bool(getattr(load(variant), SPARSE, False))


def load(spec: str) -> Subject:
    """Import a subject, from the current folder too.

    What a module prints when it is imported goes to stderr: stdout may be JSON. That something in
    it is deprecated is its authors' concern, and no fault of what it computes.

    Parameters
    ----------
    spec
        ``package.module:callable``; the callable may be an attribute of one (``Class.method``).

    Raises
    ------
    InputError
        It cannot be imported, or is not callable.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise InputError(f"--subject {spec}: want package.module:callable")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"--subject {spec}: {error}; it is looked for in the current folder and among what is "
            f"installed here: pip install what provides {error.name!r}"
        ) from error
    except (Exception, SystemExit) as error:
        raise InputError(
            f"--subject {spec}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    for name in path.split("."):
        if not hasattr(target, name):
            raise InputError(f"--subject {spec}: {module_name} has no {path!r}")
        target = getattr(target, name)
    if not callable(target):
        raise InputError(f"--subject {spec}: {path!r} is not callable, but {type(target).__name__}")
    callable_: Subject = target
    return callable_


def source_digest(spec: str) -> str:
    """Hash the file of the subject's module, so that a changed subject is measured again.

    What the module imports in turn is not seen.
    """
    load(spec)
    module = sys.modules[spec.partition(":")[0]]
    try:
        source = Path(inspect.getsourcefile(module) or "").read_bytes()
    except (TypeError, OSError):  # built in, or compiled: its version stands in the environment
        return "no source"
    return hashlib.sha256(source).hexdigest()[:12]
