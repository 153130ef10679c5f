"""The writers under test, each with its own reader; knows no fault.

Each trains on from where its folder stands, saves after every step, says aloud (`Ear.tell`) when a step is safe by its
own words, and stops (`Ear.reach`) where a fault may be prepared. What is saved after a step is `verdicts.values(step)`,
or that of another `family` for the same steps of another run.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from resumable import Trainer
from tests.faults.verdicts import Found, values


class Ear(Protocol):
    """Who listens to a writer under test."""

    def reach(self, point: str) -> None:
        """The writer is at a named point; returns when it may go on."""

    def tell(self, step: int) -> None:
        """The writer says that what it saved after `step` is safe."""


@dataclass(frozen=True)
class Deaf:
    """Listens to nothing and stops nobody."""

    def reach(self, point: str) -> None:
        pass

    def tell(self, step: int) -> None:
        pass


@dataclass(frozen=True)
class Subject:
    """One way to save.

    `train(folder, until, ear)` trains on to step `until`; `load(folder)` is its reader's newest, or None where nothing
    is; `step_of(path)` is the step whose checkpoint a file belongs to, or None; `options` go to `train` by name.
    """

    name: str
    train: Callable[..., None]
    load: Callable[[Path], Found | None]
    step_of: Callable[[Path], int | None]
    options: dict[str, Any] = field(default_factory=dict)


# -- resumable --------------------------------------------------------------------------------------------------------


class Weights(nn.Module):
    """A model whose parameters are what `values` says."""

    def __init__(self) -> None:
        super().__init__()
        self.be(-1)

    def be(self, step: int, family: int = 0) -> None:
        for name, value in values(step, family=family).items():
            self.register_buffer(name, value)


def train_resumable(
    folder: Path, until: int, ear: Ear, *, family: int = 0, keep: int = 1, max_failed_saves: int = 3
) -> None:
    """The product's own loop. With `keep=1` every save deletes the only checkpoint before it."""
    weights, notes = Weights(), {"step": 0}
    weights.be(0, family)
    config = _config(folder) | {"keep": {"last": keep, "best": None}, "max_failed_saves": max_failed_saves}
    with _told(ear):
        ear.reach("open")
        with Trainer(config, weights=weights, notes=notes) as trainer:
            trainer._launch.begin_attempt()  # as the loop would: by this thread, and not in the phase of the save
            ear.reach("start")
            for done in trainer.steps(until):
                _until_written()
                ear.reach(f"saved {done}")
                weights.be(done + 1, family)
                notes["step"] = done + 1
                trainer.request_save()
                ear.reach(f"save {done + 1}")


def load_resumable(folder: Path) -> Found | None:
    """The newest by the product's own discovery, put into live objects by its own restore."""
    weights, notes = Weights(), {"step": -1}
    with Trainer(_config(folder), weights=weights, notes=notes) as trainer:
        if trainer.resumed_from is None:
            return None
        trainer.restore()
        agree = trainer.step == notes["step"]
        return Found(trainer.step if agree else -1, dict(weights.state_dict()))


def _config(folder: Path) -> dict[str, Any]:
    return {"run": str(folder), "data_seed": 7, "every": {"steps": None, "minutes": None}}


def step_of_resumable(path: Path) -> int | None:
    match = re.search(r"step-(\d+)\.e", str(path))
    return int(match[1]) if match else None


@contextmanager
def _told(ear: Ear) -> Iterator[None]:
    """Let the SAVED lines be the writer's word."""
    log, listener = logging.getLogger("resumable"), _SavedLines(ear)
    before = log.level
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(listener)
        log.setLevel(before)


class _SavedLines(logging.Handler):
    def __init__(self, ear: Ear) -> None:
        super().__init__()
        self._ear = ear

    def emit(self, record: logging.LogRecord) -> None:
        match = re.match(r"SAVED +step=(\d+) ", record.getMessage())
        if match:
            self._ear.tell(int(match[1]))


