"""What every test here ends with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.alarms import assert_expected_alarms


@pytest.fixture(autouse=True)
def _no_false_alarm(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert_expected_alarms(request, caplog)
