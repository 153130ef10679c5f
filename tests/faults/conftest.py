"""What the tests of the fault laboratory share: one fork server, and what they need of the machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.faults.experiments import lacking
from tests.faults.forks import Forks


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with Forks() as server:
        yield server


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Log lines by the thousand are of no use to anybody."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def _need(*programs: str) -> None:
    missing = lacking(*programs)
    if missing:
        pytest.skip(f"needs {missing}")


@pytest.fixture
def _strace() -> None:
    _need("strace")


@pytest.fixture
def _fuse() -> None:
    _need("fusermount3")


@pytest.fixture
def _mounts() -> None:
    _need("mount")
