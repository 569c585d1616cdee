"""Projection onto affine sets {x : A x = b} in PyTorch: correct, fast and proven.

The public names are listed once, in `__init__.pyi`, and imported on first use (PEP 562), so that
the command line starts without torch.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def _homes() -> dict[str, str]:
    """The module that defines each public name."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.name: str(statement.module)
        for statement in stub.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


_HOMES = _homes()
__all__ = sorted([*_HOMES, "__version__"])  # the list is the stub's


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'projlab' has no attribute {name!r}")
    home = _HOMES[name]
    if home == __name__:  # a module of the package
        return importlib.import_module(f"{home}.{name}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
