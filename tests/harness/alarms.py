"""Lines of a log that ask for something. A launch in which nothing is missing has no alarm among them."""

from __future__ import annotations

import re

import pytest

# As the package prints it, as a drill shows it, and as a handler of the program writes it.
_LINE = re.compile(r"^(?:  \| )?(?:resumable: )?(?:WARN|CHANGED)\s+(.*)$", re.MULTILINE)
# Variables, objects, structure, and what a launch was built with: `tests/patterns` shows that real lines have these.
_ALARM = re.compile(
    r"^(?:carried|forgotten|after)\s | \sin\sno\scheckpoint | \scounts\sfrom\s0\s | :\sa\srelaunch\smust\s"
    r"| note=\"(?:the\scheckpoint's|this\slaunch's)\sare\sused",
    re.VERBOSE,
)


def warnings_in(output: str) -> list[str]:
    """Return the text of each WARN and CHANGED line."""
    return _LINE.findall(output)


def is_alarm(line: str) -> bool:
    """Return whether the text of a line names something that is in no checkpoint, or was built otherwise."""
    return _ALARM.search(line) is not None


def alarms_in(output: str) -> list[str]:
    """Return the text of each alarm."""
    return list(filter(is_alarm, warnings_in(output)))


def assert_expected_alarms(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that a test in this very process logged the alarms of its marker `alarms`, and no other ones."""
    marker = request.node.get_closest_marker("alarms")
    words = marker.args if marker is not None else ()
    records = [each for each in caplog.get_records("call") if each.name == "resumable"]
    found = alarms_in("\n".join(each.getMessage() for each in records))
    false = [line for line in found if not any(word in line for word in words)]
    assert not false, "\n".join(false)
    absent = [word for word in words if not any(word in line for line in found)]
    assert not absent, f"expected lines about {absent}, found {found}"
