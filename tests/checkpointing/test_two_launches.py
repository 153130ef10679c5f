"""Two launches of one run at a time, as real processes: on one machine, in two containers, and on two machines."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

import resumable
from resumable import Run
from resumable.checkpointing.claim_attempt import OpenedRun
from resumable.checkpointing.find_run import discover
from resumable.config.config import Config
from resumable.errors import FencedError
from resumable.store.attempts import begin
from resumable.store.catalog import Catalog
from resumable.store.layout import CheckpointName
from resumable.store.storage.open import open_storage
from tests.harness.python import warm_python
from tests.store.flat import FlatStore
from tests.store.opening import open_run

ROOT = Path(resumable.__file__).parent.parent
START_SECONDS = 60

# A launch that does what it is told, line by line: opens the run that its first argument names, saves, ends abruptly.
LAUNCH = """
import json, os, sys
import fsspec
from resumable.config.config import Config
from resumable.utils.events import show_events
from tests.store.opening import open_run
from resumable.checkpointing.prune import prune
from resumable.policy.retention import Rule
from resumable.store.catalog import Catalog
from resumable.store.storage.open import open_storage
from tests.store.flat import FlatStore
from tests.store.training import save

show_events()
fsspec.register_implementation("flat", FlatStore)
config = Config(run=sys.argv[1], storage_options=json.loads(sys.argv[2]), data_seed=7)
storage = open_storage(config.run, config.storage_options)
catalog = Catalog(storage)
opened = open_run(config, storage, catalog, {})
print(opened.attempt.number, os.getpid(), flush=True)
step = opened.resumed.step if opened.resumed else 0
for line in sys.stdin:
    if line == "save\\n":
        step += 10
        print(save(storage, opened, step), flush=True)
    elif line == "die\\n":
        os._exit(9)
    elif line == "save for ever\\n":
        while True:
            step += 10
            save(storage, opened, step)
            prune(storage, catalog, opened.attempt, Rule(last=1))
            if step == 100:
                print("under way", flush=True)
"""

# The same with everything that a user has: a loop that takes a step for every line.
TRAINING = """
import json, sys
import fsspec
from resumable import Trainer
from tests.store.flat import FlatStore

fsspec.register_implementation("flat", FlatStore)
config = {"run": sys.argv[1], "storage_options": json.loads(sys.argv[2]), "every": {"steps": 1}}
with Trainer(config, progress={"n": 0}) as trainer:
    for step in trainer.steps(100):
        print(step, flush=True)
        sys.stdin.readline()
"""


# The same with a module, in which the third argument is one more layer; a launch says so when it was refused.
GROWING = """
import json, os, sys
import fsspec
import torch
from resumable import ResumableError, Trainer
from tests.store.flat import FlatStore

fsspec.register_implementation("flat", FlatStore)
options, extra = json.loads(sys.argv[2]).values()
config = {"run": sys.argv[1], "storage_options": {"folder": options}, "every": {"steps": 1}}
torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(2, 2), *([torch.nn.Linear(2, 2)] if extra else []))
with Trainer(config, model=model) as trainer:
    print("found", trainer.step, flush=True)
    sys.stdin.readline() or os._exit(9)  # killed: its input ends first
    for step in trainer.steps(6):
        print(step, flush=True)
        sys.stdin.readline()
