"""What the documentation points to exists, and its lines can be read without scrolling."""

import re

from .pages import PAGES, ROOT, prose, table_rows, texts


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@texts
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(target), flags=re.MULTILINE)
            assert anchor in map(slug, headings), link


@texts
def test_paths_exist(page):
    for path in re.findall(r"`([\w.-]+/[\w./-]*)`", prose(page)):
        written = path.startswith(("runs/", ".asv"))  # by a command, when it is run
        assert written or (ROOT / path).exists(), path


@texts
def test_no_line_is_longer_than_120_characters(page):
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [(i, len(line)) for i, line in enumerate(lines, 1) if len(line) > 120] == []


def test_the_readme_has_about_a_hundred_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_each_of_the_five_questions_has_one_place():
    answers = [cells[1] for cells in table_rows(ROOT / "CONTRIBUTING.md") if cells[0].endswith("?")]
    places = [re.findall(r"`([\w.-]+/[\w./-]*)`", answer) for answer in answers]
    assert len(places) == 5
    assert all(len(found) == 1 and (ROOT / found[0]).is_file() for found in places), places
