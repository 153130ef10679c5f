"""Writes the golden runs of the present format version: `python -m tests.golden.write`. Refuses what is there.

`expected.json` is what it held when it was written. Neither is ever written again: a later version of the program that
reads something else out of it is wrong.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

from resumable import Checkpoint, Run
from resumable.store.documents.manifest import FORMAT_VERSION
from tests.golden.features import Featured
from tests.golden.launch import Crash, Golden
from tests.golden.values import exact_digest

HERE = Path(__file__).parent


def write(run: Path) -> None:
    """One attempt that saved after 3 steps and died; one that resumed there, saved after 5 of 8 and came to the end."""
    with suppress(Crash):
        Golden(run).train(saves=(2,), crash_at=4)
    Golden(run).train(saves=(4,))


def expected(run: Path) -> dict[str, Any]:
    """What the read side gives for a run, with digests in place of values."""
    return {
        "files": {str(path.relative_to(run)): _sha256(path) for path in sorted(run.rglob("*")) if path.is_file()},
        "checkpoints": [_described(checkpoint) for checkpoint in Run(str(run)).checkpoints()],
    }


def _described(checkpoint: Checkpoint) -> dict[str, Any]:
    manifest = checkpoint.manifest
    return {
        "name": checkpoint.name,
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "lineage": [list(descent) for descent in manifest.lineage],
        "metrics": {name: repr(value) for name, value in manifest.metrics.items()},
        "position": manifest.position,
        "finished": manifest.finished,
        "reason": manifest.reason,
        "kinds": {name: record.kind for name, record in manifest.objects.items()},
        "loaded": {name: exact_digest(checkpoint.load(name)) for name in manifest.objects},
        "trees": {name: exact_digest(checkpoint.tree(name)) for name in manifest.objects},
        "rng": exact_digest(checkpoint.inline_tree("rng")),
        "position tree": exact_digest(checkpoint.inline_tree("position")),
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_features(run: Path) -> None:
    """One attempt that saved in the middle of an epoch and died, and one that came to the end."""
    with suppress(Crash):
        Featured(run).train(saves=(2,), crash_at=4)
    Featured(run).train()


def main() -> None:
    wanted = {f"v{FORMAT_VERSION}": write, f"features{FORMAT_VERSION}": write_features}
    missing = {HERE / name: writes for name, writes in wanted.items() if not (HERE / name).exists()}
    if not missing:
        sys.exit(f"{', '.join(wanted)} are there, and what is golden is never written again")
    socket.gethostname = lambda: "golden"  # nothing of this machine is to stand in it
    for folder, writes in missing.items():
        _write(folder, writes)


def _write(folder: Path, writes: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as scratch, chdir(scratch):
        writes(Path("run"))
        shutil.copytree("run", folder / "run")
    text = json.dumps(expected(folder / "run"), indent=1)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
