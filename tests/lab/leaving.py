"""Scenarios about signals and exits. Independent of kills."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import torch

import resumable.store.storage.dir_fd
import resumable.store.storage.file_lock
import resumable.store.storage.local
import tests.store.flat
from resumable import Trainer
from resumable.loop.process import preemption
from resumable.store.storage.fsspec_storage import FsspecStorage
from resumable.store.storage.local import LocalStorage
from tests.lab.feeds import loss_of
from tests.lab.loops import train_loader, update, validate
from tests.lab.operations import Operations
from tests.lab.script import Script, scenario, seed_all
from tests.lab.toys import mlp
from tests.store.flat import FlatStore


def _loop(script: Script) -> None:
    """A plain loop with validation, whose body sends a signal at a step that the options name."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = train_loader(script)
    trainer = script.trainer(model=model, optimizer=optimizer)
    for _ in trainer.epochs(3):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            script.saw(trainer, x, y, loss)
        if script.option("signal_in_validation", None) == trainer.epoch:
            script.signal_itself()
        trainer.log(val_loss=validate(trainer, model))


@scenario
def signalled_once(script: Script) -> None:
    """Earlier ways of dealing with signals are back once the loop is over."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]
    _loop(script)
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)]


@scenario
def left_from_a_thread(script: Script) -> None:
    """Instead of a signal, a thread of the program calls `leave()`, as one that watches a cloud does."""
    make = script.trainer

    def trainer(**objects: Any) -> Trainer:
        made = make(**objects)
        script.signal_itself = lambda: in_a_thread(made.leave)
        return made

    script.trainer = trainer
    _loop(script)


def in_a_thread(call: Callable[[], None]) -> None:
    """Call it in a thread, and wait for that."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


@scenario
def signalled_twice(script: Script) -> None:
    """The second signal comes right after the first, or while the save that the first asked for is being written."""
    preemption._SAME_REQUEST_SECONDS = 0.0  # otherwise a signal that follows so soon is taken for the same one
    if script.option("second", None) == "while saving":
        write = LocalStorage.write

        def interrupted(self: LocalStorage, path: str, chunks: Any) -> None:
            if f"step-{script.options['signal_at'] + 1:09}" in path:
                script.signal_itself()
                threading.Event().wait()  # the writing thread gets no further: the program must not wait for it
            write(self, path, chunks)

        LocalStorage.write = interrupted
    elif script.option("second", None) == "at once":
        first = signal.Signals[script.options["signal"]]
        script.signal_itself = lambda: [os.kill(os.getpid(), first) for _ in range(2)]
    _loop(script)


@scenario
def signalled_group(script: Script) -> None:
    """The signal goes to the whole process group, as from a terminal or a scheduler, loader workers included."""
    name = script.option("signal", None)
    script.signal_itself = lambda: os.killpg(0, signal.Signals[name])
    _loop(script)


def flat_place(folder: Path) -> dict[str, Any]:
    """The config of a run in an object store that keeps its objects in `folder`."""
    fsspec.register_implementation("flat", FlatStore, clobber=True)
    folder.mkdir(exist_ok=True)
    return {"run": "flat://bucket/run", "storage_options": {"folder": str(folder)}}


@scenario
def dies_at_an_operation(script: Script) -> None:
    """A short loop whose storage kills it at the n-th operation, counted from the start or after the first save."""
    operations = Operations(
        kill_at=script.option("kill_at", 0), log=script.options["log"], armed=script.option("from_start", False)
    )
    place: dict[str, Any] = {}
    if script.option("flat", False):
        operations.install(FsspecStorage, tests.store.flat)
        place = flat_place(Path(script.run))
    else:
        storages = resumable.store.storage
        operations.install(LocalStorage, storages.local, storages.dir_fd, storages.file_lock)
    seed_all()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = train_loader(script)
    config = script.config(every={"steps": 2, "minutes": None}, keep={"last": 1}) | place
    trainer = Trainer(config, classifier=model, optimizer=optimizer)  # files before and behind the manifest, by name
    for _ in trainer.epochs(1):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            update(optimizer, loss)
            script.saw(trainer, x, y, loss)


@scenario
def ends_in_mid_loop(script: Script) -> None:
    """A program that is over while its loop is not, with an iterator that outlives everything; closes nothing."""
    model = mlp()
    trainer = script.trainer(model=model)
    steps = iter(trainer.steps(20))
    LEFT_BEHIND.append(steps)
    for _ in range(6):
        next(steps)
    if script.option("stops", False):
        trainer.stop()


LEFT_BEHIND: list[object] = []
