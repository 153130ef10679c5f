"""A process for each figure, so that none finds the memory or the threads of another; knows no figure."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

LIMIT_SECONDS = 1800.0
LEAVING_SECONDS = 5.0


class RoomFailed(Exception):
    """What was run in the process raised, died or took too long; says which."""


def in_a_room(call: Callable[..., Any], /, *arguments: Any, threads: int) -> Any:
    """What `call` returns in a process of its own, forked from one that has imported torch and nothing more.

    Raises `RoomFailed`.
    """
    inside = multiprocessing.parent_process() is not None  # a room in a room: this process is as bare as that server
    context: Any = multiprocessing.get_context("fork" if inside else "forkserver")
    if not inside:
        context.set_forkserver_preload(["tests.bench.preloaded"])
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("r") as said:
        process = context.Process(target=_run, args=(theirs, said.name, call, arguments, threads))
        process.start()
        theirs.close()
        try:
            outcome, value = ours.recv() if ours.poll(LIMIT_SECONDS) else ("failed", "it took too long")
        except EOFError:
            process.join()
            last = said.read().strip().rpartition("\n")[2]
            outcome, value = "failed", f"the process ended with code {process.exitcode}: {last}"
        finally:
            process.join(LEAVING_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
    if outcome != "done":
        raise RoomFailed(value)
    return value


def _run(answer: Connection, said: str, call: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> None:
    import torch

    with open(said, "ab") as file:
        os.dup2(file.fileno(), 2)  # DCP's process logs every save at the terminal
    gc.freeze()  # what was imported is not looked through each time somebody collects
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for processes that a contestant starts
    torch.set_num_threads(threads)
    try:
        answer.send(("done", call(*arguments)))
    except BaseException as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        answer.send(("failed", f"{type(error).__name__}: {error} ({os.path.basename(line.filename)}:{line.lineno})"))
