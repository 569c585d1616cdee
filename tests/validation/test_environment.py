"""What a run says of where it ran."""

from pathlib import Path

import pytest
import torch

from projlab_validation import environment


def test_what_shortens_float32_products_is_said():
    before = torch.get_float32_matmul_precision()
    said = {}
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            said[precision] = environment.describe()
    finally:
        torch.set_float32_matmul_precision(before)
    assert (said["highest"]["TF32"], said["high"]["TF32"]) == ("off", "on")
    for precision, description in said.items():
        assert description["float32 matmul precision"] == precision
    # Records of one are no records of the other.
    assert environment.identity(said["highest"]) != environment.identity(said["high"])


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("cli/validate.py", False),
        ("projlab_validation/judge.py", False),
        ("projlab_validation/truth.py", True),
        ("engine/projector.py", True),
    ],
)
def test_only_code_that_measures_makes_another_environment(file, counts, monkeypatch):
    before, read = environment.source_digest(), Path.read_bytes

    def changed(path):
        return read(path) + b"# changed" * path.as_posix().endswith(file)

    monkeypatch.setattr(Path, "read_bytes", changed)
    assert (environment.source_digest() != before) == counts
