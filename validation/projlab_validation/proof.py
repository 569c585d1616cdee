"""What `projlab.certify` proves of answers, as figures of a record.

The certificate shares no factor with whatever computed the answers, and needs no x*. Where no
oracle knows x*, it judges the answer; where one does, the oracle judges the certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from projlab import AffineConstraint, certify
from projlab_validation.record import NAN

if TYPE_CHECKING:
    from torch import Tensor

    from projlab.system.options import OnInconsistent

Proven = Literal["certified", "failed", "uncertifiable"]


@dataclass(frozen=True)
class Proof:
    """Bounds on the forward error of one answer, what they are held against, and the outcome."""

    at_least: float = NAN
    at_most: float = NAN
    accuracy: float = NAN
    verdict: Proven | None = None
    reason: str = ""
    stationarity: float = NAN

    def columns(self) -> dict[str, Any]:
        """Return the proof as columns of a record."""
        return {
            "proven_at_least": self.at_least,
            "proven_at_most": self.at_most,
            "proven_accuracy": self.accuracy,
            "proof": self.verdict,
            "proof_reason": self.reason,
        }


def prove(
    points: Tensor,
    answers: Tensor,
    constraint: AffineConstraint,
    *,
    on_inconsistent: OnInconsistent = "raise",
) -> list[Proof]:
    """Return a proof for each of the answers (k, n) as the projection of its point (k, n)."""
    certificate = certify(points, answers, constraint, on_inconsistent=on_inconsistent)
    figures = torch.stack(
        [
            certificate.forward_error_at_least,
            certificate.forward_error_bound,
            certificate.accuracy,
            certificate.stationarity,
        ],
        dim=-1,
    ).tolist()
    # An answer that is not finite is wrong by any measure: its lower bound is infinite.
    finite = torch.isfinite(answers).all(-1).tolist()
    return [
        _proof(least if whole else torch.inf, most, accuracy, certificate.reason, stationarity)
        for (least, most, accuracy, stationarity), whole in zip(figures, finite, strict=True)
    ]


def worst(proofs: Sequence[Proof]) -> Proof:
    """Return the proof that fails by most; else the one nearest to failing."""

    def place(proof: Proof) -> tuple[bool, float]:
        failed = proof.at_least > proof.accuracy
        bound = proof.at_least if failed else proof.at_most
        if proof.accuracy == 0:  # nothing but 0 is right
            return failed, torch.inf if bound else 0.0
        return failed, bound / proof.accuracy

    return max(proofs, key=place)


def _proof(least: float, most: float, accuracy: float, reason: str, stationarity: float) -> Proof:
    verdict: Proven = "uncertifiable"
    if most <= accuracy < torch.inf:
        verdict = "certified"
    elif least > accuracy:
        verdict = "failed"
    doubt = reason if verdict == "uncertifiable" else ""
    return Proof(least, most, accuracy, verdict, doubt, stationarity)
