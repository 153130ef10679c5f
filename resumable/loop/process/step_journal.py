"""Record what each boundary logged in the journal, without waiting for a device. Independent of saves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from resumable.loop.metrics import LoggedValue
from resumable.store.journal.records import MAX_METRICS, Place, metrics_line
from resumable.store.journal.writer import JournalWriter
from resumable.utils.events import warn

MAX_PENDING = 1024  # records whose values are still on a device; the oldest is then waited for


@dataclass(frozen=True, slots=True)
class _Pending:
    """A record whose values are on a device, or on the way from there: `arrived` is the end of that, if it is known."""

    kind: str
    place: Place
    seconds: float
    metrics: Mapping[str, LoggedValue]
    arrived: torch.cuda.Event | None


class StepJournal:
    """The records of one launch, in the order of its boundaries."""

    def __init__(self, writer: JournalWriter) -> None:
        self._writer = writer
        self._started = time.monotonic()
        self._pending: deque[_Pending] = deque()
        self._reported = False

    def note(self, logged: Mapping[str, LoggedValue], *, step: int, epoch: int, epoch_ended: bool) -> None:
        """Record the metrics of a boundary; nothing where none was logged."""
        if logged and self._writer.active:
            with self._writer.ended_by_failure():
                self._note(logged, step=step, epoch=epoch, epoch_ended=epoch_ended)

    def _note(self, logged: Mapping[str, LoggedValue], *, step: int, epoch: int, epoch_ended: bool) -> None:
        kind, place = "epoch" if epoch_ended else "step", (step, epoch)
        seconds = time.monotonic() - self._started
        on_device = _is_on_device(logged)
        if on_device or self._pending:
            metrics, arrived = _on_the_way(logged) if on_device else (logged, None)
            self._pending.append(_Pending(kind, place, seconds, metrics, arrived))
            self._write_arrived()
        else:
            self._write(kind, place, seconds, logged)

    def settle(self) -> None:
        """Write every record, and wait for the devices that hold its values."""
        with self._writer.ended_by_failure():
            while self._pending:
                self._write_oldest()

    def _write_arrived(self) -> None:
        while self._pending:
            arrived = self._pending[0].arrived
            is_there = _has_ended(arrived) if arrived is not None else not _is_on_device(self._pending[0].metrics)
            if not is_there and len(self._pending) <= MAX_PENDING:
                return
            self._write_oldest()

    def _write_oldest(self) -> None:
        oldest = self._pending.popleft()
        if oldest.arrived is not None:
            oldest.arrived.synchronize()
        self._write(oldest.kind, oldest.place, oldest.seconds, oldest.metrics)

    def _write(self, kind: str, place: Place, seconds: float, logged: Mapping[str, LoggedValue]) -> None:
        metrics = dict(_numbers(logged))
        line, kept = metrics_line(kind, place, seconds, metrics)
        self._writer.write(line)
        if kept < len(metrics) and not self._reported:
            self._reported = True
            warn(f"the journal holds the first {kept} of {len(metrics)} metrics that step {place[0]} logged")


def _has_ended(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]


def _numbers(logged: Mapping[str, LoggedValue]) -> Iterator[tuple[str, float]]:
    for name, value in logged.items():
        if not (isinstance(value, Tensor) and value.is_complex()):
            yield name, float(value)


def _is_on_device(metrics: Mapping[str, LoggedValue]) -> bool:
    return any(isinstance(value, Tensor) and value.device.type != "cpu" for value in metrics.values())


def _on_the_way(logged: Mapping[str, LoggedValue]) -> tuple[Mapping[str, LoggedValue], torch.cuda.Event | None]:
    """Begin to copy the values of one CUDA device to the host; others are copied when their record is written."""
    values = {name: value for name, value in islice(logged.items(), MAX_METRICS) if _is_real_on_device(value)}
    tensors = [value for value in values.values() if isinstance(value, Tensor)]
    if not tensors or len({tensor.device for tensor in tensors}) > 1 or tensors[0].device.type != "cuda":
        return logged, None
    with torch.cuda.device(tensors[0].device):
        stacked = torch.stack([tensor.to(torch.float64) for tensor in tensors])
        host = torch.empty(len(tensors), dtype=torch.float64, pin_memory=True)
        host.copy_(stacked, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
    return {**logged, **dict(zip(values, host.unbind(), strict=True))}, arrived


def _is_real_on_device(value: LoggedValue) -> bool:
    return isinstance(value, Tensor) and value.device.type != "cpu" and not value.is_complex()
