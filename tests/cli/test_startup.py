"""What must work in a blink, on a machine without the training's libraries in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resumable import Run
from resumable.store.layout import CheckpointName, checkpoint_path
from resumable.store.manifest import Manifest

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


def without_torch(*arguments: object) -> str:
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, resumable; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("verb", ["ls", "show", "verify", "prune"])
def test_reading_a_run_imports_no_torch(run: Path, verb: str) -> None:
    assert without_torch(verb, run)


def test_an_equal_diff_imports_no_torch(run: Path) -> None:
    assert without_torch("diff", run, run).splitlines()[-1].startswith("bit-exact")


def multiply(run: Path, count: int) -> None:
    """Give the run `count` checkpoints that look as its newest, all of its newest attempt."""
    newest = Run(str(run)).latest().manifest
    for step in range(100, 100 + count):
        name = CheckpointName(step, newest.epoch, newest.attempt)
        folder = run / checkpoint_path(name)
        folder.mkdir()
        blobs = {}
        for file_name, blob in newest.blobs.items():
            blobs[file_name] = blob.model_copy(update={"path": checkpoint_path(name, file_name)})
            (folder / file_name).hardlink_to(run / blob.path)
        manifest: Manifest = newest.model_copy(update={"step": step, "blobs": blobs})
        (folder / "manifest.json").write_bytes(manifest.dump())


def test_a_thousand_checkpoints_are_listed_in_seconds(run: Path) -> None:
    multiply(run, 1000)
    began = time.monotonic()
    listed = json.loads(without_torch("ls", run, "--json"))["checkpoints"]
    assert len(listed) >= 1000
    assert listed[-1]["step"] == 1099
    assert time.monotonic() - began < 20  # about one on an idle machine
