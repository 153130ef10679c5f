"""Reads one of the format's documents, and reads it again before damage is believed; knows none of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from resumable.errors import CorruptCheckpointError
from resumable.store.storage.protocol import Storage
from resumable.utils.reread import reread

R = TypeVar("R")


@dataclass(frozen=True)
class Document:
    """The document at `path`, of at most `max_bytes`."""

    storage: Storage
    path: str
    max_bytes: int

    @property
    def where(self) -> str:
        return f"{self.storage.url}/{self.path}"

    def drop_cache(self) -> None:
        self.storage.drop_cache(self.path)

    def read(self, parse: Callable[[bytes], R]) -> R:
        """Return what `parse` makes of it.

        Raises:
            FileNotFoundError: There is no such file.
            CorruptCheckpointError: Two reads agree that it is damaged.
            StorageError: The storage failed, or each read gave other bytes.
        """
        return reread([self], self._bytes, lambda found: self._parsed(found, parse))

    def _bytes(self) -> bytes | str:
        """Read its bytes, or return in words why there is no document."""
        try:
            return self.storage.read(self.path, max_bytes=self.max_bytes)
        except ValueError as error:
            return str(error)

    def _parsed(self, found: bytes | str, parse: Callable[[bytes], R]) -> R:
        if isinstance(found, str):
            raise CorruptCheckpointError(f"{self.path.rpartition('/')[2]}: {found}")
        return parse(found)
