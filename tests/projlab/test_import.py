"""What `import projlab` does, and does not do."""

import subprocess
import sys

import pytest

import projlab

PUBLIC = {
    "AffineConstraint",
    "projector",
    "Projector",
    "project",
    "diagnose",
    "Diagnosis",
    "variants",
    "ProjlabError",
    "InputError",
    "InconsistentError",
    "RankDeficientError",
    "AccuracyError",
    "MemoryLimitError",
}


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_lazy():
    """The command line starts without torch, numpy and scipy."""
    program = """
import sys, projlab
projlab.__version__, dir(projlab), projlab.__all__
print([name for name in ("torch", "numpy", "scipy") if name in sys.modules])
"""
    assert run(program).strip() == "[]"


def test_every_public_name_is_there():
    assert set(projlab.__all__) >= PUBLIC
    assert set(dir(projlab)) >= PUBLIC
    for name in projlab.__all__:
        assert getattr(projlab, name) is not None
    with pytest.raises(AttributeError, match="module 'projlab' has no attribute 'frobnicate'"):
        _ = projlab.frobnicate


@pytest.mark.parametrize(
    "first",
    [
        "import projlab.engine.projector, projlab.engine.variants, projlab.system.diagnosis",
        "from projlab import projector, variants, diagnose",
        "from projlab import *",
    ],
)
def test_functions_stay_functions_after_the_submodules_of_their_names(first):
    program = f"""
{first}
import projlab
from projlab import projector, variants, diagnose
import projlab.engine.projector, projlab.engine.variants, projlab.system.diagnosis
for name in ("projector", "variants", "diagnose"):
    assert type(getattr(projlab, name)).__name__ == "function", name
assert "qr" in projlab.variants()
assert projlab.projector([[1.0, 1.0]], 1.0).rank == 1
assert projlab.diagnose([[1.0, 1.0]], 1.0).rank == 1
from projlab.engine.variants import REGISTRY
assert len(REGISTRY) == len(projlab.variants())
"""
    run(program)


def test_the_engine_imports_no_more_than_torch_and_numpy():
    """scipy only where sparse matrices of scipy's come in, or numba brings it; no suite at all."""
    program = """
import os, sys, projlab
os.environ["PROJLAB_NATIVE"] = "0"
P = projlab.projector([[1.0, 1.0]], 1.0)
import torch
P(torch.zeros(2, dtype=torch.float64))
heavy = ("scipy", "pandas", "cvxpy", "flint", "matplotlib", "projlab_validation", "projlab_reports")
print([name for name in heavy if name in sys.modules])
"""
    assert run(program).strip() == "[]"


def test_no_answer_imports_sympy():
    """Which takes a second or more: torch.broadcast_shapes does so, and optimizers of torch."""
    program = """
import sys, torch, projlab
A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
x = torch.ones(4, 3, dtype=torch.float64)
for variant in ("auto", *projlab.variants()):
    own = A[:1] if variant == "single_row" else A
    P = projlab.projector(own, 0.0, variant=variant)
    P(x), P(x[0]), P(x, torch.zeros(4, len(own), dtype=torch.float64))
projlab.projector(A, 0.0, lb=-1)(x)
projlab.projector(A[:1], 0.0, lb=-1)(x, b=torch.zeros(4, 1, dtype=torch.float64))
projlab.nn.AffineProjection(A.float(), torch.zeros(2))(x.float())
projlab.expr(torch.nn.Parameter(torch.ones(3))) + torch.zeros(2, 1, 3)
print("sympy" in sys.modules)
"""
    assert run(program).strip() == "False"


def test_every_public_name_is_documented():
    for name in PUBLIC:
        assert getattr(projlab, name).__doc__, name
