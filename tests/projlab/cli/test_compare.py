"""`projlab compare` as its users meet it; `tests/validation` has what it computes."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

import projlab
from projlab import tolerance
from projlab.cli import main
from projlab_validation import compare

A = np.array([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, -1.0, 3.0], [1.0, 3.0, -1.0, 4.0]])
B = np.array([1.0, 2.0, 3.0])  # the third row is the sum of the first two


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The file of a small system with a redundant row, in the current folder."""
    monkeypatch.chdir(tmp_path)
    np.savez("system.npz", A=A, b=B, names=np.array(("in", "out", "total")))
    return Path("system.npz")


def test_json_says_what_the_system_is_and_which_variant_to_use(system, capfd):
    assert main(["compare", str(system), "--json"]) == 0
    out, error = capfd.readouterr()
    assert error == ""
    payload = json.loads(out)
    assert payload["exit_code"] == 0
    (one,) = payload["systems"]
    assert one["system"]["rank"] == 2
    assert one["system"]["redundant"] == ["total = in + out"]
    assert one["system"]["condition"] == pytest.approx(projlab.diagnose(A, B).condition, rel=1e-12)
    by_name = {line["name"]: line for line in one["lines"]}
    assert tuple(by_name) == projlab.variants()
    assert by_name["single_row"]["verdict"] == "skip"
    for name in ("cholesky", "qr", "pinv"):
        line = by_name[name]
        assert line["verdict"] == "pass"
        assert line["judged_by"] == "exact"
        assert line["forward_error"] < 1e-15
        assert line["feasibility"] < 1e-15
        assert line["stationarity"] < 1e-15
        assert line["setup_s"] > 0
        assert line["project_s"] > line["stacked_s"] > 0
        assert line["stack"] == compare.STACK
        assert line["held_bytes"] > 2 * 4 * 8
    advice = one["recommendation"]
    assert advice["variant"] in ("cholesky", "qr", "pinv")
    assert advice["variant"] in advice["code"]
    names = {}
    for _ in range(2):
        exec(advice["code"], names)  # noqa: S102  what users are told to paste
        x = names["P"](torch.zeros(A.shape[1], dtype=torch.float64)).numpy()
        np.testing.assert_allclose(x, np.linalg.lstsq(A, B)[0], atol=1e-15)
    assert names["names"] == ("in", "out", "total")
    assert [path.name for path in Path().iterdir()] == ["system.npz"]


def test_out_holds_the_page_and_the_data_and_a_person_reads_the_rest(system, capfd):
    arguments = ["--variants", "qr,pinv", "--threads", "1", "--accuracy", "1e-10"]
    assert main(["compare", str(system), *arguments, "--out", "out"]) == 0
    text = capfd.readouterr().out
    assert "within the 1e-10 asked for" in text
    assert "cholesky" not in text
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "compare.html",
        "compare.json",
    ]
    data = json.loads(Path("out/compare.json").read_text(encoding="utf-8"))
    assert data["asked"]["accuracy"] == 1e-10
    assert data["environment"]["threads per worker"] == "1"
    assert data["systems"][0]["recommendation"]["text"] in " ".join(text.split())


def test_a_disk_that_fills_up_leaves_no_part_of_a_page(system, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "out/compare.html")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["compare", str(system), "--out", "out"]) == 2
    assert capsys.readouterr().err == (
        "projlab: out/compare.html cannot be written: no space left on device; "
        "no part of a page is left behind; compare again once there is room\n"
    )
    assert not any(Path("out").iterdir())


def test_an_answer_beyond_its_theory_ends_with_1(system, monkeypatch, capsys):
    monkeypatch.setattr(tolerance, "forward_error_bound", lambda *a, **k: 1e-30)
    assert main(["compare", str(system), "--variants", "qr"]) == 1
    assert "fail qr: forward error" in capsys.readouterr().out


