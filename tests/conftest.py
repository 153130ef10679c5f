"""What every test starts from: one thread, no configuration from outside, and the same examples in every run."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.harness.folders import quick_folder
from tests.harness.huge_pages import gather_in_huge_pages

# Set before torch is imported, here or in a process that a test starts: results do not depend on the machine's cores,
# and tests that run side by side do not fight over them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

# Collections while the tests are imported would take a quarter of that time.
gc.disable()


def pytest_collection_finish() -> None:
    """Keep garbage collections away from what the imports left: a full one would take a third of a second."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gather_in_huge_pages()


@pytest.fixture(autouse=True, scope="module")
def _no_collection_visits_earlier_modules() -> None:
    """Keep garbage collections away from what earlier tests imported: a full one would take most of a second."""
    gc.collect(1)
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("RESUMABLE_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_variable_stays() -> Iterator[None]:
    """Lightning names a port in the environment, at which every later program would wait for its rank."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if name != "PYTEST_CURRENT_TEST"})


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, for programs that are killed on a machine that goes on; it is removed after the test."""
    with quick_folder() as place:
        yield place


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Where the run of a test goes."""
    return tmp_path / "run"


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Where the undisturbed run of a test goes."""
    return tmp_path / "whole"


@pytest.fixture
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    """Catch all that the package logs, not only warnings."""
    caplog.set_level(logging.INFO, "resumable")


def _unwatched(number: int, _frame: object) -> None:
    raise AssertionError(f"no trainer watched for signal {number}")


@pytest.fixture
def _sigterm_ends_no_tests() -> Iterator[None]:
    """A SIGTERM that no trainer watches fails the test that sent it, and does not end all of them."""
    before = signal.signal(signal.SIGTERM, _unwatched)
    yield
    signal.signal(signal.SIGTERM, before)
