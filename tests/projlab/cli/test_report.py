"""`projlab report` renders what it is given and says where; `tests/reports` has the pages."""

import json
import math
from pathlib import Path

import pytest

from projlab.cli import main
from projlab_reports import publish


@pytest.fixture
def asked(monkeypatch):
    """What the command asks to be published, in the place of publishing it."""
    calls = []

    def published(paths, out):
        calls.append((paths, out))
        pages = (Path("out/report.html"), Path("out/report.md"))
        return publish.Published("One check failed.", 1, pages, {"error": math.nan, "new": [2]})

    monkeypatch.setattr(publish, "publish", published)
    return calls


def test_the_headline_and_every_page_are_named_and_the_exit_code_is_theirs(asked, capsys):
    assert main(["report", "before", "after", "--out", "there"]) == 1
    assert asked == [([Path("before"), Path("after")], Path("there"))]
    out, error = capsys.readouterr()
    assert out == "One check failed.\nPage: out/report.html\nPage: out/report.md\n"
    assert error == ""


def test_json_is_the_outcome_and_nothing_else(asked, capsys):
    assert main(["report", "run", "--json"]) == 1
    assert asked == [([Path("run")], None)]
    assert json.loads(capsys.readouterr().out) == {"error": None, "new": [2]}


def test_bad_usage_ends_with_2(capsys):
    with pytest.raises(SystemExit) as end:
        main(["report"])
    assert end.value.code == 2
    assert "RESULT" in capsys.readouterr().err
