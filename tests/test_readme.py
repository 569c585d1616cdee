"""What the README shows is run, and what it points to exists."""

import re
from pathlib import Path

import pytest
import torch

import projlab

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
LINKS = re.findall(r"\]\(([^)#]+)\)", README)


def test_the_readme_was_read():
    assert len(PROGRAMS) == 3
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
        exec(program, names)  # noqa: S102  the README's own lines
    # By hand: [[2, 1], [1, 2]] y = b gives y = (1/2, 0), and x = Aᵀ y.
    expected = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(names["x"], expected)
    assert names["proof"].verdict == "certified"


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
