"""What else projects onto {x : A x = b}: the one module that knows peers' packages.

A peer keeps whatever it can keep between projections; preparing it is not timed, and what it
returns is checked before a time is taken. Peers that can work in place do so, as
`Projector.project_` does.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.systems import Exact

Array = NDArray[Any]


class NotApplicable(NotImplementedError):  # noqa: N818  no error: asv reads it as n/a
    """A peer is not installed, does not do such a problem, or does it wrong; says which."""


class Peer(ABC):
    """One way to project that is not projlab's."""

    name: str
    summary: str
    packages: tuple[str, ...] = ()
    batches: tuple[str, ...] = ("one",)
    """Which of "one" vector, "shared" A for many, and "distinct" A it does."""
    devices: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = ("float64", "float32")
    forward_error: float = 0.0
    """What its answers are held to: 1e4 u and no more, unless it iterates to a tolerance."""

    def prepare(self, case: Exact) -> Callable[[], object]:
        """A call that projects case.x0, its answer found right.

        Raises
        ------
        NotApplicable
            With the reason.
        """
        kind = "distinct" if case.A.dim() == 3 else "one" if case.x0.dim() == 1 else "shared"
        dtype = str(case.A.dtype).removeprefix("torch.")
        if kind not in self.batches:
            raise NotApplicable(f"{self.name} does not do {kind} systems")
        if case.A.device.type not in self.devices:
            raise NotApplicable(f"{self.name} is not measured on {case.A.device.type}")
        if dtype not in self.dtypes:
            raise NotApplicable(f"{self.name} does not do {dtype}")
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError as missing:
                raise NotApplicable(f"{package} is not installed") from missing
        call = self.build(case)
        error = _relative(_as_numpy(call()), case.x.double().cpu().numpy())
        u = torch.finfo(case.A.dtype).eps / 2
        allowed = max(1e4 * u, self.forward_error)
        if not error <= allowed:
            raise NotApplicable(f"{self.name} is wrong by {error:.2g}, more than {allowed:.2g}")
        return call

    @abstractmethod
    def build(self, case: Exact) -> Callable[[], object]:
        """A call that projects case.x0, with everything kept that can be kept."""


def _as_numpy(answer: object) -> Array:
    return answer.cpu().numpy() if isinstance(answer, torch.Tensor) else np.asarray(answer)


def _relative(found: Array, wanted: Array) -> float:
    difference = np.linalg.norm(found.reshape(wanted.shape).astype(float) - wanted, axis=-1)
    return float((difference / np.linalg.norm(wanted, axis=-1)).max())


def _arrays(case: Exact) -> tuple[Array, Array, Array]:
    return case.A.numpy(), case.b.numpy(), case.x0.numpy()


def _orthonormal(case: Exact) -> tuple[Array, Array]:
    """W with orthonormal rows and c, the set being W x = c: what projlab keeps, from numpy."""
    A, b = case.A.double().numpy(), case.b.double().numpy()
    Q, R = np.linalg.qr(np.swapaxes(A, -1, -2))
    c = np.linalg.solve(np.swapaxes(R, -1, -2), b[..., None])[..., 0]
    dtype = case.A.numpy().dtype
    W: Array = np.ascontiguousarray(np.swapaxes(Q, -1, -2).astype(dtype))
    return W, c.astype(dtype)


class Article(Peer):
    """The recipe as printed: a pseudoinverse at every projection."""

    name = "article"
    summary = "x - pinv(A) (A x - b), pseudoinverse computed each time"
    devices = ("cpu", "cuda")

    def build(self, case: Exact) -> Callable[[], object]:
        A, b, x = case.A, case.b, case.x0.clone()
        return lambda: x.sub_(torch.linalg.pinv(A) @ (A @ x - b))


