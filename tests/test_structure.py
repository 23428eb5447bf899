"""The structure of the code: which way imports go, and what `import keras_preact` brings along."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "keras_preact"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the top down; a file may import what stands below it, and its own folder.
ORDER = [
    "__init__",
    "cli",
    "commands",
    "reproduce",
    "tuning",
    "analysis",
    "transfer",
    "training",
    "exporting",
    "data",
    "costs",
    "deepening",
    "backbone",
    "zoo",
    "weights",
    "frozen",
    "model",
    "claims",
    "copying",
    "checks",
    "networks",
    "layers",
    "shapes",
    "units",
    "shortcuts",
    "families",
    "spec",
    "unit_spec",
    "files",
    "locks",
    "names",
    "errors",
    "bounds",
    "version",
]
SPEC_LEVEL = (
    *("units", "shortcuts", "families", "spec", "unit_spec"),
    *("files", "locks", "names", "errors", "bounds", "version"),
)


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree):
    """Returns (module, whether it is imported when the file is) of every import."""
    top = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            top |= {id(inner) for inner in ast.walk(node) if inner is not node}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name, id(node) not in top) for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards_and_tensorflow_is_imported_where_it_is_needed(path):
    for name, at_import in imports(ast.parse(path.read_text())):
        names = name.split(".")
        if names[0] == "keras_preact":
            below = ORDER[ORDER.index(part(path)) :]
            assert names[1] in below, f"{path.name} imports {name}"
        if at_import:
            assert names[0] not in ("tensorflow", "jax", "torch"), f"{path.name} imports {name} at its top"
            if part(path) in SPEC_LEVEL:
                assert names[0] != "keras", f"{path.name} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_file_names_tf_distribute(path):
    names = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert path.name == "strategies.py" or not any(name.startswith("tf.distribute") for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_unpickled_and_there_is_no_lambda_layer(path):
    text = path.read_text()
    assert not any(word in text for word in ("pickle", "layers.Lambda", "allow_pickle=True", "safe_mode=False"))


def test_importing_keras_preact_imports_nothing_but_keras():
    code = (
        "import sys, keras; before = set(sys.modules); import keras_preact\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(new))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "['keras_preact']"
