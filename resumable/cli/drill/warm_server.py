"""An interpreter that has imported torch and resumable, and forks a child for each launch of a script. Linux only.

It is run by its path, and imports only the standard library and what it preloads. Each child goes on behind `serve` at
the end of this file, and becomes the program: a module `__main__` of its own, whose code runs in the only frame below
this one. A child is as a fresh interpreter: own session, own entropy, its own environment, no module imported.

What was preloaded is hidden until the program imports it. If the environment or the search path have changed by then
in a way that could matter, the child starts again as the plain command: `OMP_NUM_THREADS` counts where torch is loaded,
and another copy of a package may be found first.

A launch is one message with one descriptor, for stdout and stderr; the answer is one message at the end of the child.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from typing import Any, NoReturn

MAX_MESSAGE_BYTES = 2**20
# torch._dynamo is what constructing an optimizer imports, and takes longest.
PRELOADED = (("torch", "torch.utils.data", "torch.optim", "torch._dynamo"), ("resumable", "resumable.trainer"))

Modules = dict[str, types.ModuleType]


def _preload() -> dict[str, Modules]:
    """Import what a training imports, and return the new modules outside of the standard library, by package."""
    found: dict[str, Modules] = {}
    before = set(sys.modules)
    for names in PRELOADED:
        for name in names:
            importlib.import_module(name)
        new = {name: each for name, each in sys.modules.items() if name not in before and not _is_standard(name)}
        found[names[0]] = new
    return found


def _is_standard(name: str) -> bool:
    return name.partition(".")[0] in (*sys.stdlib_module_names, "__main__", "__mp_main__")


class Hidden:
    """A finder of modules that are imported already, and hidden from the program until it imports them itself."""

    def __init__(self, groups: Mapping[str, Modules], start_again: Callable[[], NoReturn]) -> None:
        self._groups = groups
        self._all: Modules = {name: module for group in groups.values() for name, module in group.items()}
        self._start_again = start_again
        self._environment = dict(os.environ)
        tops = {name.partition(".")[0] for name in self._all}
        self._found_at = {top: places for top in tops if (places := _found_at(top))}  # not of generated modules
        self._specs = {name: getattr(module, "__spec__", None) for name, module in self._all.items()}

    def hide(self) -> None:
        """Remove the modules from those that count as imported, and find them first."""
        for name in self._all:
            sys.modules.pop(name, None)
        sys.meta_path.insert(0, self)

    def reveal(self) -> None:
        """Put back what is still hidden: the program is over, and the interpreter ends."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            for name, module in self._all.items():
                sys.modules.setdefault(name, module)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return a spec that imports the module that is there; None for every other name."""
        module = self._all.get(name)
        if module is None or name in sys.modules:
            return None
        spec = importlib.util.spec_from_loader(name, self, origin=getattr(module, "__file__", None))  # type: ignore[arg-type]
        if spec is not None and hasattr(module, "__path__"):
            spec.submodule_search_locations = list(module.__path__)
        return spec

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """Return the module, and put back all that its package imported; or start again."""
        going = self._group(spec.name)
        # Behind torch nothing is left that reads variables where it is loaded; and sklearn sets some.
        is_changed = "torch" not in sys.modules and os.environ != self._environment
        if is_changed or any(map(self._is_elsewhere, {name.partition(".")[0] for name in going})):
            self._start_again()
        for name, module in going.items():
            sys.modules.setdefault(name, module)
        if sys.modules.keys() >= self._all.keys():
            sys.meta_path.remove(self)
        return self._all[spec.name]

    def exec_module(self, module: types.ModuleType) -> None:
        """Restore the attributes that the import set: the module was executed before."""
        module.__spec__ = self._specs[module.__name__]

    def _group(self, name: str) -> Modules:
        top = name.partition(".")[0]
        if top in self._groups:
            names = list(self._groups)
            groups = [self._groups[each] for each in names[: names.index(top) + 1]]
            return {name: module for group in groups for name, module in group.items()}
        return {name: module for name, module in self._all.items() if name.partition(".")[0] == top}

    def _is_elsewhere(self, top: str) -> bool:
        """Return whether the program would find another copy of a package."""
        return top in self._found_at and _found_at(top, but=self) != self._found_at[top]


def _found_at(name: str, *, but: object = None) -> list[str]:
    """Return where an import would find a package now; nothing where it would not."""
    finders = [each for each in sys.meta_path if each is not but and hasattr(each, "find_spec")]
    spec = next((spec for finder in finders if (spec := finder.find_spec(name, None))), None)
    if spec is None:
        return []
    return [spec.origin] if spec.origin else [*(spec.submodule_search_locations or ())]


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork a child for each message, and answer at its end. Return in each child, with what it is to run."""
    while True:
        data, files, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, 1)
        if not data:
            os._exit(0)  # the drill has ended
        heard, told = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads of other libraries, which handle forks
            child = os.fork()
        if child == 0:
            channel.close()
            os.close(heard)
            return {**json.loads(data), "output": files[0], "told": told}
        os.close(told)
        os.close(files[0])
        code = _end_of(child, channel)
        cold = bool(os.read(heard, 1))
        os.close(heard)
        channel.send(json.dumps({"exit": code, "cold": cold}).encode())


