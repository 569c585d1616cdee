"""Checks of subjects and variants beyond the answer for x₀.

Each check asks once more, in the same process, with inputs of its own; only the columns are
permuted in the memory of A itself, so that whoever recognises A by its address is caught. Three
kinds of question are answered by x* and need no further reference:

- x* fed back, and a feasible x (x* rounded), give x*;
- rows scaled by powers of two, rows permuted and columns permuted (with x₀) give x* (permuted);
- no two points end up further apart than they were;

further points, alone and stacked as (k, n), and x₀ itself are held against `projlab.certify`, which
bounds the forward error of any answer from below and above. Variants answer for their gradients
besides, and for a batch of systems. On systems beyond `Profile.check_flops`, or `subject_flops`,
only what concerns x₀ is examined: each check costs as much as x₀ itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from projlab.engine.variants import get
from projlab_validation import subjects
from projlab_validation.norms import norm
from projlab_validation.outcome import Outcome
from projlab_validation.problems.problem import scattered
from projlab_validation.profiles import Profile
from projlab_validation.record import Check, Record
from projlab_validation.tensors import sparse_tensor
from projlab_validation.truth import Truth
from projlab_validation.watch import Answered, Asked, Tell

if TYPE_CHECKING:
    from torch import Tensor

    from projlab_validation.problems import Problem

SCALING = 12
"""Rows are scaled by powers of two from 2^−12 to 2^12: κ² of unscaled rows then exceeds 1e14."""

POINTS = 2
"""Further points; stacked they come with x₀ before them."""


class Wrong(Exception):  # noqa: N818  what was asked of a subject went wrong, not this module
    """A subject's answer has another shape or kind than x; the message says which."""


def examine_subject(
    spec: str,
    subject: subjects.Subject,
    truth: Truth,
    blank: Record,
    tell: Tell,
    *,
    all_checks: bool,
) -> list[Record]:
    """Examine a subject: its answer for x₀, whether it repeats itself, or every check there is."""
    return _Examination(spec, subject, truth, blank, tell).records(all_checks=all_checks)


def examine_variant(
    truth: Truth, base: Record, answer: Any, profile: Profile, tell: Tell
) -> Iterator[Record]:
    """Yield the further checks of a variant whose `answer` for x₀ stands in the record `base`."""
    import projlab

    def ask(x: Tensor, A: Tensor, b: Tensor) -> Tensor:
        return projlab.projector(projlab.AffineConstraint(A, b), variant=base.variant)(x)

    examination = _Examination(base.variant, ask, truth, base, tell)
    examination.base = base
    inputs = examination.inputs()
    tell(Asked(base.variant, "same_bits"))
    try:
        first = examination.ask(*inputs)
    except Exception as fault:  # it answered for x₀ before
        yield examination.failed("same_bits", fault)
        return
    tell(Answered())
    yield from examination.further(examination.tensor(answer))
    if not examination.sparse:  # there are no batches of them
        yield examination.batched()
    yield examination.gradients(profile)
    yield examination.same_bits(first, inputs)
    yield examination.other("inputs_kept", changed=examination.changed_inputs)


