"""The programs of `examples/serve_*`, built once as a user builds them, and fresh artifacts for them to check."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.export.languages.artifacts import artifact
from tests.export.languages.programs import Program
from tests.harness.client import PYTHON

EXAMPLES = Path(__file__).parents[3] / "examples"
# What npm says where it reaches no registry; whatever else it says is a fault of the example.
UNREACHED = re.compile("ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT")

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a file or folder of this name unless one of the test processes that run side by side has made it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[Path], object]) -> Path:
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / name).exists():
                partial = shared / f"{name}.partial"
                make(partial)
                partial.rename(shared / name)
        return shared / name

    return made


@pytest.fixture(scope="session")
def node_folder() -> Iterator[Path]:
    """The Node example with its packages. Some 300 MB, so one per test process, which removes it."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("needs node and npm")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "serve_node"
        shutil.copytree(EXAMPLES / "serve_node", folder, ignore=shutil.ignore_patterns("node_modules"))
        installed = subprocess.run(["npm", "ci"], cwd=folder, capture_output=True, text=True)
        if UNREACHED.search(installed.stderr):
            pytest.skip("needs the npm registry")
        assert installed.returncode == 0, installed.stderr
        yield folder


@pytest.fixture(scope="session")
def cpp_program(once: Once) -> str:
    """The C++ example, compiled against the torch of this very Python."""
    headers = b"#include <nlohmann/json.hpp>\n#include <xxhash.h>\n"
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    if subprocess.run(["g++", "-fsyntax-only", "-x", "c++", "-"], input=headers, capture_output=True).returncode:
        pytest.skip("needs nlohmann-json3-dev and libxxhash-dev")

    def build(program: Path) -> None:
        command = [str(EXAMPLES / "serve_cpp" / "build.sh"), str(program)]
        built = subprocess.run(command, env=os.environ | {"PYTHON": PYTHON}, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr

    return str(once("serve_cpp_check", build))


@pytest.fixture(params=["node-onnx", "node-safetensors", "cpp-aoti"])
def program(request: pytest.FixtureRequest) -> Program:
    language, format = request.param.split("-")
    return request.getfixturevalue(language)(format)


@pytest.fixture(params=["node-onnx", "cpp-aoti"])
def runner(request: pytest.FixtureRequest) -> Program:
    """Those that run the model."""
    language, format = request.param.split("-")
    return request.getfixturevalue(language)(format)


@pytest.fixture
def node(node_folder: Path) -> Callable[[str], Program]:
    return lambda format: Program(("node", str(node_folder / "check.mjs")), format)


@pytest.fixture
def cpp(cpp_program: str) -> Callable[[str], Program]:
    return lambda format: Program((cpp_program,), format)


@pytest.fixture
def fresh(once: Once, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an artifact for one test to damage."""

    def copied(format: str) -> Path:
        made = once(f"artifact-{format}", lambda folder: artifact(folder, format))
        return Path(shutil.copytree(made, tmp_path / format))

    return copied
