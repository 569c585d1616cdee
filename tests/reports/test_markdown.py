import re
import subprocess
import sys

import pandas as pd
from markdown_it import MarkdownIt

from projlab_reports import markdown

ORDER = [
    "# projlab validation: quick profile",
    "## Which variant for which need",
    "## What was run",
    "## Variants",
    "## Forward error against time",
    "## Real systems, float64",
    "## Real systems, float32",
    "## The oracles' own errors",
    "## Every check",
    "## What the answers were judged by",
    "## Expected limitations",
    "## Skips",
    "## Failures",
    "## Known limitations of this run",
]


def headings(text):
    return [line for line in text.splitlines() if line.startswith("#")]


def test_the_report_tells_its_story_in_order(summary, tmp_path):
    text = markdown.write(summary, tmp_path).read_text(encoding="utf-8")
    assert headings(text) == ORDER
    assert text.index(summary.headline) < text.index("## What was run")
    assert summary.failures["reproduce"].iloc[0] in text


def test_pictures_are_linked_relatively_and_exist(summary, tmp_path):
    text = markdown.write(summary, tmp_path).read_text(encoding="utf-8")
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(links) == 3
    for link in links:
        assert (tmp_path / link).read_bytes().startswith(b"\x89PNG")


def test_every_table_is_a_table_to_a_markdown_reader(summary, tmp_path):
    text = markdown.write(summary, tmp_path).read_text(encoding="utf-8")
    html = MarkdownIt("commonmark").enable("table").render(text)
    ruled = [line for line in text.splitlines() if line.startswith("| ---")]
    assert html.count("<table>") == len(ruled) == 14
    assert "A | B" in html  # a bar within a cell


def test_a_report_without_failures_says_none(held, tmp_path):
    text = markdown.write(held, tmp_path).read_text(encoding="utf-8")
    assert "## Failures\n\nNone.\n" in text
    assert "(#failures)" not in text


def test_a_report_of_nothing_is_still_a_report(nothing, tmp_path):
    text = markdown.write(nothing, tmp_path).read_text(encoding="utf-8")
    assert "Nothing was checked" in text
    assert "![" not in text


def test_cells_hold_what_markdown_would_take_for_its_own():
    frame = pd.DataFrame({"what": ["a|b", "two\nlines"], "figure": [1234.5678, float("nan")]})
    assert markdown.table(frame).splitlines() == [
        "| what | figure |",
        "| --- | ---: |",
        "| a\\|b | 1.2e+03 |",
        "| two lines | – |",
    ]


def test_reports_start_without_torch():
    program = (
        "import projlab_reports.markdown, projlab_reports.terminal, sys\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
