"""Each promise of `docs/promises.md` names a test that is there."""

import ast
import re

import pytest

from .pages import ROOT, prose

PAGE = ROOT / "docs" / "promises.md"
NAMED = re.findall(r"`(tests/[\w/.]+\.py)::([\w:]+)`", PAGE.read_text(encoding="utf-8"))
JUMPING = {("time", "time"), ("time", "time_ns"), ("time", "clock_gettime")}


@pytest.mark.parametrize(("path", "names"), NAMED, ids=[names for _, names in NAMED])
def test_the_test_exists(path, names):
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for name in names.split("::"):
        found = [node for node in body if name in defined(node)]
        assert found, f"{path} has no {names}"
        body = getattr(found[0], "body", [])


def defined(node):
    """The names that a statement defines."""
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {getattr(node, "name", None)}


def test_each_promise_names_one():
    promises = prose(PAGE).partition("## Figures")[0]
    bullets = re.findall(r"^- (.*?)(?=^- |^$)", promises, flags=re.MULTILINE | re.DOTALL)
    assert len(bullets) == len(NAMED) >= 30
    for bullet in bullets:
        assert re.search(r":\n  `tests/[\w/.]+\.py::[\w:]+`\n$", bullet), bullet


def test_no_clock_that_may_jump_measures_anything():
    """`perf_counter` and `monotonic` do not follow a clock that is set."""
    for folder in ("projlab", "validation", "reports", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    pair = (node.value.id, node.attr)
                    assert pair not in JUMPING, (path, pair)
