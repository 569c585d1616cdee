from dataclasses import replace

from projlab_reports.summary import oracle_sentence, rows
from projlab_reports.units import MISSING
from tests.reports.runs import BASE, summary_of


def by(frame, column):
    return {row[column]: row for row in rows(frame)}


def test_pass_expected_skip_and_fail_are_counted_apart(summary):
    assert summary.totals == {"pass": 2, "expected": 2, "skip": 2, "fail": 1}
    variants = by(summary.by_variant, "variant")
    assert [variants["qr"][v] for v in ("pass", "expected", "skip", "fail")] == [2, 1, 1, 0]
    assert [variants["pinv"][v] for v in ("pass", "expected", "skip", "fail")] == [0, 0, 0, 1]
    assert variants["cholesky"]["expected"] == 1


def test_the_headline_says_what_came_of_it(summary, held, nothing):
    assert summary.headline.startswith("1 check failed: 2 passed")
    assert held.headline.startswith("Every check held: 1 passed")
    assert nothing.headline == "Nothing was checked: 1 skip, nothing else."


def test_a_skip_is_no_check(summary):
    assert summary.checked == 5


def test_problems_that_were_skipped_are_counted_apart():
    other = replace(BASE, variant="pinv", status="skip")
    elsewhere = replace(other, problem="large", content_hash="large")
    assert summary_of(BASE, other).how_many_problems == "1 problems"
    both = summary_of(BASE, other, elsewhere)
    assert both.how_many_problems == "1 problems, and 1 that were skipped,"


def test_the_worst_error_is_that_of_what_passed(summary):
    variants = by(summary.by_variant, "variant")
    worst = summary.verdicts.query("variant == 'qr' and verdict == 'pass'")["units_of_kappa_u"]
    assert variants["qr"]["worst units of κu"] == worst.max()
    assert variants["pinv"]["worst units of κu"] != variants["pinv"]["worst units of κu"]  # NaN


def test_a_failure_comes_with_the_command_that_repeats_just_it(summary):
    (failure,) = rows(summary.failures)
    assert failure["reproduce"] == (
        "projlab validate --profile quick --problem netlib_good --variant pinv --dtype float64 "
        "--out reproduce/netlib_good-pinv-float64 --overwrite"
    )


def test_a_command_for_another_device_names_it(summary):
    row = {"problem": "p", "variant": "qr", "dtype": "float32", "device": "cuda:1"}
    assert "--device cuda:1 --out" in summary.command(row)
    limited = replace(summary, header={**summary.header, "time_limit": "5"})
    assert "--time-limit 5 --out" in limited.command(row)


def test_a_limitation_is_named_with_its_derivation(summary):
    limitations = by(summary.expected, "variant")
    assert "squared in the Gram matrix" in limitations["cholesky"]["why"]
    assert "ambiguous" in limitations["qr"]["why"] or "not known" in limitations["qr"]["why"]


def test_skips_are_grouped_by_reason(summary):
    assert {row["reason"]: row["problems"] for row in rows(summary.skips)} == {
        "rows overlap, and this variant takes rows without a common column only": "netlib_good",
        "needs 32 GFlop": "spectra_large",
    }


def test_each_oracle_s_own_error_is_shown_and_its_status_taken_at_no_face_value(summary):
    oracles = by(summary.oracle_errors, "oracle")
    assert set(oracles) == set(summary.oracles)
    assert oracles["clarabel_default_distance"]["1e2 … 1e4"] == "2e-04 / 2e-04"
    assert oracles["clarabel_default_distance"]["of these beyond c·κ·u"] == 2
    assert oracles["clarabel_tight_expanded"]["claims none, yet within"] == 2
    assert oracles["osqp_tight_distance"]["1e2 … 1e4"] == "none of 1"
    assert oracles["lstsq_gelsd"]["κ < 1e2"] == "–"


def test_of_each_solver_the_setting_that_is_right_most_often_is_shown(summary):
    assert "clarabel_tight_expanded" in summary.main_oracles
    assert "clarabel_default_distance" not in summary.main_oracles


def test_where_a_solver_is_no_oracle_a_sentence_says_so(summary):
    sentences = " ".join(summary.oracle_verdicts)
    assert "`clarabel_tight_expanded` is within c·κ·u on 2 of 2 problems, and so an" in sentences
    assert "`osqp_tight_distance` is within c·κ·u on 0 of 2 problems; on 2 it is not" in sentences


def test_a_claim_that_is_wrong_is_given_with_its_figure(summary):
    sentence = oracle_sentence("clarabel_default_distance", summary.problems)
    assert "on 2 of these its status is success" in sentence
    assert "netlib_good (κ = 1.0e+03): forward error 2.0e-04" in sentence


def test_real_systems_show_every_variant_and_the_digits_right(summary):
    systems = by(summary.real_systems("float64"), "system")
    assert set(systems) == {"netlib_good", "netlib_hard", "rob_open"}
    good = systems["netlib_good"]
    assert (good["qr"], good["pinv"], good["single_row"]) == ("1e-14", "1e-03", "n/a")
    assert good["digits"] == "14.0"
    assert good["x* by"] == "exact"
    assert systems["netlib_hard"]["cholesky"] == "refused"
    assert systems["rob_open"]["rank"] == "3?"
    assert systems["rob_open"]["qr"] == "answered"


def test_problems_without_x_star_are_listed(summary):
    assert summary.unknown_shown == "rob_open in float64 (the rank is ambiguous)"


def test_a_worst_figure_names_its_problem(summary):
    worse = replace(BASE, problem="netlib_worse", content_hash="worse", forward_error=8e-14)
    variants = by(summary_of(BASE, worse).by_variant, "variant")
    assert variants["qr"]["worst on"] == "netlib_worse, float64"
    checks = by(summary_of(BASE, worse).by_check, "check")
    assert checks["projection"]["worst on"] == "netlib_worse, float64"
    assert by(summary.by_variant, "variant")["pinv"]["worst on"] == MISSING


def test_a_run_that_is_not_whole_did_not_hold(held):
    stopped = replace(held, header=held.header | {"stopped": "interrupted before its end"})
    for summary in (stopped, replace(held, least=2)):
        assert summary.exit_code == 1
        assert "Every check held" not in summary.headline
    assert replace(held, least=1).exit_code == held.exit_code == 0
    assert "1 records were checked, and 2 are demanded" in replace(held, least=2).headline


def test_what_was_asked_is_told_in_numbers(held):
    given = {"time_limit": "2.5", "peers": "scipy, cvxpy"}
    asked = replace(held, header=held.header | given).asked
    assert (asked["time_limit"], asked["peers_asked"]) == (2.5, ["scipy", "cvxpy"])
    assert (held.asked["time_limit"], held.asked["peers_asked"]) == (None, [])
