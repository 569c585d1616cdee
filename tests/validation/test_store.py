"""A store: what is written whole, what is resumed, and what is refused."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from projlab import InputError
from projlab_validation import lock, store
from projlab_validation.record import OracleFigures
from projlab_validation.store import Key, Store
from tests.validation.records import record

HEADER = {"profile": "quick", "device": "cpu"}


def test_what_is_written_is_read_back_and_known_as_done(tmp_path):
    opened = Store.create(tmp_path / "run", HEADER)
    opened.write([record("p1", "qr"), record("p1", "pinv")])
    opened.write([record("p2", "qr")])
    frame = store.read(tmp_path / "run")
    assert sorted(zip(frame["problem"], frame["variant"], strict=True)) == [
        ("p1", "pinv"),
        ("p1", "qr"),
        ("p2", "qr"),
    ]
    assert Key("hash-of-p1", "float64", "pinv", "here") in opened.done()
    assert Key("hash-of-p1", "float64", "pinv", "elsewhere") not in opened.done()


def test_parts_with_different_oracles_read_as_one_frame(tmp_path):
    opened = Store.create(tmp_path, HEADER)
    opened.write([record("p1", oracles={"a": OracleFigures("ok", 1e-16)})])
    opened.write([record("p2", oracles={"b": OracleFigures("optimal", 2e-16)})])
    frame = store.read(tmp_path).set_index("problem")
    assert frame.loc["p1", "oracle_error_a"] == 1e-16
    assert pd.isna(frame.loc["p1", "oracle_error_b"])


@pytest.mark.parametrize("exception", store.UNFINISHED)
def test_what_is_no_measurement_is_not_done_and_gives_way_to_one(exception, tmp_path):
    opened = Store.create(tmp_path, HEADER)
    lost = {"status": "error", "exception": exception}
    opened.write([record(variant=v, **lost) for v in ("qr", "pinv", "cholesky")])
    opened.write(
        [record(variant="single_row", rank=1), record(variant="single_row", check="drift")]
    )
    opened.write([record(variant="qr", environment="elsewhere", **lost)])
    assert {done.variant for done in opened.done()} == {"single_row"}
    opened.write([record(variant="qr", rank=1)])
    opened.write([record(variant="qr", rank=1)])
    frame = store.read(tmp_path)
    assert len(frame) == 6
    here = frame[frame["environment"] == "here"].set_index("variant")["status"]
    assert here.drop("single_row").to_dict() == {"qr": "ok", "pinv": "error", "cholesky": "error"}
    assert {done.variant for done in opened.done()} == {"single_row", "qr"}


def test_a_variant_is_unfinished_when_one_of_its_checks_is(tmp_path):
    opened = Store.create(tmp_path, HEADER)
    opened.write([record(), record(check="drift", status="error", exception="TimeoutError")])
    assert opened.done() == set()
    opened.write([record(), record(check="drift")])
    assert store.read(tmp_path)["status"].tolist() == ["ok", "ok"]


def test_a_run_is_resumed_with_another_time_limit(tmp_path):
    Store.create(tmp_path, {**HEADER, store.TIME_LIMIT: "2"}).write([record()])
    for header in ({**HEADER, store.TIME_LIMIT: "60"}, HEADER):
        Store.create(tmp_path, header, resume=True)
        assert store.read_header(tmp_path).get(store.TIME_LIMIT) == header.get(store.TIME_LIMIT)
    assert len(store.read(tmp_path)) == 1


def test_a_run_without_records_reads_as_an_empty_frame(tmp_path):
    assert Store.create(tmp_path, HEADER).done() == set()
    assert "forward_error" in store.read(tmp_path)


KILLED = """
import os, sys
from pathlib import Path
from projlab_validation import lock, store
sys.path.insert(0, {here!r})
from records import record

