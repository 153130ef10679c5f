"""What every test here begins with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.prepared.training import forget_accelerate


@pytest.fixture(autouse=True)
def _no_state_of_another_program() -> Iterator[None]:
    forget_accelerate()
    yield
    forget_accelerate()
