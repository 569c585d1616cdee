"""Examines subjects: the forward error on x₀, and what a projection keeps to elsewhere.

A subject is a function of its inputs, so each check asks it once more, in the same process, with
inputs of its own; only the columns are permuted in the memory of A itself, which finds out who
remembers where A lay. What follows from x* needs no further reference:

- x* fed back, and a feasible x (x* rounded), give x*;
- rows scaled by powers of two, rows permuted and columns permuted (with x₀) give x* (permuted);

and further points, alone and stacked as (k, n), are held against `projlab.certify`, which bounds
the forward error of any answer from below and above. Beyond `Profile.subject_flops` only x₀, the
inputs and the repeated call are examined: each check costs as much as x₀ itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from projlab_validation import subjects
from projlab_validation.measure import Outcome, Truth, _describe, blank_record, faulty
from projlab_validation.profiles import Profile, over_budget
from projlab_validation.record import Check, Record
from projlab_validation.watch import Answered, Asked, Tell, nobody

if TYPE_CHECKING:
    from torch import Tensor

    from projlab_validation.problems import Problem

SCALING = 12
"""Rows are scaled by powers of two from 2^−12 to 2^12: κ² of unscaled rows then exceeds 1e14."""

POINTS = 2
"""Further points; stacked they come with x₀ before them."""


class Wrong(Exception):  # noqa: N818  what was asked of a subject went wrong, not this module
    """A subject's answer is no projection in form; the message says what it is instead."""


def examine(
    problem: Problem,
    specs: Sequence[str],
    profile: Profile,
    *,
    device: str = "cpu",
    environment: str = "",
    tell: Tell = nobody,
) -> list[Record]:
    """Examine subjects on one problem, in its dtype, on this device; x* is computed once."""
    blank = blank_record(problem, device, environment)
    try:
        return _examine(problem, specs, profile, blank, tell)
    except Exception as fault:  # a worker serves many problems: none may lose the others
        return faulty(blank, specs, fault)


