"""A small trained run to look at, and the command line called as the shell calls it, in this very program."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resumable.cli import main
from tests.tiny import Tiny, crashed

KEEP_ALL = {"last": 100, "best": {"metric": "loss"}}


@dataclass(frozen=True)
class Output:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Cli = Callable[..., Output]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> Output:
        monkeypatch.setattr(sys, "argv", ["resumable", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return Output(int(left.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two attempts: killed in step 6, resumed from step 4, finished at step 8."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    crashed(folder, step=5, keep=KEEP_ALL)
    Tiny(folder, keep=KEEP_ALL).train()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of `trained` that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def newest(run: Path) -> Path:
    """The folder of the newest checkpoint."""
    return max((run / "checkpoints").iterdir(), key=lambda folder: folder.name.split(".a")[::-1])


def flip_a_bit(file: Path) -> None:
    """Damage the last byte of a file."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
