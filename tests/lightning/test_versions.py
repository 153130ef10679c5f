"""Lightning's other package and its older versions: the claim of `private.CHECKED`, tried by a kill each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resumable.lightning import private

ROOT = Path(__file__).parents[2]
TRIED = [("pytorch_lightning", "2.4.0"), ("lightning", "2.5.6"), ("lightning", "2.6.6")]


@pytest.mark.matrix
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("package", "version"), TRIED)
def test_a_killed_fit_ends_with_the_bits_of_one_left_alone(tmp_path: Path, package: str, version: str) -> None:
    assert version.rpartition(".")[0] in private.CHECKED
    own = tmp_path / "own"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", own]
    subprocess.run([*install, f"{package}=={version}"], check=True)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.lightning.versions", package],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{own}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == f"{package} {version} [0, {-signal.SIGKILL}, 0] equal"
    assert "RESUME  step=12" in ended.stderr
    assert "was checked with" not in ended.stderr
