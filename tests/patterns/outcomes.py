"""Runs a pattern undisturbed and killed, and says how it came out. Independent of what is promised of it."""

from __future__ import annotations

import re
import runpy
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.harness.alarms import warnings_in
from tests.harness.client import ForkServer
from tests.patterns.catalog import Pattern

PRELOADED = ("tests.patterns.outcomes", "resumable.trainer")  # and not `toys`, which reads the arguments
KILLS = tuple(f"save.published:{step}" for step in (3, 11, 17))  # so that each relaunch resumes
_RESULT = re.compile(r"^RESULT (\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """The last line of the undisturbed and of the killed run, and what the killed run logged or refused with."""

    whole: str | None
    killed: str | None
    lines: tuple[str, ...]
    refusal: str

    @property
    def exact(self) -> bool:
        """Whether the killed run gave the same result."""
        return self.whole is not None and self.whole == self.killed

    def names(self, names: Sequence[str]) -> bool:
        """Whether each of the names stands as a word in a line or in the refusal."""
        text = "\n".join((*self.lines, self.refusal))
        return bool(names) and all(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)

    def word(self, names: Sequence[str]) -> str:
        """One word for a table: exact, named, refused or silent."""
        if self.exact:
            return "named" if self.names(names) else "exact"
        if not self.names(names):
            return "SILENT"
        return "refused" if self.refusal else "named"


def run_program(program: str, arguments: Sequence[str]) -> None:
    """Run a file as Python does, in a child of a fork server."""
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


def outcome_of(server: ForkServer, pattern: Pattern, folder: Path, *, mended: bool = False) -> Outcome:
    """Run a pattern once undisturbed, and once with kills."""
    folder.mkdir(parents=True)
    words = ["mended"] if mended else []
    ended, whole = _launch(server, pattern, folder, "whole", words)
    lines, refusal, result = list(warnings_in(whole)), "" if ended == 0 else _last_line(whole), None
    for number, kill in enumerate((*KILLS, None)):
        changed = ["later"] if pattern.changes and number else []
        ended, output = _launch(server, pattern, folder, "killed", words + changed, kill, number)
        lines += warnings_in(output)
        if ended not in (0, -signal.SIGKILL):
            refusal = _last_line(output)
            break
        if ended == 0:
            result = _result(output)
            break
    return Outcome(_result(whole), result, tuple(dict.fromkeys(lines)), refusal)


def _launch(
    server: ForkServer,
    pattern: Pattern,
    folder: Path,
    run: str,
    words: Sequence[str],
    kill: str | None = None,
    number: int = 0,
) -> tuple[int, str]:
    out = folder / f"{run}.{number}.out"
    code = server.launch(
        "tests.patterns.outcomes:run_program",
        out=out,
        environment={"RESUMABLE_KILL": kill} if kill else {},
        program=str(pattern.path),
        arguments=[str(folder / run), *words],
    )
    return code, out.read_text("utf-8", "replace")


def _result(output: str) -> str | None:
    found = _RESULT.findall(output)
    return found[-1] if found else None


def _last_line(output: str) -> str:
    """The message of the exception that ended a program: what stands behind the last frame of its traceback."""
    _, _, message = output.rpartition("\nTraceback (most recent call last):")
    lines = [line for line in message.splitlines() if line and not line.startswith(" ")]
    return "\n".join(lines) or output[-500:]
