"""A program that starts warm is as one that starts cold: compared by what the same script prints in both."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from resumable.cli.drill.run_command import CommandResult, run_command
from resumable.cli.drill.warm_python import WarmPython, can_be_warm

REPOSITORY = str(Path(__file__).parents[2])
FACTS = """
    import os, sys

    loaded = sorted({"torch", "numpy", "resumable", "torch._dynamo"} & set(sys.modules))
    mode = os.environ["MODE"]
    if mode == "environment":
        os.environ["OMP_NUM_THREADS"] = "3"
    if mode == "path":
        sys.path.insert(0, os.environ["OTHER"])

    class Item:
        def __init__(self, value):
            self.value = value

    def double(item):
        return Item(2 * item.value)

    def facts():
        import __main__, atexit, numpy, pickle, random, signal, threading, torch
        os.environ["LATER"] = "1"  # as sklearn does
        from resumable import Trainer

        atexit.register(lambda: print("atexit", len(pickle.dumps(Item(3))) > 0, "torch" in sys.modules))
        print(loaded, sys.argv, __name__, __file__, sys.path[0], sys.orig_argv[1:], os.getcwd())
        names = sorted(name for name in vars(__main__) if name.startswith("__"))
        print(names, __main__ is sys.modules["__main__"], __spec__, __builtins__.__name__, __package__)
        print(type(__loader__).__name__, __annotations__, __doc__, __cached__)
        print(torch.get_num_threads(), threading.active_count())
        print(threading.current_thread() is threading.main_thread(), os.getsid(0) == os.getpid(), sys.flags)
        print(torch.__spec__.name, torch.nn.__spec__.name, Trainer.__module__, len(sys.meta_path), sys.stdin.read())
        print(pickle.loads(pickle.dumps(Item(4))).value, *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))
        print(sorted(os.environ), sys.stdout.encoding, sys.stdout.isatty(), sys.executable)
        for draw in (random.random, numpy.random.rand, torch.rand(()).item, lambda: hash("text")):
            print("drawn", draw())  # other ones in each launch

    def children():
        import multiprocessing

        for method in ("fork", "spawn", "forkserver"):
            with multiprocessing.get_context(method).Pool(1) as pool:
                print(method, pool.apply(double, (Item(21),)).value)

    if __name__ == "__main__":
        if mode in ("facts", "children"):
            globals()[mode]()
        elif mode == "error":
            import torch
            print("before")
            raise ValueError("a bad day") from KeyError("cause")
        elif mode == "environment":
            import torch
            print(torch.get_num_threads())
        elif mode == "path":
            import resumable
            print(resumable.__file__)
        elif mode == "interrupt":
            import signal
            os.kill(os.getpid(), signal.SIGINT)
        elif mode == "kill":
            os.kill(os.getpid(), 9)
        else:
            sys.exit(int(mode) if mode.isdigit() else mode)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("warm") / "train.py"
    path.write_text(textwrap.dedent(FACTS))
    return [sys.executable, str(path), "--lr", "0.1"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": REPOSITORY, "PYTHONUNBUFFERED": "1", "MODE": "", **more}


@pytest.fixture(scope="module")
def warm(command: list[str]) -> Iterator[WarmPython]:
    with WarmPython(command, environment()) as started:
        yield started


def both(command: list[str], warm: WarmPython, mode: str) -> tuple[CommandResult, list[str], list[str]]:
    """Launch cold and warm; return how the warm one ended, which is as the cold one did, and what both printed."""
    cold_lines: list[str] = []
    warm_lines: list[str] = []
    cold = run_command(command, environment=environment(MODE=mode), show=cold_lines.append)
    ended = warm.launch(environment(MODE=mode), warm_lines.append)
    assert ended is not None, "the interpreter did not get ready"
    assert (ended.code, ended.warm) == (cold.code, True)
    return ended, cold_lines, warm_lines


def test_the_program_is_as_one_that_starts_cold(command: list[str], warm: WarmPython) -> None:
    _, cold, found = both(command, warm, "facts")
    drawn = [line for line in (*cold, *found) if line.startswith("drawn")]
    assert len(set(drawn)) == 8
    assert [line for line in found if line not in drawn] == [line for line in cold if line not in drawn]
    assert found[0].startswith("[] [")
    assert found[-1] == "atexit True True"
    again: list[str] = []
    warm.launch(environment(MODE="facts"), again.append)
    assert [line for line in again if line in drawn] == [found[-2]]  # only the hashes are those of the interpreter


@pytest.mark.parametrize("mode", ["error", "interrupt", "kill", "3", "0", "a reason"])
def test_it_ends_as_one_that_starts_cold(command: list[str], warm: WarmPython, mode: str) -> None:
    ended, cold, found = both(command, warm, mode)
    assert found == cold
    codes = {"error": 1, "kill": -9, "3": 3, "0": 0, "a reason": 1}
    assert ended.code == codes.get(mode, ended.code)  # an interrupt is ignored where these tests run in the background
    assert ended.tail == tuple(found[-20:])


def test_its_children_find_its_classes(command: list[str], warm: WarmPython) -> None:
    _, cold, found = both(command, warm, "children")
    assert found == cold == ["fork 42", "spawn 42", "forkserver 42"]


def test_what_outlives_a_warm_launch_is_ended_with_it(command: list[str], warm: WarmPython) -> None:
    lines: list[str] = []
    warm.launch(environment(MODE="facts"), lines.append)
    assert lines[-1] == "atexit True True"


@pytest.mark.parametrize("mode", ["environment", "path"])
def test_a_program_that_changes_what_an_import_reads_starts_again_cold(
    command: list[str], tmp_path: Path, mode: str
) -> None:
    """Another number of threads, or another copy of the package, would be silently wrong."""
    (tmp_path / "resumable").mkdir()
    (tmp_path / "resumable/__init__.py").write_text("")
    with WarmPython(command, environment()) as warm:
        lines: list[str] = []
        launch = environment(MODE=mode, OTHER=str(tmp_path))
        ended = warm.launch(launch, lines.append)
        assert ended is not None
        assert (ended.code, ended.warm) == (0, False)
        cold: list[str] = []
        run_command(command, environment=launch, show=cold.append)
        assert lines == cold
        assert mode == "environment" or lines == [str(tmp_path / "resumable/__init__.py")]
        assert warm.launch(launch, lines.append) is None  # it would do so each time


@pytest.mark.matrix
def test_a_module_is_as_one_that_starts_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/train.py").write_text(textwrap.dedent(FACTS).replace("__spec__,", "__spec__.name,"))
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "package.train", "--lr", "0.1"]
    with WarmPython(command, environment()) as warm:
        for mode in ("facts", "error", "children"):
            _, cold, found = both(command, warm, mode)
            assert [line for line in found if "drawn" not in line] == [line for line in cold if "drawn" not in line]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["{python}", "{script}", "-x"], True),
        (["{python}", "-m", "package.train"], True),
        (["{python}", "-m"], False),
        (["{python}", "-O", "{script}"], False),
        (["{python}", "-c", "pass"], False),
        (["{python}", "missing.py"], False),
        (["{python}"], False),
        (["torchrun", "{script}"], False),
        (["sh", "{script}"], False),
        ([], False),
    ],
)
def test_only_a_script_or_module_of_this_interpreter_starts_warm(
    tmp_path: Path, command: list[str], expected: bool
) -> None:
    script = tmp_path / "train.py"
    script.write_text("")
    assert can_be_warm([word.format(python=sys.executable, script=script) for word in command]) is expected


def test_an_interpreter_without_torch_starts_nothing(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('none here')")
    with WarmPython(command, {**environment(), "PYTHONPATH": str(tmp_path)}) as warm:
        assert warm.launch(environment(), lambda line: None) is None
