"""The structure of the code: which way imports go, and what `import keras_preact` brings along."""

import ast
import graphlib
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import keras_preact
from keras_preact import exporting

PACKAGE = pathlib.Path(__file__).parents[2] / "keras_preact"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}

# From the top down; a file may import what stands below it, and its own folder. In a room it may import what stands
# below it there, and what stands below the room.
ORDER = {
    "": [
        *("__init__", "__main__", "cli", "commands"),
        "laboratory",
        *("transfer", "training", "exporting", "data"),  # what makes it practical
        *("backbone", "resnets", "zoo", "weights", "network"),  # what people install
        *("keras_hooks", "files", "hdf5", "locks", "names", "errors", "bounds", "types", "version"),
    ],
    "laboratory": ["reproduce", "sweep", "analysis", "table1", "__init__"],
    "network": [
        *(
            "deepening",
            "copies",
            "costs",
            "frozen",
            "model",
            "weights_files",
            "loaded",
            "claims",
            "named_weights",
            "checks",
            "build",
        ),
        *("unit_layers", "layers"),
        *(
            "registry",
            "shapes",
            "initializers",
            "parts",
            "units",
            "families",
            "spec",
            "unit_spec",
            "shortcuts",
            "environment",
            "replicas",
            "__init__",
        ),
    ],
}
# What imports no Keras, nor anything that does: what the command line shows without computing.
WITHOUT_KERAS = (
    *("keras_hooks", "files", "hdf5", "locks", "names", "errors", "bounds", "types", "cli", "commands"),
    *(f"network.{name}" for name in ("units", "families", "spec", "unit_spec", "shortcuts", "environment", "parts")),
    *(f"network.{name}" for name in ("registry", "shapes", "checks", "claims", "costs")),
    *("weights.cards", "weights.cuts", "weights.preprocessing", "weights.schema", "weights.store"),
    "weights.download",
    *("data", "data.augment", "data.cifar", "data.dataset", "data.digits", "data.folders"),
    *("training.recipe", "training.recipes", "training.strategy_table", "training.launcher", "training.signals"),
    *("transfer.rule", "transfer.trunk", "exporting", "exporting.format_table"),
)
ON_NUMPY = {**os.environ, "KERAS_BACKEND": "numpy"}  # Keras is imported in a third of the time, and without TensorFlow


def place(path):
    """Returns (room, part) of a file: the room is "" at the top, the part the folder or file in it."""
    parts = [part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts]
    return (parts[0], parts[1]) if parts[0] in ORDER else ("", parts[0])


def is_below(path, names):
    """Returns whether what `keras_preact.<names>` is stands below a file."""
    room, part = place(path)
    if room and names[0] == room:
        return len(names) > 1 and names[1] in ORDER[room][ORDER[room].index(part) :]
    return names[0] in ORDER[""][ORDER[""].index(room or part) :]


