"""The README and the pages of docs/: their code runs, their commands exist, and the map is that of the code."""

import ast
import contextlib
import importlib.util
import io
import pathlib
import re
import shlex

import matplotlib
import numpy as np
import pytest
from PIL import Image
from test_structure import ORDER, PACKAGE

import keras_preact
from keras_preact.cli import VERBS, main
from keras_preact.transfer import rule

ROOT = pathlib.Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
BLOCK = re.compile(r"(?:^<!-- (long|not run: [^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page, language):
    """Returns (mark, code) of a page's blocks: None, "long", or why it is not run."""
    return [(mark, code) for mark, name, code in BLOCK.findall(PAGES[page]) if name == language]


def pages_with(*marks):
    return [page for page in PAGES if {mark for mark, _ in blocks(page, "python")} & set(marks)]


@pytest.fixture
def photos(tmp_path, monkeypatch, registries):
    """Makes an empty working folder with `photos/class/name.png`, dark and bright noise, and one photo, `cat.png`."""
    rng = np.random.default_rng(0)
    for name, low in (("dark", 0), ("bright", 128)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(low, low + 128, (40, 32, 3), "uint8")
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")


def run(page, marks):
    namespace = {"__name__": "__main__"}
    for number, (mark, code) in enumerate(blocks(page, "python"), start=1):
        program = compile(code, f"{page}[{number}]", "exec")
        if mark in marks:
            exec(program, namespace)


@pytest.mark.parametrize("page", pages_with(""))
def test_the_code_of_a_page_runs(page, photos):
    run(page, ("",))


@pytest.mark.long
@pytest.mark.parametrize("page", pages_with("long"))
def test_the_code_of_a_page_runs_with_what_takes_minutes(page, photos, monkeypatch):
    monkeypatch.setitem(rule.RULE, 20_000, (10, 1, (4, 6, 8), 0.0))  # steps of fine-tuning, not 500
    run(page, ("", "long"))


def commands():
    """Yields (page, words) of every `keras-preact` command in a block of shell or in a line of text."""
    for page, text in PAGES.items():
        lines = "\n".join(code for _, code in blocks(page, "sh")).splitlines()
        lines += re.findall(r"`(keras-preact [^`]+)`", text.replace("\n", " "))
        for line in lines:
            if found := re.search(r"(?:^|/|\s)keras-preact (.+)$", line):
                words = shlex.split(found.group(1))
                yield page, words[2:] if words[0] == "--import" else words  # a module, before the verb


@pytest.fixture(scope="module")
def help_of():
    """Returns a function from a verb to the text of its `--help`, each made once."""
    texts = {}

    def text(verb):
        if verb not in texts:
            out = io.StringIO()
            with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
                main([*verb, "--help"])
            texts[verb] = out.getvalue()
        return texts[verb]

    return text


def test_the_commands_of_the_pages_exist_and_take_their_flags(help_of):
    for page, (verb, *words) in commands():
        if verb in ("VERB", "--help"):
            continue
        assert verb in {name.split()[0] for name in VERBS}, f"{page}: {verb}"
        inner = words[:1] if verb == "weights" else []
        if "--" in words:  # launch: what follows is another command
            words = words[: words.index("--")]
        for flag in (word for word in words if word.startswith("--") and word not in ("--help", "--FIELD")):
            assert re.search(rf"(?<!\S){flag}(?![\w-])", help_of((verb, *inner))), f"{page}: {verb} {flag}"


def test_the_map_is_that_of_the_code():
    (_, text), *_ = blocks("docs/code.md", "")
    rows = re.findall(r"^( +)(\S+)", text, re.MULTILINE)
    found, room = {"": []}, ""
    for indent, name in rows:
        room = room if len(indent) > 2 else ""
        assert (PACKAGE / room / name).is_dir() == name.endswith("/"), name
        part = name.removesuffix("/").removesuffix(".py")
        found.setdefault(room, []).append(part)
        room = room or part
    assert found == ORDER


def test_every_link_of_the_readme_leads_to_a_file():
    links = re.findall(r"\]\((?!http)([^)#]+)", PAGES["README.md"])
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_readme_is_short():
    lines = PAGES["README.md"].splitlines()
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 100


def test_the_notebooks_are_pages():
    found = {path.name: path.resolve() for path in (ROOT / "docs" / "notebooks").iterdir()}
    assert found == {path.name: path for path in (ROOT / "examples" / "notebooks").glob("*.ipynb")}


def test_the_index_of_examples_names_every_file():
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    names = [path.name for path in (ROOT / "examples").rglob("*") if path.suffix in (".py", ".ipynb")]
    assert names
    assert not [name for name in names if f"{name})" not in text]


def test_the_program_of_a_page_is_the_example():
    (page,) = [code for _, code in blocks("docs/getting-started.md", "python") if "CosineDecay" in code]
    example = (ROOT / "examples" / "train_digits.py").read_text(encoding="utf-8")
    assert ast.unparse(ast.parse(page)) == ast.unparse(ast.Module(ast.parse(example).body[1:], []))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_what_an_example_imports_of_this_package_is_there(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "keras_preact":
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}"), name.name
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "keras_preact":
            assert hasattr(keras_preact, node.attr) or importlib.util.find_spec(f"keras_preact.{node.attr}"), node.attr
