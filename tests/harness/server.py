"""Forks one child per request, so that a launch costs milliseconds and not an import of torch.

Independent of what is launched: a request names a function to call. `python -m tests.harness.server SOCKET NAME...`
imports each module that is named, calls each `module:function`, and then serves SOCKET until stdin ends. A child is
like a fresh interpreter where it matters: own session, own entropy, the interpreter's exit codes, atexit functions run.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import random
import selectors
import signal
import socket
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from tests.harness.huge_pages import gather_in_huge_pages

MAX_MESSAGE_BYTES = 2**17
UNEXPECTED, FAILED, INTERRUPTED = 70, 1, 130


class Server:
    """Forks a child for each connection, answers with its `pid` and then its `exit`, and kills it if that is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._on(listener, partial(self._accept, listener))

    def serve(self) -> None:
        """Answer until stdin ends."""
        self._on(sys.stdin, lambda: None)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin:
                    return
                if self._selector.get_map().get(key.fd) is key:  # and not let go of a moment ago
                    key.data()

    def _on(self, file: Any, act: Callable[[], object]) -> None:
        self._selector.register(file, selectors.EVENT_READ, act)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        self._on(connection, partial(self._request, connection))

    def _request(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        data, files, _, _ = socket.recv_fds(connection, MAX_MESSAGE_BYTES, 4)
        if not data:
            connection.close()
            return
        child = os.fork()
        if child == 0:
            connection.close()
            _run(json.loads(data), files)
        for file in files:
            os.close(file)
        _send(connection, pid=child)
        ending = os.pidfd_open(child)
        self._on(ending, partial(self._ended, connection, child, ending))
        self._on(connection, partial(self._left, connection, child))

    def _left(self, connection: socket.socket, child: int) -> None:
        self._selector.unregister(connection)
        os.kill(child, signal.SIGKILL)

    def _ended(self, connection: socket.socket, child: int, ending: int) -> None:
        self._selector.unregister(ending)
        os.close(ending)
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
        _, status = os.waitpid(child, 0)
        _send(connection, exit=os.waitstatus_to_exitcode(status))
        connection.close()


def _send(connection: socket.socket, **reply: int) -> None:
    with contextlib.suppress(OSError):  # whoever asked has left
        connection.send(json.dumps(reply).encode())


def _preload(names: Sequence[str]) -> None:
    """Import once what all children need, and keep garbage collectors away from it: theirs would copy its pages."""
    gc.disable()
    import torch
    import torch._dynamo  # constructing an optimizer imports it, and it takes longest

    torch.set_num_threads(1)
    for name in names:
        found = _resolve(name)
        if ":" in name:
            found()
    gc.collect()
    gc.freeze()
    gc.enable()
    _keep_kernels()
    gather_in_huge_pages()


def _keep_kernels() -> None:
    """Leave in place the kernels that Python registered: to remove them takes a child longer than its fork."""
    for each in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        each.atexit = each.atexit and each.peek()[1].__module__ != "torch.library"


def _resolve(name: str) -> Any:
    module, _, function = name.partition(":")
    imported = importlib.import_module(module)
    return getattr(imported, function) if function else imported


def _run(request: Mapping[str, Any], files: Sequence[int]) -> NoReturn:
    """Call the function in this child and leave as the interpreter would."""
    code = UNEXPECTED
    try:
        _begin(request, files)
        code = _exit_code_of(request, files[3:])
        threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter ends: threads, then atexit
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _begin(request: Mapping[str, Any], files: Sequence[int]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
        os.close(file)
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["timeout_seconds"]:  # a child that hangs prints where, and ends: nothing else would end it
        faulthandler.dump_traceback_later(request["timeout_seconds"], exit=True)
    _draw_new_entropy()


def _draw_new_entropy() -> None:
    import numpy

    random.seed()
    numpy.random.seed(None)


def _exit_code_of(request: Mapping[str, Any], files: Sequence[int]) -> int:
    arguments = request["arguments"]
    if files:
        arguments["line"] = socket.socket(fileno=files[0])
    try:
        _resolve(request["call"])(**arguments)
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return FAILED
    return 0


def main(address: str, preloaded: Sequence[str]) -> None:
    """Listen, get ready, print that in one line, and serve."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        _preload(preloaded)
        print("ready", flush=True)
        os.dup2(2, 1)
        Server(listener).serve()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
