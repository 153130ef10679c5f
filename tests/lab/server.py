"""Forks one child per request, so that a launch costs milliseconds and not an import of torch; knows no scenario.

Reads one JSON request a line on stdin, answers `{"exit": CODE}` on stdout, negative for a signal as in `subprocess`.
A child is as a fresh interpreter where it matters: own session, own entropy, exit by SystemExit's rules, atexit run.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import traceback
from typing import Any, NoReturn


def serve() -> None:
    """Answer requests until stdin ends. One at a time: a launch is over before the next begins."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_once()
    print(json.dumps({"ready": os.getpid()}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            replies.close()
            _run(request)
        print(json.dumps({"exit": _wait(child)}), file=replies, flush=True)


def _import_once() -> None:
    import torch
    import torch._dynamo  # what constructing an optimizer imports anyway, and what takes longest

    import tests.lab.scenarios

    torch.set_num_threads(1)
    tests.lab.scenarios.preload()


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _run(request: dict[str, Any]) -> NoReturn:
    """The child: run the scenario and leave with its exit code; returns to nobody."""
    code = 70
    try:
        _begin(request)
        code = _exit_code_of(request)
        threading._shutdown()  # as the interpreter ends: threads, then atexit
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _begin(request: dict[str, Any]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.environ.update(request["env"])
    # A child that hangs says where, and ends: nothing else would end it.
    faulthandler.dump_traceback_later(request["timeout_seconds"], exit=True)
    _new_entropy()


def _new_entropy() -> None:
    import numpy

    random.seed()
    numpy.random.seed(None)


def _exit_code_of(request: dict[str, Any]) -> int:
    from tests.lab.scenarios import run

    try:
        run(request["scenario"], request["run"], request["options"], request["batches"])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve()