class Numpy(Peer):
    """The same orthonormal rows, multiplied by numpy's BLAS."""

    name = "numpy"
    summary = "x -= (x W' - c) W with the same orthonormal W"
    batches = ("one", "shared", "distinct")

    def build(self, case: Exact) -> Callable[[], object]:
        (W, c), x = _orthonormal(case), case.x0.numpy().copy()
        if W.ndim == 3:
            rows = x[:, None, :]

            def each() -> Array:
                r = rows @ W.swapaxes(-1, -2) - c[:, None, :]
                np.subtract(rows, r @ W, out=rows)
                return x

            return each
        columns = W.T

        def together() -> Array:
            np.subtract(x, (x @ columns - c) @ W, out=x)
            return x

        return together


class _Jax(Peer):
    """Compiled by XLA; an answer is waited for."""

    packages: tuple[str, ...] = ("jax",)
    batches = ("one", "shared", "distinct")
    devices: tuple[str, ...] = ("cpu", "cuda")

    def build(self, case: Exact) -> Callable[[], object]:
        import jax

        jax.config.update("jax_enable_x64", True)  # float32 arrays stay float32
        wanted = "gpu" if case.A.device.type == "cuda" else "cpu"
        try:
            device = jax.devices(wanted)[0]
        except RuntimeError as error:
            raise NotApplicable(f"this jax has no {wanted} device") from error
        # of its own accord jax multiplies float32 at TF32 on GPUs
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            function, arguments = self.function(jax, _on_cpu(case))
            placed = [jax.device_put(a, device) for a in arguments]
            compiled = jax.jit(function).lower(*placed).compile()
        return lambda: compiled(*placed).block_until_ready()

    @abstractmethod
    def function(self, jax: Any, case: Exact) -> tuple[Callable[..., Any], tuple[Array, ...]]:
        """What is compiled, and the arrays that it is called with."""


def _on_cpu(case: Exact) -> Exact:
    return Exact(**{name: tensor.cpu() for name, tensor in vars(case).items()})


class JaxJit(_Jax):
    """What one would write by hand."""

    name = "jax_jit"
    summary = "hand-written: jit of x - W'(W x - c) with the same orthonormal W"

    def function(self, jax: Any, case: Exact) -> tuple[Callable[..., Any], tuple[Array, ...]]:
        W, c = _orthonormal(case)

        def one(W: Any, c: Any, x: Any) -> Any:
            return x - (W @ x - c) @ W

        def shared(W: Any, c: Any, x: Any) -> Any:
            return x - (x @ W.T - c) @ W

        x = case.x0.numpy()
        function = jax.vmap(one) if W.ndim == 3 else one if x.ndim == 1 else shared
        return function, (W, c, x)


class PinetLike(_Jax):
    """Pi-net's equality projection: a kept pseudoinverse, column vectors in a batch."""

    name = "pinet_like"
    summary = "jit of x - pinv(A) (A x - b) with the pseudoinverse kept, (B, n, 1) columns"

    def function(self, jax: Any, case: Exact) -> tuple[Callable[..., Any], tuple[Array, ...]]:
        A, b, x = _arrays(case)
        A = A if A.ndim == 3 else A[None]
        inverse = np.linalg.pinv(A.astype(float)).astype(A.dtype)
        b = b.reshape(*(A.shape[:-1] if case.A.dim() == 3 else (1, -1)), 1)

        def project(A: Any, inverse: Any, b: Any, x: Any) -> Any:
            return x - inverse @ (A @ x - b)

        return project, (A, inverse, b, x.reshape(-1, x.shape[-1], 1))


class Jaxopt(_Jax):
    """Its affine projection solves a linear system iteratively at every call; vmap for batches."""

    name = "jaxopt"
    summary = "jit of jaxopt.projection.projection_affine_set, vmapped for batches"
    packages = ("jax", "jaxopt")
    devices = ("cpu",)
    forward_error = 1e-3  # its own test's tolerance

    def function(self, jax: Any, case: Exact) -> tuple[Callable[..., Any], tuple[Array, ...]]:
        from jaxopt.projection import projection_affine_set

        def project(x: Any, A: Any, b: Any) -> Any:
            return projection_affine_set(x, (A, b))

        A, b, x = _arrays(case)
        if A.ndim == 3:
            project = jax.vmap(project)
        elif x.ndim == 2:
            project = jax.vmap(project, in_axes=(0, None, None))
        return project, (x, A, b)


