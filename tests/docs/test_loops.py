"""Each row of `docs/loops.md` names a test that is there, and quotes words that are said."""

import ast
import functools
import re

import pytest

from .pages import ROOT, defines, table_rows

ROWS = [(loop, what, test) for loop, what, test in table_rows(ROOT / "docs" / "loops.md") if test]


@functools.cache
def texts():
    """All strings of the training's source: those of one message, and its parts."""
    trees = [ast.parse(p.read_text("utf-8")) for p in (ROOT / "projlab/training").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [node.value for node in nodes if isinstance(node.value, str)]


def test_there_are_many():
    assert len(ROWS) > 45


@pytest.mark.parametrize(("loop", "what", "test"), ROWS, ids=[row[0] for row in ROWS])
def test_the_row_names_a_test_and_quotes_what_is_said(loop, what, test):
    file, _, name = test.strip("`").partition("::")
    folder, _, stem = file.rpartition("/")
    path = ROOT / "tests" / "projlab" / (folder or "training") / f"test_{stem}.py"
    assert defines(path, f"test_{name}"), test
    said = re.findall(r'"([^"]+)"', what)
    assert bool(said) == what.startswith(("refused", "warns"))
    assert all(any(words in text for text in texts()) for words in said), said
