"""Launches that start warm: a child of an interpreter that has imported torch becomes the program. Linux only."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from resumable.cli.drill import warm_server
from resumable.cli.drill.run_command import CommandResult, Show, relayed

START_SECONDS, END_SECONDS = 300.0, 10.0


def can_be_warm(command: Sequence[str]) -> bool:
    """Return whether this is `python SCRIPT.py ...` or `python -m MODULE ...` of this very interpreter."""
    if len(command) < 2 or not hasattr(os, "pidfd_open") or not _is_this_interpreter(command[0]):
        return False
    if command[1] == "-m":
        return len(command) > 2 and not command[2].startswith("-")
    return command[1].endswith(".py") and Path(command[1]).is_file()


def _is_this_interpreter(program: str) -> bool:
    found = shutil.which(program)
    if found is None or os.path.dirname(os.path.abspath(found)) != os.path.dirname(os.path.abspath(sys.executable)):
        return False  # beside it: the same file in another environment finds other packages
    return os.path.samefile(found, sys.executable)


class WarmPython:
    """Launches one command warm, for the length of a `with` block; `None` instead where that is not possible.

    The interpreter gets ready while other launches run. `environment` is that of the launches, but for variables that
    are read by this package alone.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False

    def __enter__(self) -> Self:
        if can_be_warm(self._command):
            self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._channel.settimeout(START_SECONDS)
            with other, suppress(OSError):
                self._process = subprocess.Popen(
                    [self._command[0], warm_server.__file__, str(other.fileno())],
                    env=dict(self._environment),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[other.fileno()],
                    start_new_session=True,
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def launch(self, environment: Mapping[str, str], show: Show) -> CommandResult | None:
        """Run the command to its end as `run_command` does; return None, and start nothing, if it cannot be warm."""
        if not self._wait_until_ready():
            return None
        assert self._channel is not None
        request = json.dumps({"command": list(self._command[1:]), "environment": dict(environment)}).encode()
        reading, writing = os.pipe()
        self._channel.settimeout(None)
        with relayed(os.fdopen(reading, "rb"), show) as tail:
            try:
                socket.send_fds(self._channel, [request], [writing])
            finally:
                os.close(writing)
            answer = self._channel.recv(warm_server.MAX_MESSAGE_BYTES)
        ended = json.loads(answer) if answer else {"exit": 1, "cold": True}
        if ended["cold"]:  # it started again, and would do so each time
            self._end()
        return CommandResult(ended["exit"], tuple(tail), warm=not ended["cold"])

    def _wait_until_ready(self) -> bool:
        if self._process is None or self._channel is None:
            return False
        if not self._is_ready:
            with suppress(OSError):
                self._is_ready = self._channel.recv(100) == b"ready"
            if not self._is_ready:
                self._end()
        return self._is_ready

    def _end(self) -> None:
        channel, self._channel = self._channel, None
        process, self._process = self._process, None
        was_ready, self._is_ready = self._is_ready, False
        if channel is not None:
            channel.close()  # ends the server, and first the launch in progress
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS if was_ready else 0)
            process.kill()
            process.wait()
