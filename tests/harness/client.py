"""Starts a fork server and launches functions in its children. Independent of what is launched."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.harness.server import MAX_MESSAGE_BYTES

PYTHON = sys.executable  # also where a test names another one
REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 120.0
LAUNCH_SECONDS = 60.0


class Child:
    """One launch, which ends with this object. Its output is in the file that the launch was given."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = self._reply("pid")

    def exit_code(self) -> int:
        """Wait for the end and return the exit code, negative for a signal as in `subprocess`. To be called once.

        A child that hangs ends with 1 after `LAUNCH_SECONDS`.
        """
        with self._connection:
            return self._reply("exit")

    def _reply(self, key: str) -> int:
        reply = self._connection.recv(MAX_MESSAGE_BYTES)
        if not reply:
            raise ConnectionError("the fork server ended")
        return int(json.loads(reply)[key])


class ForkServer:
    """A process that has imported `preloaded` and forks a child for each launch, for the length of a `with` block.

    Each name is a module to import, or a `module:function` to call once before the first fork.
    """

    def __init__(self, *preloaded: str) -> None:
        self._preloaded = preloaded

    def __enter__(self) -> Self:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RESUMABLE_")}
        self._folder = tempfile.TemporaryDirectory(prefix="forks-")
        self.address = f"{self._folder.name}/socket"
        self._process = subprocess.Popen(
            [PYTHON, "-m", "tests.harness.server", self.address, *self._preloaded],
            cwd=REPOSITORY,
            env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": _path(environment)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        if not ready or not self._process.stdout.readline():
            self._process.kill()
            raise TimeoutError(f"the fork server did not start within {START_SECONDS:.0f} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(LAUNCH_SECONDS)
        self._process.stdout.close()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The process number of the server, the parent of every child."""
        return self._process.pid

    def start(
        self,
        call: str,
        *,
        out: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path = REPOSITORY,
        line: socket.socket | None = None,
        **arguments: Any,
    ) -> Child:
        """Start a child that calls `module:function` with these arguments, and with `line` if one is passed."""
        request = {
            "call": call,
            "environment": dict(environment or {}),
            "folder": str(folder),
            "timeout_seconds": LAUNCH_SECONDS,
            "arguments": arguments,
        }
        with open(os.devnull) as nothing, out.open("ab") as output:
            files = [nothing.fileno(), output.fileno(), output.fileno(), *([line.fileno()] if line else [])]
            connection = send(self.address, request, files)
            connection.settimeout(LAUNCH_SECONDS + 10)
            return Child(connection)

    def launch(self, call: str, **request: Any) -> int:
        """Start a child as `start` does, wait for its end and return its exit code."""
        return self.start(call, **request).exit_code()


def _path(environment: Mapping[str, str]) -> str:
    """Return this repository, behind the folders of other versions of packages that `PYTHONPATH` names."""
    named = environment.get("PYTHONPATH", "")
    return os.pathsep.join([*([named] if named else []), str(REPOSITORY)])


def send(address: str, request: Mapping[str, Any], files: Sequence[int]) -> socket.socket:
    """Send a request and the files that are to be the child's, and return the connection that will answer."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    socket.send_fds(connection, [json.dumps(request).encode()], files)
    return connection


@functools.cache
def shared_server(*preloaded: str) -> ForkServer:
    """Return this pytest worker's one server of that kind, started at the first call and ended with the interpreter."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(ForkServer(*preloaded))
