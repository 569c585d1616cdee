import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import projlab
from projlab import tolerance
from projlab_validation.judge import judge
from projlab_validation.measure import measure
from projlab_validation.problems import catalogue
from projlab_validation.profiles import PROFILES
from projlab_validation.record import OracleFigures, Record, table

U = 2.0**-53
SHAPE = {"u": U, "m": 3, "n": 10}
BOUND = tolerance.forward_error_bound("qr", **SHAPE, condition=1e3, amplification=1.5)

ANSWERED = Record(
    problem="p",
    group="spectra",
    content_hash="hash",
    seed=1,
    m=3,
    n=10,
    nnz=30,
    density=1.0,
    rows_overlap=True,
    dtype="float64",
    device="cpu",
    variant="qr",
    check="projection",
    environment="here",
    status="ok",
    computed_by="qr",
    rank=3,
    condition=1e3,
    reference_kind="exact",
    reference_radius=1e-32,
    reference_rank=3,
    reference_condition=1e3,
    reference_ambiguous=False,
    reference_consistent=True,
    x0_norm=1.0,
    xstar_norm=1.0,
    correction_norm=0.5,
    perturbation_scale=1.5,
    x_norm=1.0,
    forward_error=1e-14,
    feasibility=1e-16,
    oracles={"lstsq_gelsd": OracleFigures("ok", 1e-14, 1e-4, 1.5e-14)},
)
INCONSISTENT = replace(
    ANSWERED,
    check="refusal",
    reference_kind="unavailable",
    reference_consistent=False,
    forward_error=math.nan,
)


def refused(by: str, record: Record = ANSWERED, **changes) -> Record:
    nothing = {"rank": None, "x_norm": math.nan, "forward_error": math.nan, "oracles": {}}
    return replace(record, status="refused", exception=by, reason="…", **nothing, **changes)


def judged(record: Record):
    return judge(table([record]).to_pandas()).iloc[0]


def verdict(record: Record) -> str:
    return judged(record)["verdict"]