def _end_of(child: int, channel: socket.socket) -> int:
    """Wait for a child, end what it left running in its session, and return its exit code."""
    ending = os.pidfd_open(child)
    ready, _, _ = select.select([ending, channel.fileno()], [], [])
    if ending not in ready:  # the drill has ended
        os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    os.close(ending)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(launch: Mapping[str, Any], groups: Mapping[str, Modules]) -> Hidden:
    """Make of this child what a fresh interpreter would be before its program."""
    os.setsid()
    for number in (1, 2):
        os.dup2(launch["output"], number)
    os.close(launch["output"])
    os.environ.clear()
    os.environ.update(launch["environment"])
    _draw_entropy()
    command: Sequence[str] = launch["command"]

    def start_again() -> NoReturn:
        os.write(launch["told"], b"c")
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *command], launch["environment"])

    sys.orig_argv[:] = [sys.executable, *command]
    hidden = Hidden(groups, start_again)
    hidden.hide()
    return hidden


def _draw_entropy() -> None:
    """Seed the global streams from the system, as the imports do in a fresh interpreter."""
    random.seed()
    sys.modules["torch"].default_generator.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(None)


def _main_module() -> types.ModuleType:
    main = types.ModuleType("__main__")
    for name in ("__main__", "__mp_main__"):  # the alias that multiprocessing makes for what its children return
        if name in sys.modules:
            sys.modules[name] = main
    main.__dict__.update({"__builtins__": sys.modules["builtins"], "__annotations__": {}, "__spec__": None})
    return main


def _program(arguments: Sequence[str]) -> Callable[[], object]:
    """Prepare a new module `__main__` for `SCRIPT ...` or `-m MODULE ...`, and return what runs it."""
    main = _main_module()
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        _find_first(os.getcwd())
        return lambda: runpy._run_module_as_main(arguments[1])  # type: ignore[attr-defined]
    sys.argv[:] = arguments
    path = os.path.abspath(arguments[0])
    _find_first(os.path.dirname(os.path.realpath(path)))
    main.__dict__.update({"__file__": path, "__cached__": None, "__loader__": SourceFileLoader("__main__", path)})

    def run() -> None:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, main.__dict__)

    return run


def _find_first(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path.insert(0, folder)


def _show_without_own_frames() -> None:
    """Let an uncaught exception print its traceback as from the program itself."""
    shown = sys.excepthook

    def show(kind: Any, error: Any, trace: Any) -> None:
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        shown(kind, error.with_traceback(trace), trace)

    sys.excepthook = show


def main() -> None:
    """Get ready, serve, and in each child run its program to its end."""
    if not sys.flags.safe_path:
        sys.path.pop(0)  # the folder of this file
    channel = socket.socket(fileno=int(sys.argv[1]))
    groups = _preload()
    if sys.modules["torch"].cuda.is_initialized():
        sys.exit("a device was initialized by an import")
    gc.collect()
    gc.freeze()  # or the collections of each child would copy its pages
    channel.send(b"ready")
    launch = _serve(channel)
    hidden = _become(launch, groups)
    program = _program(launch["command"])
    try:
        program()
    except SystemExit:
        raise
    except BaseException:
        _show_without_own_frames()
        raise
    finally:
        hidden.reveal()


if __name__ == "__main__":
    main()
