"""The bounds section: its oracle, its verdicts, and the faults that it has to catch."""

import itertools
import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch

import projlab
from projlab.__main__ import main
from projlab_validation import subjects
from projlab_validation.bounds import oracle, problems, section
from projlab_validation.bounds.judge import judge
from tests.validation import bound_faults

FAULTS = {
    "clamp_then_rescale": "simplex_10",
    "softmax": "simplex_3",
    "ties": "simplex_ties",
    "dykstra_stopped_early": "portfolio",
    "wrong_multiplier_sign": "polyhedron_5_10_20",
    "one_bound_ignored": "simplex_10",
}
"""Each, and a problem on which it shows."""


def judged(name, subject=None):
    records = section.measured(
        problems.build(f"bounds_{name}"), subject, "subject" if subject else "auto"
    )
    return judge(section._frame(records))


@pytest.mark.parametrize("name", problems.BUILDERS)
def test_projlab_is_as_near_as_theory_says(name):
    frame = judged(name)
    assert frame["verdict"][0] == "pass", frame["why"][0]
    if not problems.build(f"bounds_{name}").empty:
        assert frame["reference"][0] in ("sorted", "active set")
        assert set(frame["role"][1:]) <= {"solver"}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_caught(fault):
    frame = judged(FAULTS[fault], getattr(bound_faults, fault))
    assert frame["verdict"][0] == "fail"
    assert judged(FAULTS[fault], bound_faults.sound)["verdict"][0] == "pass"


def test_a_subject_that_writes_into_what_it_is_given_changes_no_problem():
    problem = problems.build("bounds_portfolio")
    parts = {name: part for name, part in vars(problem).items() if isinstance(part, np.ndarray)}
    kept = {name: part.copy() for name, part in parts.items()}

    def writes(x, *rest):
        for t in (x, *rest):
            if t is not None:
                t.fill_(7.0)
        return x

    section.measured(problem, writes, "subject")
    for name, part in parts.items():
        np.testing.assert_array_equal(part, kept[name])


def test_faults_show_nowhere_but_where_they_are():
    assert judged("box", bound_faults.clamp_then_rescale)["verdict"][0] == "pass"


def test_multipliers_that_are_not_unique_verify_the_answer_and_no_other_vertex():
    """Rows and bounds that meet at a permutation matrix are more than variables there."""
    problem = problems.build("bounds_birkhoff_4")
    nearest = np.eye(4)[[2, 0, 3, 1]].ravel()
    problem = replace(problem, x0=problem.x0 + 4 * nearest)
    for order in itertools.permutations(range(4)):
        vertex = np.eye(4)[list(order)].ravel()
        found = oracle.exact(problem, [vertex])
        if np.array_equal(vertex, nearest):
            assert found is not None
            assert np.array_equal(found.x, nearest)
        else:
            assert found is None


def test_an_exact_answer_is_that_of_an_exhaustive_search():
    # every face of the simplex in three dimensions, in floats
    problem = problems.build("bounds_simplex_3")
    best = None
    for held in np.ndindex(2, 2, 2):
        free = np.array(held) == 0
        if not free.any():
            continue
        x = np.zeros(3)
        x[free] = problem.x0[free] - (problem.x0[free].sum() - 1) / free.sum()
        far = np.linalg.norm(x - problem.x0)
        if (x >= 0).all() and (best is None or far < best[0]):
            best = far, x
    found = oracle.exact(problem, [])
    np.testing.assert_allclose(found.x, best[1], rtol=1e-14, atol=1e-15)


def test_a_face_that_is_wrong_is_not_verified():
    problem = problems.build("bounds_polyhedron_5_10_20")
    right = projlab.project(
        torch.tensor(problem.x0),
        torch.tensor(problem.A),
        torch.tensor(problem.b),
        G=torch.tensor(problem.G),
        h=torch.tensor(problem.h),
        lb=torch.tensor(problem.lb),
        ub=torch.tensor(problem.ub),
    ).numpy()
    assert oracle.exact(problem, [right]) is not None
    wrong = right.copy()
    wrong[np.flatnonzero(right > 0.1)[0]] = 0.0
    assert oracle.exact(problem, [wrong]) is None
    assert oracle.exact(problem, [np.full(problem.n, np.nan)]) is None


