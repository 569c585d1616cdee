"""Forward error against time, and the pictures of training: what stands where, and on what."""

import math
from dataclasses import replace

import numpy as np
import pytest

from projlab_reports import charts, markdown, page, pareto
from projlab_validation.record import OracleFigures
from tests.reports.parsed import Page, whole, words
from tests.reports.runs import BASE, summary_of

U = 2.0**-53
KAPPA_U = BASE.reference_condition * U * BASE.perturbation_scale
ORACLE = {"lstsq_gelsd": OracleFigures("ok", 2 * KAPPA_U, 1e-4, 0.0)}


def problem(i, **changed):
    return replace(BASE, problem=f"p{i}", content_hash=str(i), oracles=ORACLE, **changed)


def means_of(*records):
    return pareto.methods(summary_of(*records), "float64").set_index("method")


def test_means_are_geometric_in_units_of_kappa_u_and_on_the_same_problems():
    records = [
        problem(0, forward_error=KAPPA_U, project_s_median=1e-6),
        problem(1, forward_error=100 * KAPPA_U, project_s_median=1e-4),
        # A third problem that pinv does not answer counts for nobody.
        problem(2, forward_error=1.0, project_s_median=1.0),
        problem(0, variant="pinv", forward_error=4 * KAPPA_U),
        problem(1, variant="pinv", forward_error=4 * KAPPA_U),
        problem(2, variant="pinv", status="refused", forward_error=math.nan),
        # A method that answers fewer than half of the problems is not compared.
        problem(0, variant="single_row", forward_error=KAPPA_U),
    ]
    means = means_of(*records)
    assert means.loc["qr", "error"] == pytest.approx(10)
    assert means.loc["qr", "seconds"] == pytest.approx(1e-5)
    assert means.loc["qr", "once"] > means.loc["qr", "seconds"]
    assert means.loc["pinv", "error"] == pytest.approx(4)
    assert means.loc["lstsq gelsd", "error"] == pytest.approx(2)
    assert means.loc["lstsq gelsd", "once"] == means.loc["lstsq gelsd", "seconds"]
    assert means.loc["single_row", "over"] == 0
    assert np.isnan(means.loc["single_row", "error"])
    assert set(means["over"]) == {2, 0}


def test_an_answer_that_is_exact_has_a_place():
    means = means_of(problem(0, forward_error=0.0))
    assert means.loc["qr", "error"] == pytest.approx(U / 100 / KAPPA_U)


def test_an_answer_of_unknown_condition_is_left_out():
    means = means_of(problem(0), problem(1, reference_condition=math.inf))
    assert means.loc["qr", "answered"] == 1


def test_pictures_and_numbers_stand_on_the_page_and_in_its_twin(everything, tmp_path):
    text = page.render(everything)
    shown = words(whole(text))
    for what in ("Forward error against time", "The numbers, float64", "set-up and one projection"):
        assert what in shown
    for name in ("Forward error against time, float64", "Distance to the optimum, float64"):
        assert f'aria-label="{name}"' in text
    twin = markdown.write(everything, tmp_path).read_text(encoding="utf-8")
    for key in ("pareto-float64", "drift-float64", "training-float64"):
        assert f"(figures/{key}.png)" in twin
        assert (tmp_path / "figures" / f"{key}.png").is_file()


def test_a_run_without_answers_has_no_such_picture(nothing):
    assert charts.pareto(nothing) == []
    assert charts.training(nothing) == []
    assert "Forward error against time" not in words(Page(page.render(nothing)))


def test_training_marks_what_is_allowed_and_every_mode(everything):
    (chart,) = charts.training(everything)
    for label in ("tangent", "post", "allowed, tangent", "Adam", "SGD"):
        assert f">{label}<" in chart.svg
