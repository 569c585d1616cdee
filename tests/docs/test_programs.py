"""Every program of the documentation is run, and prints what the page says.

The Python blocks of a page are run in order, each with the names of those before it; one marked
```` ```python needs=PACKAGE ```` alone, where the package is there. A `text` block right after one
is what it prints.
"""

import pytest
import torch

from .outputs import holds
from .pages import PAGES, ROOT, blocks, name, names_of, pages


@pages
def test_programs_run_and_print_what_is_shown(page):
    names_of(page)


@pytest.mark.filterwarnings("ignore")  # Lightning's own
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{name(page)}:{block.line}", marks=pytest.mark.needs(*needed))
        for page in PAGES
        for block in blocks(page, "python")
        if (needed := block.mark.removeprefix("needs=").split(",")) != [""]
    ],
)
def test_program_that_needs_a_package(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    holds(block.shown or "", block.run({}))


def test_programs_were_found():
    assert len(blocks(ROOT / "README.md", "python")) >= 3
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 25
    marks = {block.mark for page in PAGES for block in blocks(page, "python")}
    assert marks == {"", "needs=lightning"}


def test_first_steps_project_and_prove_it():
    names = names_of(ROOT / "docs" / "first-steps.md")
    # By hand: [[2, 1], [1, 2]] y = b gives y = (1/2, 0), and x = Aᵀ y.
    expected = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(names["x"], expected)
    assert names["proof"].verdict == "certified"


def test_training_programs_end_at_the_constrained_optimum():
    page = ROOT / "docs" / "training.md"
    found = names_of(page)
    for example, optimum in (
        (["p1", "p2"], [0.75, 0.25]),
        (["p5", "p6", "p7"], [1.5, -0.5, 1.0]),
        (["p3", "p4"], [1.6, 0.8]),
    ):
        end = torch.cat([found[p].detach() for p in example])
        torch.testing.assert_close(end, torch.tensor(optimum), rtol=0, atol=1e-4)
    examples = [b.content for b in blocks(page, "python") if "\ntrain(" in b.content]
    assert [len(e.rsplit("\n\n")[-1].splitlines()) for e in examples[:3]] == [3, 3, 3]
    # by the textbook recipe: on the constraint, and elsewhere
    assert abs(found["q3"].item() - 1.6) > 0.1
    assert found["q3"].item() == pytest.approx(2 * found["q4"].item(), abs=1e-6)


def test_what_the_readme_constrains_holds():
    names = names_of(ROOT / "README.md")
    y, A, b = names["y"], names["A"], names["b"]
    torch.testing.assert_close(y @ A.T, b.expand(16, 2))
    torch.testing.assert_close(names["x"] @ A.T, b.expand(100, 2))


def test_layers_constrain_outputs_and_weights():
    names = names_of(ROOT / "docs" / "layers.md")
    A, b = names["A"], names["b"]
    torch.testing.assert_close(names["model"](torch.randn(5, 4)) @ A.T, b.expand(5, 2))
    torch.testing.assert_close(names["linear"].weight.sum(1), torch.ones(3))
