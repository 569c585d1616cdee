"""What the README shows is run, and what it points to exists."""

import re
from pathlib import Path

import pytest
import torch

import projlab

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
TRAINING = [program for program in PROGRAMS if "constrain(" in program]
MODULES = [program for program in PROGRAMS if "projlab.nn" in program]
LINKS = re.findall(r"\]\(([^)#]+)\)", README)


def test_the_readme_was_read():
    assert (len(PROGRAMS), len(TRAINING), len(MODULES)) == (7, 3, 1)
    assert len(LINKS) > 3


def test_programs_project_and_prove_it():
    x0 = torch.zeros(3, dtype=torch.float64)
    names = {
        "A": torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64),
        "b": torch.tensor([1.0, 0.5], dtype=torch.float64),
        "x": x0,
        "x0": x0,
    }
    for program in PROGRAMS:
        if program in TRAINING + MODULES:
            continue
        exec(program, names)  # noqa: S102  the README's own lines
    # By hand: [[2, 1], [1, 2]] y = b gives y = (1/2, 0), and x = Aᵀ y.
    expected = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(names["x"], expected)
    assert names["proof"].verdict == "certified"


@pytest.mark.parametrize(
    ("example", "names", "target", "optimum"),
    [
        (0, ["p1", "p2"], [2.0, 1.5], [0.75, 0.25]),
        (1, ["p3", "p4"], [1.0, 2.0], [1.6, 0.8]),
        (2, ["p5", "p6", "p7"], [2.0, 0.0, 1.0], [1.5, -0.5, 1.0]),
    ],
)
def test_training_programs_end_at_the_constrained_optimum(example, names, target, optimum):
    program = TRAINING[example]
    assert len(program.split("\n\n")) == 2
    assert len(program.replace("\n\n", "\n").splitlines()) == 3
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in names]
    scope = {
        "torch": torch,
        "A": torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]),
        "b": torch.tensor([1.0, 0.5]),
        **dict(zip(names, parameters, strict=True)),
    }
    exec(program, scope)  # noqa: S102  the README's own lines
    optimizer = scope["optimizer"]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: (1 - k / 501) ** 2)
    for _ in range(500):
        optimizer.zero_grad()
        (torch.cat(parameters) - torch.tensor(target)).square().sum().backward()
        optimizer.step()
        schedule.step()
    found = torch.cat(parameters).detach()
    torch.testing.assert_close(found, torch.tensor(optimum), rtol=0, atol=1e-4)


def test_module_program_constrains_outputs_and_weights():
    A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    b = torch.tensor([1.0, 0.5])
    scope = {"torch": torch, "A": A, "b": b}
    exec(MODULES[0], scope)  # noqa: S102  the README's own lines
    torch.testing.assert_close(scope["layer"](torch.randn(4, 3)) @ A.T, b.expand(4, 2))
    torch.testing.assert_close(scope["linear"].weight.sum(1), torch.ones(3))


@pytest.mark.parametrize("link", [link for link in LINKS if "://" not in link])
def test_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_every_variant_is_in_the_table():
    listed = re.findall(r"^\| `(\w+)` \|", README, flags=re.MULTILINE)
    assert sorted(listed) == sorted(projlab.variants())


def test_commands_are_make_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE)
    assert {"setup", "validate", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
