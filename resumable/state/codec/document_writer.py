"""Walk over a tree, and write the document of each value. Independent of the types of values.

It finds aliases of tensors and containers inside themselves, and bounds the size of the document.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NoReturn

from torch import Tensor

from resumable.errors import StateError
from resumable.state.codec.advice import Advice
from resumable.state.codec.named_tuples import named_values
from resumable.state.codec.small_tensors import base64_text, inline_document, is_small
from resumable.state.codec.tree import Document, NamedValues, Path
from resumable.state.tensors.facts import bytes_of, facts_of, same_place

# Strict JSON allows 64 levels; the rest is for the file that contains the document.
MAX_DOCUMENT_DEPTH = 56
MAX_NODES = 1_000_000
MAX_TEXT_BYTES = 32 * 2**20

Writer = Callable[["DocumentWriter", Any, Path, int], Document]
"""Returns the document of a value of one type, at a path and at a depth of the document."""


class DocumentWriter:
    """The walk over one tree: the document of each value, and the tensors, aliases and features that it collects.

    Args:
        writers: What makes the document of a value, by its exact type.
        key_of: Returns the key of the tensor at a path. With None, tensors are written into the document.
        where: The name of the tree, with which paths in messages begin.
        advice: Returns the hint for a value that cannot be stored.
        arrays: Write long lists of numbers as arrays.
        inline: Write small tensors of the host into the document, except those that have an alias.
        shared: The places of small tensors that are known to have an alias.
    """

    def __init__(
        self,
        writers: Mapping[type, Writer],
        key_of: Callable[[Path], str] | None,
        where: str,
        advice: Advice,
        *,
        arrays: bool,
        inline: bool,
        shared: Collection[object] = (),
    ) -> None:
        self._writers = writers
        self.key_of = key_of
        self.arrays = arrays
        self.inline = inline
        self.shared = {*shared}  # the places of more than one small tensor
        self._small: set[object] = set()  # the places of small tensors
        self.advice = advice
        self.where = where
        self.tensors: dict[str, Tensor] = {}
        self.aliases: dict[str, str] = {}
        self.features: set[str] = set()
        self._keys: dict[int, list[str]] = {}  # by address: at most one key per memory
        self._open: set[int] = set()
        self._nodes = 0
        self._text_bytes = 0

    @property
    def share(self) -> float:
        """Return the part of the values or of the text that one document may have, whichever is larger."""
        return max(self._nodes / MAX_NODES, self._text_bytes / MAX_TEXT_BYTES)

    def node(self, given: object, path: Path, depth: int) -> Document:
        """Return the document of a value. Raises `StateError` for one that cannot be stored."""
        value = given
        if value is None or type(value) is bool:
            return value
        write = self._writers.get(type(value))
        if write is None and isinstance(value, tuple):
            value = named_values(value)
            write = self._writers[NamedValues]
        if write is None or value is None:
            self._refuse_type(given, path)
        self._nodes += 1
        if depth > MAX_DOCUMENT_DEPTH or self._nodes > MAX_NODES:
            self._refuse_size(path, depth)
        return write(self, value, path, depth)

    def refuse(self, path: Path, reason: str, hint: str) -> NoReturn:
        """Raise `StateError` for the value at a path."""
        raise StateError(f"{'.'.join((self.where, *path))}: {reason}", hint)

    def stored(self, tensor: Tensor, path: Path) -> str:
        """Collect a tensor for the files, and return its key, or that of its alias."""
        assert self.key_of is not None
        key = self.key_of(path)
        if not key.isascii():
            key = key.encode("utf-8", "backslashreplace").decode()
        # Different paths may give one key ("a.b" and a, b), and one key is reserved by the format.
        while key in self.tensors or key in self.aliases or key == "__metadata__":
            key += "~"
        if tensor.numel():
            near = self._keys.setdefault(tensor.data_ptr(), [])
            stored = self._same(tensor, near) if near else None
            if stored is not None:
                self.aliases[key] = stored
                return stored
            near.append(key)
        self.tensors[key] = tensor.detach()
        return key

    def is_alone(self, tensor: Tensor) -> bool:
        """Return whether a tensor is small, and has no alias among those seen so far."""
        if not is_small(tensor):
            return False
        place = same_place(tensor)
        if place is not None:
            (self.shared if place in self._small else self._small).add(place)
        return place not in self.shared

    def inline_tensor(self, tensor: Tensor, path: Path) -> Document:
        """Return the document of a tensor that stands in the document."""
        data = bytes_of(tensor)
        self.count_text(len(data) * 4 // 3, path)
        return inline_document(facts_of(tensor), data)

    def base64(self, data: bytes | memoryview, path: Path) -> str:
        """Return bytes as a text of the document."""
        self.count_text(len(data) * 4 // 3, path)
        return base64_text(data)

    def enter(self, value: object, path: Path) -> None:
        """Begin the items of a container. Raises `StateError` for one that is inside itself."""
        if id(value) in self._open:
            self.refuse(path, f"this {type(value).__name__} contains itself", "break the cycle")
        self._open.add(id(value))

    def leave(self, value: object) -> None:
        """End the items of a container."""
        self._open.discard(id(value))  # an error skips this: it ends the encoding

    def count_text(self, size: int, path: Path) -> None:
        """Count characters of text. Raises `StateError` beyond the bound of one document."""
        self._text_bytes += size
        if self._text_bytes > MAX_TEXT_BYTES:
            self.refuse(path, f"more than {MAX_TEXT_BYTES} bytes of text in one object", "keep them in a tensor")

    def _same(self, tensor: Tensor, near: Iterable[str]) -> str | None:
        """Return the key of the tensor that shares this memory and layout, if there is one."""
        place = same_place(tensor)
        return next((key for key in near if same_place(self.tensors[key]) == place), None)

    def _refuse_size(self, path: Path, depth: int) -> NoReturn:
        if depth > MAX_DOCUMENT_DEPTH:
            self.refuse(path, f"nested deeper than {MAX_DOCUMENT_DEPTH} levels", "flatten it")
        self.refuse(path, f"more than {MAX_NODES} values in one object", "keep them in a tensor or a NumPy array")

    def _refuse_type(self, value: object, path: Path) -> NoReturn:
        name = type(value).__name__
        self.refuse(path, f"{name} cannot be stored", self.advice(value))