def _examine(
    problem: Problem, specs: Sequence[str], profile: Profile, blank: Record, tell: Tell
) -> list[Record]:
    from projlab_validation.oracles import cvx, lstsq, reference

    def skipped(reason: str) -> list[Record]:
        return [replace(blank, variant=s, status="skip", reason=reason) for s in specs]

    if reason := over_budget(profile, specs[0], problem.m, problem.n, overlap=True):
        return skipped(reason)
    x_star = reference(problem, time_limit=profile.reference_seconds)
    if not x_star.consistent:
        return skipped("inconsistent: a subject gets consistent systems only")
    if x_star.ambiguous:
        return skipped("the rank is ambiguous: a subject gets systems of unambiguous rank only")
    if x_star.kind == "unavailable":
        return skipped(f"x* is not known ({x_star.reason})")
    answers = lstsq.answers(problem)
    if problem.dtype in profile.cvxpy_dtypes:
        answers += cvx.answers(problem, time_limit=profile.cvxpy_seconds)
    truth = Truth(problem, "projection", x_star, answers)
    all_checks = problem.m**2 * problem.n <= profile.subject_flops
    records: list[Record] = []
    for spec in specs:
        subject = subjects.load(spec)
        records += _Examination(spec, subject, truth, blank, tell).records(all_checks=all_checks)
    return records


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
        found = []
        if all_checks:
            found += [self.against_x_star(check, work) for check, work in self.relations(x)]
            found += list(self.points())
        found.append(self.same_bits(x, inputs))
        return [self.base, *found, self.other("inputs_kept", changed=self.changed_inputs)]

    @property
    def problem(self) -> Problem:
        """What is projected."""
        return self.truth.problem

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """x₀, A and b, each in memory of its own."""
        p = self.problem
        return self.tensor(p.x0), self.tensor(p.dense()), self.tensor(p.b)

    def tensor(self, values: Any) -> Tensor:
        """Values in the problem's dtype, in memory of their own."""
        import torch

        dtype = getattr(torch, self.problem.dtype)
        return torch.tensor(values, dtype=dtype, device=self.blank.device)

    def ask(self, x: Tensor, A: Tensor, b: Tensor) -> Tensor:
        """Ask for a projection; count what of the inputs is changed, and put it back."""
        import torch

        given = x.clone(), A.clone(), b.clone()
        answer = torch.as_tensor(self.subject(x, A, b)).detach().clone()
        for now, before in zip((x, A, b), given, strict=True):
            if now.shape != before.shape or now.dtype != before.dtype:
                self.changed_inputs += before.numel()
            else:
                self.changed_inputs += _different(now, before)
                now.copy_(before)
        if answer.shape != x.shape:
            raise Wrong(f"the answer has shape {tuple(answer.shape)}, x {tuple(x.shape)}")
        if not answer.is_floating_point():
            raise Wrong(f"the answer is {answer.dtype}, x {x.dtype}")
        return answer

    def relations(self, x: Tensor) -> Iterator[tuple[Check, Callable[[], Any]]]:
        """Yield what must give x* again, as a name and a call that returns it in x₀'s order."""
        m, n, A, b = self.problem.m, self.problem.n, self.problem.dense(), self.problem.b
        rng = np.random.default_rng(self.problem.seed)
        rows, columns = rng.permutation(m), rng.permutation(n)
        factors = np.exp2(rng.integers(-SCALING, SCALING + 1, m))
        x0, whole, right = self.inputs()
        point = x.to(x0.dtype)
        x_star = self.tensor(self.truth.reference.x_high)

        def permuted_rows() -> Any:
            by_columns = self.tensor(A[rows]).mT.contiguous().mT  # as a transposed matrix lies
            return _array(self.ask(x0, by_columns, self.tensor(b[rows])))

        def permuted_columns() -> Any:
            self.ask(x0, whole, right)
            whole.copy_(self.tensor(A[:, columns]))
            answer = np.empty(n)
            answer[columns] = _array(self.ask(x0[columns], whole, right))
            return answer

        def scaled_rows() -> Any:
            scaled = self.tensor(factors[:, None] * A), self.tensor(factors * b)
            return _array(self.ask(x0, *scaled))

        yield "idempotence", lambda: _array(self.ask(point, whole, right))
        yield "feasible_point", lambda: _array(self.ask(x_star, whole, right))
        yield "row_permutation", permuted_rows
        if all(map(self.survives, (factors[:, None] * A, factors * b))):
            yield "row_scaling", scaled_rows
        yield "column_permutation", permuted_columns

    def survives(self, values: Any) -> bool:
        """Whether values are the same in the problem's dtype: none overflows or vanishes."""
        with np.errstate(over="ignore", under="ignore"):
            return bool(np.array_equal(values, values.astype(self.problem.dtype)))

    def against_x_star(self, check: Check, work: Callable[[], Any]) -> Record:
        """Hold an answer against x*."""
        self.tell(Asked(self.spec, check))
        try:
            x = work()
        except (Exception, SystemExit) as fault:
            record = self.failed(check, fault)
        else:
            error, size = self.truth.forward_error(x), float(np.linalg.norm(x))
            record = self.other(check, forward_error=error, x_norm=size)
        self.tell(Answered((record,)))
        return record

    def points(self) -> Iterator[Record]:
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

    def certified(
        self, answered: dict[Check, tuple[Tensor, Tensor]], A: Tensor, b: Tensor
    ) -> Iterator[Record]:
        """Yield each check's worst answer, as the certificate bounds its forward error."""
        import torch

        from projlab import certify

        asked = torch.cat([points for points, _ in answered.values()])
        answers = torch.cat([found.to(asked) for _, found in answered.values()])
        proof = certify(asked, answers, A, b)
        figures = torch.stack(
            [proof.forward_error_at_least, proof.forward_error_bound, proof.accuracy], dim=-1
        ).cpu()
        # Nothing is below the accuracy of an answer that is not finite: its upper bound tells.
        finite = torch.isfinite(answers).all(-1).cpu()
        figures[~finite, 0] = torch.inf
        parts = figures.split([len(points) for points, _ in answered.values()])
        for check, part in zip(answered, parts, strict=True):
            least, most, accuracy = part.unbind(-1)
            beyond = torch.where(least > accuracy, least / accuracy, 0.0)
            worst = int((beyond if bool(beyond.any()) else most / accuracy).argmax())
            yield self.other(
                check,
                proven_at_least=float(least[worst]),
                proven_at_most=float(most[worst]),
                proven_accuracy=float(accuracy[worst]),
            )

    def same_bits(self, x: Tensor, inputs: tuple[Tensor, Tensor, Tensor]) -> Record:
        """Ask for x₀ once more, after everything else."""
        self.tell(Asked(self.spec, "same_bits"))
        start = time.perf_counter()
        try:
            again = self.ask(*inputs)
        except (Exception, SystemExit) as fault:
            return self.failed("same_bits", fault)
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
            check, status="error", reason=outcome.reason, exception=outcome.exception, x_norm=np.nan
        )


def _failed(fault: BaseException) -> Outcome:
    reason = str(fault) if isinstance(fault, Wrong) else _describe(fault)
    return Outcome("error", reason=reason, exception=type(fault).__name__)


def _array(x: Tensor) -> Any:
    return x.cpu().numpy().astype(np.float64)


def _different(x: Tensor, y: Tensor) -> int:
    """Count the entries that differ; two NaN are the same."""
    return int(((x != y) & ~((x != x) & (y != y))).sum())