def imports(tree):
    """Returns (module, when it is imported: "at import", "in a function", or "never", for types alone) of each."""
    when = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            when |= {id(inner): "in a function" for inner in ast.walk(node) if inner is not node}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            when |= {id(inner): "never" for part in node.body for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from ((name, when.get(id(node), "at import")) for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards_and_tensorflow_is_imported_where_it_is_needed(path):
    for name, when in imports(ast.parse(path.read_text())):
        names = name.split(".")
        if names[0] == "keras_preact":
            in_room = when == "never" and names[1] == place(path)[0]  # a type may be of any file of the room
            assert in_room or is_below(path, names[1:]), f"{path.name} imports {name}"
        if when == "at import":
            assert names[0] not in ("tensorflow", "jax", "torch"), f"{path.name} imports {name} at its top"


def module_name(path):
    return ".".join(["keras_preact", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def test_no_files_import_each_other_in_a_circle():
    modules, graph = {module_name(path): path for path in FILES}, {}
    for module, path in modules.items():
        found = {name for name, when in imports(TREES[path]) if when != "never" and name.startswith("keras_preact.")}
        graph[module] = {name if name in modules else name.rpartition(".")[0] for name in found} - {module}
    graphlib.TopologicalSorter(graph).prepare()  # whose `CycleError` names the circle


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_two_files_name_tf_distribute(path):
    names = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert path.name in ("strategies.py", "replicas.py") or not any(name.startswith("tf.distribute") for name in names)


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def defined(tree):
    """Yields the names that a file defines: functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def used(tree):
    """Yields the private names that a file asks of an object or a module, by attribute, by text or by import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            yield from (argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant))
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


OWN = {name for path, tree in TREES.items() if path.name != "keras_hooks.py" for name in defined(tree)} | {"_exit"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_file_uses_private_parts_of_keras_and_tensorflow(path):
    """What is private, and used, is this package's own; `os._exit` is documented."""
    if path.name == "keras_hooks.py":
        return
    foreign = {name for name in used(TREES[path]) if is_private(name)} - OWN
    modules = {name for name, _ in imports(TREES[path]) if {"python", "src", "_src"} & set(name.split("."))}
    assert not foreign | modules


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_unpickled_and_there_is_no_lambda_layer(path):
    text = path.read_text()
    assert not any(word in text for word in ("pickle", "layers.Lambda", "allow_pickle=True", "safe_mode=False"))


def public_functions(tree):
    """Yields the public functions of a file, and the methods of its public classes that are public or special."""
    for node in ast.iter_child_nodes(tree):
        is_special = node.name.startswith("__") if isinstance(node, ast.FunctionDef) else False
        if isinstance(node, ast.FunctionDef) and (is_special or not node.name.startswith("_")):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_public_says_its_types(path):
    for function in public_functions(ast.parse(path.read_text())):
        arguments = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
        untyped = [node.arg for node in arguments if node.annotation is None and node.arg not in ("self", "cls")]
        assert not untyped, f"{function.name} of {path.name}: {untyped}"
        assert function.returns is not None, f"{function.name} of {path.name}"


def test_importing_keras_preact_imports_nothing_but_keras():
    code = (
        "import sys, keras; before = set(sys.modules); import keras_preact\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(sorted(new))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ON_NUMPY)
    assert done.stdout.strip() == "['keras_preact']"


def test_dir_and_all_are_the_public_names():
    shown = dir(keras_preact)
    assert shown == sorted(set(keras_preact.__all__))
    assert not any(inspect.ismodule(getattr(keras_preact, name)) for name in shown)
    assert [name for name in shown if name.startswith("_")] == ["__version__"]
    wanted = ["load", "from_arrays", "TrainingBatches", "Augmentation", "frozen_function", "sweep", "PreActHyperModel"]
    assert {*wanted, "Preprocessing", "reproduce_table", "ResNet164", "train"} <= set(shown)


@pytest.mark.parametrize(
    ("folder", "table"),
    [("", {**keras_preact._AT_ONCE, **keras_preact._LAZY}), ("exporting", exporting._MODULES)],
)
def test_editors_see_the_lazy_names_where_they_are(folder, table):
    tree = ast.parse((PACKAGE / folder / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    assert {alias.name: node.module for node in block.body for alias in node.names} == table


SHOWN = """
import contextlib, importlib, io, sys
sys.argv[0] = "keras-preact"
sys.modules["keras"] = sys.modules["tensorflow"] = None  # whose import is an error from here on
from keras_preact.cli import VERBS, main
calls = [["list"], ["weights", "list"], ["weights", "show", "resnet164.digits.digits"], ["-h"], ["weights", "-h"]]
for call in [*calls, *([*verb.split(), "--help"] for verb in VERBS)]:
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        main(call)
    assert shown.getvalue(), call
for name in ALL:
    importlib.import_module(f"keras_preact.{name}")
"""


def test_what_computes_nothing_imports_no_keras():
    code = SHOWN.replace("ALL", repr(WITHOUT_KERAS))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_package_runs_as_a_module_and_tells_its_version():
    command = [sys.executable, "-m", "keras_preact", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == f"keras-preact {keras_preact.__version__}\n"


def test_all_can_be_imported_without_keras_tuner():
    code = "import sys; sys.modules['keras_tuner'] = None\nfrom keras_preact import *\nprint(sorted(globals()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ON_NUMPY)
    assert {*keras_preact.__all__} - {*ast.literal_eval(done.stdout)} == {"PreActHyperModel"}