opened = store.Store.create(Path({folder!r}), {header!r})
opened.write([record("p1")])
os.fsync = lambda _: os._exit(9)  # the power goes while the second part is on its way
opened.write([record("p2")])
"""


def test_a_kill_loses_the_part_at_hand_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    script = textwrap.dedent(KILLED).format(
        here=str(Path(__file__).parent), folder=str(folder), header=HEADER
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert list((folder / store.RECORDS).glob(f"{store.TEMPORARY}*"))
    assert store.read(folder)["problem"].tolist() == ["p1"]

    resumed = Store.create(folder, HEADER, resume=True)
    resumed.write([record("p2")])
    assert sorted(store.read(folder)["problem"]) == ["p1", "p2"]
    resumed.close()
    assert not list(folder.rglob(f"{store.TEMPORARY}*"))


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    store.write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        store.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for flag in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"thesis\.tex"):
            Store.create(tmp_path, HEADER, **flag)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused_as_a_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="takes a folder"):
        Store.create(tmp_path / "out", HEADER)


def test_a_run_is_neither_mixed_nor_replaced_unasked(tmp_path):
    Store.create(tmp_path, HEADER).write([record()])
    with pytest.raises(InputError, match="--resume continues it, --overwrite replaces it"):
        Store.create(tmp_path, HEADER)
    with pytest.raises(InputError, match="profile 'quick', not 'full'"):
        Store.create(tmp_path, {**HEADER, "profile": "full"}, resume=True)
    assert len(store.read(tmp_path)) == 1


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    opened = Store.create(tmp_path, HEADER)
    opened.write([record()])
    opened.describe_environment("here", {"python": "3"})
    opened.close()
    (tmp_path / "notes.txt").write_text("mine")
    Store.create(tmp_path, {**HEADER, "profile": "full"}, overwrite=True)
    assert len(store.read(tmp_path)) == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / store.ENVIRONMENTS).exists()


def test_an_unreadable_header_is_bad_input(tmp_path):
    for content in ("not json", "[1]"):
        (tmp_path / store.HEADER).write_text(content)
        with pytest.raises(InputError, match="cannot be read"):
            Store.create(tmp_path, HEADER, resume=True)


def test_reading_a_folder_without_a_run_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="holds no projlab run"):
        store.read(tmp_path)


def damage(folder, pattern="p1*.parquet", how=lambda content: content[: len(content) // 2]):
    (part,) = (folder / store.RECORDS).glob(pattern)
    part.write_bytes(how(part.read_bytes()))
    return part


@pytest.mark.parametrize(
    "how", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"PAR1" + c[9:], lambda c: c[::-1]]
)
def test_a_part_that_cannot_be_read_is_set_aside_and_measured_again(how, tmp_path):
    opened = Store.create(tmp_path, HEADER)
    opened.write([record("p1")])
    opened.write([record("p2")])
    opened.close()
    part = damage(tmp_path, how=how)
    with pytest.raises(InputError, match=r"p1.*cannot be read.*--resume` measures it again"):
        store.read(tmp_path)
    resumed = Store.create(tmp_path, HEADER, resume=True)
    assert resumed.set_aside == (part,)
    assert part.with_name(part.name + store.UNREADABLE).exists()
    assert [key.content_hash for key in resumed.done()] == ["hash-of-p2"]


def test_a_part_of_another_version_is_named_and_set_aside(tmp_path):
    opened = Store.create(tmp_path, HEADER)
    part = opened.write([record("p1")])
    opened.close()
    pd.read_parquet(part).drop(columns="x_norm").to_parquet(part)
    with pytest.raises(InputError, match="another version of projlab: it lacks x_norm"):
        store.read(tmp_path)
    assert Store.create(tmp_path, HEADER, resume=True).set_aside == (part,)


def test_an_environment_that_cannot_be_read_is_bad_input(tmp_path):
    opened = Store.create(tmp_path, HEADER)
    (tmp_path / store.ENVIRONMENTS).write_text("{")
    with pytest.raises(InputError, match=r"environment\.json cannot be read"):
        opened.describe_environment("here", {})


def test_files_have_the_mode_of_any_new_file(tmp_path):
    before = os.umask(0o022)
    try:
        opened = Store.create(tmp_path / "run", HEADER)
        opened.write([record()])
        modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "run").rglob("*.*[!k]")}
    finally:
        os.umask(before)
    assert modes == {0o644}


HOLDS = """
import sys, time
from pathlib import Path
from projlab_validation.store import Store

opened = Store.create(Path({folder!r}), {header!r}, resume=True)
print("held", flush=True)
time.sleep(600)
"""


def test_one_process_at_a_time_and_a_kill_leaves_no_lock(tmp_path):
    folder = tmp_path / "run"
    script = textwrap.dedent(HOLDS).format(folder=str(folder), header=HEADER)
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for flag in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=f"in use by process {holder.pid} on .*, since 20"):
            Store.create(folder, HEADER, **flag)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (folder / lock.NAME).exists()
    taken = Store.create(folder, HEADER, resume=True)
    taken.write([record()])
    taken.close()
    assert not (folder / lock.NAME).exists()


def test_a_folder_that_knows_no_locks_is_used_with_a_warning(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "_lock", unsupported)
    with pytest.warns(UserWarning, match="cannot be locked"):
        Store.create(tmp_path, HEADER)


def test_a_page_half_written_before_a_kill_is_cleared_away(tmp_path):
    Store.create(tmp_path, HEADER).close()
    (tmp_path / f"{store.TEMPORARY}page").mkdir()
    (tmp_path / f"{store.TEMPORARY}page" / "report.html").write_text("half")
    Store.create(tmp_path, HEADER, resume=True).close()
    assert not list(tmp_path.rglob(f"{store.TEMPORARY}*"))
