"""The stream that runs in place of the user's: its batches are made under streams keyed by (pass, worker, batch)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from resumable.data.addresses import key_of
from resumable.data.passes.keyed_loader import KeyedFetch
from resumable.data.passes.loader_stream import LoaderStream, named
from resumable.data.sampling.set_epoch import has_epoch

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
        self.late = False  # whether iterating begins under the streams of the first batch
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
        self._fetch = KeyedFetch(named(stream.dataset), stream.collate, rule=stream.generator_rule)
        self._ended = False
        if isinstance(stream.dataset, LoaderStream):
            self._fetch.find_by(stream.dataset.generators)
        # An order that is drawn with the first item is drawn by a state that skips items when iterating begins.
        begin = key_of("fetch", key, 0) if stream.late else key
        self.items: Iterator[Any] = self._fetch(begin, lambda: iter(stream.dataset), again=False)

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
