"""Each kind of object that a loop changes and that is in no checkpoint is named, once and with what saves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.audit.objects.forgetful_loops import LINES
from tests.audit.objects.warned_lines import Setting, warned


@pytest.mark.parametrize("loop", LINES, ids=lambda loop: loop.__name__)
def test_a_forgotten_object_is_named_once(loop: Callable[[Setting], None], tmp_path: Path) -> None:
    with warned() as lines:
        loop(Setting(tmp_path / "run"))
    assert len(lines) == len(LINES[loop]), lines
    for line, begins in zip(sorted(lines), sorted(LINES[loop]), strict=True):
        assert line.startswith(begins)
