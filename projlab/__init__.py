"""Projection onto affine sets {x : A x = b} in PyTorch: correct, fast and proven.

Names are imported on first use (PEP 562), so that the command line starts without torch.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from projlab import nn as nn
    from projlab.certificate import Certificate as Certificate
    from projlab.certificate import certify as certify
    from projlab.constraint import AffineConstraint as AffineConstraint
    from projlab.diagnose import Diagnosis as Diagnosis
    from projlab.diagnose import diagnose as diagnose
    from projlab.errors import AccuracyError as AccuracyError
    from projlab.errors import InconsistentError as InconsistentError
    from projlab.errors import InputError as InputError
    from projlab.errors import MemoryLimitError as MemoryLimitError
    from projlab.errors import ProjlabError as ProjlabError
    from projlab.errors import RankDeficientError as RankDeficientError
    from projlab.expressions import cat as cat
    from projlab.expressions import expr as expr
    from projlab.oneoff import project as project
    from projlab.optim import constrain as constrain
    from projlab.projector import Projector as Projector
    from projlab.projector import projector as projector
    from projlab.variants import variants as variants

__version__ = "0.1.0"

_HOME = {
    "AffineConstraint": "projlab.constraint",
    "Certificate": "projlab.certificate",
    "certify": "projlab.certificate",
    "Diagnosis": "projlab.diagnose",
    "diagnose": "projlab.diagnose",
    "AccuracyError": "projlab.errors",
    "InconsistentError": "projlab.errors",
    "InputError": "projlab.errors",
    "MemoryLimitError": "projlab.errors",
    "ProjlabError": "projlab.errors",
    "RankDeficientError": "projlab.errors",
    "cat": "projlab.expressions",
    "expr": "projlab.expressions",
    "project": "projlab.oneoff",
    "constrain": "projlab.optim",
    "Projector": "projlab.projector",
    "projector": "projlab.projector",
    "variants": "projlab.variants",
}

__all__ = [
    "AccuracyError",
    "AffineConstraint",
    "Certificate",
    "Diagnosis",
    "InconsistentError",
    "InputError",
    "MemoryLimitError",
    "Projector",
    "ProjlabError",
    "RankDeficientError",
    "__version__",
    "cat",
    "certify",
    "constrain",
    "diagnose",
    "expr",
    "nn",
    "project",
    "projector",
    "variants",
]


def __getattr__(name: str) -> Any:
    if name == "nn":
        return importlib.import_module("projlab.nn")
    if name not in _HOME:
        raise AttributeError(f"module 'projlab' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `projlab.projector` the function when the submodule of that name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
