"""`projlab bench` hands over to the checkout; `tests/benchmarks` has what it does there."""

import pytest

from projlab.cli import bench, main


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--quick", "--full"],
        ["--quick", "--threads", "0"],
        ["--compare", "before", "after", "--margin", "0.5"],
    ],
    ids=" ".join,
)
def test_bad_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: projlab bench ")


def test_without_a_checkout_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "CHECKOUT", tmp_path)
    assert main(["bench", "--quick"]) == 2
    assert "checkout" in capsys.readouterr().err
