"""Programs that run as on Windows or macOS: what Python lacks there is taken away before the package is imported.

Independent of any test. Each is for a child of a fork server, where torch is imported already.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

NOT_ON_WINDOWS: dict[ModuleType, tuple[str, ...]] = {
    os: (
        *("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_PATH", "O_DIRECT", "preadv", "posix_fadvise"),
        *("register_at_fork", "fork", "killpg", "sched_getaffinity", "sysconf", "fchmod", "fchown"),
    ),
    signal: ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "SIGALRM", "SIGCHLD", "pthread_sigmask"),
    mmap: ("MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_SHARED", "MADV_HUGEPAGE", "MADV_DONTFORK"),
}
NOT_ON_MACOS: dict[ModuleType, tuple[str, ...]] = {
    os: ("O_DIRECT", "O_PATH", "posix_fadvise", "sched_getaffinity"),
    mmap: ("MADV_HUGEPAGE", "MADV_DONTFORK"),
}


def on_windows(program: str, *arguments: Any) -> None:
    """Run a function of this module where Python is that of Windows."""
    for name in ("fcntl", "resource", "termios", "pwd", "grp"):
        sys.modules[name] = None  # type: ignore[assignment]  # an import of it fails
    os.supports_dir_fd.clear()
    _take_away(NOT_ON_WINDOWS)
    globals()[program](*arguments)


def on_macos(program: str, *arguments: Any) -> None:
    """Run a function of this module where Python is that of macOS, and write down each full sync."""
    real, full_sync = fcntl.fcntl, -51

    def recorded(file: int, command: int, argument: Any = 0) -> Any:
        if command != full_sync:
            return real(file, command, argument)
        print("full sync", os.readlink(f"/proc/self/fd/{file}"))
        return 0

    vars(fcntl).update(fcntl=recorded, F_FULLFSYNC=full_sync)
    os.fsync = _fail
    _take_away(NOT_ON_MACOS)
    globals()[program](*arguments)


def _fail(*arguments: object) -> None:
    raise AssertionError(f"called with {arguments}")


def _take_away(names: dict[ModuleType, tuple[str, ...]]) -> None:
    for module, absent in names.items():
        for name in absent:
            vars(module).pop(name, None)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("resumable", "tests") and name != __name__:
            del sys.modules[name]


# -- programs ---------------------------------------------------------------------------------------------------------


def files_of_the_user(folder: str) -> None:
    """Save, replace and load a file, and convert one of `torch.save`."""
    import torch

    import resumable
    from resumable.convert import convert

    file = Path(folder, "new", "x.safetensors")
    resumable.save({"a": torch.zeros(3)}, file)
    resumable.save({"a": torch.arange(3), "b": [1, "c"]}, file)
    assert resumable.load(file, only="a").tolist() == [0, 1, 2]
    assert resumable.load(file)["b"] == [1, "c"]
    torch.save({"d": torch.ones(2)}, Path(folder, "y.pt"))
    convert(Path(folder, "y.pt"), file)
    assert resumable.load(file)["d"].tolist() == [1, 1]
    assert [path.name for path in file.parent.iterdir()] == ["x.safetensors"]


def reading_a_run(run: str) -> None:
    """Read a local run, by names and by verbs, and load its weights."""
    import torch

    from resumable import Run, load_weights
    from resumable.cli import app
    from tests.tiny import Tiny

    latest = Run(run).latest()
    latest.verify()
    stored = latest.load("model")
    for place in (run, f"{run}@latest", f"{run}/checkpoints/{latest.name}"):
        model = Tiny(run).model
        load_weights(model, place, name="model")
        assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    for arguments in (["ls", run], ["show", run], ["verify", run], ["diff", run, run]):
        assert _exit_code(lambda given=arguments: app(given)) == 0, arguments


def training_elsewhere(run: str) -> None:
    """Train on a storage that is no folder, crash, resume, and compare with a training that was left alone."""
    from tests.tiny import Tiny, assert_equal_ends, crashed

    Tiny(f"{run}/alone").train()
    crashed(f"{run}/crashed", step=5)
    Tiny(f"{run}/crashed").train()
    assert_equal_ends(f"{run}/alone", f"{run}/crashed")


def training_in_a_folder(run: str) -> None:
    """Train into a folder, or print how that is refused."""
    from resumable import ConfigError
    from tests.tiny import Tiny

    try:
        Tiny(run).train()
    except ConfigError as error:
        print(error)


def _exit_code(call: Callable[[], object]) -> object:
    try:
        call()
    except SystemExit as left:
        return left.code
    return 0
