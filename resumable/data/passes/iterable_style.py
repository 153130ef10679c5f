"""Passes over iterable-style datasets: by their own `state_dict`, else replayed in the same number of workers.

Batches are made here, under streams keyed by (pass, worker, batch of that worker).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from resumable.data import huggingface_datasets
from resumable.data.addresses import key_of
from resumable.data.pass_base import Opening, Pass, PassPosition, length_of
from resumable.data.passes.keyed_loader import KeyedFetch, build_loader, iterate
from resumable.data.passes.replay import check_workers, replay, type_of, workers_of
from resumable.data.sampling.set_epoch import has_epoch
from resumable.data.user_state import loading_state
from resumable.data.workers import end_iterator, end_workers
from resumable.errors import LoopError
from resumable.stateful import Stateful, has_state_dict

_TICKET = struct.Struct("<16sq?")


class Ticket:
    """The key and epoch of the current pass, in memory shared with workers: persistent ones read it in each pass."""

    def __init__(self) -> None:
        self._memory = torch.zeros(_TICKET.size, dtype=torch.uint8)
        self._memory.share_memory_()  # type: ignore[no-untyped-call]

    def write(self, key: bytes, epoch: int | None) -> None:
        """Set the key and epoch of the pass that starts."""
        packed = bytearray(_TICKET.pack(key, epoch or 0, epoch is not None))
        self._memory.copy_(torch.frombuffer(packed, dtype=torch.uint8))

    def read(self) -> tuple[bytes, int | None]:
        """Return the key and epoch of the current pass."""
        key, epoch, present = _TICKET.unpack(bytes(self._memory.tolist()))
        return key, epoch if present else None


class KeyedStream(IterableDataset[Any]):
    """The user's dataset behind a proxy whose iterator yields collated batches, each under the streams of its key."""

    def __init__(self, loader: DataLoader[Any], ticket: Ticket, generator_rule: int) -> None:
        self.dataset: Dataset[Any] = loader.dataset
        self.ticket = ticket
        self.generator_rule = generator_rule
        self.start = 0  # number of the first batch to make; set before iterating, in the main program only
        self.live: Batches | None = None
        self._batch_size: int | None = loader.batch_size if loader.batch_sampler is not None else None
        self._drop_last = bool(loader.drop_last)
        self.collate = loader.collate_fn

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"live": None}

    def __iter__(self) -> Batches:
        worker = get_worker_info()
        key, epoch = self.ticket.read()
        if worker is not None and epoch is not None and has_epoch(self.dataset):
            self.dataset.set_epoch(epoch)
        self.live = Batches(self, key_of("worker", key, worker.id if worker else 0), self.start)
        return self.live

    def read(self, items: Iterator[Any]) -> Any:
        """Return one batch as torch would make it; raise StopIteration when nothing, or too little, is left."""
        if self._batch_size is None:
            return self.collate(next(items))
        batch = []
        for item in items:
            batch.append(item)
            if len(batch) == self._batch_size:
                break
        if not batch or (self._drop_last and len(batch) < self._batch_size):
            raise StopIteration
        return self.collate(batch)


class Batches(Iterator[Any]):
    """The batches of one worker in one pass."""

    def __init__(self, stream: KeyedStream, key: bytes, start: int) -> None:
        self._stream = stream
        self._key = key
        self._number = start
        self._fetch = KeyedFetch(stream.dataset, stream.collate, rule=stream.generator_rule)
        self._ended = False
        self.items: Iterator[Any] = self._fetch(key, lambda: iter(stream.dataset), again=False)

    def __next__(self) -> Any:
        if self._ended:
            raise StopIteration
        key = key_of("fetch", self._key, self._number)
        self._number += 1
        try:
            # Never twice: what was read from the stream cannot be read again.
            return self._fetch(key, lambda: self._stream.read(self.items), again=False)
        except StopIteration:
            self._ended = True
            raise