class Cvxpy(Peer):
    """A parametrised problem (DPP), compiled once; x0 is the parameter."""

    packages = ("cvxpy",)
    dtypes = ("float64",)
    forward_error = 1e-4

    def __init__(self, solver: str) -> None:
        self.solver = solver
        self.name = f"cvxpy_{solver.lower()}"
        self.summary = f"cvxpy, parametrised, solved by {solver}"

    def build(self, case: Exact) -> Callable[[], object]:
        import cvxpy as cp

        if self.solver not in cp.installed_solvers():
            raise NotApplicable(f"cvxpy has no {self.solver} here")
        A, b, x0 = _arrays(case)
        x, point = cp.Variable(A.shape[1]), cp.Parameter(A.shape[1], value=x0)
        distance = cp.sum_squares(x) / 2 - point @ x  # type: ignore[attr-defined]  # not re-exported
        problem = cp.Problem(cp.Minimize(distance), [A @ x == b])

        def solve() -> Array:
            point.value = x0
            try:
                problem.solve(solver=self.solver, warm_start=False)
            except cp.SolverError as error:
                raise NotApplicable(f"{self.name}: {error}") from error
            if x.value is None:
                raise NotApplicable(f"{self.name}: {problem.status}")
            found: Array = x.value
            return found

        return solve


class Osqp(Peer):
    """Set up once; each projection updates the linear term. No warm start: the answer is known."""

    name = "osqp"
    summary = "OSQP with its factors kept, new linear term each time"
    packages = ("osqp",)
    dtypes = ("float64",)
    forward_error = 1e-4

    def build(self, case: Exact) -> Callable[[], object]:
        import osqp
        from scipy import sparse

        A, b, x0 = _arrays(case)
        solver = osqp.OSQP()
        solver.setup(
            P=sparse.identity(A.shape[1], format="csc"),
            q=-x0,
            A=sparse.csc_matrix(A),
            l=b,
            u=b,
            verbose=False,
            warm_starting=False,
            eps_abs=1e-6,
            eps_rel=1e-6,
        )

        def solve() -> Array:
            solver.update(q=-x0)
            found: Array = solver.solve(raise_error=False).x
            return found

        return solve


class Piqp(Peer):
    """Set up once; each projection updates the linear term."""

    name = "piqp"
    summary = "PIQP, set up once, new linear term each time"
    dense_up_to = 200  # beyond, its sparse form is the faster one: the Hessian is diagonal
    packages = ("piqp",)
    dtypes = ("float64",)
    forward_error = 1e-6

    def build(self, case: Exact) -> Callable[[], object]:
        import piqp
        from scipy import sparse

        A, b, x0 = _arrays(case)
        n = A.shape[1]
        hessian: Any
        equations: Any
        if n <= self.dense_up_to:
            solver = piqp.DenseSolver()
            hessian, equations = np.eye(n), np.asfortranarray(A)
        else:
            solver = piqp.SparseSolver()
            hessian, equations = sparse.identity(n, format="csc"), sparse.csc_matrix(A)
        solver.settings.verbose = False
        solver.setup(hessian, -x0, equations, b)

        def solve() -> Array:
            solver.update(c=-x0)
            solver.solve()
            found: Array = solver.result.x
            return found

        return solve


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Article(),
        Numpy(),
        JaxJit(),
        PinetLike(),
        Jaxopt(),
        Cvxpy("OSQP"),
        Cvxpy("CLARABEL"),
        Osqp(),
        Piqp(),
    )
}
