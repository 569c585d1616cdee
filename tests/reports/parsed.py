"""A page as its tests read it."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tags that do not close, ids that stand twice, links that lead nowhere."""

    VOID = frozenset({"meta", "br", "link", "img", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.text = [], set(), [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("href", "src")]
        self.links += [
            f"#{i}" for _, v in attributes for i in re.findall(r"url\(#([^)]+)\)", v or "")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


def whole(text):
    """Parse a page, and require that it is valid and refers to nothing outside."""
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert not page.tags & {"link", "img", "iframe", "object", "embed", "base"}
    assert not re.search(r"https?:|@import|src=|\burl\((?!#)|javascript:", text)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert 'name="viewport"' in text
    return page


def words(page):
    """The page's text, each stretch of white space as one space."""
    return " ".join("".join(page.text).split())
