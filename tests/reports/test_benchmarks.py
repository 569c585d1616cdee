"""The page of asv's results: what it shows, failures and n/a among it, and what it refuses."""

import json
import math

import pytest

from projlab.cli import main
from projlab_reports import asv, benchmarks, regressions, speed
from projlab_reports.speed import Speed
from tests.reports.asv_results import (
    FORWARD,
    MACHINE,
    PEERS,
    SIZES,
    TIMES,
    result,
    row,
    suite,
    times,
)
from tests.reports.browser import needs_browser, use
from tests.reports.parsed import Page, whole, words
from tests.reports.runs import BASE, contents, write_run


def test_the_page_is_whole_and_carries_every_failure(results, capsys):
    out = results / "out"
    assert main(["report", str(results), "--out", str(out)]) == 1
    shown = capsys.readouterr().out
    assert "2 of 18 figures failed" in shown
    text = (out / "benchmarks.html").read_text(encoding="utf-8")
    parsed = whole(text)
    assert "script" not in parsed.tags
    shown = words(parsed)
    for what in (
        "2 of 18 figures failed",
        "b" * 40,
        "9.9",
        "Time against size",
        "Ratios to peers",
        "Forward error, feasibility and drift",
        "History over commits",
        "What was measured",
        "regressed since aaaaaaaa",
    ):
        assert what in shown, what
    failures = Speed(asv.read_all(results)).failures
    assert len(failures) == 2
    twin = (out / "benchmarks.md").read_text(encoding="utf-8")
    for failure in failures.to_dict("records"):
        assert failure["figure"] in shown
        assert failure["reproduce"] in shown
        assert failure["figure"] in twin
    pictures = {line.partition("](")[2].rstrip(")") for line in twin.splitlines() if "](" in line}
    assert pictures == {f"figures/{path.name}" for path in (out / "figures").iterdir()}
    names = [name for name in text.split('aria-label="')[1:] if "<svg" in name]
    assert len(names) == len({name.partition('"')[0] for name in names})


def test_one_file_by_itself_is_a_result(tmp_path):
    path = result(tmp_path / "some.json", suite())
    assert main(["report", str(path), "--json"]) == 1
    assert (tmp_path / "benchmarks.html").is_file()
    numbers = Speed(asv.read_all(path)).numbers(speed.PROJECTION)
    assert {"size", "dtype", "device", "qr"} <= set(numbers.columns)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf])
def test_what_a_logarithmic_axis_cannot_show_is_still_a_page(tmp_path, value):
    every = {
        speed.PROJECTION: row([value] * 24, params=TIMES),
        speed.PEERS: row([value] * 4, params=PEERS),
        FORWARD: row([value] * 3, params=(SIZES,)),
        "yardstick.Machine.time_read": row(value),
    }
    path = result(tmp_path / "some.json", every)
    assert main(["report", str(path)]) == 0
    whole((tmp_path / "benchmarks.html").read_text(encoding="utf-8"))


def test_nothing_measured_ends_with_3(tmp_path):
    path = result(tmp_path / "some.json", {})
    assert main(["report", str(path)]) == 3
    whole((tmp_path / "benchmarks.html").read_text(encoding="utf-8"))


def test_a_benchmark_called_script_is_shown_and_not_run(tmp_path):
    bad = "<script>alert(1)</script>"
    path = result(
        tmp_path / "some.json",
        {f"{bad}.time_x": row([1.0, None], params=((bad, "'b'"),))},
        machine={**MACHINE, "cpu": bad},
        commit_hash=bad,
    )
    parsed = Page(benchmarks.render(Speed(asv.read_all(path))))
    assert "script" not in parsed.tags
    assert "alert(1)" in words(parsed)


def test_two_results_are_compared_as_bench_compares_them(results, capsys):
    old, new = (results / "results" / "here" / f"{name}-env.json" for name in ("aaa", "bbb"))
    out = results / "out"
    assert main(["report", str(old), str(new), "--out", str(out)]) == 0
    assert main(["report", str(new), str(old), "--out", str(out), "--json"]) == 1
    said = capsys.readouterr().out
    outcome = json.loads(said[said.index("{") :])
    (difference,) = outcome["differences"]
    assert len(difference["regressions"]) == 10
    text = (out / "benchmarks-difference.html").read_text(encoding="utf-8")
    shown = words(whole(text))
    assert benchmarks.RULE in shown
    assert "Regressed (10)" in shown
    assert text.count("<script>") == 1
    assert "Regressed (10)" in (out / "benchmarks-difference.md").read_text(encoding="utf-8")
    assert main(["report", str(new), str(new), str(old), "--out", str(out)]) == 1


@needs_browser
def test_times_are_sorted_by_their_length_and_not_by_their_letters(tmp_path):
    slow = {f"m.C.time_{name}": row(t) for name, t in (("a", 2e-3), ("b", 3e-6), ("c", 1.0))}
    one = result(tmp_path / "a.json", {n: row(1e-9) for n in slow})
    other = result(tmp_path / "b.json", slow)
    comparisons = [regressions.compare(asv.read(one), asv.read(other))]
    seen = use(benchmarks.render_difference(comparisons), """sort("after");""", tmp_path)
    assert seen == [["m.C.time_b", "m.C.time_a", "m.C.time_c"]]


def test_nothing_in_common_ends_with_3(tmp_path):
    one = result(tmp_path / "a.json", {speed.PROJECTION: times()})
    other = result(tmp_path / "b.json", {})
    assert main(["report", str(one), str(other)]) == 3


def spoil(results, how):
    file = results / "results" / "here" / "bbb-env.json"
    content = json.loads(file.read_text())
    match how:
        case "truncated":
            file.write_text(file.read_text()[:-20])
        case "binary":
            file.write_bytes(b"\x80\x04\x95\xff")
        case "nested":
            file.write_text("[" * 100_000)
        case "other version":
            file.write_text(json.dumps({**content, "version": 3}))
        case "wrong keys":
            file.write_text(json.dumps({"version": 2, "results": {}}))
        case "wrong shape":
            content["results"][FORWARD] = row([1.0], params=(SIZES,))
            file.write_text(json.dumps(content))
        case "words for numbers":
            content["results"][FORWARD][0] = ["fast", "fast", "fast"]
            file.write_text(json.dumps(content))
        case "list of benchmarks truncated":
            (results / "results" / asv.BENCHMARKS).write_text('{"version": 2, ')
        case "list of benchmarks in another version":
            (results / "results" / asv.BENCHMARKS).write_text('{"version": 1}')
        case "two machines":
            other = results / "results" / "there"
            other.mkdir()
            (other / asv.MACHINE).write_text("{}")
            result(other / "aaa-env.json", suite())
        case "no results":
            for path in file.parent.glob("*-env.json"):
                path.unlink()


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "binary",
        "nested",
        "other version",
        "wrong keys",
        "wrong shape",
        "words for numbers",
        "list of benchmarks truncated",
        "list of benchmarks in another version",
        "two machines",
        "no results",
    ],
)
def test_bad_input_ends_with_2_one_line_and_nothing_written(results, how, capsys):
    spoil(results, how)
    before = contents(results)
    for path in (results, results / "results"):
        assert main(["report", str(path)]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("projlab: ")
        assert said.err.count("\n") == 1
        assert not said.out
    assert contents(results) == before


def test_a_result_and_a_run_are_not_compared(results, tmp_path, capsys):
    run = write_run(tmp_path / "run", BASE)
    file = results / "results" / "here" / "bbb-env.json"
    assert main(["report", str(run), str(file)]) == 2
    assert "a difference is between" in capsys.readouterr().err