class TestAnswers:
    def test_an_answer_within_the_bound_passes_with_its_figures(self):
        row = judged(ANSWERED)
        assert row["verdict"] == "pass"
        assert row["bound"] == BOUND
        assert row["ratio"] == pytest.approx(1e-14 / BOUND)
        assert row["units_of_kappa_u"] == pytest.approx(1e-14 / (1e3 * U * 1.5))

    def test_an_answer_beyond_the_bound_fails(self):
        assert verdict(replace(ANSWERED, forward_error=1.01 * BOUND)) == "fail"

    def test_the_radius_of_the_reference_is_granted(self):
        almost = replace(ANSWERED, forward_error=1.01 * BOUND, reference_radius=0.02 * BOUND)
        assert verdict(almost) == "pass"

    def test_a_reference_coarser_than_the_bound_proves_nothing(self):
        row = judged(replace(ANSWERED, reference_radius=2 * BOUND))
        assert row["verdict"] == "expected"
        assert "known to" in row["why"]

    def test_an_answer_that_is_not_finite_fails_even_where_the_rank_is_ambiguous(self):
        broken = replace(ANSWERED, x_norm=math.nan, forward_error=math.nan, feasibility=math.nan)
        assert verdict(broken) == "fail"
        assert verdict(replace(broken, reference_ambiguous=True)) == "fail"
        assert verdict(replace(ANSWERED, forward_error=math.nan)) == "fail"

    def test_an_infeasible_answer_fails_however_close_it_is(self):
        row = judged(replace(ANSWERED, feasibility=2 * tolerance.feasibility_bound(**SHAPE)))
        assert row["verdict"] == "fail"
        assert "feasibility" in row["why"]

    def test_the_rank_must_be_the_reference_s(self):
        assert verdict(replace(ANSWERED, rank=2)) == "fail"

    def test_another_variant_in_its_place_fails(self):
        assert verdict(replace(ANSWERED, computed_by="pinv")) == "fail"

    def test_an_oracle_further_off_than_both_errors_allow_fails(self):
        wrong_column = {"osqp_tight": OracleFigures("optimal", 1e-9, 1e-3, 3e-9)}
        row = judged(replace(ANSWERED, oracles=wrong_column))
        assert row["verdict"] == "fail"
        assert "osqp_tight" in row["why"]

    def test_an_oracle_s_own_error_is_not_held_against_the_variant(self):
        poor = {"osqp_default": OracleFigures("optimal", 0.05, 1e-3, 0.05)}
        silent = {"osqp_tight": OracleFigures("infeasible")}
        assert verdict(replace(ANSWERED, oracles=poor | silent)) == "pass"

    def test_where_theory_promises_no_digit_feasibility_alone_is_judged(self):
        hopeless = replace(ANSWERED, reference_condition=1e15, forward_error=0.5)
        assert verdict(hopeless) == "expected"
        assert verdict(replace(hopeless, feasibility=1.0)) == "fail"

    @pytest.mark.parametrize(
        ("change", "word"),
        [({"reference_ambiguous": True}, "ambiguous"), ({"reference_kind": "unavailable"}, "x*")],
    )
    def test_without_a_determined_x_feasibility_alone_is_judged(self, change, word):
        row = judged(replace(ANSWERED, forward_error=0.5, rank=2, **change))
        assert row["verdict"] == "expected"
        assert word in row["why"]
        assert verdict(replace(ANSWERED, feasibility=1.0, **change)) == "fail"

    def test_x_star_zero_is_judged_on_the_scale_of_x0(self):
        zero = replace(ANSWERED, xstar_norm=0.0, correction_norm=1.0, perturbation_scale=2.0)
        bound = tolerance.forward_error_bound("qr", **SHAPE, condition=1e3, amplification=2.0)
        assert judged(zero)["bound"] == bound

    def test_where_everything_is_zero_nothing_but_zero_passes(self):
        nought = {"xstar_norm": 0.0, "x0_norm": 0.0, "perturbation_scale": 0.0, "oracles": {}}
        assert verdict(replace(ANSWERED, forward_error=0.0, **nought)) == "pass"
        assert verdict(replace(ANSWERED, forward_error=1e-300, **nought)) == "fail"

    def test_cholesky_beyond_its_bound_is_expected_only_where_its_registry_entry_says_so(self):
        lost = replace(ANSWERED, variant="cholesky", computed_by="cholesky", forward_error=0.1)
        assert verdict(lost) == "fail"
        limited = judged(replace(lost, reference_condition=1e8, reference_radius=0.0))
        assert limited["verdict"] == "expected"

    def test_least_squares_rows_need_not_hold_but_the_answer_must(self):
        residual = replace(ANSWERED, check="least_squares", feasibility=1e-3)
        assert verdict(residual) == "pass"
        assert verdict(replace(residual, forward_error=2 * BOUND)) == "fail"


