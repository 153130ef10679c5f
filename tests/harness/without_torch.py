"""A plugin of pytest: each test, or file of tests, that imports a module named in ABSENT_MODULES is skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest

ABSENT = os.environ["ABSENT_MODULES"].split()


class Skipping:
    """A finder of modules that skips whatever imports an absent one."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        """Skip for an absent module; leave all others to the next finder."""
        if name.partition(".")[0] in ABSENT:
            pytest.skip(f"{name} is absent", allow_module_level=True)


sys.meta_path.insert(0, Skipping())  # type: ignore[arg-type]
