"""The tables of variants, keywords and attributes list what there is."""

import inspect
import re

import torch

import projlab
from projlab import certify, constrain, expr

from .pages import ROOT, table_rows


def test_every_variant_is_in_both_tables():
    listed = [cells[0].strip("`") for cells in table_rows(ROOT / "docs" / "variants.md")]
    assert sorted(listed) == sorted(projlab.variants() * 2)


def test_keywords_of_constrain_are_those_shown():
    parameters = inspect.signature(constrain).parameters.values()
    wanted = [f"`{p.name}={p.default!r}`".replace("'", '"') for p in parameters]
    shown = [cells[0] for cells in table_rows(ROOT / "docs" / "training.md") if "=" in cells[0]]
    assert shown == [w for w in wanted if "inspect._empty" not in w]


def shown(page, prefix):
    """The attributes that the first cells of a page's tables name."""
    cells = "\n".join(cells[0] for cells in table_rows(ROOT / "docs" / page))
    return set(re.findall(rf"`{prefix}(\w+)(?:\(\))?`", cells))


def test_attributes_of_a_handle_exist():
    p = torch.nn.Parameter(torch.ones(2))
    handle = constrain(torch.optim.SGD([p], lr=0.1), expr(p).sum() == 1)
    listed = shown("training.md", "handle.")
    assert len(listed) == 11
    assert listed <= set(dir(handle))


def test_attributes_of_a_certificate_exist():
    x = torch.ones(2)
    listed = shown("certify.md", "")
    assert listed == set(vars(certify(x, x / 2, [[1.0, 1.0]], 1.0)))
