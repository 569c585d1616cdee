"""The judge: what passes, what is expected, what fails, and why."""

import math
from dataclasses import replace

import pytest

import projlab
from projlab import tolerance
from projlab.engine.variants import forward_error_bound
from projlab_validation.judge import judge
from projlab_validation.record import OracleFigures, Record, table
from tests.validation.records import ANSWERED

U = 2.0**-53
SHAPE = {"u": U, "m": 3, "n": 10}
BOUND = forward_error_bound("qr", **SHAPE, condition=1e3, amplification=1.5)
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
        bound = forward_error_bound("qr", **SHAPE, condition=1e3, amplification=2.0)
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

    @pytest.mark.parametrize(("times", "found"), [(0.9, "expected"), (1.1, "fail")])
    def test_an_answer_of_another_rank_holds_as_far_as_rounding_explains(self, times, found):
        allowed = tolerance.consistency_factor(tolerance.rank_cutoff(3, 10, U))
        answer = replace(INCONSISTENT, reference_ambiguous=True, feasibility=times * allowed)
        assert verdict(answer) == found

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


PROOF = {"proven_at_least": 9e-15, "proven_at_most": 1.1e-14, "proven_accuracy": 1e-12}


def certificate(**changes) -> Record:
    return replace(ANSWERED, check="certificate", proof="certified", **(PROOF | changes))


class TestCertificate:
    def test_bounds_on_both_sides_of_the_truth_pass(self):
        assert judged(certificate())["verdict"] == "pass"

    @pytest.mark.parametrize("change", [{"proven_at_least": 1.1e-14}, {"proven_at_most": 9e-15}])
    def test_bounds_that_miss_the_truth_fail(self, change):
        row = judged(certificate(**change))
        assert (row["verdict"], "true one" in row["why"]) == ("fail", True)

    def test_a_bound_a_hundred_times_too_large_fails_where_it_certifies(self):
        far = certificate(proven_at_most=100.1 * 1e-14 + 10 * U)
        assert judged(far)["verdict"] == "fail"
        assert judged(certificate(proven_at_most=99.9 * 1e-14 + 10 * U))["verdict"] == "pass"
        # redundant rows leave x* itself open by kappa u
        rounding = 10 * U * ANSWERED.reference_condition
        rank = ANSWERED.m - 1
        for most, found in ((99.9, "pass"), (100.1, "fail")):
            bound = {"proven_at_most": most * 1e-14 + rounding}
            row = judged(certificate(reference_rank=rank, rank=rank, **bound))
            assert row["verdict"] == found
        open_ = replace(far, proof="uncertifiable", proof_reason="κ")
        assert judged(open_)["verdict"] == "expected"

    def test_without_x_star_it_is_no_check_but_judges_the_answer(self):
        unknown = {"reference_kind": "unavailable", "forward_error": math.nan}
        unknown |= {"reference_condition": math.nan, "perturbation_scale": math.nan}
        assert judged(replace(certificate(), **unknown))["verdict"] == "expected"
        answer = replace(ANSWERED, proof="certified", **PROOF, **unknown)
        row = judged(answer)
        assert (row["verdict"], row["why"].split(":")[0]) == ("pass", "by certificate")
        beyond = {"proof": "failed", "proven_at_least": 2e-12, "proven_at_most": 3e-12}
        assert judged(replace(answer, **beyond))["verdict"] == "fail"
        # κ²u is what Cholesky may have, and the certificate's accuracy is κu
        unchecked = replace(answer, variant="cholesky", computed_by="cholesky", **beyond)
        assert judged(unchecked)["verdict"] == "fail"
        weaker = replace(unchecked, condition=1e6, proven_accuracy=1e-12)
        assert judged(weaker)["verdict"] == "pass"


class TestFurtherChecks:
    @pytest.mark.parametrize("check", ["idempotence", "row_scaling", "column_permutation"])
    def test_a_relation_may_lose_two_bounds(self, check):
        record = replace(ANSWERED, check=check)
        assert judged(replace(record, forward_error=1.9 * BOUND))["verdict"] == "pass"
        assert judged(replace(record, forward_error=2.1 * BOUND))["verdict"] == "fail"

    @pytest.mark.parametrize("check", ["batched", "gradients"])
    def test_what_is_known_exactly_may_lose_one(self, check):
        record = replace(ANSWERED, check=check)
        assert judged(replace(record, forward_error=0.9 * BOUND))["verdict"] == "pass"
        assert judged(replace(record, forward_error=1.1 * BOUND))["verdict"] == "fail"

    def test_points_may_move_apart_by_rounding_only(self):
        record = replace(ANSWERED, check="non_expansiveness", forward_error=math.nan)
        assert judged(replace(record, excess=-0.3))["verdict"] == "pass"
        assert judged(replace(record, excess=1.1 * BOUND))["verdict"] == "fail"

    def test_drift_grows_with_the_root_of_the_steps_and_feasibility_not_at_all(self):
        record = replace(ANSWERED, check="drift", steps=10**6, perturbation_scale=400.0)
        rounding = tolerance.dimension_factor(3, 10) * U
        point = 2 * record.x0_norm + record.xstar_norm
        likely = rounding * (1e3 * point + 1e3)
        worst = rounding * (1e3 * 400 + 1e6)
        assert judged(replace(record, forward_error=0.99 * likely))["verdict"] == "pass"
        row = judged(replace(record, forward_error=1.01 * likely))
        assert row["verdict"] == "expected"
        assert "the same way each time" in row["why"]
        assert judged(replace(record, forward_error=0.99 * worst))["verdict"] == "expected"
        assert judged(replace(record, forward_error=1.01 * worst))["verdict"] == "fail"
        assert judged(replace(record, feasibility=1e-14))["verdict"] == "fail"

    def test_drift_of_a_million_steps_is_judged_in_float32_too(self):
        record = replace(ANSWERED, check="drift", steps=10**6, dtype="float32", feasibility=0.0)
        record = replace(record, reference_condition=1.0)
        assert judged(replace(record, forward_error=1e-4))["verdict"] == "pass"

    def test_a_refusal_in_a_further_check_needs_a_reason_too(self):
        assert judged(refused("InputError", check="idempotence"))["verdict"] == "fail"


def test_variants_come_in_the_registry_s_order():
    records = [replace(ANSWERED, variant=v, computed_by=v) for v in reversed(projlab.variants())]
    assert tuple(judge(table(records).to_pandas())["variant"]) == projlab.variants()
