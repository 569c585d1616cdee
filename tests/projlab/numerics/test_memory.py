"""What is refused for its size, before anything is allocated."""

import os

import pytest
import torch

from projlab import MemoryLimitError
from projlab.numerics import memory

CPU = torch.device("cpu")


def test_half_of_the_memory_is_the_limit_where_it_is_free(monkeypatch):
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for told in (None, whole):
        monkeypatch.setattr(memory, "available", lambda told=told: told)
        assert whole - 1 <= 2 * memory.limit(CPU) <= whole


def test_memory_in_use_is_not_there_to_be_taken(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 12345)
    assert memory.limit(CPU) == 12345


def test_what_is_available_is_read_from_the_system(tmp_path):
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 100 kB\nMemAvailable:   7 kB\n")
    assert memory.available(told) == 7 * 1024
    for nothing in ("MemTotal: 100 kB\n", "MemAvailable: ? kB\n", "MemAvailable:\n"):
        told.write_text(nothing)
        assert memory.available(told) is None
    assert memory.available(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("free", "reserved", "limit"), [(90, 0, 50), (20, 0, 20), (20, 15, 25), (0, 10, 0)]
)
def test_memory_in_use_on_a_gpu_is_not_there_either(free, reserved, limit, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 if reserved else 0)
    assert memory.limit(torch.device("cuda")) == limit


@pytest.mark.parametrize("error", [ValueError, OSError, AttributeError])
def test_a_platform_that_does_not_tell_is_taken_to_have_16_GiB(error, monkeypatch):
    def silent(name):
        raise error(name)

    monkeypatch.setattr(os, "sysconf", silent)
    monkeypatch.setattr(memory, "available", lambda: None)
    assert memory.limit(CPU) == 8 * 2**30


def test_what_fits_is_let_through_and_a_byte_more_is_not(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda device: 1000)
    memory.require(1000, "a matrix", CPU)
    with pytest.raises(MemoryLimitError, match=r"a matrix needs 1,001 bytes, more than the 1,000"):
        memory.require(1001, "a matrix", CPU)


def test_bytes_of_a_factorisation():
    """At least E, an orthonormal factor of its size and a triangle, for every system."""
    for m, n in ((3, 10), (10, 3), (1, 1)):
        for dtype in (torch.float32, torch.float64):
            least = dtype.itemsize * (2 * m * n + min(m, n) ** 2)
            one = memory.factorisation_bytes(m, n, dtype)
            assert least <= one <= 4 * dtype.itemsize * (m * n + min(m, n) ** 2)
            assert memory.factorisation_bytes(m, n, dtype, batch=7) == 7 * one
