"""The wheel and the source distribution: built as pip builds them, and their contents listed."""

import configparser
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

from keras_preact.version import __version__

ROOT = pathlib.Path(__file__).parents[2]
PAPERS = ("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md")
BUILD = ("MANIFEST.in", "pyproject.toml", "setup.cfg")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns the folder of a wheel and a source distribution, built from a copy of the files that they come from."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*PAPERS, *BUILD):
        shutil.copy(ROOT / name, source)
    unwanted = shutil.ignore_patterns("__pycache__")
    for folder in ("keras_preact", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=unwanted)
    program = "import sys; from setuptools import build_meta as b; f = sys.argv[1]; b.build_sdist(f); b.build_wheel(f)"
    done = subprocess.run([sys.executable, "-c", program, str(dist)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return dist


def test_the_tests_build_with_what_pip_builds_with():
    """A fresh virtual environment may have an older setuptools, which puts the licence elsewhere."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert set(build) <= set(setup["options.extras_require"]["dev"].split("\n"))


def test_the_oldest_that_is_tested_is_the_oldest_that_may_be_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    allowed = setup["options"]["install_requires"].split()
    pinned = (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    for name, least in (line.split(">=") for line in allowed if ">=" in line):
        assert f"{next(line for line in pinned if line.startswith(f'{name}=='))}.".startswith(f"{name}=={least}.")


def package_files():
    """Returns the names of the package's files, programs and data."""
    files = (path for path in (ROOT / "keras_preact").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(ROOT)) for path in files}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    (path,) = built.glob("*.whl")
    assert path.name == f"keras_preact-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(path).namelist())
    info = f"keras_preact-{__version__}.dist-info"
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    assert names == package_files() | {f"{info}/{name}" for name in about}


def test_the_wheel_says_what_it_is(built):
    (path,) = built.glob("*.whl")
    wheel = zipfile.ZipFile(path)
    about = wheel.read(f"keras_preact-{__version__}.dist-info/METADATA").decode()
    lines = about.splitlines()
    assert {f"Version: {__version__}", "License: Apache-2.0", "Requires-Python: <3.14,>=3.11"} <= set(lines)
    assert (ROOT / "README.md").read_text(encoding="utf-8") in about
    entry = wheel.read(f"keras_preact-{__version__}.dist-info/entry_points.txt").decode()
    assert "keras-preact = keras_preact.cli:main" in entry


def test_the_source_distribution_holds_the_package_and_its_papers(built):
    (path,) = built.glob("*.tar.gz")
    top = f"keras_preact-{__version__}"
    with tarfile.open(path) as archive:
        names = {member.name.removeprefix(f"{top}/") for member in archive.getmembers() if member.isfile()}
    generated = {name for name in names if ".egg-info/" in name or name == "PKG-INFO"}
    assert names - generated == package_files() | {*PAPERS, *BUILD}
