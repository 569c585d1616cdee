"""Holds records against theory: pass, expected limitation, skip or fail, and a sentence why.

Judging happens when records are read, so that a rule can change without measuring again. The
thresholds are those of :mod:`projlab.tolerance`; rank and condition are the reference's, never the
engine's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from projlab import tolerance
from projlab.engine.variants import REGISTRY, drift_bound, forward_error_bound, get
from projlab_validation.record import NAN
from projlab_validation.subjects import is_subject

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]
Verdict = Literal["pass", "expected", "skip", "fail"]
VERDICTS: tuple[Verdict, ...] = ("pass", "expected", "skip", "fail")

BACKWARD_STABLE = "qr"
"""The variant whose bound, c·κ·u, is what any backward-stable method reaches, and what a subject is
held to."""

RELATIONS = {
    "idempotence": "x* fed back as it was answered",
    "feasible_point": "x* itself, rounded, as x0",
    "row_scaling": "rows scaled by powers of two",
    "row_permutation": "rows permuted",
    "column_permutation": "columns permuted, in the memory of A",
}
"""Checks that must give x* again. Two roundings of x* are compared, the one that is asked about and
the one that the relation rests on, so twice the bound holds."""

FURTHER = {
    "batched": "a batch of systems with one set",
    "gradients": "gradients in x0, A and b",
}
"""Checks of variants alone, held against exact answers as x* is."""

PROVEN = {
    "further_points": "further points",
    "stacked_points": "points stacked as (k, n)",
    "strided_points": "x, A and b whose memory lies otherwise",
    "surroundings": "another default dtype, grad mode and number of threads",
}
"""Checks that a certificate bounds."""

LOOSE = 100.0
"""A certificate's upper bound may exceed the forward error this many times, and ten roundings."""


@dataclass(frozen=True)
class Theory:
    """What theory says about one row; all NaN where x* or κ is not known.

    Attributes
    ----------
    amplification
        (‖x₀‖ + ‖x₀ − x*‖) / ‖x*‖ and its like: `perturbation_scale` over the scale of the forward
        error.
    bound
        Forward error that the variant may have.
    stable_bound
        Forward error that a backward-stable method may have: what oracles are compared with.
    feasibility_bound
        Scaled feasibility residual that the variant may have.
    ratio
        Forward error over `bound`.
    units_of_kappa_u
        Forward error in units of κ·u times the amplification, without any factor for the
        dimensions.
    """

    amplification: float = NAN
    bound: float = NAN
    stable_bound: float = NAN
    feasibility_bound: float = NAN
    ratio: float = NAN
    units_of_kappa_u: float = NAN


