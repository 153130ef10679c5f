"""No line is logged for loops in which nothing is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.audit.objects.plain_loops import QUIET
from tests.audit.objects.warned_lines import Setting, warned


@pytest.mark.parametrize("loop", QUIET, ids=lambda loop: loop.__name__)
def test_a_plain_loop_is_quiet(loop: Callable[[Setting], None], tmp_path: Path) -> None:
    with warned() as lines:
        loop(Setting(tmp_path / "run"))
    assert lines == []
