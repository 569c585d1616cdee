"""The page of asv's results: what it shows, failures and n/a among it, and what it refuses."""

import json
import math
import re

import pytest

from benchmarks import ratios, yardstick
from projlab.cli import main
from projlab_reports import asv, benchmarks, regressions, speed
from projlab_reports.speed import Speed

from .browser import needs_browser, use
from .conftest import BASE, write_run
from .parsed import Page, whole, words
from .test_publish import contents
from .test_regressions import MACHINE, result, row

NAN = math.nan
SIZES = ("'1x10'", "'10x100'", "'100x1000'")
TIMES = (("'auto'", "'qr'"), SIZES, ("'float64'", "'float32'"), ("'cpu'", "'cuda'"))
PEERS = (("'numpy'", "'jaxopt'"), ("'10x100'",), ("'one'", "'shared'"), ("'float64'",), ("'cpu'",))
FORWARD = "projection.Quality.track_forward_error"


def times(scale=1.0):
    """A projection's time, exactly linear in m·n; float32 failed on the largest, no cuda."""
    values = []
    for _ in TIMES[0]:
        for entries in (10.0, 1e3, 1e5):
            values += [scale * entries * 1e-9, NAN]
            values += [None if entries > 1e4 else scale * entries * 1e-9, NAN]
    return row(values, params=TIMES)


def suite(scale=1.0):
    return {
        speed.PROJECTION: times(scale),
        speed.PEERS: row([0.5, 2.0, 0.01, NAN], params=PEERS),
        FORWARD: row([1.0, 3.0, 30.0], params=(SIZES,)),
        "yardstick.Machine.time_read": row(1e-3),
    }


@pytest.fixture
def results(tmp_path):
    """A folder of two results, as asv lays them out."""
    machine = tmp_path / "results" / "here"
    machine.mkdir(parents=True)
    (machine / asv.MACHINE).write_text(json.dumps({**MACHINE, "version": 1}))
    known = {
        "version": 2,
        speed.PROJECTION: {
            "param_names": ["variant", "size", "dtype", "device"],
            "unit": "seconds",
        },
        FORWARD: {"param_names": ["size"], "unit": "u"},
    }
    (tmp_path / "results" / asv.BENCHMARKS).write_text(json.dumps(known))
    result(machine / "aaa-env.json", suite(2.0), commit_hash="a" * 40, date=1_000)
    requirements = {"torch": "9.9"}
    result(
        machine / "bbb-env.json",
        suite(),
        commit_hash="b" * 40,
        date=2_000,
        requirements=requirements,
    )
    return tmp_path


def test_the_names_of_the_suite_are_its_names():
    def named(of, method):
        return f"{of.__module__.rpartition('.')[2]}.{of.__name__}.{method.__name__}"

    assert named(ratios.Peers, ratios.Peers.track_ratio) == speed.PEERS
    assert named(ratios.Bandwidth, ratios.Bandwidth.track_reads) == speed.READS
    assert named(yardstick.Machine, yardstick.Machine.time_read) == speed.READ
    machine = yardstick.Machine()
    machine.setup()
    assert machine.large.nbytes == speed.READ_BYTES


def test_growth_is_fitted_and_bandwidth_taken_from_the_yardstick(results):
    measured = Speed(asv.read_all(results))
    assert measured.latest.commit == "b" * 40
    growth = measured.growth(speed.PROJECTION).set_index(["series", "dtype"])
    assert growth.loc[("qr", "float64"), "exponent of m·n"] == "1.00"
    assert growth.loc[("qr", "float64"), "sizes"] == 3
    assert growth.loc[("qr", "float32"), "sizes"] == 2
    assert measured.bandwidth == pytest.approx(8e9)


def test_what_failed_and_what_does_not_apply_are_told_apart(results):
    measured = Speed(asv.read_all(results))
    assert measured.counts == {"measured": 16, "failed": 2, "n/a": 13}
    numbers = measured.numbers(speed.PROJECTION).set_index(["size", "dtype"])
    assert numbers.loc[("100x1000", "float32"), "qr"] == "failed"
    assert numbers.loc[("100x1000", "float64"), "qr"] == "100 µs"
    coverage = measured.coverage.set_index("benchmark")
    assert coverage.loc[speed.PROJECTION, "nothing at"] == "device cuda"
    assert list(measured.peers["10x100"]) == ["2 ×", "0.5 ×", "100 ×"]


def test_history_is_relative_to_the_oldest_commit_without_the_machines_drift(results):
    machine = results / "results" / "here"
    result(machine / "ccc-env.json", suite(2.0), commit_hash="c" * 40, date=3_000, yardstick=2e-6)
    measured = Speed(asv.read_all(results))
    history = measured.history.set_index("benchmark")
    assert history.loc[speed.PROJECTION, "b" * 8] == "0.50"
    # time_addmv took twice as long, time_read as long as before: sqrt(2) of drift
    assert history.loc[speed.PROJECTION, "c" * 8] == f"{1 / math.sqrt(2):.2f}"
    assert measured.since is not None
    assert measured.since.before.commit == "b" * 40


def test_results_of_another_processor_stand_in_no_history(results):
    machine = results / "results" / "here"
    result(machine / "zzz-env.json", suite(), date=500, machine={**MACHINE, "cpu": "another"})
    measured = Speed(asv.read_all(results))
    assert len(measured.comparable) == 2
    assert "another" in measured.left_out[0]


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


def test_the_command_of_a_failure_selects_its_figure():
    figure = "projection.Projection.time_call('qr', '1x10', 'float64', 'cpu')"
    pattern = speed.command(figure).partition("--filter '")[2].rstrip("'")
    assert re.search(pattern, figure)
    assert not re.search(pattern, figure.replace("1x10", "3x10"))


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
