"""Several launches in one program: an idle one is taken over, a busy one is not, and two runs never become one."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resumable import (
    Config,
    ConfigError,
    FencedError,
    Interrupted,
    LoopError,
    Preempted,
    Run,
    RunMismatchError,
    Trainer,
)
from tests.tiny import Crash, Tiny, assert_equal_ends

Leaves = Callable[[Tiny, Trainer], object]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    """The log lines of one event until now."""
    caplog.set_level(logging.INFO, logger="resumable")
    return lambda event: [each.getMessage() for each in caplog.records if each.getMessage().startswith(event)]


class Bar:
    """Goes over an iterable as tqdm does."""

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable

    def __iter__(self) -> Iterator[Any]:
        yield from (each for each in self.iterable)


# -- an idle one ------------------------------------------------------------------------------------------------------


def never_begins(tiny: Tiny, trainer: Trainer) -> object:
    return trainer.epochs(2)


def ends(tiny: Tiny, trainer: Trainer) -> object:
    for _ in trainer.epochs(1):
        for batch in trainer.batches(tiny.loader):
            tiny.step(batch)
    return None


def is_left_by_break(tiny: Tiny, trainer: Trainer) -> object:
    kept = Bar(trainer.epochs(2))
    for _ in kept:
        bar = Bar(trainer.batches(tiny.loader))
        for batch in bar:
            tiny.step(batch)
            if trainer.step == 2:
                return kept, bar
    return None


def is_left_by_an_exception(tiny: Tiny, trainer: Trainer) -> object:
    def loop() -> None:
        epochs, bars = Bar(trainer.epochs(2)), []
        for _ in epochs:
            bars.append(Bar(trainer.batches(tiny.loader)))
            for batch in bars[-1]:
                tiny.step(batch)
                if trainer.step == 2:
                    raise Crash

    try:
        loop()
    except Crash as error:
        return error  # with its traceback, and the frames and iterators in it
    return None


def fails_by_hand(tiny: Tiny, trainer: Trainer) -> object:
    def loop() -> None:
        steps = iter(trainer.steps(9))
        next(steps)
        raise Crash

    try:
        loop()
    except Crash as error:
        return error
    return None


def fails_in_validation(tiny: Tiny, trainer: Trainer) -> object:
    def loop() -> None:
        for _ in trainer.evaluate(tiny.loader):
            raise Crash

    try:
        loop()
    except Crash as error:
        return error
    return None


IDLE: list[Leaves] = [never_begins, ends, is_left_by_break, is_left_by_an_exception, fails_by_hand, fails_in_validation]


@pytest.mark.parametrize("leaves", IDLE)
def test_an_idle_trainer_is_taken_over_and_can_be_used_no_more(
    run: Path, tmp_path: Path, lines: Callable[[str], list[str]], leaves: Leaves
) -> None:
    loop = "steps" if leaves is fails_by_hand else "epochs"
    tiny = Tiny(run, saves=[1, 2, 4])
    old = tiny.trainer()
    kept = leaves(tiny, old)
    again = Tiny(run)
    with again.trainer() as trainer:
        attempt = 0 if leaves in (never_begins, fails_in_validation) else 1
        over = f"this Trainer's attempt {attempt} is over" if attempt else "this Trainer is over"
        for call in (
            lambda: old.log(loss=1),
            lambda: old.evaluate(tiny.loader),
            lambda: next(iter(old.epochs(2))),
            lambda: next(iter(old.batches(tiny.loader))),
            lambda: old.cycle(tiny.loader),
            old.stop,
            old.request_save,
            old.restore,
            lambda: old.golden(None),
        ):
            with pytest.raises(LoopError, match=f"{over}: a later launch of this program took the run over"):
                call()
        old.close()
        trainer._launch.begin_attempt()
        with pytest.raises(LoopError, match=f"{over}: attempt {attempt + 1} of this program took the run over"):
            old.stop()
        [line] = lines("TAKEOVER")
        assert f"run={run}" in line
        former = f"attempt {attempt}" if attempt else "a launch that claimed no attempt"
        assert f'from="{former}" attempt={attempt + 1}' in line
        if loop == "epochs":
            for _ in trainer.epochs(2):
                for batch in trainer.batches(again.loader):
                    trainer.log(loss=again.step(batch))
                    del kept  # what the old one left is collected in mid-loop, and changes nothing
                    kept = None
            Tiny(tmp_path / "whole").train()
    if loop == "epochs":
        assert_equal_ends(run, tmp_path / "whole")


def test_turns_that_the_old_one_gave_out_go_no_further(run: Path) -> None:
    old = Tiny(run).trainer()
    steps = old.steps(9)
    for _ in steps:
        break
    with Tiny(run).trainer(), pytest.raises(LoopError, match="took the run over"):
        next(steps)


def test_a_run_is_taken_over_by_whatever_name_it_is_called(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Callable[[str], list[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(run)
    held = []
    for number, name in enumerate([run, "run", "./run/", "link", f"file://{run}"]):
        held.append(Tiny(name).trainer())
        held[-1]._launch.begin_attempt()
        assert len(lines("TAKEOVER")) == number
    held[-1].close()


def test_the_same_cell_again_after_an_interrupt_goes_on_where_it_was_saved(
    run: Path, tmp_path: Path, lines: Callable[[str], list[str]]
) -> None:
    held = []

    def cell(interrupted_at: int | None) -> None:
        tiny = Tiny(run, saves=())
        trainer = tiny.trainer()
        held.append(trainer)
        for _ in trainer.epochs(2):
            for batch in trainer.batches(tiny.loader):
                trainer.log(loss=tiny.step(batch))
                if trainer.step == interrupted_at:
                    os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        cell(4)
    assert isinstance(caught.value, Interrupted)
    assert isinstance(caught.value, Preempted)
    assert (caught.value.code, caught.value.signal, caught.value.step, caught.value.saved) == (130, "SIGINT", 5, True)
    cell(None)
    cell(None)
    assert len(lines("TAKEOVER")) == 2
    assert lines("WARN") == []
    assert len(lines("DONE")) == 1
    held[-1].close()
    Tiny(tmp_path / "whole", saves=()).train()
    assert_equal_ends(run, tmp_path / "whole")


def test_steps_of_the_old_one_that_are_in_no_checkpoint_are_said(run: Path, lines: Callable[[str], list[str]]) -> None:
    tiny = Tiny(run, saves=())
    old = tiny.trainer()
    kept = is_left_by_an_exception(tiny, old)
    with Tiny(run).trainer():
        [line] = lines("WARN")
    assert "trained up to step 2, but the newest checkpoint is of step 0" in line
    del kept


def test_a_launch_that_fails_names_itself_to_the_old_one(run: Path) -> None:
    old = Tiny(run).trainer()
    with pytest.raises(RunMismatchError):
        Tiny(run, resume="never").trainer()
    with pytest.raises(LoopError, match="a later launch, which failed"):
        old.stop()
    with Tiny(run).trainer() as trainer:
        assert trainer.step == 0


# -- a busy one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [list, Bar])
def test_a_trainer_in_its_loop_is_not_taken_over(run: Path, wrapped: Any) -> None:
    tiny = Tiny(run)
    with tiny.trainer() as trainer:
        for _ in Bar(trainer.epochs(2)) if wrapped is Bar else trainer.epochs(2):
            for batch in Bar(trainer.batches(tiny.loader)) if wrapped is Bar else trainer.batches(tiny.loader):
                tiny.step(batch)
                with pytest.raises(FencedError, match="this program has a Trainer on this run already") as told:
                    Tiny(run).trainer()
    assert "let the loop end or leave it, or call its close() first" in str(told.value.hint)
    assert Run(str(run)).latest().manifest.finished


def test_a_trainer_in_the_loop_of_another_thread_is_not_taken_over(run: Path) -> None:
    tiny, inside, over = Tiny(run, signals=[]), threading.Event(), threading.Event()

    def trains() -> None:
        with tiny.trainer() as trainer:
            for _ in trainer.steps(2):
                inside.set()
                over.wait()

    thread = threading.Thread(target=trains)
    thread.start()
    inside.wait()
    with pytest.raises(FencedError, match="this program has a Trainer on this run already"):
        Tiny(run).trainer()
    over.set()
    thread.join()
    assert Run(str(run)).latest().step == 2


# -- RESUMABLE_RUN ----------------------------------------------------------------------------------------------------


def launched(config: Any) -> int:
    """Train two steps, or what is left of them; returns how many that were."""
    progress = {"n": 0}
    with Trainer(config, progress=progress) as trainer:
        return len(list(trainer.steps(2)))


def test_two_runs_are_not_put_into_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESUMABLE_RUN", str(tmp_path / "env"))
    monkeypatch.chdir(tmp_path)
    assert launched({"run": "runs/a"}) == 2
    with pytest.raises(ConfigError, match="would put two runs of this program into one") as told:
        launched({"run": "runs/b"})
    for phrase in (str(tmp_path / "env"), str(tmp_path / "runs/a"), str(tmp_path / "runs/b")):
        assert phrase in told.value.message
    assert "unset RESUMABLE_RUN" in str(told.value.hint)
    assert launched({"run": "runs/a"}) == 0  # the first is what it was: done
    with pytest.raises(ConfigError, match=r"that of a config without `run`"):
        launched({})


@pytest.mark.parametrize("kind", ["mapping", "file", "config", "loaded", "changed", "link"])
def test_one_run_stays_one_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("run: ./runs/../runs/a/\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    monkeypatch.setenv("RESUMABLE_RUN", str(tmp_path / "env"))
    again: Any = {
        "mapping": {"run": tmp_path / "runs" / "a"},
        "file": "a.yaml",
        "config": Config(run="runs/a"),
        "loaded": Config.load(Config.load("a.yaml")),
        "changed": Config.load({"run": "runs/b"}).model_copy(update={"run": "runs/a"}),
        "link": {"run": "link/a"},
    }[kind]
    assert launched({"run": "runs/a"}) == 2
    assert launched(again) == 0


def test_arguments_that_beat_the_environment_put_each_run_into_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESUMABLE_RUN", str(tmp_path / "env"))
    for name in "ab":
        assert launched(Config.load({}, run=str(tmp_path / name))) == 2


def test_in_a_drill_each_run_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESUMABLE_RUN", str(tmp_path / "drill"))
    monkeypatch.setenv("RESUMABLE_DRILL", "1")
    monkeypatch.chdir(tmp_path)
    for config in ({"run": "x/a"}, {"run": "y/a"}, {}):
        assert launched(config) == 2
        assert launched(Config.load(config)) == 0
    folders = sorted(path.parent.name for path in tmp_path.glob("drill/*/run.json"))
    assert len(folders) == 3
    assert [folder.split("-")[0] for folder in folders] == ["a", "a", "run"]


# -- the exit code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "code"), [("Interrupted", 130), ("Preempted", 75)])
def test_a_program_that_a_signal_ended_exits_with_its_code_and_without_a_traceback(kind: str, code: int) -> None:
    program = f"from resumable import {kind}\nraise {kind}({code}, signal='SIGINT', step=1, saved=True)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")
    shell = subprocess.run(["sh", "-c", f'{sys.executable} -c "{program}"; echo $?'], capture_output=True, text=True)
    assert shell.stdout == f"{code}\n"
