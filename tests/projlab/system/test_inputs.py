"""What becomes of tensors as callers give them; every refusal is in `test_bad_input`."""

import numpy as np
import pytest
import torch

from projlab.errors import InputError
from projlab.system.inputs import check_vector, require_finite, to_tensor, working_dtype

F64 = torch.float64
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (3, F64),
        (True, F64),
        ([1, 2], F64),
        (np.ones(2, dtype=np.int8), F64),
        (np.ones(2, dtype=np.float32), torch.float32),
        (np.ones(2, dtype=np.float16), torch.float16),
        (np.ones(2, dtype=">f8"), F64),
        (torch.ones(2, dtype=torch.bfloat16), torch.bfloat16),
        (torch.ones(2, dtype=torch.int32), F64),
    ],
)
def test_numbers_become_floating_point(value, dtype):
    assert to_tensor(value, "t").dtype == dtype


def test_a_tensor_is_copied_and_leaves_its_graph():
    t = torch.ones(2, requires_grad=True)
    copy = to_tensor(t, "t")
    assert not copy.requires_grad
    assert copy.data_ptr() != t.data_ptr()


def test_the_first_entry_that_is_not_finite_is_named():
    t = torch.ones(2, 3)
    require_finite(t, "t")
    require_finite(torch.zeros(0), "t")
    t[1, 0], t[1, 2] = torch.nan, torch.inf
    with pytest.raises(InputError, match=r"t\[1\]\[0\] is nan; .* \(2 entries are not\)"):
        require_finite(t, "t")


def test_vectors_that_fit():
    check_vector(torch.zeros(3), 3, None, CPU)
    check_vector(torch.zeros(5, 2, 3), 3, None, CPU)
    check_vector(torch.zeros(4, 3), 3, 4, CPU)
    check_vector(torch.zeros(4, 7, 3), 3, 4, CPU)
    with pytest.raises(InputError, match=r"v has shape \(2,\)"):
        check_vector(torch.zeros(2), 3, None, CPU, "v")


@pytest.mark.parametrize(
    ("dtype", "work"),
    [
        (F64, F64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_half_precision_is_worked_in_single(dtype, work):
    assert working_dtype(dtype) == work
