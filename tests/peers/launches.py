"""Launches programs in forks of one process that has imported all frameworks. Imports none of them itself."""

from __future__ import annotations

import importlib
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.client import ForkServer
from tests.peers.programs import Program

KILLS = ("update:9", "window:11", "evaluation:16")  # in mid-epoch, after a batch of a window, in evaluation


@dataclass(frozen=True)
class Ended:
    """What one launch left."""

    side: Path
    output: str

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a kind, in their order."""
        path = self.side.with_suffix(".events")
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := json.loads(line))["event"] == kind]

    @property
    def digests(self) -> dict[str, str]:
        """The digests of the end."""
        found: dict[str, str] = json.loads(self.side.with_suffix(".json").read_text())
        return found

    @property
    def weights(self) -> Path:
        """The file with the final weights."""
        return self.side.with_suffix(".safetensors")


def server_for(program: Program) -> ForkServer:
    """Return a fork server that has imported the program's framework and no other one."""
    return ForkServer(program.module)


def undisturbed(server: ForkServer, program: Program, folder: Path) -> list[Ended]:
    """Run a program once, in a new folder."""
    return _launches(server, program, folder, (None,))


def killed(server: ForkServer, program: Program, folder: Path) -> list[Ended]:
    """Run the same command in a new folder until it is done; SIGKILL ends all launches but the last."""
    return _launches(server, program, folder, (*KILLS, None))


def _launches(server: ForkServer, program: Program, folder: Path, kills: tuple[str | None, ...]) -> list[Ended]:
    here = folder / "here"
    here.mkdir(parents=True)
    return [_launch(server, program, here, folder / str(number), kill) for number, kill in enumerate(kills, 1)]


def _launch(server: ForkServer, program: Program, here: Path, side: Path, kill: str | None) -> Ended:
    out = side.with_suffix(".out")
    request = {"program": f"{program.module}:{program.function}", "side": str(side), "options": program.options}
    code = server.launch("tests.peers.launches:train", out=out, folder=here, kill=kill, **request)
    output = out.read_text("utf-8", "replace")
    if code != (-signal.SIGKILL if kill else 0):
        raise RuntimeError(f"{program}: to be killed at {kill}, ended with {code}:\n{output}")
    return Ended(side, output)


# -- the child ---------------------------------------------------------------------------------------------------------


def train(program: str, side: str, kill: str | None, options: dict[str, Any]) -> None:
    """Run the function in the current folder."""
    from tests.peers.probe import Probe

    module, _, name = program.partition(":")
    getattr(importlib.import_module(module), name)(Probe(Path(side), kill), **options)
