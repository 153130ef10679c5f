"""Random loops, resumed at every boundary with only the named variables written back: new seeds in each run."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.test_interpreters import ROOT, candidates, works

VERSIONS = ("3.11", "3.12", "3.13")
LOOPS = 2_000
PARTS = 20


def resumed(version: str, loops: int) -> str:
    """Resume so many loops on this Python, from a seed that no earlier run had. A failure prints its seed."""
    here = sys.version_info[:2] == tuple(map(int, version.split(".")))
    python = sys.executable if here else next(filter(works, candidates(version)), None)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    seed = random.SystemRandom().randrange(10**9)
    command = [python, "-m", "tests.audit.names.random_loops", str(seed), str(loops)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"from seed {seed} on:\n{ended.stderr}"
    return ended.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_not_named_is_not_needed(version: str) -> None:
    assert f"Tally(loops={LOOPS}, " in resumed(version, LOOPS)


@pytest.mark.matrix
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_not_named_is_not_needed_by_100_000_loops(part: int) -> None:
    resumed(VERSIONS[part % len(VERSIONS)], 100_000 // PARTS)