class TestRefusals:
    def test_an_inconsistent_system_refused_as_such_passes(self):
        assert verdict(refused("InconsistentError", INCONSISTENT)) == "pass"

    def test_an_inconsistent_system_that_is_answered_fails(self):
        assert verdict(INCONSISTENT) == "fail"

    def test_an_inconsistent_system_refused_for_another_reason_fails(self):
        assert verdict(refused("AccuracyError", INCONSISTENT)) == "fail"

    def test_a_consistent_system_called_inconsistent_fails(self):
        assert verdict(refused("InconsistentError")) == "fail"

    def test_least_squares_refused_as_inconsistent_fails(self):
        assert verdict(refused("InconsistentError", check="least_squares")) == "fail"

    def test_whether_rows_contradict_is_open_where_the_rank_is(self):
        assert verdict(refused("InconsistentError", reference_ambiguous=True)) == "expected"

    def test_single_row_may_refuse_rows_that_really_overlap(self):
        assert verdict(refused("InputError", variant="single_row")) == "skip"
        assert verdict(refused("InputError", variant="single_row", rows_overlap=False)) == "fail"
        assert verdict(refused("InputError", variant="qr")) == "fail"

    def test_a_limit_of_memory_is_a_skip(self):
        assert verdict(refused("MemoryLimitError")) == "skip"

    @pytest.mark.parametrize("exception", ["RankDeficientError", "AccuracyError"])
    def test_a_named_limitation_is_expected_and_anything_else_fails(self, exception):
        limited = judged(refused(exception, variant="cholesky", reference_condition=1e9))
        assert limited["verdict"] == "expected"
        assert "squared" in limited["why"]
        assert verdict(refused(exception, variant="cholesky", reference_condition=10.0)) == "fail"
        assert verdict(refused(exception, variant="qr", reference_condition=1e9)) == "fail"

    def test_an_error_fails_and_a_skip_is_a_skip(self):
        assert verdict(replace(ANSWERED, status="error", reason="KeyError: 'b'")) == "fail"
        assert judged(replace(ANSWERED, status="skip", reason="too large"))["why"] == "too large"


def test_variants_come_in_the_registry_s_order():
    records = [replace(ANSWERED, variant=v, computed_by=v) for v in reversed(projlab.variants())]
    assert tuple(judge(table(records).to_pandas())["variant"]) == projlab.variants()


def off_the_row_space(P, x):
    """Feasible to the last bit and not the projection: what a residual alone never sees."""
    return P(x) + 1e-6 * P.tangent(torch.ones_like(x))


PLANTED = {
    "moved along the null space": off_the_row_space,
    "not finite": lambda P, x: P(x) * math.nan,
    "infeasible": lambda P, x: P(x) * (1 + 1e-9),
    "float32 inside float64": lambda P, x: P(x).to(torch.float32).to(x.dtype),
    "the point itself": lambda P, x: x.clone(),
}


class Sabotaged:
    """A projector whose answers go through a planted fault."""

    def __init__(self, P, answer=lambda P, x: P(x), rank=0):
        self.P, self.answer, self.rank = P, answer, P.rank + rank
        self.variant, self.condition = P.variant, P.condition

    def to(self, device):
        return self

    def __call__(self, x):
        return self.answer(self.P, x)


def verdicts_of(name: str) -> set[str]:
    problem = next(iter(catalogue(names=[name], dtypes=["float64"])))
    records = measure(problem, ("cholesky", "qr", "pinv"), PROFILES["quick"])
    return set(judge(table(records).to_pandas())["verdict"])


def test_the_engine_as_it_is_passes():
    assert verdicts_of("spectra_1e3_10x20") == {"pass"}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_turns_every_variant_red(fault, monkeypatch):
    honest = projlab.projector
    monkeypatch.setattr(
        projlab, "projector", lambda *a, **k: Sabotaged(honest(*a, **k), PLANTED[fault])
    )
    assert verdicts_of("spectra_1e3_10x20") == {"fail"}


def test_a_wrong_rank_turns_every_variant_red(monkeypatch):
    honest = projlab.projector
    monkeypatch.setattr(projlab, "projector", lambda *a, **k: Sabotaged(honest(*a, **k), rank=-1))
    assert verdicts_of("spectra_1e3_10x20") == {"fail"}


def test_an_inconsistent_system_answered_turns_red(monkeypatch):
    honest = projlab.projector

    def lenient(*arguments, **keywords):
        return honest(*arguments, **(keywords | {"on_inconsistent": "least_squares"}))

    monkeypatch.setattr(projlab, "projector", lenient)
    problem = next(iter(catalogue(names=["pg_btheta_57_ieee"], dtypes=["float64"])))
    frame = judge(table(measure(problem, ("qr",), PROFILES["quick"])).to_pandas())
    assert dict(zip(frame["check"], frame["verdict"], strict=True)) == {
        "refusal": "fail",
        "least_squares": "pass",
    }
    assert np.isfinite(frame["feasibility"]).all()
