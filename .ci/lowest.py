"""Prints constraints for pip: of every direct dependency the lowest version that pyproject.toml allows.

Not of torch: its other wheels are gigabytes, so the tests' own pin stands for it. What has no lower bound is left
alone, and so are the tools of the extra `dev`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def lowest(requirement: str) -> str | None:
    """The requirement at its lower bound; None where it has none."""
    match = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?>=([\w.]+)", requirement)
    return f"{match[1]}=={match[2]}" if match else None


project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
extras = [each for name, wanted in project["optional-dependencies"].items() if name != "dev" for each in wanted]
pin = next(line for line in (ROOT / "tests/constraints.txt").read_text("utf-8").split() if line.startswith("torch=="))
print(pin)
for requirement in (*project["dependencies"], *extras):
    if not requirement.startswith("torch>") and (pinned := lowest(requirement)):
        print(pinned)
