"""Bytes that an object holds in tensors."""

import torch

from benchmarks.memory import held_bytes


def test_held_bytes_counts_each_storage_once():
    W = torch.zeros(10, 10, dtype=torch.float64)
    assert held_bytes([W, W[:2], {"again": (W,)}]) == 800
    assert held_bytes([W, torch.zeros(2)], besides=[W]) == 8
