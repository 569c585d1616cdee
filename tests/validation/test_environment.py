"""What a run says of where it ran."""

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
