"""Planted faults, each a mistake that somebody could make, and callables that are sound.

All are `project(x, A, b)` for `projlab validate --subject`. A fault starts from `_lstsq`, which is
sound, and is wrong in one thing; a sparse one starts from `sparse_corrections`.
"""

import os
import random
import signal
import time
import warnings

import numpy as np
import torch
from torch import Tensor


def _equilibrated(A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    norms = torch.linalg.vector_norm(A, dim=1)
    D = torch.exp2(-torch.log2(torch.where(norms > 0, norms, 1)).round())
    return D[:, None] * A, D * b


def _lstsq(x: Tensor, A: Tensor, b: Tensor, rcond: float | None = None) -> Tensor:
    E, f = _equilibrated(A, b)
    residual = (x @ E.mT - f).reshape(-1, len(f)).mT
    return x - torch.linalg.lstsq(E, residual, rcond=rcond, driver="gelsd").solution.mT.reshape(
        x.shape
    )


def _shifted(x: Tensor, A: Tensor, b: Tensor, passes: int, relative: float = 1e-13) -> Tensor:
    """Corrections with a shifted Gram matrix: sound once they have come down to rounding."""
    E, f = (t.double() for t in _equilibrated(A, b))
    G = E @ E.mT
    G.diagonal().add_(relative * len(f) ** 0.5)
    L = torch.linalg.cholesky(G)
    z = x.double()
    for _ in range(passes):
        r = (z @ E.mT - f).reshape(-1, len(f)).mT
        z = z - (torch.cholesky_solve(r, L).mT @ E).reshape(z.shape)
    return z.to(x.dtype)


# -- sound ---------------------------------------------------------------------------------------


def row_scaled_lstsq(x, A, b):
    return _lstsq(x, A, b)


def projlab_project(x, A, b):
    import projlab

    return projlab.project(x, A, b)


def works_in_float64(x, A, b):
    return _lstsq(x.double(), A.double(), b.double()).to(x.dtype)


def returns_x_itself_where_nothing_moves(x, A, b):
    answer = _lstsq(x, A, b)
    return x if torch.equal(answer, x) else answer


def draws_a_start_of_its_own(x, A, b):
    torch.rand(3)  # a global generator that moves on is no harm
    random.random()  # noqa: S311  as harmless
    return _lstsq(x, A, b)


SOUND = (
    "row_scaled_lstsq",
    "projlab_project",
    "works_in_float64",
    "returns_x_itself_where_nothing_moves",
    "draws_a_start_of_its_own",
)

# -- wrong formulas ------------------------------------------------------------------------------


def sign_of_b(x, A, b):
    return _lstsq(x, A, -b)


def ignores_b(x, A, b):
    return _lstsq(x, A, 0 * b)


def only_the_first_row(x, A, b):
    return _lstsq(x, A[:1], b[:1])


def skips_the_last_row(x, A, b):
    return _lstsq(x, A[:-1], b[:-1]) if len(b) > 1 else _lstsq(x, A, b)


def sum_of_the_gram_matrix_for_two_rows(x, A, b):
    if len(b) != 2:
        return _lstsq(x, A, b)
    return x - (x @ A.mT - b) @ A / (A @ A.mT).sum()


def diagonal_for_the_gram_matrix(x, A, b):
    E, f = _equilibrated(A, b)
    return x - ((x @ E.mT - f) / (E * E).sum(1)) @ E


def half_a_step(x, A, b):
    return (x + _lstsq(x, A, b)) / 2


def assumes_orthonormal_rows(x, A, b):
    return x - (x @ A.mT - b) @ A


def leaves_points_on_the_lower_side(x, A, b):
    E, f = _equilibrated(A, b)
    violated = x @ E.mT > f
    return _lstsq(x, A, torch.where(violated, b, x @ A.mT)) if x.dim() == 1 else _lstsq(x, A, b)


def misses_the_square_case(x, A, b):
    return _lstsq(x, A.mT, b) if A.shape[0] == A.shape[1] else _lstsq(x, A, b)


# -- feasible, but not nearest -------------------------------------------------------------------


def basic_solution(x, A, b):
    E, f = _equilibrated(A, b)
    kept = _independent_columns(E)
    y = torch.linalg.lstsq(E[:, kept], (f - x @ E.mT).reshape(-1, len(f)).mT).solution.mT
    answer = x.clone()
    answer[..., kept] += y.reshape(*x.shape[:-1], len(kept))
    return answer


def _independent_columns(E):
    import scipy.linalg

    _, R, order = scipy.linalg.qr(E.numpy(), mode="economic", pivoting=True)
    diagonal = abs(R.diagonal())
    return order[: (diagonal > 1e-5 * diagonal[0]).sum()].tolist()


def least_norm_whatever_x(x, A, b):
    return _lstsq(torch.zeros_like(x), A, b)


def one_kaczmarz_sweep(x, A, b):
    for a, right in zip(A, b, strict=True):
        if a.any():
            x = x - ((x @ a - right) / (a @ a)).unsqueeze(-1) * a
    return x


# -- numerically unsound -------------------------------------------------------------------------


def float32_inside(x, A, b):
    return _lstsq(x.float(), A.float(), b.float()).to(x.dtype)


def float32_pinv_inside(x, A, b):
    E, f = _equilibrated(A, b)
    return x - (x @ E.mT - f) @ torch.linalg.pinv(E.float()).to(x.dtype).mT


def rounds_the_answer_to_float32(x, A, b):
    return _lstsq(x, A, b).float()


def rounds_the_answer_to_float32_digits(x, A, b):
    mantissa, exponent = torch.frexp(_lstsq(x, A, b))
    return torch.ldexp(mantissa.float().to(x.dtype), exponent)


def jitter(x, A, b):
    E, f = _equilibrated(A, b)
    G = E @ E.mT + 1e-8 * torch.eye(len(f), dtype=E.dtype)
    return (
        x
        - torch.linalg.lstsq(G, (x @ E.mT - f).reshape(-1, len(f)).mT).solution.mT.reshape(
            *x.shape[:-1], len(f)
        )
        @ E
    )


def one_cholesky_pass(x, A, b):
    L = torch.linalg.cholesky(A @ A.mT)
    return (
        x
        - torch.cholesky_solve((x @ A.mT - b).reshape(-1, len(b)).mT, L).mT.reshape(
            *x.shape[:-1], len(b)
        )
        @ A
    )


def unpivoted_qr(x, A, b):
    Q, R = torch.linalg.qr(A.mT)
    residual = (x @ A.mT - b).unsqueeze(-1)
    return x - torch.linalg.solve_triangular(R.mT, residual, upper=False).squeeze(-1) @ Q.mT


def pinv_with_a_large_rcond(x, A, b):
    return _lstsq(x, A, b, rcond=1e-6)


def pinv_with_an_absolute_cutoff(x, A, b):
    return x - (x @ A.mT - b) @ torch.linalg.pinv(A, atol=1e-10, rtol=0.0).mT


def pinv_of_unscaled_rows(x, A, b):
    return x - (x @ A.mT - b) @ torch.linalg.pinv(A).mT


def divides_rows_but_not_b(x, A, b):
    return _lstsq(x, A / A.abs().amax(1, keepdim=True).clamp_min(1e-300), b)


def close_enough(x, A, b):
    return x if (x @ A.mT - b).abs().max() < 1e-6 else _lstsq(x, A, b)


def stops_iterating_early(x, A, b):
    E, f = _equilibrated(A, b)
    for _ in range(200):
        x = x - (x @ E.mT - f) @ E / torch.linalg.matrix_norm(E) ** 2
    return x


def drops_small_entries(x, A, b):
    return _lstsq(x, torch.where(A.abs() < 1e-6, 0, A), b)


def drops_rows_of_small_norm(x, A, b):
    kept = torch.linalg.vector_norm(A, dim=1) > 1e-8
    return _lstsq(x, A[kept], b[kept])


def flushes_small_entries_of_the_answer(x, A, b):
    answer = _lstsq(x, A, b)
    return torch.where(answer.abs() < 1e-8, 0, answer)


def takes_a_small_residual_for_none(x, A, b):
    residual = torch.linalg.vector_norm(x @ A.mT - b)
    return x.clone() if residual <= 1e-8 * torch.linalg.vector_norm(b) else _lstsq(x, A, b)


def least_norm_where_cholesky_fails(x, A, b):
    E, _ = _equilibrated(A, b)
    if torch.linalg.cholesky_ex(E @ E.mT).info:
        return _lstsq(torch.zeros_like(x), A, b)
    return _lstsq(x, A, b)


def assumes_full_rank(x, A, b):
    E, f = _equilibrated(A, b)
    if len(f) > E.shape[1]:
        return _lstsq(x, A, b)
    residual = (x @ E.mT - f).reshape(-1, len(f)).mT
    return x - torch.linalg.lstsq(E, residual, driver="gels").solution.mT.reshape(x.shape)


def conjugate_gradients_to_eight_digits(x, A, b):
    E, f = _equilibrated(A, b)
    start = residual = x @ E.mT - f
    y, p = torch.zeros_like(residual), residual
    for _ in range(10 * len(f)):
        rho = (residual * residual).sum(-1, keepdim=True)
        if bool((rho <= 1e-16 * (start * start).sum(-1, keepdim=True)).all()):
            break
        q = p @ E @ E.mT
        alpha = rho / (p * q).sum(-1, keepdim=True)
        y, residual = y + alpha * p, residual - alpha * q
        p = residual + (residual * residual).sum(-1, keepdim=True) / rho * p
    return x - y @ E


# -- by size -------------------------------------------------------------------------------------


def first_of_the_stack(x, A, b):
    answer = _lstsq(x, A, b)
    return answer if x.dim() == 1 else answer[:1].expand_as(answer)


def refuses_a_stack(x, A, b):
    if x.dim() != 1:
        raise ValueError("one point at a time")
    return _lstsq(x, A, b)


def flattens_a_stack(x, A, b):
    return _lstsq(x, A, b).reshape(-1)[: x.shape[-1]]


def adds_up_the_stack(x, A, b):
    answer = _lstsq(x, A, b)
    return answer if x.dim() == 1 else answer + 1e-3 * (answer.mean(0) - answer)


def forgets_columns_beyond_1000(x, A, b):
    if A.shape[1] <= 1000:
        return _lstsq(x, A, b)
    return torch.cat([_lstsq(x[..., :1000], A[:, :1000], b), x[..., 1000:]], dim=-1)


def drops_the_last_block_of_rows(x, A, b):
    whole = len(b) // 64 * 64 or len(b)
    return _lstsq(x, A[:whole], b[:whole])


def sums_in_float32_beyond_1024_columns(x, A, b):
    if A.shape[1] <= 1024:
        return _lstsq(x, A, b)
    E, f = _equilibrated(A, b)
    residual = (x.float() @ E.float().mT).to(x.dtype) - f
    return x - residual @ torch.linalg.pinv(E).mT


def halves_on_wide_systems(x, A, b):
    if A.shape[1] < 8 * A.shape[0]:
        return _lstsq(x, A, b)
    return _lstsq(x.half().to(x.dtype), A, b)


def wrong_on_the_second_of_a_stack(x, A, b):
    answer = _lstsq(x, A, b)
    if x.dim() == 2:
        answer[1] += 1e-6 * (x[1] - answer[1])
    return answer


def wrong_from_the_fourth_point_on(x, A, b):
    answer = _lstsq(x, A, b)
    if x.dim() == 2:
        answer[3:] += 1e-6 * (x[3:] - answer[3:])
    return answer


def wrong_on_many_points(x, A, b):
    answer = _lstsq(x, A, b)
    return answer if x.dim() == 1 or len(x) <= 12 else answer + 1e-6 * (x - answer)


def takes_points_for_contiguous(x, A, b):
    rows = x.as_strided(x.shape, (x.shape[-1], 1)) if x.dim() == 2 else x
    return _lstsq(rows, A, b)


def takes_b_for_contiguous(x, A, b):
    return _lstsq(x, A, b.as_strided(b.shape, (1,)))


def takes_rows_for_contiguous(x, A, b):
    m, n = A.shape
    return _lstsq(x, A.as_strided((m, n), (n, 1)), b)


def wrong_beyond_100_rows(x, A, b):
    return _lstsq(x, A[:100], b[:100])


# -- by state ------------------------------------------------------------------------------------

_first = {}


def keeps_the_factor_of_the_first_A(x, A, b):
    kept = _first.setdefault(("A", A.shape, A.dtype), A.clone())
    return _lstsq(x, kept, b)


def keeps_the_first_b(x, A, b):
    kept = _first.setdefault(("b", A.shape, A.dtype), b.clone())
    return _lstsq(x, A, kept)


def keeps_the_first_answer(x, A, b):
    kept = _first.setdefault(("x", x.shape, x.dtype), _lstsq(x, A, b))
    return kept.clone()


_by_place = {}


def recognises_A_by_its_address(x, A, b):
    place = A.data_ptr(), A.shape, A.dtype
    if _by_place.get("place") != place:
        _by_place.update(place=place, A=A.clone(), b=b.clone())
    return _lstsq(x, _by_place["A"], _by_place["b"])


_by_identity = {}


def keeps_factors_by_identity(x, A, b):
    key = id(A), A.shape, A.dtype
    if key not in _by_identity:
        _by_identity[key] = A.clone()
    return _lstsq(x, _by_identity[key], b)


_calls = []


def wrong_every_seventh_call(x, A, b):
    _calls.append(1)
    return _lstsq(x, A, b if len(_calls) % 7 else 1.001 * b)


_buffers = {}


def returns_one_buffer(x, A, b):
    answer = _lstsq(x, A, b)
    return _buffers.setdefault((x.shape, x.dtype), torch.empty_like(answer)).copy_(answer)


def returns_two_buffers_by_turns(x, A, b):
    answer = _lstsq(x, A, b)
    pair = _buffers.setdefault((x.shape, x.dtype, 2), [torch.empty_like(answer) for _ in "12"])
    pair.reverse()
    return pair[0].copy_(answer)


def returns_a_buffer_of_numpy(x, A, b):
    answer = _lstsq(x, A, b).numpy()
    held = _buffers.setdefault((x.shape, x.dtype, "numpy"), np.empty_like(answer))
    held[:] = answer
    return held


_last = []


def spoils_the_answer_before(x, A, b):
    with torch.inference_mode():  # where some of the answers were made
        for answer in _last:
            answer.add_(1e-3)
    _last[:] = [_lstsq(x, A, b)]
    return _last[0]


def adds_noise(x, A, b):
    answer = _lstsq(x, A, b)
    return answer * (1 + 1e-12 * torch.randn_like(answer))


def leaves_the_residual_in_b(x, A, b):
    answer = _lstsq(x, A, b)
    if x.dim() == 1:
        b.sub_(A @ x)
    return answer


_warm = {}


def warm_starts(x, A, b):
    answer = _lstsq(x, A, b)
    last = _warm.get("x", answer)
    _warm["x"] = answer
    return answer + 1e-14 * last if last.shape == answer.shape else answer


def jitters_at_random(x, A, b):
    return _lstsq(x, A, b) * (1 + torch.finfo(x.dtype).eps * torch.rand(()).to(x.dtype).round())


def changes_x_in_place(x, A, b):
    return x.copy_(_lstsq(x, A, b))


def answers_in_float64(x, A, b):
    return _lstsq(x.double(), A.double(), b.double())


def works_in_the_default_dtype(x, A, b):
    return _lstsq(*(torch.tensor(t.tolist()).reshape(t.shape) for t in (x, A, b))).to(x.dtype)


def wrong_without_gradients(x, A, b):
    return _lstsq(x, A, b if torch.is_grad_enabled() else 1.001 * b)


def wrong_on_several_threads(x, A, b):
    return _lstsq(x, A, b if torch.get_num_threads() == 1 else 1.001 * b)


def sets_the_default_dtype(x, A, b):
    torch.set_default_dtype(torch.float64)
    return _lstsq(x, A, b)


def leaves_gradients_off(x, A, b):
    torch.set_grad_enabled(False)
    return _lstsq(x, A, b)


def sets_the_threads(x, A, b):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return _lstsq(x, A, b)


def seeds_the_generator(x, A, b):
    torch.manual_seed(0)
    torch.rand(3)
    return _lstsq(x, A, b)


def seeds_numpy(x, A, b):
    np.random.seed(0)  # noqa: NPY002  the fault
    return _lstsq(x, A, b)


def seeds_python(x, A, b):
    random.seed(0)
    return _lstsq(x, A, b)


def silences_warnings(x, A, b):
    warnings.simplefilter("ignore")
    return _lstsq(x, A, b)


def sets_an_environment_variable(x, A, b):
    os.environ["OMP_NUM_THREADS"] = str(1 + int(os.environ.get("OMP_NUM_THREADS", "1")))
    return _lstsq(x, A, b)


def lowers_the_precision_of_products(x, A, b):
    torch.set_float32_matmul_precision("medium")
    return _lstsq(x, A, b)


def flushes_denormals(x, A, b):
    torch.set_flush_denormal(True)
    return _lstsq(x, A, b)


def silences_numpy(x, A, b):
    np.seterr(all="ignore")
    return _lstsq(x, A, b)


def leaves_the_folder(x, A, b):
    os.chdir("/")
    return _lstsq(x, A, b)


def scales_A_in_place(x, A, b):
    norms = torch.linalg.vector_norm(A, dim=1).clamp_min(1e-300)
    return _lstsq(x, A.div_(norms[:, None]), b.div_(norms))


# -- by form -------------------------------------------------------------------------------------


def returns_nan_for_a_feasible_x(x, A, b):
    answer = _lstsq(x, A, b)
    step = answer - x
    return x + step / step.norm() * step.norm()


def raises_on_redundant_rows(x, A, b):
    if torch.linalg.matrix_rank(A) < len(b):
        raise ValueError("redundant rows")
    return _lstsq(x, A, b)


def returns_a_row(x, A, b):
    return _lstsq(x, A, b)[None]


def exits(x, A, b):
    raise SystemExit(0)


def loops_on_feasible_points(x, A, b):
    while (x @ A.mT - b).abs().max() <= 1e-12:
        pass
    return _lstsq(x, A, b)


def sleeps_on_square_systems(x, A, b):
    if A.shape[0] == A.shape[1]:
        time.sleep(3600)
    return _lstsq(x, A, b)


def ends_the_process_on_stacks(x, A, b):
    if x.dim() == 2:
        os._exit(0)
    return _lstsq(x, A, b)


def crashes_on_tall_systems(x, A, b):
    if A.shape[0] > A.shape[1]:
        os.kill(os.getpid(), signal.SIGSEGV)
    return _lstsq(x, A, b)


# -- the answer first, checked wrongly -----------------------------------------------------------


def a_shift_is_left_in(x, A, b):
    return _shifted(x, A, b, passes=1, relative=1e-8)


def one_correction_too_few(x, A, b):
    return _shifted(x, A, b, passes=1)


def contraction_probed_on_b_zero_from_zero(x, A, b):
    """From zero and with b = 0 nothing moves, and the first pass looks like the last."""
    moved = _shifted(torch.zeros_like(x), A, torch.zeros_like(b), passes=1)
    passes = 1 if moved.abs().max() <= 1e-15 else 8
    return _shifted(x, A, b, passes)


def consistency_judged_before_the_corrections(x, A, b):
    """One pass of a shifted factor leaves a residual that is no contradiction."""
    nearest = _shifted(torch.zeros_like(x), A, b, passes=1)
    off = (nearest @ A.mT - b).abs().max()
    if off > 1e-13 * (1 + b.abs().max()):
        raise ValueError("A x = b has no solution")
    return _lstsq(x, A, b)


_KEPT: dict[tuple[int, ...], Tensor] = {}


def a_stale_factor(x, A, b):
    """Factors are kept by the shape of A."""
    E, f = _equilibrated(A, b)
    inverse = _KEPT.setdefault(tuple(A.shape), torch.linalg.pinv(E))
    return x - (x @ E.mT - f) @ inverse.mT


# -- sparse: A comes as COO, not coalesced --------------------------------------------------------


def _csr(A, key=torch.int64, *, add_up=True):
    """A with its duplicates added up, by flat indices of the dtype `key`."""
    import numpy as np
    import scipy.sparse as sp

    i, j = A._indices().to(key)
    flat = (i * A.shape[1] + j).numpy()
    flat, where = np.unique(flat, return_inverse=True)
    values = np.zeros(len(flat))
    if add_up:
        np.add.at(values, where, A._values().double().numpy())
    else:
        values[where] = A._values().double().numpy()
    inside = (flat >= 0) & (flat < A.shape[0] * A.shape[1])
    rows, columns = np.divmod(flat[inside], A.shape[1])
    return sp.csr_array((values[inside], (rows, columns)), shape=tuple(A.shape))


def _sparse(x, A, b, passes=10, relative=1e-13, back=None):
    """Corrections with a sparse factor of the shifted Gram matrix, its rows put in an order."""
    import numpy as np
    import scipy.sparse as sp
    from scipy.sparse.csgraph import reverse_cuthill_mckee
    from scipy.sparse.linalg import splu

    norms = np.sqrt(A.multiply(A).sum(axis=1))
    D = np.exp2(-np.round(np.log2(np.where(norms > 0, norms, 1))))
    E, f = sp.csr_array(A.multiply(D[:, None])), D * b.double().numpy()
    m = len(f)
    G = sp.csr_array(E @ E.T) + relative * m**0.5 * sp.eye_array(m, format="csr")
    order = reverse_cuthill_mckee(sp.csr_matrix(G), symmetric_mode=True)
    lu = splu(sp.csc_matrix(G[order][:, order]), permc_spec="NATURAL")
    undo = np.argsort(order) if back is None else back(order)
    z = x.double().numpy().reshape(-1, x.shape[-1]).T
    for _ in range(passes):
        z = z - E.T @ lu.solve((E @ z - f[:, None])[order])[undo]
    return torch.from_numpy(np.ascontiguousarray(z.T)).reshape(x.shape).to(x.dtype)


def sparse_corrections(x, A, b):
    return _sparse(x, _csr(A), b)


def drops_a_dense_row(x, A, b):
    """Dense rows are set apart, and forgotten there."""
    import numpy as np

    whole = _csr(A)
    counts = np.diff(whole.indptr)
    kept = np.flatnonzero(counts <= max(10, 5 * counts.mean()))
    return _sparse(x, whole[kept], b[kept])


def applies_its_permutation_twice(x, A, b):
    return _sparse(x, _csr(A), b, back=lambda order: order)


def corrects_once(x, A, b):
    return _sparse(x, _csr(A), b, passes=1)


def overflows_32_bits(x, A, b):
    return _sparse(x, _csr(A, torch.int32), b)


def keeps_one_of_two_duplicates(x, A, b):
    return _sparse(x, _csr(A, add_up=False), b)


SPARSE_SOUND = ("sparse_corrections",)
SPARSE_FAULTS = (
    "drops_a_dense_row",
    "applies_its_permutation_twice",
    "corrects_once",
    "overflows_32_bits",
    "keeps_one_of_two_duplicates",
)
for _name in SPARSE_SOUND + SPARSE_FAULTS:
    globals()[_name].takes_sparse = True

HANGS = ("loops_on_feasible_points", "sleeps_on_square_systems")
DIES = ("ends_the_process_on_stacks", "crashes_on_tall_systems")
FAULTS = tuple(
    name
    for name, value in dict(globals()).items()
    if callable(value)
    and getattr(value, "__module__", None) == __name__
    and not name.startswith("_")
    and name not in SOUND + SPARSE_SOUND + SPARSE_FAULTS
)
