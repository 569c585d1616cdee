"""A page as a browser with scripts has it, where there is one."""

import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.needs(programs=NAMES)

TOOLS = """
const box = document.querySelector(".sortable");
const shown = () => [...box.querySelectorAll("tbody tr")].filter(row => !row.hidden)
  .map(row => row.cells[0].textContent);
const seen = [];
const sort = name => {
  [...box.querySelectorAll("thead button")].find(b => b.textContent === name).click();
  seen.push(shown());
};
const filter = words => {
  const field = box.previousElementSibling;
  field.value = words;
  field.dispatchEvent(new Event("input"));
  seen.push(shown());
};
"""


def use(text, script, folder):
    """The first cells of the rows that are shown after each `sort("heading")`, `filter("words")`.

    They are those of the first table that can be sorted.
    """
    page = folder / "page.html"
    run = f"<script>{TOOLS}{script}\ndocument.title = JSON.stringify(seen);</script></body>"
    page.write_text(text.replace("</body>", run), encoding="utf-8")
    dumped = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    return json.loads(re.search("<title>(.*)</title>", dumped)[1])
