"""Newer Pythons, for which the tests have no torch: real interpreters run what works without it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import Tiny

ROOT = Path(__file__).parent.parent
ABSENT = ("torch", "numpy", "safetensors")  # the wheels of torch are gigabytes, and without it the others are not used
FOLDERS = ("tests/utils", "tests/store", "tests/audit/names", "tests/loop/carried/test_loop_bindings.py")
PYTEST = ("pytest", "pytest-timeout", "hypothesis")

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]


def candidates(version: str) -> Iterator[str]:
    """Where an interpreter may be; a shim of pyenv's is there also if no version of its name is active."""
    if found := shutil.which(f"python{version}"):
        yield found
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True))


def works(python: str) -> bool:
    return subprocess.run([python, "-c", "import ssl, ctypes, zlib"], capture_output=True).returncode == 0


class Interpreter:
    """A Python with the dependencies of the package but those that are absent."""

    def __init__(self, python: str, packages: Path) -> None:
        self._python = python
        path = f"{packages}{os.pathsep}{ROOT}"
        environment = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "ABSENT_MODULES": " ".join(ABSENT)}
        self._environment = os.environ | environment
        dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
        wanted = [each for each in dependencies if re.split(r"\W", each)[0] not in ABSENT]
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-compile"]
        where = ["-c", ROOT / "tests/constraints.txt", "--target", packages]
        subprocess.run([*install, *where, *wanted, *PYTEST], check=True)

    def output(self, *arguments: str) -> str:
        ended = subprocess.run(
            [self._python, *arguments], cwd=ROOT, env=self._environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


def ageless(document: str) -> object:
    """A JSON document without ages, which grow between two looks."""
    return json.loads(document, object_hook=lambda found: {key: found[key] for key in found if "age" not in key})


@pytest.fixture(scope="module", params=["3.12", "3.13"])
def interpreter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Interpreter:
    found = next(filter(works, candidates(request.param)), None)
    if found is None:
        pytest.skip(f"no Python {request.param} on this machine")
    return Interpreter(found, tmp_path_factory.mktemp("packages"))


def test_a_newer_python_reads_a_run_as_this_one_does(interpreter: Interpreter, run: Path) -> None:
    Tiny(run).train()
    for verb, *options in (["ls"], ["show"], ["verify"], ["prune", "--dry-run"]):
        arguments = ["-W", "error", "-m", "resumable", verb, "--json", str(run), *options]
        here = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        assert ageless(interpreter.output(*arguments)) == ageless(here.stdout)


def test_a_newer_python_passes_the_tests_that_need_no_torch(interpreter: Interpreter, tmp_path: Path) -> None:
    settings = ["-o", "addopts=--import-mode=importlib --strict-markers", "-p", "no:cacheprovider"]
    chosen = ["-m", "not matrix and not bench", "-k", "not Trainer", "--basetemp", str(tmp_path / "base")]
    plugin = ["-p", "tests.harness.without_torch"]
    printed = interpreter.output("-m", "pytest", "-q", *plugin, *settings, *chosen, *FOLDERS)
    passed = re.search(r"(\d+) passed", printed)
    assert passed
    assert int(passed[1]) > 400, printed