def _until_written() -> None:
    for thread in threading.enumerate():
        if thread.name == "resumable-writer":
            thread.join()


def train_without_sync(folder: Path, until: int, ear: Ear, *, spared: str) -> None:
    """resumable, broken on purpose: its fsync of files, of folders, or of both does nothing. Only for a child."""
    real = os.fsync

    def fsync(file: int) -> None:
        kind = "folders" if stat.S_ISDIR(os.fstat(file).st_mode) else "files"
        if spared not in (kind, "all"):
            real(file)

    os.fsync = fsync
    train_resumable(folder, until, ear)


# -- torch.save in place ----------------------------------------------------------------------------------------------

IN_PLACE = "checkpoint.pt"


def train_in_place(folder: Path, until: int, ear: Ear, *, family: int = 0) -> None:
    """What tutorials do: one file, written over and over."""
    folder.mkdir(exist_ok=True)
    found = load_in_place(folder)
    for step in range(found.step + 1 if found else 1, until + 1):
        ear.reach(f"save {step}")
        torch.save(values(step, family=family), folder / IN_PLACE)
        ear.tell(step)
        ear.reach(f"saved {step}")


def load_in_place(folder: Path) -> Found | None:
    if not (folder / IN_PLACE).exists():
        return None
    state = torch.load(folder / IN_PLACE, weights_only=True)
    return Found(int(state["step"]), state)


def _only_one(path: Path) -> int | None:
    return 3 if path.name == IN_PLACE else None


# -- torch.distributed.checkpoint -------------------------------------------------------------------------------------


def train_dcp(folder: Path, until: int, ear: Ear, *, family: int = 0) -> None:
    """A folder per step, as trainers do."""
    import torch.distributed.checkpoint as dcp

    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings(action="ignore"):
        for step in range(max(_dcp_steps(folder), default=0) + 1, until + 1):
            ear.reach(f"save {step}")
            storage = dcp.FileSystemWriter(folder / f"step-{step}")
            dcp.save(values(step, family=family), storage_writer=storage, no_dist=True)
            ear.tell(step)
            ear.reach(f"saved {step}")


def load_dcp(folder: Path) -> Found | None:
    """The newest folder that loads without an error: kinder than most code that uses it."""
    errors = []
    for step in sorted(_dcp_steps(folder), reverse=True):
        try:
            return Found(step, _load_dcp_step(folder / f"step-{step}"))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # its CheckpointException is no Exception
            errors.append(error)
    if errors:
        raise RuntimeError(f"none of {len(errors)} loads") from errors[0]
    return None


def _load_dcp_step(path: Path) -> dict[str, Any]:
    import torch.distributed.checkpoint as dcp

    state = {name: torch.full_like(value, -7) for name, value in values(1).items()}
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, storage_reader=dcp.FileSystemReader(path), no_dist=True)
    return state


def _dcp_steps(folder: Path) -> list[int]:
    return [step for path in folder.glob("step-*") if (step := _step_of_dcp(path)) is not None]


def _step_of_dcp(path: Path) -> int | None:
    match = re.search(r"step-(\d+)", str(path))
    return int(match[1]) if match else None


# -- all of them ------------------------------------------------------------------------------------------------------

RESUMABLE = Subject("resumable", train_resumable, load_resumable, step_of_resumable)
IN_PLACE_SAVE = Subject("torch.save in place", train_in_place, load_in_place, _only_one)
DCP = Subject("DCP, a folder per step", train_dcp, load_dcp, _step_of_dcp)

PEERS = (RESUMABLE, IN_PLACE_SAVE, DCP)

BROKEN = tuple(
    Subject(f"resumable without fsync of {spared}", train_without_sync, load_resumable, step_of_resumable, options)
    for spared in ("all", "files", "folders")
    for options in ({"spared": spared},)
)

SUBJECTS = {subject.name: subject for subject in (*PEERS, *BROKEN)}
