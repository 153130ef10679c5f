"""What every test here begins and ends with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.alarms import assert_expected_alarms
from tests.prepared.training import forget_accelerate


@pytest.fixture(autouse=True)
def _no_state_of_another_program() -> Iterator[None]:
    forget_accelerate()
    yield
    forget_accelerate()


@pytest.fixture(autouse=True)
def _no_false_alarm(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert_expected_alarms(request, caplog)
