"""What must work in a blink, on a machine without the training's libraries in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import resumable
from tests.store.building import multiply

WITHOUT_TORCH = """
import sys
sys.argv = ["resumable", *sys.argv[1:]]
from resumable.cli import main
try:
    main()
except SystemExit as left:
    assert "torch" not in sys.modules, "torch was imported"
    raise
"""

# Each of them would be a tenth of the time that `ls` takes, or more.
NEEDLESS = {"torch", "numpy", "fsspec", "rich", "yaml", "pydantic_settings", "asyncio", "resumable.config.config"}

# What is registered first is called last, when all else that a program does at its end is done.
AT_THE_END = """
import atexit, gc, sys
atexit.register(lambda: print("frozen:", gc.get_freeze_count(), "left:", len(gc.get_objects()), file=sys.stderr))
from resumable.cli import main
main()
"""


def without_torch(*arguments: object) -> str:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, resumable; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_printed_without_torch() -> None:
    assert without_torch("--version") == f"resumable {resumable.__version__}\n"


@pytest.mark.parametrize("verb", ["ls", "show", "verify", "prune"])
def test_reading_a_run_imports_no_torch(run: Path, verb: str) -> None:
    assert without_torch(verb, run)


def test_listing_a_run_in_a_pipe_imports_only_what_it_needs(run: Path) -> None:
    script = "import sys; from resumable.cli import app\ntry: app()\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script, "ls", str(run)], capture_output=True, text=True)
    assert done.stdout.startswith("step")
    imported = set(done.stderr.split())
    assert {"typer", "resumable.cli.verbs.ls", "resumable.store.storage.local"} <= imported
    assert not imported & NEEDLESS


@pytest.mark.parametrize("arguments", [["ls"], ["show"], ["ls", "--no-such-option"]])
def test_nothing_is_left_to_be_searched_for_garbage_when_the_program_ends(run: Path, arguments: list[str]) -> None:
    command = [sys.executable, "-c", AT_THE_END, *arguments, str(run)]
    _, frozen, _, left = subprocess.run(command, capture_output=True, text=True).stderr.splitlines()[-1].split()
    assert int(frozen) > 10_000
    assert int(left) < 1_000


def test_an_equal_diff_imports_no_torch(run: Path) -> None:
    assert without_torch("diff", run, run).splitlines()[-1].startswith("bit-exact")


def test_a_thousand_checkpoints_are_listed_in_seconds(run: Path) -> None:
    multiply(run, 1000)
    began = time.monotonic()
    listed = json.loads(without_torch("ls", run, "--json"))["checkpoints"]
    assert len(listed) >= 1000
    assert listed[-1]["step"] == 1099
    assert time.monotonic() - began < 20  # about one on an idle machine
