"""What of delimited text is a header, b, names or an index, and what is refused with its place."""

import numpy as np
import pandas as pd
import pytest

from projlab import InputError, load

from .written import csv, written

FRAME = pd.DataFrame([[1.5, 2.0], [4.0, -5.25]], columns=["u", "v"])
WANTED = FRAME.to_numpy()


def read(folder, *lines):
    return load(written(folder, "s.csv", csv(*lines)))


class TestHeader:
    @pytest.mark.parametrize(
        ("frame", "options", "says"),
        [
            (FRAME, {"index": False}, "a header: 2 variables (u, v)"),
            (FRAME, {}, "column 1 counts the rows: taken as an index and left out"),
            (FRAME.set_index(pd.Index(["x", "y"])), {}, "names in column 1"),
            (FRAME.set_index(pd.Index(["x", "y"], name="name")), {}, "names in column 1"),
            (FRAME.rename(columns={"u": 0, "v": 1}), {}, "a header: 2 variables (0, 1)"),
            (FRAME, {"sep": ";"}, "column 1 counts the rows"),
            (FRAME, {"sep": "\t", "encoding": "utf-8-sig"}, "column 1 counts the rows"),
            (FRAME, {"sep": "\t", "encoding": "utf-16"}, "column 1 counts the rows"),
            (FRAME.reset_index(), {"index": False}, "column 1 counts the rows"),
            (FRAME.reset_index(names="Unnamed: 0"), {}, "column 2 counts the rows"),
            (FRAME.reset_index().reset_index(), {}, "column 3 counts the rows"),
        ],
    )
    def test_a_frame_of_pandas_is_its_numbers(self, frame, options, says, tmp_path):
        path = tmp_path / "s.csv"
        frame.to_csv(path, **options)
        system = load(path)
        np.testing.assert_array_equal(system.A, WANTED)
        assert says in "; ".join(system.notes)
        assert system.names == (("x", "y") if "names" in says else None)

    @pytest.mark.parametrize("index", [True, False])
    def test_b_and_names_are_told_with_their_columns(self, index, tmp_path):
        path = tmp_path / "s.csv"
        frame = FRAME.rename(columns={"u": 0, "v": 1}).assign(b=[7, 8], name=["x", "y"])
        frame.to_csv(path, index=index)
        A, b, _, names, notes = load(path)
        np.testing.assert_array_equal(A, WANTED)
        np.testing.assert_array_equal(b, [7, 8])
        assert names == ("x", "y")
        columns = (4, 5) if index else (3, 4)
        said = f"2 variables (0, 1), b in column {columns[0]} ('b'), names in column {columns[1]}"
        assert notes[0] == f"the first line is a header: {said}"

    def test_without_one_every_column_is_a_variable(self, tmp_path):
        system = read(tmp_path, "1,2,3", "4,5,7")
        assert system.notes == ("no header line: every column is a variable",)

    def test_titles_may_begin_with_digits(self, tmp_path):
        assert "(1st, 2019Q2, 2019-03)" in read(tmp_path, "1st,2019Q2,2019-03", "1,2,3").notes[0]

    def test_comments_are_told(self, tmp_path):
        np.savetxt(tmp_path / "s.csv", WANTED, header="u v")
        system = load(tmp_path / "s.csv")
        np.testing.assert_array_equal(system.A, WANTED)
        assert "1 comment line, by #" in system.notes

    def test_excels_own_word_for_the_delimiter_is_taken(self, tmp_path):
        np.testing.assert_array_equal(read(tmp_path, "sep=;", "u;v", "1;2").A, [[1, 2]])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (("1,O.5,2", "3,4,5"), "numbers and titles in line 1: column 2 is 'O.5'"),
        (("1.5,2,b", "3,4,5"), "numbers and titles in line 1: column 3 is 'b'"),
        (("u,v,3", "3,4,5"), "numbers and titles in line 1: column 3 is '3'"),
        ((",2,5", "1,2,3"), "numbers and titles in line 1: column 1 is ''"),
        (("0,1,2", "3,4,5"), "'0,1,2' in line 1, which may be titles or an equation"),
        (("0,1", "1,0"), "which may be titles or an equation"),
        (("0,1,2,3", "5,6,7,8"), "which may be titles or an equation"),
        (("0,1.0,2.5", "1,3.0,4.5"), "counts 0, 1, … in column 1, which may be an index"),
        (("u,v,b,b", "1,2,3,4"), "'b' in column 3, 'b' in column 4; want one column"),
        (("u,v,b,b.1", "1,2,3,4"), "'b' in column 3, 'b.1' in column 4; want one column"),
        (("u,b,rhs", "1,2,3"), "'b' in column 2, 'rhs' in column 3; want one column"),
        (("name,u,names", "a,2,c"), "one column for the names of the rows"),
        (("u,u,b", "1,2,3"), "the title 'u' over columns 1 and 2"),
        (("u,,b", "1,2,3"), "no title over column 2"),
        (("u,Unnamed: 1,b", "1,2,3"), "no title over column 2 ('Unnamed: 1')"),
        ((",Unnamed: 0,u", "0,5,2", "1,7,1"), "column 2 without a title of its own"),
        (("# u,v,b", "1,2,3"), "the title 'b' in a comment, in line 1, and no header line"),
        (("# name v", "1 2"), "the title 'name' in a comment, in line 1, and no header line"),
        ((",u", "5,2", "7,1"), "column 1 without a title of its own"),
        (("gene,u", "abc,2"), "'abc' where a number belongs, in line 2, column 1"),
        (("u,v", "1,2", "", "3,x"), "'x' where a number belongs, in line 4, column 2"),
        (("u,v", "1,1_0"), "'1_0' where a number belongs, in line 2, column 2"),
        (("u;v", "1;1,5"), "'1,5' where a number belongs, in line 2, column 2 (a decimal point"),
        (("u,v", "1,١"), "where a number belongs, in line 2, column 2"),
        (("u,v", "1,1e999"), "holds A[0, 1] = inf in line 2, column 2"),
        (("u,v", "1,0x10"), "'0x10' where a number belongs"),
        (("u,v", "1,-1d-400"), "'-1d-400' where a number belongs, in line 2, column 2 (in float64"),
        (("u,v", "1,2,3"), "has 3 cells in line 2, not 2"),
        (("u,v", '1,"2'), "cannot be read as comma-separated numbers"),
        (("0,5;1,5", "3;4"), "'0,5' where a number belongs, in line 1, column 1 (a decimal point"),
        (("1 000;2 500", "3;4"), "'1 000' where a number belongs, in line 1, column 1"),
        (("u;5 %", "3;4"), "'5 %' where a number belongs, in line 1, column 2"),
        (("1O", "2"), "'1O' where a number belongs, in line 1, column 1"),
    ],
)
def test_what_may_be_two_things_is_refused_with_its_place(lines, says, tmp_path):
    with pytest.raises(InputError) as refusal:
        read(tmp_path, *lines)
    assert says in str(refusal.value)
    assert "; want " in str(refusal.value)


def test_between_tabs_a_comma_parts_nothing(tmp_path):
    """1,5 is no two numbers."""
    with pytest.raises(InputError, match="'1,5' where a number belongs, in line 1, column 1"):
        load(written(tmp_path, "s.tsv", csv("1,5", "2,5")))
    np.testing.assert_array_equal(load(written(tmp_path, "t.TSV", csv("1", "2"))).A, [[1], [2]])


def test_bytes_that_are_no_text_are_refused_with_their_place(tmp_path):
    path = written(tmp_path, "s.csv", b"u,v\n1,2\n3,\xe9\n")
    with pytest.raises(InputError, match=r"in line 3, column 3 is not UTF-8"):
        load(path)


@pytest.mark.parametrize("cell", ["1.5D+03", "1.5d3", "1500", "+1.5e+03", "1500.", " 1500 "])
def test_a_number_is_read_whole(cell, tmp_path):
    np.testing.assert_array_equal(read(tmp_path, f"{cell},.5").A, [[1500, 0.5]])
