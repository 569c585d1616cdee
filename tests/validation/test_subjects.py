"""Subjects are found by name or refused by it; the adapters of peers project."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from projlab import InputError, projector
from projlab.cli import main
from projlab_validation import subjects
from projlab_validation.judge import judge
from projlab_validation.measure import measure
from projlab_validation.problems import catalogue
from projlab_validation.record import table
from projlab_validation.subjects import rows
from tests.validation.asked import BRIEF


def test_where_nothing_may_be_given_to_a_subject_nothing_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--subject", "projlab:project", "--problem", "pg_btheta_57_ieee"]
    assert main(["validate", "--jobs", "1", *arguments]) == 3


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("nosuchpackage.module:f", "No module named 'nosuchpackage'"),
        ("faults:nosuch", "has no 'nosuch'"),
        ("faults:FAULTS", "not callable"),
        ("faults", "want package.module:callable"),
        ("faults:", "want package.module:callable"),
    ],
)
def test_what_cannot_be_called_is_bad_usage(spec, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "--subject", spec, "--problem", "article_1"]) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_module_of_the_current_folder_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_subject.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="importing broken_subject failed: ZeroDivisionError"):
        subjects.load("broken_subject:project")


def test_a_module_that_uses_what_is_deprecated_is_imported_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "dated_subject.py").write_text(
        "import warnings\nwarnings.warn('dated', DeprecationWarning)\nproject = print\n"
    )
    monkeypatch.chdir(tmp_path)
    assert subjects.load("dated_subject:project") is print


def test_an_adapter_whose_package_is_missing_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    monkeypatch.delitem(sys.modules, "projlab_validation.subjects.cvxpy", raising=False)
    with pytest.raises(InputError, match="cvxpy"):
        subjects.load("projlab_validation.subjects.cvxpy:project")


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, id=peer.name, marks=pytest.mark.needs(peer.distribution))
        for peer in subjects.PEERS
        if peer.equations
    ],
)
def test_adapters_project(peer):
    assert peer in subjects.installed_peers()
    problem = next(catalogue(names=["article_3"], dtypes=["float64"]))
    frame = judge(table(measure(problem, [peer.spec], BRIEF)).to_pandas()).set_index("check")
    assert frame.loc["projection", "forward_error"] < 1e-6
    assert frame.loc["stacked_points", "proven_at_most"] < 1e-6


KINDS = {
    "equations": {"A": [[1.0, 1.0, 1.0]], "b": [1.0]},
    "box": {"lb": [0.0, 0.0, -torch.inf], "ub": [1.0, torch.inf, 0.5]},
    "simplex": {"A": [[1.0, 1.0, 1.0]], "b": [1.0], "lb": [0.0, 0.0, 0.0]},
    "inequalities": {"G": [[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]], "h": [0.5, torch.inf]},
    "all": {
        "A": [[1.0, 1.0, 1.0]],
        "b": [1.0],
        "G": [[1.0, -1.0, 0.0]],
        "h": [0.25],
        "lb": [0.0, 0.0, 0.0],
        "ub": [0.5, torch.inf, 0.75],
    },
}
WITHIN = {"jaxopt": 5e-3, "botorch": 1e-7, "cvxpylayers": 1e-7, "qpth": 1e-8, "qpax": 1e-6}
"""What their own tolerances promise of these: jaxopt's OSQP stops at 1e-3."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its authors' concern
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(peer, id=peer.name, marks=pytest.mark.needs(peer.distribution))
        for peer in subjects.PEERS
        if peer.bounds
    ],
)
def test_adapters_project_onto_polyhedra(peer, kind):
    parts = {name: torch.tensor(value, dtype=torch.float64) for name, value in KINDS[kind].items()}
    x = torch.tensor([[0.9, 0.3, -2.0], [4.0, 0.1, 0.2]], dtype=torch.float64)
    asked = [parts.get(name) for name in ("A", "b", "G", "h", "lb", "ub")]
    answer = subjects.load(peer.spec)(x, *asked)
    assert answer.shape == x.shape
    assert float((answer - projector(**parts)(x)).abs().max()) <= WITHIN[peer.name]


def test_as_rows_bounds_keep_what_no_point_satisfies_and_lose_what_every_one_does():
    inf = torch.inf
    x, lb, ub = torch.zeros(3), torch.tensor([0.0, -inf, inf]), torch.tensor([inf, 2.0, -inf])
    parts = rows.program(x, None, None, torch.ones(2, 3), torch.tensor([1.0, inf]), lb, ub)
    assert (len(parts.A), len(parts.b)) == (0, 0)
    assert parts.G.tolist() == [[1, 1, 1], [-1, 0, 0], [0, 0, -1], [0, 1, 0], [0, 0, 1]]
    assert parts.h.tolist() == [1, 0, -inf, 2, -inf]


@pytest.mark.needs("jax", "jaxopt")
@pytest.mark.parametrize("stood", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jaxopt_keeps_the_dtype_and_leaves_float64_as_it_stood(dtype, stood, request):
    import jax

    # other tests switch it on for their whole process
    before = jax.config.jax_enable_x64
    request.addfinalizer(lambda: jax.config.update("jax_enable_x64", before))
    jax.config.update("jax_enable_x64", stood)
    project = subjects.load("projlab_validation.subjects.jaxopt:project")
    A, b, x = torch.ones(1, 2, dtype=dtype), torch.ones(1, dtype=dtype), torch.zeros(3, 2).to(dtype)
    answer = project(x, A, b)
    assert jax.config.jax_enable_x64 == stood
    assert answer.dtype == dtype
    assert torch.allclose(answer, torch.full_like(x, 0.5))


def test_every_adapter_is_listed_and_each_extra_peer_is_pinned():
    root = Path(__file__).parents[2]
    modules = {p.stem for p in Path(subjects.__file__).parent.glob("*.py")} - {"__init__", "rows"}
    assert {peer.name for peer in subjects.PEERS} == modules
    assert len(subjects.PEERS) == len(modules)
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    declared = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        declared += extra
    pinned = (root / "constraints.txt").read_text("utf-8")
    for peer in subjects.PEERS:
        assert f"\n{peer.distribution}==" in pinned
        # of another numpy by its metadata, and so in no extra: `make test-all` installs it alone
        alone = peer.distribution == "qpth"
        assert any(line.startswith(peer.distribution) for line in declared) != alone


def test_installed_peers_imports_none_of_them():
    program = (
        "import sys; from projlab_validation.subjects import installed_peers\n"
        "found = {peer.name for peer in installed_peers()}\n"
        "assert {'article', 'unpivoted_qr', 'scipy_projections', 'cvxpy'} <= found, found\n"
        "assert not {'cvxpy', 'jax', 'jaxopt', 'botorch', 'qpax', 'qpth'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_peer_that_is_not_installed_is_not_offered(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: iter(()))
    assert subjects.installed_peers() == ()
