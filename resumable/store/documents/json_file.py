"""Read one JSON document of the format, and read it again before it counts as damaged. Independent of its fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from resumable.errors import CorruptCheckpointError
from resumable.store.storage.protocol import Storage
from resumable.utils.reread import reread

R = TypeVar("R")


@dataclass(frozen=True)
class JsonFile:
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
        """Return the result of `parse` for its bytes.

        Raises:
            FileNotFoundError: There is no such file.
            CorruptCheckpointError: Two reads agree that it is damaged.
            StorageError: The storage failed, or each read returned other bytes.
        """
        return reread([self], self._bytes, lambda found: self._parsed(found, parse))

    def _bytes(self) -> bytes | str:
        """Read its bytes, or return the reason why there is no document."""
        try:
            return self.storage.read(self.path, max_bytes=self.max_bytes)
        except ValueError as error:
            return str(error)

    def _parsed(self, found: bytes | str, parse: Callable[[bytes], R]) -> R:
        if isinstance(found, str):
            raise CorruptCheckpointError(f"{self.path.rpartition('/')[2]}: {found}")
        return parse(found)
