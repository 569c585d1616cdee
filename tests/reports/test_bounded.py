"""Bounded problems by who answered: nobody is held to what another was not asked."""

import dataclasses
import math
from dataclasses import replace

import pandas as pd
import pytest
from matplotlib.figure import Figure

from projlab_reports import bounded, charts, tables
from projlab_reports.summary import rows
from projlab_validation.bounds.section import BoundsRecord
from tests.reports.runs import BASE, summary_of

OURS = BoundsRecord("bounds_one", "active_set", "answer", "", 2, 4, False, "ok")
SOLVER = replace(OURS, variant="CLARABEL", role="solver")


def summary_with(*records):
    frame = pd.DataFrame([dataclasses.asdict(r) for r in records]).assign(verdict="", why="")
    return replace(summary_of(BASE), bounds=frame)


@pytest.fixture
def run():
    return summary_with(
        replace(OURS, distance=1e-16, seconds=2.0),
        replace(SOLVER, distance=1e-9, seconds=1.0),
        # no verified face: what its certificate proves; and a solver that gave up
        replace(OURS, problem="bounds_two", bound=1e-14, seconds=1.0),
        replace(SOLVER, problem="bounds_two", status="error", seconds=0.5),
        # quick and wrong
        replace(OURS, problem="bounds_three", variant="box", distance=0.0, seconds=3.0),
        replace(SOLVER, problem="bounds_three", distance=1e-3, seconds=0.1),
        # too large for solvers, and empty
        replace(OURS, problem="bounds_large", distance=0.5, seconds=9.0),
        replace(OURS, problem="bounds_empty", empty=True, status="refused"),
    )


def test_only_what_all_were_asked_is_compared(run):
    asked = bounded.asked(run)
    assert list(asked.distances.index) == ["bounds_one", "bounds_two", "bounds_three"]
    assert asked.distances["projlab"].tolist() == [1e-16, 1e-14, 0.0]
    assert asked.distances["CLARABEL"].tolist() == [1e-9, math.inf, 1e-3]


def test_peers_go_by_their_module_and_what_they_were_not_asked_is_left_out():
    spec = "projlab_validation.subjects.qpth:project"
    peer = replace(SOLVER, variant=spec, distance=1e-11, seconds=0.5)
    run = summary_with(
        replace(OURS, distance=1e-16, seconds=1.0),
        peer,
        replace(OURS, problem="bounds_large", distance=1e-16, seconds=1.0),
        replace(peer, problem="bounds_large", status="skip", distance=math.nan),
    )
    distances = bounded.asked(run).distances
    assert list(distances.index) == ["bounds_one"]
    assert list(distances.columns) == ["projlab", "qpth"]
    shown = tables.bounds(run.bounds).set_index("answered by")
    assert shown["problems"].to_dict() == {"active_set": 2, "qpth": 1}


def test_a_quick_wrong_answer_has_no_time(run):
    times = bounded.asked(run).times
    assert times["projlab"].tolist() == [2.0, 1.0, 3.0]
    assert times["CLARABEL"].tolist() == [1.0, math.inf, math.inf]


def test_how_often_within_a_distance_and_how_often_quickest(run):
    ours, solver = rows(bounded.shown(run))
    assert (ours["answered by"], ours["within 1e-15"], ours["within 1e-12"]) == (
        "projlab",
        "67 %",
        "100 %",
    )
    assert (solver["within 1e-12"], solver["within 1e-08"]) == ("0 %", "33 %")
    assert (ours["worst"], solver["worst"]) == ("1e-14", "–")
    assert (ours["quickest to 1e-08"], solver["quickest to 1e-08"]) == ("2 of 3", "1 of 3")


def test_a_subject_is_called_by_its_name(run):
    asked = bounded.asked(replace(run, header={**run.header, "subject": "mine:project"}))
    assert list(asked.distances) == ["mine:project", "CLARABEL"]


def test_there_is_no_picture_of_one_alone():
    assert charts.bounds(summary_with(replace(OURS, distance=1e-16, seconds=1.0))) == []
    assert charts.bounds(summary_of(BASE)) == []
    assert bounded.shown(summary_of(BASE)).empty


def test_what_was_run_names_the_sections_that_were(run):
    assert run.what_was_run.startswith("1 problems (")
    assert run.what_was_run.endswith("; 5 problems with inequalities or bounds.")
    alone = replace(run, verdicts=run.verdicts.iloc[:0])
    assert alone.what_was_run == "5 problems with inequalities or bounds."


def test_no_two_of_ten_look_alike():
    pair = [replace(OURS, problem=f"bounds_{i}", distance=1e-16, seconds=1.0) for i in range(2)]
    others = [replace(r, role="solver", variant=f"peer{k}") for r in pair for k in range(9)]
    figure = Figure()
    charts.bounds(summary_with(*pair, *others))[0].draw(axes := figure.subplots())
    looks = {
        (line.get_color(), line.get_marker(), line.get_linestyle(), line.get_markerfacecolor())
        for line in axes.get_lines()
    }
    assert len(looks) == len(axes.get_lines()) == 10
