"""What is known of the systems behind a solver: ranks and condition numbers, when asked for."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from projlab import tolerance
from projlab.engine.variants.base import Factor
from projlab.numerics.precision import set_up, stated_precision
from projlab.system.analysis import Analysis, analyse
from projlab.system.constraint import AffineConstraint
from projlab.system.rank import RankRule


@dataclass
class Facts:
    """Ranks and condition numbers, one a system, decided when they are asked for and then kept."""

    constraint: AffineConstraint
    dtype: torch.dtype
    rule: RankRule
    data: torch.dtype
    known_ranks: tuple[int, ...] | None = None
    """What setting up has learned."""
    known_conditions: tuple[float, ...] | None = None
    bounds: tuple[float, ...] | None = field(default=None)
    """Upper bounds on the condition numbers."""
    factor: Factor | None = None
    """One of all rows, which may tell that they are independent."""
    stretch: float = 1.0
    """By how much condition numbers of the factor's rows and the constraint's may differ."""
    measured_on: AffineConstraint | None = None
    """The rows in the variables of a metric, of which condition numbers are."""

    def proven(self) -> bool:
        """Whether the ranks are known, or a factor tells them without a decision."""
        factor = self.factor  # another thread may be done with it any time
        if self.known_ranks is None and factor is not None:
            m, n = self.constraint.m, self.constraint.n
            cutoff = tolerance.rank_cutoff(m, n, tolerance.unit_roundoff(self.data))
            with set_up():
                full = factor.independent(self.stretch * cutoff)
            if full:
                self.known_ranks = (m,) * (self.constraint.batch or 1)
            self.factor = None  # asked once
        return self.known_ranks is not None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Numerical ranks; decided now if they are not known."""
        if not self.proven():
            decisions = self._analysis(self.constraint, measured=False).decisions
            self.known_ranks = tuple(d.rank for d in decisions)
        assert self.known_ranks is not None
        return self.known_ranks

    @property
    def conditions(self) -> tuple[float, ...]:
        """Condition numbers of the equilibrated rows; from singular values, if not known."""
        if self.known_conditions is None:
            rows = self.measured_on or self.constraint
            decisions = self._analysis(rows, measured=True).decisions
            self.known_conditions = tuple(d.condition for d in decisions)
        return self.known_conditions

    def singular_values(self) -> list[Tensor]:
        """Those above the cutoff of each system's equilibrated rows; computed now."""
        return [d.sigma for d in self._analysis(self.constraint, measured=True).decisions]

    def _analysis(self, constraint: AffineConstraint, *, measured: bool) -> Analysis:
        with set_up(), stated_precision(constraint.device):
            return analyse(constraint, self.dtype, self.rule, self.data, measured=measured)
