"""The overhead of a constraint in training, beside the textbook recipe."""

import torch

from benchmarks import overhead
from benchmarks.training import EQUATIONS, WIDTHS, Training


def test_the_textbook_recipe_is_feasible_in_either_form(monkeypatch):
    monkeypatch.setitem(WIDTHS, "tiny", (6, 5, 3))
    for limit in (overhead.DENSE, 0):
        monkeypatch.setattr(overhead, "DENSE", limit)
        for equations in EQUATIONS:
            here = Training("tiny", examples=2)
            after, form = overhead.recipe(here, equations)
            assert form.startswith("by columns") == (limit == 0 and equations == "column sums")
            here.step()
            after()
            weights = [W.detach() for W in here.weights]
            A, b = overhead.dense_system(weights, equations)
            x = torch.cat([W.flatten() for W in weights])
            bound = 32 * 2.0**-24 * (A.abs() @ x.abs() + abs(b))
            assert bool(((A @ x - b).abs() <= bound).all())


def test_overhead_as_a_table(monkeypatch):
    monkeypatch.setitem(WIDTHS, "tiny", (6, 5, 3))
    monkeypatch.setitem(overhead.SECONDS, "tiny", 0.01)
    monkeypatch.setattr(overhead, "EXAMPLES", (2,))
    found = list(overhead.rows(["tiny"]))
    assert [r.equations for r in found] == [e for e in EQUATIONS for _ in overhead.OPTIMIZERS]
    assert all(r.passes > 0 for r in found)
    text = overhead.markdown(found, "here")
    assert text.count("\n| tiny |") == len(found)
    assert text.endswith("here")