def test_multipliers_that_are_not_unique_are_decided():
    problem = problems.build("bounds_vertex")
    assert oracle.exact(problem, [np.zeros(3)]).x.tolist() == [0.0] * 3
    elsewhere = problems.BoundedProblem("off", np.array([9.0, 0, 0]), G=problem.G, h=problem.h)
    assert oracle.exact(elsewhere, [np.zeros(3)]) is None


def test_an_empty_set_has_to_be_refused():
    frame = judged("empty_sum")
    assert frame["status"][0] == "refused"
    answered = pd.DataFrame([{**frame.iloc[0], "status": "ok"}]).drop(
        columns=["verdict", "why", "allowed"]
    )
    assert judge(answered)["verdict"][0] == "fail"


def test_real_systems_without_a_face_are_held_against_the_certificate():
    problem = problems.build("bounds_nonneg_rob_weld")
    (frame,) = [judge(section._frame(section.measured(problem, None, "auto")))]
    assert (frame["reference"][0], frame["verdict"][0]) == ("", "pass")
    frame = judge(section._frame(section.measured(problem, bound_faults.sound, "subject")))
    assert (frame["reference"][0], frame["verdict"][0]) == ("certificate", "pass")
    frame = judge(
        section._frame(section.measured(problem, bound_faults.dykstra_stopped_early, "subject"))
    )
    assert (frame["reference"][0], frame["verdict"][0]) == ("certificate", "fail")


def crashes(x, *parts):
    raise RuntimeError("no")


def wrong_shape(x, *parts):
    return x[:1]


@pytest.mark.parametrize("subject", [crashes, wrong_shape])
def test_what_a_subject_does_wrong_is_a_finding(subject):
    frame = judged("box", subject)
    assert (frame["status"][0], frame["verdict"][0]) == ("error", "fail")


def test_the_command_measures_resumes_and_fails(tmp_path, capsys):
    out = str(tmp_path / "run")
    asked = ["validate", "--problem", "bounds_box", "--problem", "bounds_simplex_3", "--json"]
    assert main([*asked, "--out", out]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["totals"]["pass"] == 2
    assert main([*asked, "--out", out, "--resume"]) == 0
    capsys.readouterr()
    subject = ["--subject", "tests.validation.bound_faults:softmax"]
    assert main([*asked, *subject, "--out", str(tmp_path / "subject")]) == 1
    failures = json.loads(capsys.readouterr().out)["failures"]
    assert [row["problem"] for row in failures] == ["bounds_simplex_3"]
    assert "--subject tests.validation.bound_faults:softmax" in failures[0]["reproduce"]
    assert "Inequalities and bounds" in (tmp_path / "run" / "report.md").read_text()
    assert "Inequalities and bounds" in (tmp_path / "run" / "report.html").read_text()


@dataclass(frozen=True)
class AtFault:
    """A peer that takes bounds, and gives a point of the simplex that is not the nearest."""

    name, distribution = "softmax", "torch"
    spec = "tests.validation.bound_faults:softmax"
    equations, bounds = False, True


def test_peers_stand_beside_and_are_not_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subjects, "installed_peers", lambda: (AtFault(),))
    names = ("bounds_simplex_3", "bounds_nonneg_mm_values", "bounds_empty_sum")
    out = tmp_path / "run"
    problems_ = [part for name in names for part in ("--problem", name)]
    asked = ["validate", "--peers", *problems_, "--json", "--out", str(out)]
    assert main(asked) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["totals"]["pass"] == len(names)
    frame = pd.read_parquet(out / "bounds.parquet").set_index(["variant", "problem"])
    theirs = frame.loc[AtFault.spec]
    assert set(theirs["role"]) == {"solver"}
    assert set(theirs["verdict"]) == {"skip"}
    assert theirs["distance"]["bounds_simplex_3"] > 0.01
    assert "peers are asked up to" in theirs["why"]["bounds_nonneg_mm_values"]
    assert main([*asked, "--resume"]) == 0
