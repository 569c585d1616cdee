"""Gradients against exact ones: wrong ones are seen."""

import pytest
import torch

import projlab
from projlab_validation import gradients
from tests.validation.planted import verdicts_of


@pytest.mark.parametrize("compared", [2**22, 100])
def test_wrong_gradients_are_seen(compared, monkeypatch):
    monkeypatch.setattr(gradients, "COMPARED", compared)
    assert verdicts_of("spectra_1_10x20", "gradients") == {"pass"}

    class HalfGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * (1 + 1e-9)

    honest = projlab.project
    for which in range(3):

        def sabotaged(x, A, b, variant, which=which):
            inputs = [x, A, b]
            inputs[which] = HalfGradient.apply(inputs[which])
            return honest(*inputs, variant)

        monkeypatch.setattr(gradients, "project", sabotaged)
        assert verdicts_of("spectra_1_10x20", "gradients") == {"fail"}