def test_an_accuracy_that_no_variant_reaches_ends_with_1(system, capsys):
    assert main(["compare", str(system), "--accuracy", "1e-30"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "No variant reaches 1e-30 here" in text or "No variant promises 1e-30 here" in text


def test_what_projector_refuses_is_not_recommended(system, capsys):
    assert main(["compare", str(system), "--accuracy", "2e-16", "--json"]) == 1
    (one,) = json.loads(capsys.readouterr().out)["systems"]
    assert one["recommendation"]["reached"] is False
    with pytest.raises(projlab.AccuracyError):
        projlab.projector(A, B, accuracy=2e-16)


@pytest.mark.parametrize("given", ["0.25", "errors.npy"])
def test_b_may_be_off_by_what_is_said(given, tmp_path, monkeypatch, capsys):
    """The line to paste takes it too, and projects onto the same set."""
    monkeypatch.chdir(tmp_path)
    np.savez("system.npz", A=A, b=B + np.array([0, 0, 0.25]))
    np.save("errors.npy", np.array([0.0, 0.125, 0.125]))
    assert main(["compare", "system.npz", "--b-error", "0.08", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["systems"]
    assert (one["check"], one["system"]["conflicting_count"]) == ("least_squares", 1)
    assert main(["compare", "system.npz", "--b-error", given, "--json", "--out", "."]) == 0
    (one,) = json.loads(capsys.readouterr().out)["systems"]
    assert (one["check"], one["system"]["conflicting_count"]) == ("projection", 0)
    assert (one["system"]["tolerated_count"], one["system"]["tolerated_off"]) == (1, 0.25)
    assert {line["verdict"] for line in one["lines"]} == {"pass", "skip"}
    code = one["recommendation"]["code"]
    wanted = "0.25" if given == "0.25" else 'load("system.npz", b="errors.npy").b'
    assert f"b_error={wanted})" in code
    names = {}
    exec(code, names)  # noqa: S102  what users are told to paste
    x = names["P"](torch.zeros(A.shape[1], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(x, np.linalg.lstsq(A[:2], B[:2])[0], atol=1e-14)
    page = Path("compare.html").read_text(encoding="utf-8")
    assert "1 row misses what the others imply by up to 0.25" in page


def test_peers_are_asked_about_the_right_sides_that_are_meant(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("system.npz", A=A, b=B + np.array([0, 0, 0.25]))
    arguments = ["--b-error", "0.25", "--variants", "qr", "--peers", "--json"]
    assert main(["compare", "system.npz", *arguments]) == 0
    (one,) = json.loads(capsys.readouterr().out)["systems"]
    peers = [line for line in one["lines"] if line["kind"] == "peer"]
    assert peers
    assert any(line["verdict"] == "pass" for line in peers)


def test_no_time_limit_is_too_long(system, capsys):
    assert main(["compare", str(system), "--variants", "qr", "--time-limit", "1e8"]) == 0


def test_eighty_columns_break_no_number(system, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["compare", str(system)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(" qr ")]
    assert len(rows) == 2  # the columns that do not fit stand in a second table
    assert all(len(row) <= 80 for row in rows)


def test_a_square_system_is_one_point(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("square.npz", A=A[:2, :2], b=B[:2])
    assert main(["compare", "square.npz", "--variants", "qr"]) == 0
    assert "the set is one point" in capsys.readouterr().out


def test_where_nothing_is_checked_it_ends_with_3_and_says_what_to_do(system, capsys):
    np.savez("large.npz", A=np.random.default_rng(0).standard_normal((300, 400)), b=np.ones(300))
    assert main(["compare", "large.npz", "--time-limit", "0.01"]) == 3
    out = capsys.readouterr().out
    assert "the rank decision alone is predicted to take" in out
    assert "A longer --time-limit measures it" in out


def test_each_dtype_and_file_is_a_comparison_of_its_own(system, capsys):
    np.save("row.npy", A[0])
    np.save("row_b.npy", B[:1])
    arguments = ["--dtype", "float32", "--variants", "qr", "--json"]
    assert main(["compare", ".", *arguments]) == 0
    systems = json.loads(capsys.readouterr().out)["systems"]
    assert [(one["file"], one["dtype"]) for one in systems] == [
        ("row.npy", "float32"),
        ("system.npz", "float32"),
    ]
    assert 0 < systems[1]["lines"][0]["forward_error"] < 1e-6
    assert "one row" in systems[0]["system"]["structure"]


def test_the_code_loads_just_what_was_compared(tmp_path, monkeypatch, capsys):
    """b as a number, the key, and another dtype than the file's."""
    monkeypatch.chdir(tmp_path)
    torch.save({"net": {"A": torch.from_numpy(A)}}, "it's.pt")
    arguments = ["--key", "net", "--b", "0", "--x0", "1.5", "--dtype", "float32"]
    assert main(["compare", "it's.pt", *arguments, "--variants", "qr", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["systems"]
    assert one["x0"] == "x0 as given"
    code = one["recommendation"]["code"]
    assert 'load("it\'s.pt", b=0.0, x0=1.5, key="net", dtype="float32")' in code
    names = {}
    exec(code, names)  # noqa: S102  what users are told to paste
    assert (names["A"].dtype, names["b"].tolist()) == (np.float32, [0, 0, 0])
    np.testing.assert_array_equal(names["x0"], np.full(4, 1.5, np.float32))


def test_a_saved_sparse_matrix_takes_a_number(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scipy.sparse.save_npz("s.npz", scipy.sparse.csc_array(A))
    assert main(["compare", "s.npz", "--b", "0", "--variants", "qr", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["systems"]
    assert (one["system"]["m"], one["system"]["rank"]) == (3, 2)


def test_a_folder_goes_on_past_a_file_that_cannot_be_read(system, capsys):
    Path("broken.csv").write_text("u,v,b\n1,x,2\n", encoding="utf-8")
    assert main(["compare", ".", "--variants", "qr", "--json", "--out", "out"]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("projlab: broken.csv: holds 'x' where a number belongs, in line 2")
    payload = json.loads(out)
    assert [one["file"] for one in payload["systems"]] == ["system.npz"]
    assert payload["systems"][0]["lines"][0]["verdict"] == "pass"
    assert payload["exit_code"] == 2
    assert payload["unread"] == [error.splitlines()[0].removeprefix("projlab: ")]
    page = Path("out/compare.html").read_text(encoding="utf-8")
    assert "broken.csv: holds" in page


def test_a_folder_of_nothing_that_can_be_read_ends_with_2(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("one.csv", "two.csv"):
        Path(name).write_text("u,v,b\n1,x,2\n", encoding="utf-8")
    assert main(["compare", ".", "--out", "out"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[1] for line in error.splitlines()] == [" one.csv", " two.csv"]
    assert not Path("out").exists()


@pytest.mark.parametrize("what", ["a folder", "a file that may not be read"])
def test_what_is_no_file_to_read_ends_with_2(what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("A.npy", A)
    if what == "a folder":
        Path("b.npy").mkdir()
        says = "b.npy: is a folder; want a file any of .npz"
    else:
        np.save("b.npy", B)
        opened = Path.open

        def refused(path, *arguments, **options):
            if path.name == "b.npy":
                raise PermissionError(13, "Permission denied")
            return opened(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", refused)
        says = "b.npy: cannot be read as npy without pickles ([Errno 13] Permission denied)"
    assert main(["compare", "A.npy", "--b", "b.npy"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.npz"], "nowhere.npz: there is no such file"),
        (["empty"], "empty: is a folder without a system; want a file any of .npz"),
        (["A.npy", "--b", "nowhere.npy"], "nowhere.npy: there is no such file"),
        (["A.npy", "--b", "x0.npy"], "x0.npy: holds b of shape (3,); want (2,), to fit A.npy"),
        (["A.npy", "--b", "b.npy", "--x0", "b.npy"], "b.npy: holds x0 of shape (2,); want (3,)"),
        (
            ["A.npy", "--b", "rhs.npz"],
            "rhs.npz: holds left, right; want one vector, or one named b",
        ),
        (["A.npy", "s.npz", "--b", "b.npy"], "--b and --x0 belong to one system, and 2 are given"),
        (["s.npz", "--out", "b.npy"], "--out b.npy is a file"),
        (["A.npy", "--b", "nan"], "b is nan; it must be finite"),
        (["A.npy", "--b", "0", "--b-error", "-1"], "b_error has the entry -1"),
        (["A.npy", "--b", "0", "--b-error", "x0.npy"], "x0.npy: holds b_error of shape (3,)"),
        (["A.npy", "s.npz", "--b-error", "b.npy"], "a --b-error file belongs to one system"),
        (["A.npy", "--b", "0", "--key", "A"], "whose parts have no names; want no key 'A'"),
        (
            ["tiny.npz", "--dtype", "float32"],
            "tiny.npz: holds entries below 1.2e-38, which float32",
        ),
        (["s.npz", "--key", "C"], "s.npz: holds no 'C', but A, b; want a key that it holds"),
        (["s.npz", "--variants", "qr,gauss"], "variant='gauss' is unknown"),
        (["s.npz", "--device", "abacus"], "--device abacus cannot be used here"),
    ],
)
def test_files_that_are_missing_or_do_not_fit_end_with_2(
    arguments, says, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no system")
    for name, array in {"A": A[:2, :3], "b": B[:2], "x0": np.ones(3)}.items():
        np.save(f"{name}.npy", array)
    np.savez("rhs.npz", left=B, right=B)
    np.savez("s.npz", A=A, b=B)
    np.savez("tiny.npz", A=np.array([[1.0, 1e-40]]), b=np.ones(1))
    before = sorted(tmp_path.rglob("*"))
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("projlab: ")
    assert error.count("\n") == 1
    assert says in error
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["f.npz", "--accuracy", "0"],
        ["f.npz", "--time-limit", "inf"],
        ["f.npz", "--dtype", "float16"],
        ["f.npz", "--threads", "0"],
    ],
    ids=" ".join,
)
def test_bad_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: projlab compare ")


class TestInequalitiesAndBounds:
    @pytest.fixture
    def box(self, tmp_path, monkeypatch):
        """Three variables that sum to one, the first at most a quarter."""
        monkeypatch.chdir(tmp_path)
        parts = {"A": np.ones((1, 3)), "b": np.ones(1), "lb": np.zeros(3)}
        parts |= {"G": np.array([[1.0, 0.0, 0.0]]), "h": np.array([0.25])}
        np.savez("box.npz", x0=np.array([2.0, -1.0, 0.5]), **parts)
        return Path("box.npz")

    def test_the_whole_set_is_projected_onto_and_peers_stand_beside(self, box, capfd):
        assert main(["compare", str(box), "--peers", "--json", "--accuracy", "1e-12"]) == 0
        out, error = capfd.readouterr()
        assert error == ""
        payload = json.loads(out)
        assert payload["systems"] == []
        (one,) = payload["bounded"]
        counts = "equations", "inequalities", "variables", "bounded", "fixed"
        assert [one[name] for name in counts] == [1, 1, 3, 3, 0]
        own, *peers = one["lines"]
        assert (own["name"], own["claimed"], own["verdict"]) == ("active_set", "polished", "pass")
        assert own["judged_by"] == "exact"
        assert own["forward_error"] <= 1e-15
        assert own["setup_s"] > 0
        assert own["again_s"] > 0
        assert {"CLARABEL", "OSQP"} <= {peer["name"] for peer in peers}
        assert all(peer["forward_error"] < 1e-6 for peer in peers if peer["status"] == "ok")
        assert all(peer["verdict"] == "skip" for peer in peers)
        names = {}
        exec(one["recommendation"]["code"], names)  # noqa: S102  what users are told to paste
        x = names["P"](torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
        np.testing.assert_allclose(x, [0.25, 0, 0.75], atol=1e-15)

    def test_at_the_terminal_and_on_a_page_it_stands_beside_equations(self, system, box, capsys):
        assert main(["compare", str(system), str(box), "--out", "out"]) == 0
        out = capsys.readouterr().out
        assert "1 equations and 1 inequalities in 3 variables, 3 of them with bounds" in out
        assert "`--equations` compares them on the equations alone" in out
        assert "polished" in out
        assert "P = projector(system.polyhedron)" in out
        page = Path("out/compare.html").read_text(encoding="utf-8")
        assert "box.npz" in page
        assert "its own status" in page
        assert main(["report", "out/compare.json", "--out", "again"]) == 0
        assert Path("again/compare.html").read_text(encoding="utf-8") == page

    def test_equations_alone_are_compared_where_that_is_asked(self, box, capsys):
        assert main(["compare", str(box), "--equations", "--json"]) == 0
        payload = json.loads(capsys.readouterr().out)
        assert payload["bounded"] == []
        (one,) = payload["systems"]
        assert "inequalities and bounds are left out, as --equations says" in one["note"]

    def test_an_empty_set_is_refused_with_its_proof_and_ends_with_3(self, box, capsys):
        np.savez("empty.npz", A=np.ones((1, 3)), b=np.ones(1), ub=np.full(3, 0.25))
        assert main(["compare", "empty.npz"]) == 3
        assert "The set is empty" in capsys.readouterr().out
        assert main(["compare", str(box), "empty.npz"]) == 0

    def test_an_answer_beyond_what_was_asked_ends_with_1(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        np.savez("hard.npz", A=np.array([[0.1, 0.3, 0.7]]), b=np.ones(1), lb=np.zeros(3))
        assert main(["compare", "hard.npz", "--accuracy", "1e-30"]) == 1
        assert "beyond the 1e-30 asked for" in capsys.readouterr().out

    @pytest.mark.parametrize(
        "arguments", [["--variants", "qr"], ["--dtype", "float32"], ["--b-error", "1e-9"]]
    )
    def test_what_is_for_equations_alone_is_refused(self, box, arguments, capsys):
        assert main(["compare", str(box), *arguments]) == 2
        error = capsys.readouterr().err
        assert f"which {arguments[0]}" in error
        assert "--equations" in error