"""


class Program:
    """A launch in a process of its own, on this machine, or after the words `within`, which may give it a namespace.

    Without such words it is a fork, and `process` waits for it.
    """

    def __init__(
        self, run: str | Path, *within: str, options: dict[str, str] | None = None, code: str = LAUNCH, cwd: Path = ROOT
    ) -> None:
        python = sys.executable if within else warm_python()
        command = [*within, python, "-c", code, str(run), json.dumps(options or {})]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes)

    def opened(self) -> tuple[int, int]:
        """Its attempt, and the pid that it has where it runs."""
        attempt, pid = self.read().split()
        return int(attempt), int(pid)

    def read(self) -> str:
        assert self.process.stdout
        assert self.process.stderr
        ready = select.select([self.process.stdout], [], [], START_SECONDS)[0]
        line = self.process.stdout.readline() if ready else ""
        assert line, f"it said nothing: {self.process.stderr.read() if ready else 'and does not end'}"
        return line.strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def save(self) -> str:
        self.tell("save")
        return self.read()

    def end(self) -> tuple[int, str]:
        """Its exit code and its last words."""
        _, errors = self.process.communicate(timeout=START_SECONDS)
        return self.process.returncode, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts programs, and ends them with the test."""
    started: list[Program] = []

    def begin(*arguments: object, **options: object) -> Program:
        started.append(Program(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for program in started:
        program.kill()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run"


def opened_here(run: str | Path, options: dict[str, str] | None = None) -> OpenedRun:
    """The run, opened by this very process; to be unlocked."""
    config = Config(run=str(run), storage_options=options or {}, data_seed=7)
    storage = open_storage(config.run, config.storage_options)
    return open_run(config, storage, Catalog(storage), {})


def refused(run: str | Path) -> FencedError:
    with pytest.raises(FencedError) as told:
        opened_here(run).unlock()
    return told.value


def in_a_namespace(*flags: str) -> list[str]:
    """The words before a command that give it namespaces of its own; skips where this user may not have them."""
    words = ["unshare", *flags]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip(f"needs `{' '.join(words)}` (root)")
    return words


# -- one machine ------------------------------------------------------------------------------------------------------


def test_a_living_run_is_refused_by_whatever_name_it_is_called(
    run: Path, start: Callable[..., Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, upper = tmp_path / "link", tmp_path / "upper"
    link.symlink_to(run)
    upper.symlink_to(run.parent)
    _, pid = start(run).opened()
    monkeypatch.chdir(tmp_path)
    spellings = [run, "runs/run", "./runs//run/", f"runs/../runs/{run.name}", link, upper / run.name, f"file://{run}"]
    for spelling in spellings:
        told = refused(spelling)
        assert f"another job is using this run: {tmp_path}" in told.message
        assert f"(attempt 1 (host {os.uname().nodename}, pid {pid}, started " in told.message
        assert told.hint == "wait for it, stop it, or name another folder in `run`"


def test_a_run_that_was_opened_by_a_link_is_refused_by_its_own_name(
    run: Path, start: Callable[..., Program], tmp_path: Path
) -> None:
    run.mkdir(parents=True)
    (tmp_path / "link").symlink_to(run)
    start("link", cwd=tmp_path).opened()
    refused(run)


def test_one_program_is_refused_its_own_run_by_another_name(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    first = opened_here(run)
    assert "this program has a Trainer on this run already" in refused(tmp_path / "link").message
    first.unlock()
    opened_here(tmp_path / "link").unlock()


def test_a_killed_launch_leaves_the_run_to_the_next_at_once(run: Path, start: Callable[..., Program]) -> None:
    first = start(run)
    _, pid = first.opened()
    saved = first.save()
    os.kill(pid, signal.SIGKILL)
    assert first.end()[0] == -signal.SIGKILL
    second = opened_here(run)
    second.unlock()
    assert second.attempt.number == 2
    assert second.resumed is not None
    assert second.resumed.name == saved


def test_a_launch_that_is_stopped_holds_its_run_and_goes_on_when_it_is_continued(
    run: Path, start: Callable[..., Program]
) -> None:
    first = start(run, "env")  # no fork: a child of this process, which can wait for its stop
    first.opened()
    first.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, first.process.pid, os.WSTOPPED)
    refused(run)
    first.process.send_signal(signal.SIGCONT)
    assert first.save() == "step-000000010.e0000.a0001"


def test_a_copy_of_a_living_run_may_be_launched_beside_it(
    run: Path, start: Callable[..., Program], tmp_path: Path
) -> None:
    first = start(run)
    first.opened()
    saved = first.save()
    subprocess.run(["cp", "-r", str(run), str(tmp_path / "copy")], check=True)
    copy = start(tmp_path / "copy")
    assert copy.opened()[0] == 2
    assert copy.save() == "step-000000020.e0000.a0002"
    assert first.save() == "step-000000020.e0000.a0001"
    refused(run)
    assert [checkpoint.name for checkpoint in Run(str(tmp_path / "copy")).checkpoints()][-2] == saved


def test_a_run_that_was_moved_away_and_begun_anew_is_not_written_to_by_the_launch_that_had_it(
    run: Path, start: Callable[..., Program]
) -> None:
    old = start(run)
    old.opened()
    saved = old.save()
    run.rename(run.with_name("moved"))
    new = start(run)
    assert new.opened()[0] == 1
    old.tell("save")
    code, words = old.end()
    assert code == 1
    assert "took the number of this attempt" in words
    assert new.save() == saved
    assert [checkpoint.name for checkpoint in Run(str(run)).checkpoints()] == [saved]


# -- containers on one machine ----------------------------------------------------------------------------------------


def test_a_container_whose_program_has_the_pid_of_the_dead_one_starts_and_is_refused_while_that_one_lives(
    run: Path, start: Callable[..., Program]
) -> None:
    container = in_a_namespace("--pid", "--fork", "--kill-child", "--mount-proc")
    first = start(run, *container)
    assert first.opened() == (1, 1)
    code, words = start(run, *container).end()
    assert code == 1
    assert "FencedError: another job is using this run" in words
    first.tell("die")
    first.end()
    assert start(run, *container).opened() == (2, 1)


# -- two machines -----------------------------------------------------------------------------------------------------


def machine(name: str) -> list[str]:
    """The words before a command that let it run on a machine of this name, as far as it can see."""
    return [*in_a_namespace("--uts"), "sh", "-c", f'hostname {name} && exec "$@"', "sh"]


def test_elsewhere_the_newer_launch_takes_over_and_names_the_older_which_ends_at_its_next_save(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    place = {"folder": str(tmp_path)}
    old = start("flat://bucket/run", *machine("elder"), options=place)
    _, pid = old.opened()
    saved = old.save()
    new = start("flat://bucket/run", *machine("younger"), options=place)
    assert new.opened()[0] == 2
    old.tell("save")
    code, words = old.end()
    assert code == 1
    assert "FencedError: attempt 2 (host younger, pid " in words
    assert " owns this run now; this is attempt 1" in words
    assert "stop one of the two jobs, or give each its own run" in words
    assert new.save() == "step-000000020.e0000.a0002"
    new.tell("die")
    _, words = new.end()
    assert f"DISPLACE attempt=1 host=elder pid={pid} by=2" in words
    fsspec.register_implementation("flat", FlatStore, clobber=True)
    history = Run("flat://bucket/run", storage_options=place).checkpoints()
    assert [checkpoint.name for checkpoint in history] == [saved, "step-000000020.e0000.a0002"]


def test_a_training_that_was_displaced_ends_with_who_displaced_it(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    place = {"folder": str(tmp_path)}
    training = start("flat://bucket/run", options=place, code=TRAINING)
    assert training.read() == "0"
    fsspec.register_implementation("flat", FlatStore, clobber=True)
    begin(open_storage("flat://bucket/run", place), resumed_from=None, lineage_before=[])
    for _ in range(2):  # to the next save, and to the boundary that hears of it
        training.tell("")
    code, words = training.end()
    assert code == 1
    assert f"FencedError: attempt 2 (host {os.uname().nodename}, pid {os.getpid()}, started " in words
    assert "hint: nothing of the newer attempt was touched; stop one of the two jobs" in words


def test_a_launch_that_is_refused_or_never_begins_leaves_a_living_training_alone(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    place = {"folder": str(tmp_path), "extra": ""}
    living = start("flat://bucket/run", options=place, code=GROWING)
    assert living.read() == "found 0"
    living.tell("")
    assert living.read() == "0"
    idle = start("flat://bucket/run", options=place, code=GROWING)
    assert idle.read() == "found 0"
    idle.kill()
    mistaken = start("flat://bucket/run", options=place | {"extra": "yes"}, code=GROWING)
    assert mistaken.read() == "found 0"
    living.tell("")  # it saves meanwhile, and the other one compares itself with that
    assert living.read() == "1"
    living.tell("")
    assert living.read() == "2"
    mistaken.tell("")
    code, words = mistaken.end()
    assert code == 1
    assert "RunMismatchError: flat://bucket/run: the objects differ from those of step-00000000" in words
    assert "model: missing in the checkpoint: 1.bias, 1.weight" in words
    assert not any(line.startswith("DISPLACE") for line in words.splitlines())
    for step in ("3", "4", "5"):
        living.tell("")
        assert living.read() == step
    living.tell("")
    assert living.end()[0] == 0
    fsspec.register_implementation("flat", FlatStore, clobber=True)
    last = Run("flat://bucket/run", storage_options={"folder": str(tmp_path)}).latest().manifest
    assert (last.attempt, last.step, last.finished) == (1, 6, True)


def test_a_launch_that_begins_late_resumes_from_what_another_has_saved_meanwhile(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    place = {"folder": str(tmp_path), "extra": ""}
    first, second = (start("flat://bucket/run", options=place, code=GROWING) for _ in range(2))
    assert (first.read(), second.read()) == ("found 0", "found 0")
    for step in ("0", "1", "2"):  # both found a new run, and one begins it
        first.tell("")
        assert first.read() == step
    second.tell("")
    assert int(second.read()) in (1, 2)
    first.tell("")
    first.tell("")
    code, words = first.end()
    assert code == 1
    assert "FencedError: attempt 2 " in words
    second.kill()


# -- a reader beside a writer -----------------------------------------------------------------------------------------


def test_a_run_that_is_saved_and_pruned_as_fast_as_can_be_is_found_each_time(
    run: Path, start: Callable[..., Program]
) -> None:
    writer = start(run)
    writer.opened()
    writer.tell("save for ever")
    assert writer.read() == "under way"
    steps = []
    for _ in range(300):
        found = discover(Config(run=str(run)), Catalog(open_storage(str(run))))
        assert found is not None
        assert CheckpointName.parse(found.name)
        steps.append(found.step)
    assert steps == sorted(steps)
    assert steps[-1] > steps[0] >= 90
