"""Programs in other languages started by tests, and proofs rewritten to mislead them; builds nothing."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resumable.store.documents.sealed_json import digest
from tests.export.signing import signed


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Program:
    """A checking program: what starts it, and the format of artifact it is given."""

    command: tuple[str, ...]
    format: str

    def __call__(self, *words: object) -> Ended:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ended = subprocess.run([*self.command, *map(str, words)], capture_output=True, text=True, env=environment)
        return Ended(ended.returncode, ended.stdout, ended.stderr)


def proof_of(folder: Path) -> Any:
    document = json.loads((folder / "proof.json").read_bytes())
    del document["digest"]
    return document


def sign(folder: Path, document: Any) -> None:
    """Write a proof that is whole, whatever it says, with the sizes and digests of the files as they are now."""
    for name in document["files"]:
        content = (folder / name).read_bytes()
        document["files"][name] = {"size": len(content), "digest": digest(content)}
    (folder / "proof.json").write_bytes(signed(document))


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x40
    path.write_bytes(content)


def refused(ended: Ended, *words: str) -> None:
    """Exit code 1, all of the words in one message with a next step, and no grade given."""
    assert ended.code == 1, ended
    for word in words:
        assert word in ended.err, ended.err
    assert ended.err.startswith("check: ")
    assert "\n  next: " in ended.err
    assert "\nhere " not in ended.out