@dataclass
class _Examination:
    """One subject on one problem."""

    spec: str
    subject: subjects.Subject
    truth: Truth
    blank: Record
    tell: Tell
    changed_inputs: int = 0
    base: Record = field(init=False)

    def records(self, *, all_checks: bool) -> list[Record]:
        """Return a record a check; none but the first where x₀ is not answered."""
        inputs = self.inputs()
        self.tell(Asked(self.spec, "projection"))
        try:
            x = self.ask(*inputs)
        except (Exception, SystemExit) as fault:  # whatever it raises is a finding
            return [self.truth.record(self.blank, self.spec, _failed(fault))]
        self.tell(Answered())
        outcome = Outcome("ok", x=_array(x), computed_by=self.spec)
        self.base = self.truth.record(self.blank, self.spec, outcome)
        self.tell(Answered((self.base,)))
        further = list(self.further(x)) if all_checks else []
        further.append(self.same_bits(x, inputs))
        return [self.base, *further, self.other("inputs_kept", changed=self.changed_inputs)]

    def further(self, x: Tensor) -> Iterator[Record]:
        """Yield the records of all checks but those for x₀, whose answer is x."""
        for check, work in self.relations(x):
            yield self.against_x_star(check, work)
        yield from self.points(x)

    @property
    def problem(self) -> Problem:
        """What is projected."""
        return self.truth.problem

    @cached_property
    def sparse(self) -> bool:
        """Whether A is handed over as a sparse tensor."""
        if not self.problem.stays_sparse:
            return False
        if subjects.is_subject(self.spec):
            return subjects.takes_sparse(self.spec)
        return get(self.spec).keeps_sparse

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """x₀, A and b, each in memory of its own."""
        p = self.problem
        return self.tensor(p.x0), self.matrix(p.csr()), self.tensor(p.b)

    def matrix(self, A: sp.csr_array) -> Tensor:
        """A as the subject gets it: dense, or as COO whose duplicates are not added up."""
        if not self.sparse:
            return self.tensor(A.toarray())
        given = scattered(A, self.problem.seed)
        return sparse_tensor(given, self.problem.dtype, self.blank.device)

    def tensor(self, values: Any) -> Tensor:
        """Values in the problem's dtype, in memory of their own."""
        import torch

        dtype = getattr(torch, self.problem.dtype)
        return torch.tensor(values, dtype=dtype, device=self.blank.device)

    def ask(self, x: Tensor, A: Tensor, b: Tensor) -> Tensor:
        """Ask for a projection; count the entries of its inputs that it changed, and mend them."""
        import torch

        kept = x.clone(), A.clone(), b.clone()
        answer = torch.as_tensor(self.subject(x, A, b)).detach().clone()
        for now, before in zip((x, A, b), kept, strict=True):
            if now.shape != before.shape or now.dtype != before.dtype:
                self.changed_inputs += before.numel()
            else:
                self.changed_inputs += _different(now, before)
                _mend(now, before)
        if answer.shape != x.shape:
            raise Wrong(f"the answer has shape {tuple(answer.shape)}, x {tuple(x.shape)}")
        if not answer.is_floating_point():
            raise Wrong(f"the answer is {answer.dtype}, x {x.dtype}")
        return answer

    def relations(self, x: Tensor) -> Iterator[tuple[Check, Callable[[], Any]]]:
        """Yield what must give x* again, as a name and a call that returns it in x₀'s order."""
        m, n, A, b = self.problem.m, self.problem.n, self.problem.csr(), self.problem.b
        rng = np.random.default_rng(self.problem.seed)
        rows, columns = rng.permutation(m), rng.permutation(n)
        factors = np.exp2(rng.integers(-SCALING, SCALING + 1, m))
        x0, whole, right = self.inputs()
        point = x.to(x0.dtype)
        x_star = self.tensor(self.truth.reference.x_high)

        def permuted_rows() -> Any:
            by_columns = self.matrix(A[rows])
            if not self.sparse:
                by_columns = by_columns.mT.contiguous().mT  # as a transposed matrix lies
            return _array(self.ask(x0, by_columns, self.tensor(b[rows])))

        def permuted_columns() -> Any:
            self.ask(x0, whole, right)
            permuted = self.matrix(A[:, columns])
            if not self.sparse:
                permuted = whole.copy_(permuted)
            answer = np.empty(n)
            answer[columns] = _array(self.ask(x0[columns], permuted, right))
            return answer

        def scaled_rows() -> Any:
            rows_scaled = sp.csr_array(A.multiply(factors[:, None]))
            scaled = self.matrix(rows_scaled), self.tensor(factors * b)
            return _array(self.ask(x0, *scaled))

        yield "idempotence", lambda: _array(self.ask(point, whole, right))
        yield "feasible_point", lambda: _array(self.ask(x_star, whole, right))
        yield "row_permutation", permuted_rows
        if self.survives(factors):
            yield "row_scaling", scaled_rows
        yield "column_permutation", permuted_columns

    def survives(self, factors: Any) -> bool:
        """Whether rows scaled by these powers of two stay in the range of the problem's dtype.

        No entry may overflow or lose a digit, nor may a row's squared norm: whoever scales rows by
        their plain norms is right.
        """
        A, b, dtype = self.problem.csr(), self.problem.b, np.dtype(self.problem.dtype)
        per_entry = np.repeat(factors, np.diff(A.indptr))
        held = np.flatnonzero(np.diff(A.indptr))
        with np.errstate(over="ignore", under="ignore"):
            entries, right = (per_entry * A.data).astype(dtype), (factors * b).astype(dtype)
            wide = entries.astype(np.float64) ** 2
            squares = np.add.reduceat(wide, A.indptr[held]) if len(held) else wide
            back = entries / per_entry, right / factors
        limits = np.finfo(dtype)
        normal = (squares >= limits.tiny) & (squares <= limits.max)
        same = np.array_equal(back[0], A.data) and np.array_equal(back[1], b)
        return bool(np.all(normal)) and same

    def against_x_star(self, check: Check, work: Callable[[], Any]) -> Record:
        """Hold an answer against x*."""
        self.tell(Asked(self.spec, check))
        try:
            x = work()
        except (Exception, SystemExit) as fault:
            record = self.failed(check, fault)
        else:
            error, size = self.truth.forward_error(x), norm(x)
            record = self.other(check, forward_error=error, x_norm=size)
        self.tell(Answered((record,)))
        return record

    def points(self, x: Tensor) -> Iterator[Record]:
        """Yield the records of further points, one by one and stacked, from one certificate."""
        import torch

        rng = np.random.default_rng([self.problem.seed, 1])
        size = self.truth.x0_norm / self.problem.n**0.5 or 1.0
        x0, A, b = self.inputs()
        further = self.tensor(size * rng.standard_normal((POINTS, self.problem.n)))
        stack = torch.cat([x0[None], further])
        answered: dict[Check, tuple[Tensor, Tensor]] = {}
        work: dict[Check, Callable[[], tuple[Tensor, Tensor]]] = {
            "further_points": lambda: (
                further,
                torch.stack([self.ask(y.clone(), A, b) for y in further]),
            ),
            "stacked_points": lambda: (stack, self.ask(stack.clone(), A, b)),
        }
        for check, call in work.items():
            self.tell(Asked(self.spec, check))
            try:
                answered[check] = call()
            except (Exception, SystemExit) as fault:
                yield self.failed(check, fault)
            self.tell(Answered())
        if answered:
            yield from self.certified(answered, A, b)
        if "further_points" in answered:
            yield self.non_expansive(x, *answered["further_points"])

    def certified(
        self, answered: dict[Check, tuple[Tensor, Tensor]], A: Tensor, b: Tensor
    ) -> Iterator[Record]:
        """Yield each check's worst answer, as the certificate bounds its forward error."""
        import torch

        from projlab import AffineConstraint
        from projlab_validation.proof import prove, worst

        asked = torch.cat([points for points, _ in answered.values()])
        answers = torch.cat([own.to(asked) for _, own in answered.values()])
        proofs = iter(prove(asked, answers, AffineConstraint(A, b)))
        for check, (points, _) in answered.items():
            own_proofs = list(islice(proofs, len(points)))
            yield self.other(check, **worst(own_proofs).columns())

    def non_expansive(self, x: Tensor, points: Tensor, answers: Tensor) -> Record:
        """Hold the distances of further points' answers from that for x₀ against the points'."""
        x0, answer = self.truth.problem.x0, _array(x)
        pairs = list(zip(_array(points), _array(answers), strict=True))
        excess = max(norm(y - answer) - norm(point - x0) for point, y in pairs)
        travelled = max(norm(point) + norm(point - y) for point, y in pairs)
        return self.other(
            "non_expansiveness",
            excess=excess / self.truth.scale,
            perturbation_scale=self.truth.perturbation_scale + travelled,
        )

    def batched(self) -> Record:
        """Project x₀ in a batch of three systems with one affine set; keep the worst."""
        p = self.problem
        rng = np.random.default_rng([p.seed, 4])
        A, b, rows = p.dense(), p.b, rng.permutation(p.m)
        systems = np.stack([A, A[rows], -A]), np.stack([b, b[rows], -b])

        def work() -> Any:
            x0 = self.tensor(p.x0).expand(len(systems[0]), -1).clone()
            answers = _array(self.ask(x0, *map(self.tensor, systems)))
            return max(answers, key=self.truth.forward_error)

        return self.against_x_star("batched", work)

    def gradients(self, profile: Profile) -> Record:
        """Hold the gradients in x₀, A and b against exact ones."""
        from projlab_validation.gradients import TERMS, gradient_error

        self.tell(Asked(self.spec, "gradients"))
        try:
            error = gradient_error(
                self.problem,
                self.spec,
                self.truth.reference,
                self.matrix(self.problem.csr()),
                seconds=profile.reference_seconds,
            )
        except (Exception, SystemExit) as fault:
            record = self.failed("gradients", fault)
        else:
            scale = TERMS * self.truth.scale
            record = self.other("gradients", forward_error=error, perturbation_scale=scale)
        self.tell(Answered((record,)))
        return record

    def same_bits(self, x: Tensor, inputs: tuple[Tensor, Tensor, Tensor]) -> Record:
        """Ask for x₀ once more, after everything else."""
        self.tell(Asked(self.spec, "same_bits"))
        start = time.perf_counter()
        try:
            again = self.ask(*inputs)
        except (Exception, SystemExit) as fault:
            return self.failed("same_bits", fault)
        self.tell(Answered())
        seconds = time.perf_counter() - start
        timing = {"project_s_median": seconds, "project_s_min": seconds, "repeats": 1}
        self.base = replace(self.base, **timing)  # type: ignore[arg-type]  # floats and an int
        changed = _different(again, x) if again.dtype == x.dtype else x.numel()
        return self.other("same_bits", changed=changed)

    def other(self, check: Check, **figures: Any) -> Record:
        """Return a check's record: what is known of the problem, and these figures alone."""
        nothing: dict[str, Any] = {
            "x_norm": self.base.x_norm,
            "forward_error": np.nan,
            "feasibility": np.nan,
            "stationarity": np.nan,
            "oracles": {},
        }
        return replace(self.base, check=check, **(nothing | figures))

    def failed(self, check: Check, fault: BaseException) -> Record:
        """Return the record of a check that ended in an exception."""
        outcome = _failed(fault)
        return self.other(
            check,
            status=outcome.status,
            reason=outcome.reason,
            exception=outcome.exception,
            x_norm=np.nan,
        )


def _failed(fault: BaseException) -> Outcome:
    """Return the outcome of a question that ended in an exception."""
    outcome = Outcome.of_fault(fault)
    return replace(outcome, reason=str(fault)) if isinstance(fault, Wrong) else outcome


def _array(x: Tensor) -> Any:
    return x.cpu().numpy().astype(np.float64)


def _mend(now: Tensor, before: Tensor) -> None:
    """Undo what was done to a tensor, where it lies."""
    if not now.is_sparse:
        now.copy_(before)
    elif now._values().shape == before._values().shape:
        now._values().copy_(before._values())
        now._indices().copy_(before._indices())


def _different(x: Tensor, y: Tensor) -> int:
    """Count the entries that differ; two NaN are the same."""
    if x.is_sparse:
        if x._values().shape != y._values().shape:
            return int(y._values().numel())
        moved = (x._indices() != y._indices()).any(0)
        return int((moved | (x._values() != y._values())).sum())
    return int(((x != y) & ~((x != x) & (y != y))).sum())
