"""What the suite varies: the same on every machine, so that any two results can be compared.

A device or a peer that is absent is skipped when a benchmark is set up.
"""

DTYPES = ("float64", "float32")
DEVICES = ("cpu", "cuda")

SIZES = ("1x10", "3x10", "10x100", "100x1000", "10x10000", "500x2000", "1x1000000", "1000x5000")
LARGE = ("10x10000", "500x2000", "1x1000000", "1000x5000")
"""Left out by `projlab bench --quick`."""
