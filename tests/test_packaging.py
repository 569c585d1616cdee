"""What an installed projlab promises before anything is computed."""

import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, metadata, version
from importlib.resources import files
from pathlib import Path

import pytest

import projlab

PUBLIC_NAMES = {
    "Multipliers",
    "NotPolishedWarning",
    "PolyhedralProjector",
    "Polyhedron",
    "AccuracyError",
    "AffineConstraint",
    "Certificate",
    "Diagnosis",
    "InconsistentError",
    "InputError",
    "MemoryLimitError",
    "ProjlabError",
    "Projector",
    "RankDeficientError",
    "cat",
    "certify",
    "constrain",
    "diagnose",
    "expr",
    "load",
    "nn",
    "project",
    "projector",
    "variants",
}
# python-flint is not among them: sympy, which torch brings, takes it wherever it is installed.
SUITE = {
    "cvxpy",
    "joblib",
    "matplotlib",
    "pandas",
    "projlab_reports",
    "projlab_validation",
    "pyarrow",
}


def modules_after(statement: str) -> set[str]:
    """Run a statement in a new interpreter and return the names of the modules it leaves loaded."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_version_is_stated_once():
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    stated = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"]
    assert projlab.__version__ == stated
    assert version("projlab") == stated


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_name_is_exported_and_documented(name):
    assert name in projlab.__all__
    assert name in dir(projlab)
    assert getattr(projlab, name).__doc__


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("diagnose", "projlab.system.diagnosis"),
        ("projector", "projlab.engine.projector"),
        ("variants", "projlab.engine.variants"),
    ],
)
def test_function_keeps_its_name_when_its_module_is_imported(name, home):
    module = importlib.import_module(home)
    assert getattr(projlab, name) is getattr(module, name)


def test_nothing_else_is_public():
    assert set(projlab.__all__) - {"__version__"} == PUBLIC_NAMES


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        projlab.no_such_name  # noqa: B018  the access is the test


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("InputError", ValueError),
        ("InputError", "ProjlabError"),
        ("InconsistentError", "ProjlabError"),
        ("RankDeficientError", "ProjlabError"),
        ("AccuracyError", "ProjlabError"),
        ("MemoryLimitError", "ProjlabError"),
    ],
)
def test_error_derives_from(name, base):
    expected = getattr(projlab, base) if isinstance(base, str) else base
    assert issubclass(getattr(projlab, name), expected)


def test_four_variants_are_listed():
    assert {"single_row", "pinv", "qr", "cholesky"} <= set(projlab.variants())


def test_import_loads_neither_torch_nor_numpy():
    loaded = modules_after("import projlab")
    assert not loaded & {"torch", "numpy", "scipy"}


def test_command_line_starts_without_torch_or_the_suite():
    loaded = modules_after("import projlab.cli")
    assert not loaded & (SUITE | {"torch", "numpy", "scipy"})


def test_engine_loads_without_the_suite():
    loaded = modules_after("from projlab import projector\nprojector([[1.0, 1.0]], [1.0])")
    assert "torch" in loaded
    assert not loaded & SUITE


def test_reports_never_load_torch():
    package = importlib.import_module("projlab_reports")
    names = [
        "projlab_reports" if file.stem == "__init__" else f"projlab_reports.{file.stem}"
        for folder in package.__path__
        for file in Path(folder).glob("*.py")
    ]
    assert names
    assert "torch" not in modules_after(f"import {', '.join(sorted(names))}")


def test_type_information_ships():
    assert files("projlab").joinpath("py.typed").is_file()
    assert "Typing :: Typed" in metadata("projlab").get_all("Classifier")


def test_console_script_is_the_command_line():
    (script,) = entry_points(group="console_scripts", name="projlab")
    assert script.value == "projlab.cli:main"


def test_all_real_systems_ship():
    data = files("projlab_validation").joinpath("data")
    names = {entry.name for entry in data.iterdir()}
    assert sum(name.endswith(".npz") for name in names) == 49
    assert {"INDEX.csv", "README.md"} <= names
