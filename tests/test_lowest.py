"""The constraints for the lowest versions are those that pyproject.toml says, and nothing says them a second time."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_every_dependency_is_pinned_to_its_lower_bound_and_torch_to_the_one_of_the_tests() -> None:
    ended = subprocess.run([sys.executable, ROOT / ".ci/lowest.py"], capture_output=True, text=True, check=True)
    pins = dict(line.split("==") for line in ended.stdout.split())
    assert pins.pop("torch") == "2.13.0"
    bounds = dict(each.split(">=") for each in PROJECT["dependencies"])
    assert bounds.pop("torch")
    extras = PROJECT["optional-dependencies"]
    bounds |= dict(each.split(">=") for name in ("lightning", "s3", "transformers") for each in extras[name])
    assert pins == bounds
