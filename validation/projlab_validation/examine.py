"""Checks of subjects and variants beyond the answer for x₀.

Each check asks once more, in the same process, with inputs of its own; only the columns are
permuted in the memory of A itself, so that whoever recognises A by its address is caught. Three
kinds of question are answered by x* and need no further reference:

- x* fed back, and a feasible x (x* rounded), give x*;
- rows scaled by powers of two, rows permuted and columns permuted (with x₀) give x* (permuted);
- no two points end up further apart than they were;

further points, alone and stacked as (k, n), and x₀ itself are held against `projlab.certify`, which
bounds the forward error of any answer from below and above. So are points whose memory, and that of
A and b, lies otherwise (strides), and points that are asked for within another default dtype, grad
mode and number of threads. How many points there are, how memory lies and what stands around the
call is drawn by the problem's seed. An answer has x's shape and dtype; inputs stay as they were,
and so do answers that were given before, and what stands around the call. Variants answer for their
gradients besides, and for a batch of systems. On systems beyond `Profile.check_flops`, or
`subject_flops`, only what concerns x₀ is examined: each check costs as much as x₀ itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, starmap
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from projlab.engine.variants import get
from projlab_validation import subjects, surroundings
from projlab_validation.norms import norm
from projlab_validation.outcome import Outcome
from projlab_validation.problems.problem import scattered
from projlab_validation.profiles import Profile
from projlab_validation.record import Check, Record
from projlab_validation.surroundings import Surroundings
from projlab_validation.tensors import sparse_tensor
from projlab_validation.truth import Truth
from projlab_validation.watch import Answered, Asked, Tell

if TYPE_CHECKING:
    from torch import Tensor

    from projlab_validation.problems import Problem

SCALING = 12
"""Rows are scaled by powers of two from 2^−12 to 2^12: κ² of unscaled rows then exceeds 1e14."""

MOST_POINTS = 4
"""Further points that are asked for one by one; two at least."""

SMALLEST_STACK, LARGEST_STACK = 4, 32
"""Points of a stack; x₀ is the first of them."""

STACK_ENTRIES = 2**20
"""A stack of long points has fewer of them: no more entries in all than these, or four points."""

FEW = 8
"""Points, at most, whose memory lies otherwise, or that are asked for in other surroundings."""

LAYOUTS = ("transposed", "every other row", "every other column", "a corner of more")
"""How the memory of a matrix lies; what lies between its entries is NaN."""


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
        first = examination.first(*inputs)
    except Exception as fault:  # it answered for x₀ before
        yield examination.failed("same_bits", fault)
        return
    tell(Answered())
    yield from examination.further(examination.tensor(answer))
    if not (examination.sparse and get(base.variant).iterates):  # one system at a time
        yield examination.batched()
    yield examination.gradients(profile)
    yield examination.same_bits(first, inputs)
    yield from examination.kept()


@dataclass
class _Examination:
    """One subject on one problem."""

    spec: str
    subject: subjects.Subject
    truth: Truth
    blank: Record
    tell: Tell
    changed_inputs: int = 0
    answers: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    changed_state: dict[str, None] = field(default_factory=dict)
    reseeded: tuple[Any, ...] = ()
    was_asked: bool = False
    base: Record = field(init=False)

    def records(self, *, all_checks: bool) -> list[Record]:
        """Return a record a check; none but the first where x₀ is not answered."""
        inputs = self.inputs()
        self.tell(Asked(self.spec, "projection"))
        try:
            x = self.first(*inputs)
        except (Exception, SystemExit) as fault:  # whatever it raises is a finding
            return [self.truth.record(self.blank, self.spec, _failed(fault))]
        self.tell(Answered())
        outcome = Outcome("ok", x=_array(x), computed_by=self.spec)
        self.base = self.truth.record(self.blank, self.spec, outcome)
        self.tell(Answered((self.base,)))
        further = list(self.further(x)) if all_checks else []
        further.append(self.same_bits(x, inputs))
        return [self.base, *further, *self.kept()]

    def kept(self) -> Iterator[Record]:
        """Yield the records of what no call may change.

        Its inputs, the answers of calls before it, and what stands around it.
        """
        yield self.other("inputs_kept", changed=self.changed_inputs)
        yield self.other("answers_kept", changed=sum(starmap(_different, self.answers)))
        changed = list(self.changed_state)
        yield self.other("state_kept", changed=len(changed), reason=", ".join(changed))

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

    def first(self, x: Tensor, A: Tensor, b: Tensor) -> Tensor:
        """Ask for x₀, with global generators that start from a seed of the problem's."""
        return self.seeded(0, x, A, b)

    def seeded(self, which: int, x: Tensor, A: Tensor, b: Tensor) -> Tensor:
        """Ask with a seed of its own; say where the same generators stand after another seed."""
        with surroundings.generators_kept():
            surroundings.seed_generators((self.problem.seed + which) % 2**32)
            before = surroundings.generators()
            answer = self.ask(x, A, b)
            after = surroundings.generators()
        moved = tuple(
            now if not _same(now, then) else None for now, then in zip(after, before, strict=True)
        )
        for one, other in zip(moved, self.reseeded, strict=False):
            if one is not None and _same(one, other):
                self.changed_state["the seed of a global generator"] = None
        self.reseeded = moved
        return answer

    def ask(self, x: Tensor, A: Tensor, b: Tensor, within: Surroundings | None = None) -> Tensor:
        """Ask for a projection; count the entries of its inputs that it changed, and mend them.

        What it changed of what stands around the call is named, and put back. The answer as it was
        given is kept, to be looked at again once every other question was asked.
        """
        import torch

        kept = x.clone(), A.clone(), b.clone()
        with within.entered() if within else contextlib.nullcontext():
            before = surroundings.state()
            try:
                raw = torch.as_tensor(self.subject(x, A, b))
            finally:
                excused = frozenset() if self.was_asked else surroundings.BY_IMPORTS
                changed = surroundings.mend(before, surroundings.state())
                self.changed_state |= dict.fromkeys(c for c in changed if c not in excused)
                self.was_asked = True
        answer = raw.detach().clone()
        for now, then in zip((x, A, b), kept, strict=True):
            if now.shape != then.shape or now.dtype != then.dtype:
                self.changed_inputs += then.numel()
            else:
                self.changed_inputs += _different(now, then)
                _mend(now, then)
        if answer.shape != x.shape:
            raise Wrong(f"the answer has shape {tuple(answer.shape)}, x {tuple(x.shape)}")
        if answer.dtype != x.dtype:
            raise Wrong(f"the answer is {answer.dtype}, x {x.dtype}")
        given = raw.detach()
        self.answers.append((given, given.clone()))  # it may be x itself, which is mended by now
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
        """Yield the records of further points, asked in every way there is, from one certificate.

        One by one, stacked, strided, and within other surroundings.
        """
        import torch

        rng = np.random.default_rng([self.problem.seed, 1])
        size = self.truth.x0_norm / self.problem.n**0.5 or 1.0
        x0, A, b = self.inputs()

        def drawn(count: int) -> Tensor:
            return self.tensor(size * rng.standard_normal((count, self.problem.n)))

        further = drawn(int(rng.integers(2, MOST_POINTS + 1)))
        stack = torch.cat([x0[None], drawn(_stack_size(rng, self.problem.n) - 1)])
        few = drawn(int(rng.integers(1, FEW + 1)))
        lain = _laid_out(few, rng), _laid_out(A, rng), _laid_out(b, rng)
        around, within = drawn(int(rng.integers(1, FEW + 1))), Surroundings.drawn(rng)
        answered: dict[Check, tuple[Tensor, Tensor]] = {}
        work: dict[Check, Callable[[], tuple[Tensor, Tensor]]] = {
            "further_points": lambda: (
                further,
                torch.stack([self.ask(y.clone(), A, b) for y in further]),
            ),
            "stacked_points": lambda: (stack, self.ask(stack.clone(), A, b)),
            "strided_points": lambda: (lain[0], self.ask(*lain)),
            "surroundings": lambda: (around, self.ask(around.clone(), A, b, within)),
        }
        said = {
            "stacked_points": f"{len(stack)} points",
            "strided_points": ", ".join(
                f"{name} {_described(t)}" for name, t in zip("xAb", lain, strict=True)
            ),
            "surroundings": f"{len(around)} points, {within}",
        }
        for check, call in work.items():
            self.tell(Asked(self.spec, check))
            try:
                answered[check] = call()
            except (Exception, SystemExit) as fault:
                yield self.failed(check, fault, said.get(check, ""))
            self.tell(Answered())
        if answered:
            yield from self.certified(answered, A, b, said)
        if "further_points" in answered:
            yield self.non_expansive(x, *answered["further_points"])

    def certified(
        self,
        answered: dict[Check, tuple[Tensor, Tensor]],
        A: Tensor,
        b: Tensor,
        said: dict[str, str],
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
            yield self.other(check, reason=said.get(check, ""), **worst(own_proofs).columns())

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
        import torch

        p = self.problem
        rng = np.random.default_rng([p.seed, 4])
        A, b, rows = p.csr(), p.b, rng.permutation(p.m)
        systems, sides = (A, sp.csr_array(A[rows]), -A), np.stack([b, b[rows], -b])

        def work() -> Any:
            x0 = self.tensor(p.x0).expand(len(systems), -1).clone()
            stacked = torch.stack([self.matrix(system) for system in systems])
            answers = _array(self.ask(x0, stacked, self.tensor(sides)))
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
            again = self.seeded(1, *inputs)
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

    def failed(self, check: Check, fault: BaseException, said: str = "") -> Record:
        """Return the record of a check that ended in an exception."""
        outcome = _failed(fault)
        if said:
            outcome = replace(outcome, reason=f"{outcome.reason} ({said})")
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


def _stack_size(rng: np.random.Generator, n: int) -> int:
    """Draw how many points are stacked, as many digits as often."""
    most = max(SMALLEST_STACK, min(LARGEST_STACK, STACK_ENTRIES // n))
    return int(SMALLEST_STACK * (most / SMALLEST_STACK) ** rng.random())


def _laid_out(values: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the same values, in memory that lies otherwise: see `LAYOUTS`."""
    if values.is_sparse:
        return values
    if values.dim() == 1:
        start = int(rng.integers(2))
        return values.new_full((2 * len(values),), np.nan)[start::2].copy_(values)
    rows, columns = values.shape
    match layout := str(rng.choice(LAYOUTS)):
        case "transposed":
            view = values.new_full((columns, rows), np.nan).mT
        case "every other row":
            view = values.new_full((2 * rows, columns), np.nan)[::2]
        case "every other column":
            view = values.new_full((rows, 2 * columns), np.nan)[:, ::2]
        case _:
            assert layout == LAYOUTS[-1]
            view = values.new_full((rows + 2, columns + 3), np.nan)[1:-1, 2:-1]
    return view.copy_(values)


def _described(values: Tensor) -> str:
    """Say how the memory of a tensor lies."""
    how = "in coordinates" if values.is_sparse else f"of strides {values.stride()}"
    return f"{tuple(values.shape)} {how}"


def _same(one: Any, other: Any) -> bool:
    """Whether a generator stands where another does; neither may have moved."""
    if one is None or other is None:
        return False
    return bool(one == other) if isinstance(one, bytes) else bool((one == other).all())


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
