"""The pages of the documentation, their blocks, and the tables in them."""

import ast
import contextlib
import functools
import io
import re
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from .outputs import holds

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=name)
texts = pytest.mark.parametrize("page", TEXTS, ids=name)


class Block(NamedTuple):
    """A fenced block; `shown` is the text block that follows it with nothing in between."""

    page: Path
    line: int
    language: str
    mark: str
    content: str
    shown: str | None

    def run(self, names: dict[str, Any]) -> str:
        """Run it as Python and return what it prints; a traceback names the page's own lines."""
        printed = io.StringIO()
        code = compile("\n" * self.line + self.content, str(self.page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)  # noqa: S102  the documentation's own lines
        return printed.getvalue()


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    return [
        Block(
            page,
            text.count("\n", 0, here.start(3)),
            here[1],
            here[2],
            here[3],
            after[3] if after and after[1] == "text" and adjacent(text, here, after) else None,
        )
        for here, after in pairwise([*found, None])
        if here is not None and here[1] == language
    ]


def adjacent(text: str, here: re.Match[str], after: re.Match[str]) -> bool:
    return not text[here.end() : after.start()].strip()


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def table_rows(page: Path) -> list[list[str]]:
    """The cells of every line of its tables but headings."""
    lines = page.read_text(encoding="utf-8").splitlines()
    split = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    headings = {i - 1 for i, cells in enumerate(split) if set("".join(cells)) <= set("-: ")}
    return [
        [cell.strip() for cell in cells]
        for i, cells in enumerate(split)
        if i not in headings and i - 1 not in headings
    ]


def defines(path: Path, names: str) -> bool:
    """Whether a file of tests has one of this name, `function` or `Class::method`."""
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names.split("::"):
        found = [node for node in body if name in _defined(node)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def _defined(node: ast.stmt) -> set[str | None]:
    """The names that a statement defines."""
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {getattr(node, "name", None)}


@functools.cache
def names_of(page: Path) -> dict[str, Any]:
    """Run a page's programs as its reader would, and return the names they leave."""
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in blocks(page, "python"):
            if not block.mark:
                holds(block.shown or "", block.run(names))
    return names
