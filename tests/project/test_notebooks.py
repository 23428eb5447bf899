"""The notebooks: valid files, run from top to bottom in their quick form, in this process."""

import contextlib
import importlib.util
import pathlib
import subprocess

import keras
import matplotlib
import matplotlib.pyplot
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "notebooks"
LONGER = ("fine_tune_your_own_images",)  # in its quick form, too
NOTEBOOKS = ("why_identity_mappings_help", "fine_tune_your_own_images", "sweep_the_shortcuts")
LARGEST = 500_000  # bytes


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def run(name, cells, namespace):
    """Runs code cells as a kernel does, one after the other in one namespace; IPython's own syntax is an error."""
    for number, cell in enumerate(cells, start=1):
        exec(compile(cell.source, f"{name}[{number}]", "exec"), namespace)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Asks for the quick form, in an empty folder, with pictures that are drawn and not shown."""
    monkeypatch.setenv("KERAS_PREACT_QUICK", "1")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    yield
    for number in matplotlib.pyplot.get_fignums():
        matplotlib.pyplot.figure(number).canvas.draw()
    matplotlib.pyplot.close("all")
    keras.utils.clear_session()


def test_there_are_no_other_notebooks():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in LONGER else []) for name in NOTEBOOKS]
)
def test_a_notebook_runs_in_its_quick_form(name, quick, eager):
    namespace = {"__name__": "__main__"}
    run(name, code_cells(name), namespace)
    assert namespace["QUICK"]
    assert matplotlib.pyplot.get_fignums()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_a_valid_file_of_one_whole_run(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    cells = code_cells(name)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize("is_checkout", [True, False])
def test_the_first_cell_installs_the_package_where_it_is_missing(name, is_checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(FOLDER if is_checkout else tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    with contextlib.nullcontext() if is_checkout else pytest.raises(ModuleNotFoundError, match="in no checkout of it"):
        run(name, code_cells(name)[:1], {})
    assert [command[1:] for command in commands] == [["-m", "pip", "install", "-q", str(ROOT)]] * is_checkout
