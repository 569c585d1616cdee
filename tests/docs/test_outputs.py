"""A page that shows something else than what comes out is told."""

import pytest

from .outputs import matches, tokens


@pytest.mark.parametrize(
    ("wanted", "printed", "equal"),
    [
        ("rank 2 of 3", "rank 2\nof 3", True),
        ("rank 2 of 3", "rank 3 of 3", False),
        ("tensor([0.5000, 0.0000])", "tensor([5.0001e-01, 7.4e-17])", True),
        ("tensor([0.5000, 0.0000])", "tensor([0.5100, 0.0000])", False),
        ("tensor([0.5000])", "tensor([0.5000, 0.5000])", False),
        ("a … c", "a b b c", True),
        ("a … c", "a b b d", False),
        ("a … c …", "a c", True),
        ("a … c …", "b a c d", False),
        ("set-up 2.69 ms, then", "set-up 900 µs, then", True),
        ("set-up 2.69 ms, then", "set-up ages, then", False),
        ("qr 1e-16 2 ms 3 µs 4 µs 8\nUse", "qr 3e-16 2 ms 30 µs 4 ms 100\nUse", True),
        ("qr 1e-16 2 ms 3 µs 4 µs 8\nUse", "pinv 3e-16 2 ms 30 µs 4 ms 100\nUse", False),
    ],
)
def test_outputs_are_compared(wanted, printed, equal):
    assert matches(tokens(wanted), tokens(printed)) is equal
