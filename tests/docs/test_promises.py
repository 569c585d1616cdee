"""Each promise of `docs/promises.md` names a test that is there."""

import ast
import re

import pytest

from .pages import ROOT, defines, prose

PAGE = ROOT / "docs" / "promises.md"
NAMED = re.findall(r"`(tests/[\w/.]+\.py)::([\w:]+)`", PAGE.read_text(encoding="utf-8"))
JUMPING = {("time", "time"), ("time", "time_ns"), ("time", "clock_gettime")}


@pytest.mark.parametrize(("path", "names"), NAMED, ids=[names for _, names in NAMED])
def test_the_test_exists(path, names):
    assert defines(ROOT / path, names), f"{path} has no {names}"


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
