"""What a run says about the choice: from what was measured, and by no more than that."""

from dataclasses import replace

from projlab_reports import decision, markdown, page
from projlab_reports.summary import Summary, rows
from tests.reports.parsed import Page, words
from tests.reports.runs import BASE, HEADER, summary_of

CHOLESKY = replace(BASE, variant="cholesky", computed_by="cholesky")
HARD = {"problem": "hard", "content_hash": "hard", "reference_condition": 1e9, "condition": 1e9}


def take(*records):
    return {row["need"]: row["take"] for row in rows(summary_of(*records).decision)}


def because(need, *records):
    (row,) = [row for row in rows(summary_of(*records).decision) if row["need"] == need]
    return row["because"]


MANY, ONCE = "many projections of one system", "one projection of a system"
DIGITS, LARGE = "the most digits whatever the system", "κ of 1e+07 and more"


def test_a_variant_for_each_need():
    quick_set_up = replace(
        CHOLESKY, setup_s_median=1e-4, project_s_median=6e-5, forward_error=5e-14
    )
    found = take(BASE, quick_set_up)
    assert found[MANY] == "qr"
    assert found[ONCE] == "cholesky"
    assert found[DIGITS] == "qr"
    assert LARGE not in found  # nothing was measured there
    assert take(BASE, quick_set_up, replace(BASE, **HARD))[LARGE] == "qr"


def test_the_reason_has_the_figures_and_names_the_worst_problem():
    worse = replace(BASE, problem="netlib_worse", content_hash="worse", forward_error=8e-14)
    text = because(DIGITS, BASE, worse)
    assert "right on 2, forward error" in text
    assert "the worst netlib_worse, float64" in text
    slower = replace(CHOLESKY, project_s_median=3.3e-5)
    assert take(BASE, slower)[MANY] == "cholesky"  # the simpler of two that are as fast
    assert "as fast, within what times repeat to: qr" in because(MANY, BASE, slower)
    nearer = replace(CHOLESKY, forward_error=0.9e-14)
    assert "as near, within a factor 2: qr" in because(DIGITS, BASE, nearer)
    assert "as fast" not in because(MANY, BASE, replace(CHOLESKY, project_s_median=1e-3))


def test_whoever_is_right_on_fewer_problems_is_not_taken_whatever_the_system():
    """However near its answers are where it has one, and simpler though it is."""
    beyond = {"problem": "beyond", "content_hash": "beyond"}
    records = BASE, replace(BASE, **beyond), replace(CHOLESKY, forward_error=1e-16)
    assert take(*records)[DIGITS] == "qr"
    assert "right on fewer: cholesky on 1" in because(DIGITS, *records)


def test_what_failed_is_recommended_for_nothing():
    quick_and_wrong = replace(CHOLESKY, project_s_median=1e-9, forward_error=1e-3)
    assert set(take(BASE, quick_and_wrong).values()) == {"qr"}


def test_a_variant_for_few_systems_is_taken_where_rows_share_no_column_alone():
    apart = {"problem": "apart", "content_hash": "apart", "rows_overlap": False}
    quick = {"project_s_median": 1e-7, "computed_by": "single_row"}
    single = replace(BASE, variant="single_row", **quick, **apart)
    refused = [
        replace(BASE, variant="single_row", status="refused", exception="InputError",
                content_hash=f"{i}", problem=f"p{i}", x_norm=float("nan"),
                forward_error=float("nan"))
        for i in range(3)
    ]  # fmt: skip
    found = take(BASE, replace(BASE, **apart), single, *refused)
    assert found["rows that share no column"] == "single_row"
    assert found[MANY] == "qr"


def test_a_subject_can_be_used_or_not_and_why():
    spec = "mine:project"
    mine = replace(BASE, variant=spec, computed_by=spec)
    wrong = replace(mine, check="idempotence", forward_error=1e-3)
    for records, said in (([mine], "it can be used"), ([mine, wrong], "not as it is")):
        (row,) = rows(decision.decide(summary_of(*records).verdicts, spec))
        assert row["take"] == said
    assert "failed 1 of 2 checks: idempotence (1)" in row["because"]


def test_the_report_begins_with_it():
    summary = summary_of(BASE, CHOLESKY)
    shown = words(Page(page.render(summary)))
    assert shown.index("Which variant for which need") < shown.index("What it ran on")
    text = markdown.render(summary, [])
    assert text.index("Which variant for which need") < text.index("What was run")
    subject = Summary(summary.verdicts, HEADER | {"subject": "mine:project"}, {})
    assert "Can it be used?" in words(Page(page.render(subject)))


def test_nothing_measured_decides_nothing():
    assert summary_of(replace(BASE, check="idempotence")).decision.empty