class StreamSource:
    """One of our loaders over a stream, kept as long as the user's loader lives."""

    def __init__(self) -> None:
        self._loader: DataLoader[Any] | None = None
        self._ticket = Ticket()
        self._active: StreamPass | None = None
        self.stream: KeyedStream | None = None

    def start(self, loader: DataLoader[Any], opening: Opening, owner: StreamPass, *, first: int) -> Iterator[Any]:
        """Return the batches from `first` on; close a pass that still holds the persistent workers."""
        if self._loader is None or not loader.persistent_workers:
            self._ticket = Ticket()
            self.stream = KeyedStream(loader, self._ticket, opening.generator_rule)
            self._loader = build_loader(loader, opening, self.stream, None)
        elif self._active is not None:
            self._active.close()
        assert self.stream is not None
        self._active = owner
        self._ticket.write(opening.key, opening.epoch)
        self.stream.start = first
        return iterate(self._loader, opening.signals)

    def close(self) -> None:
        """Shut down the workers."""
        end_workers(self._loader)
        self._loader = None


class StreamPass(Pass[Any]):
    """One pass over an iterable dataset."""

    def __init__(self, loader: DataLoader[Any], opening: Opening, source: StreamSource) -> None:
        super().__init__(opening.address)
        self.length = length_of(loader)
        self._loader: DataLoader[Any] | None = loader  # kept alive: its workers end with it
        self._persistent = bool(loader.persistent_workers)
        self._workers = workers_of(loader)
        self._dataset = loader.dataset
        self._shuffles = huggingface_datasets.shuffles_by_buffer(self._dataset)
        self._stateful = stateful_dataset(loader) if not self._shuffles else None
        check_workers(opening, self._workers)
        self._check_kind(opening)
        self._count = opening.batches_done if self._stateful is not None else 0
        self._loaded: huggingface_datasets.LoadedStates | None = None
        if self._stateful is not None and opening.resume:
            self._loaded = huggingface_datasets.LoadedStates(self._dataset)
            with loading_state(opening.address, type_of(self._dataset)):
                self._stateful.load_state_dict(opening.resume["dataset"])
            self.replayed = True
        self._batches: Iterator[Any] | None = source.start(loader, opening, self, first=self._count)
        self._live = source.stream.live if source.stream else None
        if self._stateful is not None:
            self._load_iterator(opening)
        else:
            replay(self, opening, type_of(self._dataset), self._faster_hint())

    def _faster_hint(self) -> str:
        if self._shuffles:
            return huggingface_datasets.LEFT_OUT
        if has_state_dict(self._dataset):
            return "fast instead: num_workers=0, with which the state_dict of the dataset is used"
        return (
            "fast instead: state_dict and load_state_dict on the dataset, which go on at the very next sample (what "
            "waits in buffers is part of the state), and num_workers=0"
        )

    def _check_kind(self, opening: Opening) -> None:
        if opening.resume is None or (opening.resume["kind"], self._shuffles) == ("state", True):
            return  # that state is of an earlier version, and incomplete; the count of batches is not
        if opening.resume["kind"] != self._kind:
            raise LoopError(
                f"{opening.address}: the checkpoint holds the dataset's position by {opening.resume['kind']}, now it "
                f"would go by {self._kind}",
                "state_dict and load_state_dict of the dataset must be there, or missing, as when the run began",
            )

    @property
    def _kind(self) -> str:
        return "replay" if self._stateful is None else "state"

    def _load_iterator(self, opening: Opening) -> None:
        iterator: Any = self._live.items if self._live else None
        state = opening.resume.get("iterator") if opening.resume else None
        if state is not None and iterator is not self._dataset:
            with loading_state(opening.address, type_of(iterator)):
                iterator.load_state_dict(state)

    def _fetch(self) -> Any:
        assert self._batches is not None
        batch = next(self._batches)
        self._count += 1
        if self._loaded is not None:
            self._loaded.drop_used()
        return batch

    def _position(self) -> PassPosition:
        position = {"kind": self._kind, "batches": self._count, "workers": self._workers}
        if self._stateful is None or self._finished:
            return position | {"dataset": None, "iterator": None}
        iterator: object = self._live.items if self._live else None
        dataset = self._stateful.state_dict()
        own = iterator.state_dict() if iterator is not self._dataset and has_state_dict(iterator) else None
        return position | {"dataset": dataset, "iterator": own}

    def _release(self) -> None:
        if not self._persistent:
            end_iterator(self._batches)
        self._batches = self._loader = None


def stateful_dataset(loader: DataLoader[object]) -> Stateful | None:
    """Return the loader's dataset if its position is in its own state: in workers it would be in theirs."""
    return loader.dataset if not workers_of(loader) and has_state_dict(loader.dataset) else None
