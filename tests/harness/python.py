"""A Python that has imported torch before it is started: a program for tests to run in the place of `sys.executable`.

What it runs is a child of the fork server, with the arguments, environment, folder and files of the program, which ends
as the child does and takes it along. It knows `-c CODE`, `-m MODULE` and `SCRIPT`, and no other option.
"""

from __future__ import annotations

import functools
import io
import os
import stat
import sys
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.client import PYTHON, shared_server

# By itself, so that it starts in milliseconds: no site packages, and nothing of this repository.
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
request = {{
    "call": "tests.harness.python:run", "environment": {{}}, "folder": os.getcwd(), "timeout_seconds": None,
    "arguments": {{"program": sys.argv[0], "arguments": sys.argv[1:], "environment": dict(os.environ)}},
}}
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect({address!r})
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    connection.recv(100)
    code = json.loads(connection.recv(100))["exit"]
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


# What scripts under test import, whose import takes seconds.
EXAMPLES_IMPORT = (
    "pytorch_lightning",
    "sklearn.datasets",
    "transformers.trainer",
    "transformers.models.gpt2.modeling_gpt2",
)


@functools.cache
def warm_python(*preloaded: str) -> str:
    """Return the path of a program that has also imported `preloaded`, and works until this pytest worker ends."""
    server = shared_server("onnxruntime", "tests.harness.python:export_once", *preloaded)
    program = Path(server.address).with_name("python")
    program.write_text(PROGRAM.format(python=PYTHON, address=server.address))
    program.chmod(stat.S_IRWXU)
    return str(program)


def export_once() -> None:
    """Export and load a program with torch alone, for all that it imports when this is first done."""
    import torch

    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(2, 2),))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    torch.export.load(file).module()(torch.ones(2, 2))


def run(program: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Do in this process what `PROGRAM ARGUMENTS...` does in this environment."""
    sys.executable = program
    os.environ.clear()
    os.environ.update(environment)
    if environment.get("PYTHONWARNINGS") == "error":  # once what is imported already has warned
        warnings.simplefilter("error")
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    what, *rest = arguments
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if what == "-m":
        import runpy

        module, *rest = rest
        _find_from(os.getcwd(), environment)
        sys.argv = [module, *rest]
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]
    elif what == "-c":
        code, *rest = rest
        _find_from("", environment)
        sys.argv = ["-c", *rest]
        exec(compile(code, "<string>", "exec"), main.__dict__)
    else:
        _find_from(os.path.dirname(os.path.abspath(what)), environment)
        sys.argv = [what, *rest]
        main.__file__ = what
        exec(compile(Path(what).read_bytes(), what, "exec"), main.__dict__)


def _find_from(first: str, environment: Mapping[str, str]) -> None:
    named = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [first, *named, *_FOUND_ANYWHERE]


# Without the folder that `python -m` puts first. This repository stays, by PYTHONPATH: a package that is installed by
# its path is found in no other way.
_FOUND_ANYWHERE = [path for path in sys.path[1:] if path]