def judge(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records, variants in the registry's order, with verdict, why and `Theory`."""
    import pandas as pd

    place = {variant.name: i for i, variant in enumerate(REGISTRY)}
    frame = frame.sort_values(
        "variant", key=lambda names: names.map(place), kind="stable", ignore_index=True
    )
    judged = []
    for row in cast("list[Row]", frame.to_dict("records")):
        theory = theory_of(row)
        verdict, why = verdict_of(row, theory)
        judged.append({"verdict": verdict, "why": why, **asdict(theory)})
    columns = ["verdict", "why", *Theory.__dataclass_fields__]
    return frame.join(pd.DataFrame(judged, columns=columns, index=frame.index))


def theory_of(row: Row) -> Theory:
    """Evaluate the bounds for one row."""
    shape = {"u": tolerance.unit_roundoff(row["dtype"]), "m": row["m"], "n": row["n"]}
    feasibility_bound = tolerance.feasibility_bound(**shape)
    condition = row["reference_condition"]
    scale = row["xstar_norm"] or row["x0_norm"] or 1.0
    amplification = row["perturbation_scale"] / scale
    if math.isnan(condition) or math.isnan(amplification):
        return Theory(feasibility_bound=feasibility_bound)
    shape |= {"condition": condition, "amplification": amplification}
    law = BACKWARD_STABLE if is_subject(row["variant"]) else row["variant"]
    bound = forward_error_bound(law, **shape)
    if row["check"] in RELATIONS:
        bound *= 2
    if row["check"] == "drift":
        bound = drift_bound(
            law,
            **shape | {"amplification": (2 * row["x0_norm"] + row["xstar_norm"]) / scale},
            steps=math.sqrt(row["steps"]),
        )
    unit = condition * shape["u"] * amplification
    error = row["forward_error"]
    return Theory(
        amplification=amplification,
        bound=bound,
        stable_bound=forward_error_bound(BACKWARD_STABLE, **shape),
        feasibility_bound=feasibility_bound,
        ratio=_over(error, bound),
        units_of_kappa_u=_over(error, unit),
    )


def verdict_of(row: Row, theory: Theory) -> tuple[Verdict, str]:
    """Judge one row."""
    match row["status"]:
        case "skip":
            return "skip", row["reason"]
        case "refused":
            return _refusal(row)
        case "ok":
            return _answered(row, theory)
        case _:
            what = (RELATIONS | FURTHER | PROVEN).get(row["check"])
            return "fail", f"{what}: {row['reason']}" if what else row["reason"]


def _answered(row: Row, theory: Theory) -> tuple[Verdict, str]:
    """Judge a row that carries an answer, by what was asked."""
    match row["check"]:
        case "same_bits":
            counted = f"{row['changed']:.0f} entries differ when the same call is repeated"
            return ("fail" if row["changed"] else "pass"), counted
        case "inputs_kept":
            counted = f"{row['changed']:.0f} entries of x, A and b were changed in place"
            return ("fail" if row["changed"] else "pass"), counted
        case "answers_kept":
            counted = f"{row['changed']:.0f} entries of answers were changed by later calls"
            return ("fail" if row["changed"] else "pass"), counted
        case "state_kept":
            if row["changed"]:
                return "fail", f"it changed what stands around the call: {row['reason']}"
            return "pass", "default dtype, grad mode, threads and the like stand as they stood"
        case "certificate":
            return _certificate(row)
        case "non_expansiveness":
            return _non_expansive(row, theory)
        case "drift":
            return _drift(row, theory)
        case check if check in PROVEN:
            return _proven(row)
        case check if check in RELATIONS or check in FURTHER:
            return _by_forward_error(row, theory)
        case _ if is_subject(row["variant"]):
            return _by_forward_error(row, theory)
        case _:
            return _answer(row, theory)


def _refusal(row: Row) -> tuple[Verdict, str]:
    exception, reason = row["exception"], row["reason"]
    match exception:
        case "InconsistentError" if row["check"] != "least_squares":
            if row["reference_ambiguous"]:
                return "expected", f"{_AMBIGUOUS}, and so whether rows contradict each other"
            if row["check"] == "refusal":
                return "pass", "the system is inconsistent, and was refused as such"
        case "MemoryLimitError":
            return "skip", reason
        case "InputError" if row["rows_overlap"] and get(row["variant"]).needs_disjoint_rows:
            return "skip", "rows overlap, and this variant takes rows without a common column only"
        case "RankDeficientError" | "AccuracyError":
            limitation = _limitation(row)
            if limitation:
                return "expected", limitation
    return "fail", f"refused without need, {exception}: {reason}"


def _answer(row: Row, theory: Theory) -> tuple[Verdict, str]:
    if row["computed_by"] != row["variant"]:
        return "fail", f"asked for {row['variant']}, computed by {row['computed_by']}"
    if row["check"] == "refusal" and not row["reference_ambiguous"]:
        return "fail", "the system is inconsistent, and was projected onto all the same"
    if not math.isfinite(row["x_norm"]):
        return "fail", "the answer is not finite"
    feasible, how_feasible = _feasibility(row, theory)
    if row["check"] == "refusal":
        return _of_another_rank(row, theory)
    if row["reference_kind"] == "unavailable" and row["proof"] in ("certified", "failed"):
        return _by_certificate(row, feasible, how_feasible)
    doubt = _why_unjudgeable(row, theory)
    if not doubt and row["rank"] != row["reference_rank"]:
        return "fail", f"rank {row['rank']:.0f} found, {row['reference_rank']:.0f} is right"
    error = row["forward_error"]
    how_far = f"forward error {error:.2g}, bound {theory.bound:.2g}"
    within = bool(doubt) or error - _radius(row, theory) <= theory.bound
    figures = f"{doubt or how_far}; {how_feasible}"
    if not within or not feasible:
        limitation = _limitation(row)
        return ("expected", f"{limitation}: {figures}") if limitation else ("fail", figures)
    if doubt:
        return "expected", figures
    wrong = _contradicting_oracle(row, theory)
    return ("fail", wrong) if wrong else ("pass", how_far)


def _of_another_rank(row: Row, theory: Theory) -> tuple[Verdict, str]:
    """Judge an answer where rows contradict each other at the oracle's rank, which is ambiguous.

    At a rank as good, a singular value more counts, and the same rows may agree: to within what
    rounding explains, which is the rule for consistency. An answer that leaves more is of no rank.
    """
    cutoff = tolerance.rank_cutoff(row["m"], row["n"], tolerance.unit_roundoff(row["dtype"]))
    allowed = max(theory.feasibility_bound, tolerance.consistency_factor(cutoff))
    residual = row["feasibility"]
    figures = f"feasibility residual {residual:.2g}, {allowed:.2g} at a rank where rows agree"
    return ("expected" if residual <= allowed else "fail"), f"{_AMBIGUOUS}; {figures}"


def _by_certificate(row: Row, feasible: bool, how_feasible: str) -> tuple[Verdict, str]:
    """Judge an answer whose x* no oracle knows."""
    least, most = row["proven_at_least"], row["proven_at_most"]
    allowed = _allowed_by_certificate(row)
    figures = (
        f"by certificate: forward error between {least:.2g} and {most:.2g}, bound {allowed:.2g}; "
        f"{how_feasible}"
    )
    if least > allowed or not feasible:
        return _beyond(row, figures)
    return ("pass" if most <= allowed else "expected"), figures


def _by_forward_error(row: Row, theory: Theory) -> tuple[Verdict, str]:
    """Judge by the forward error alone: no feasibility, rank or oracle."""
    what = (RELATIONS | FURTHER).get(row["check"])
    what = f"{what}: " if what else ""
    if not math.isfinite(row["x_norm"]):
        return "fail", f"{what}the answer is not finite"
    if doubt := _why_unjudgeable(row, theory):
        return "expected", f"{what}{doubt}"
    error = row["forward_error"]
    figures = f"{what}forward error {error:.2g}, bound {theory.bound:.2g}"
    if error - _radius(row, theory) <= theory.bound:
        return "pass", figures
    return _beyond(row, figures)


def _beyond(row: Row, figures: str) -> tuple[Verdict, str]:
    """Tell an expected limitation of a variant from a failure."""
    limitation = None if is_subject(row["variant"]) else _limitation(row)
    return ("expected", f"{limitation}: {figures}") if limitation else ("fail", figures)


def _proven(row: Row) -> tuple[Verdict, str]:
    """Judge further points by the certificate's bounds on the worst of them."""
    what = PROVEN[row["check"]] + (f" ({row['reason']})" if row["reason"] else "")
    least, most = row["proven_at_least"], row["proven_at_most"]
    allowed = _allowed_by_certificate(row)
    if least > allowed:
        return _beyond(
            row, f"{what}: forward error proven to be {least:.2g} or more, bound {allowed:.2g}"
        )
    if most <= allowed < math.inf:
        return "pass", f"{what}: forward error proven to be {most:.2g} or less, bound {allowed:.2g}"
    return "expected", (
        f"{what}: the certificate leaves open whether the forward error is within {allowed:.2g}"
    )


def _allowed_by_certificate(row: Row) -> float:
    """Turn the certificate's c·κ·u into the law of the row's variant."""
    allowed = float(row["proven_accuracy"])
    if is_subject(row["variant"]):
        return allowed
    condition = row["reference_condition"]
    condition = row["condition"] if math.isnan(condition) else condition
    if not (math.isfinite(allowed) and math.isfinite(condition)):
        return math.inf
    u = tolerance.unit_roundoff(row["dtype"])
    law, stable = (get(v).error_growth(condition, u) for v in (row["variant"], BACKWARD_STABLE))
    return allowed * law / stable


def _certificate(row: Row) -> tuple[Verdict, str]:
    """Judge the certificate: its bounds on the answer for x₀, against the true forward error."""
    error, radius = row["forward_error"], row["reference_radius"]
    least, most, verdict = row["proven_at_least"], row["proven_at_most"], row["proof"]
    if verdict == "uncertifiable":
        what = f"uncertifiable: {row['proof_reason']}"
    else:
        what = f"{verdict}: forward error between {least:.2g} and {most:.2g}"
    if math.isnan(error) or row["reference_ambiguous"]:
        return "expected", f"{what}; x* is not known"
    rounding = 1 + row["n"] * tolerance.unit_roundoff("float64")  # of the norms that are compared
    if not least <= (error + radius) * rounding:
        return "fail", f"{what}; the true one is {error:.2g}"
    if not error <= (most + radius) * rounding:
        return "fail", f"{what}; the true one is {error:.2g}"
    ten_roundings = 10 * tolerance.unit_roundoff(row["dtype"])
    if row["reference_rank"] < row["m"]:
        # a redundant row is off from the others by rounding, ||Delta|| of about u: then x* itself,
        # at numerical rank, is proven to ||Delta|| / sigma_min only, kappa u of x (Stewart and Sun,
        # "Matrix Perturbation Theory", theorem III.3.9), however near an answer happens to be
        ten_roundings *= max(1.0, row["reference_condition"])
    if verdict == "certified" and most > LOOSE * (error + radius) + ten_roundings:
        return "fail", f"{what}, {LOOSE:.0f} times the true one of {error:.2g} or more"
    if verdict == "uncertifiable":
        return "expected", what
    return "pass", f"{what}; the true one is {error:.2g}"


def _non_expansive(row: Row, theory: Theory) -> tuple[Verdict, str]:
    """No two points may end up further apart than their projections' errors allow."""
    if doubt := _why_unjudgeable(row, theory):
        return "expected", f"non-expansiveness: {doubt}"
    figures = (
        f"‖P(x) − P(y)‖ exceeds ‖x − y‖ by {row['excess']:.2g}, the bounds of the two allow "
        f"{theory.bound:.2g}"
    )
    return ("pass", figures) if row["excess"] <= theory.bound else _beyond(row, figures)


def _drift(row: Row, theory: Theory) -> tuple[Verdict, str]:
    """Feasibility must not grow; the distance with the root of the steps, at worst with them."""
    steps, error = f"after {row['steps']:.0f} steps", row["forward_error"]
    feasible, how_feasible = _feasibility(row, theory)
    figures = f"{steps}: distance {error:.2g}, bound {theory.bound:.2g}; {how_feasible}"
    if not feasible:
        return _beyond(row, figures)
    if doubt := _why_unjudgeable(row, theory):
        return "expected", f"{steps}: {doubt}; {how_feasible}"
    if error - _radius(row, theory) <= theory.bound:
        return "pass", figures
    worst = drift_bound(
        row["variant"],
        u=tolerance.unit_roundoff(row["dtype"]),
        m=row["m"],
        n=row["n"],
        condition=row["reference_condition"],
        amplification=theory.amplification,
        steps=row["steps"],
    )
    if error - _radius(row, theory) <= worst:
        return "expected", (
            f"{figures}; roundings that go the same way each time may add up to {worst:.2g}"
        )
    return _beyond(row, figures)


_AMBIGUOUS = "the rank is ambiguous (a cutoff ten times smaller or larger changes it)"


def _why_unjudgeable(row: Row, theory: Theory) -> str | None:
    """Say why a forward error means nothing here, if it does."""
    if row["reference_kind"] == "unavailable":
        return f"x* is not known ({row['reference_reason']})"
    if row["reference_ambiguous"]:
        return _AMBIGUOUS
    if theory.bound >= 1:
        return (
            "theory promises no digit here: c(m, n) times growth(κ, u) times amplification is "
            f"{theory.bound:.2g}"
        )
    radius = _radius(row, theory)
    if radius > theory.bound:
        return f"x* is known to {radius:.2g} only, the bound is {theory.bound:.2g}"
    return None


def _radius(row: Row, theory: Theory) -> float:
    """How well x* is known; where x₀ and x* are 0 there is no scale to be relative to."""
    return float(row["reference_radius"]) if theory.bound else 0.0


def _feasibility(row: Row, theory: Theory) -> tuple[bool, str]:
    """Tell whether A x = b holds to rounding; in least squares A x is determined to κ·u only."""
    if row["check"] == "least_squares":
        return True, "in least squares, rows need not hold"
    residual, bound = row["feasibility"], theory.feasibility_bound
    return residual <= bound, f"feasibility residual {residual:.2g}, bound {bound:.2g}"


def _contradicting_oracle(row: Row, theory: Theory) -> str | None:
    """Name an oracle that is further from the answer than both their forward errors allow."""
    rounding = 1 + row["n"] * tolerance.unit_roundoff("float64")  # of the norms that are compared
    for column, difference in row.items():
        if column.startswith("difference_") and difference is not None:
            oracle = column.removeprefix("difference_")
            allowed = theory.bound + row[f"oracle_error_{oracle}"] + _radius(row, theory)
            if difference > allowed * rounding:
                return (
                    f"{difference:.2g} from {oracle}, which the bound, the error of {oracle} and "
                    f"the radius of x* allow {allowed:.2g} together"
                )
    return None


def _limitation(row: Row) -> str | None:
    return get(row["variant"]).limitation(
        m=row["m"],
        n=row["n"],
        condition=row["reference_condition"],
        u=tolerance.unit_roundoff(row["dtype"]),
    )


def _over(error: float, unit: float) -> float:
    """Divide; where nothing but 0 is right, 0 is 0 units and anything else infinitely many."""
    if unit:
        return error / unit
    return error if math.isnan(error) else (math.inf if error else 0.0)
