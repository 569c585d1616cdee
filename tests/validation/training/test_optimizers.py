"""Every optimizer of torch, and its learning rates."""

import pytest
import torch

from projlab_validation.training.optimizers import LAST, OPTIMIZERS
from tests.validation.training.runs import BY_NAME


def test_every_optimizer_of_torch_is_there():
    classes = {choice.cls for choice in OPTIMIZERS}
    known = {getattr(torch.optim, name) for name in torch.optim.__all__ if name[0].isupper()}
    assert known - classes <= {torch.optim.Optimizer, torch.optim.SparseAdam}


def test_the_rate_is_held_and_then_falls():
    adam = BY_NAME["Adam"]
    assert adam.factor(0, 100) == adam.factor(50, 100) == 1.0
    assert adam.factor(100, 100) == pytest.approx(LAST)
