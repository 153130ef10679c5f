"""Fingerprints of objects: short texts by place inside the object, bounded, without running code of theirs.

What is in host memory is digested. Of what is on a device only the version counters are read, which waits for nothing.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeAlias

import torch
import xxhash
from torch import Tensor

from resumable.audit.names.clocks_and_handles import is_clock
from resumable.audit.objects.plain_reads import (
    PLAIN,
    attributes_of,
    is_a,
    is_handle,
    items_of,
    length_of,
    submodules,
    type_of,
)

Fingerprint: TypeAlias = dict[str, str]  # by the place inside of the object: "", ".count", ".shadow[3]"

MAX_OBJECTS = 500
MAX_BYTES = 64 << 10  # of one tensor or array
MAX_ENDS = 32  # items at each end of a container
MAX_DEPTH = 6
MAX_TOTAL_BYTES = 16 << 20
_BLOCKS = 16


class Fingerprints:
    """Takes the fingerprints of one look, within its bounds. Objects whose ids are in `left_out` count as unchanged."""

    def __init__(self, left_out: Collection[int]) -> None:
        self._left_out = left_out
        self._objects_left, self._bytes_left = 0, MAX_TOTAL_BYTES

    def of(self, value: object) -> Fingerprint:
        """Return the fingerprint of one object."""
        self._objects_left = MAX_OBJECTS
        found: Fingerprint = {}
        self._add(found, "", value, 0, set())
        return found

    def _add(self, found: Fingerprint, place: str, value: object, depth: int, seen: set[int]) -> None:
        self._objects_left -= 1
        if self._objects_left < 0 or id(value) in self._left_out or id(value) in seen:
            return
        if is_a(value, PLAIN):
            if not is_clock(value):
                found[place] = _shown(value)
            return
        if is_handle(value):
            return
        seen.add(id(value))
        text = self._digest(value)
        if text is not None:
            found[place] = text
        elif depth < MAX_DEPTH:
            for name, child in self._children(found, place, value):
                self._add(found, place + name, child, depth + 1, seen)

    def _digest(self, value: object) -> str | None:
        """Return the text for an object that has no parts, or None."""
        if is_a(value, Tensor):
            return self._of_tensor(value)
        if is_a(value, type_of("numpy", "ndarray")):
            return self._of_array(value)
        if is_a(value, type_of("numpy", "generic")):
            return f"#{xxhash.xxh3_64_hexdigest(bytes(memoryview(value)))[:8]}"  # type: ignore[arg-type]
        state = generator_state(value)
        return None if state is None else f"state #{xxhash.xxh3_64_hexdigest(state)[:8]}"

    def _children(self, found: Fingerprint, place: str, value: Any) -> Iterable[tuple[str, object]]:
        length = length_of(value)
        if length is not None:
            found[place] = f"{length} items"
            return ((f"[{_key(key)}]", item) for key, item in items_of(value, ends=MAX_ENDS))
        if is_a(value, torch.nn.Module):
            return _parts(value)
        if is_a(value, torch.optim.Optimizer):
            return ((f".{name}", attributes_of(value).get(name)) for name in ("state", "param_groups"))
        is_schedule = is_a(value, type_of("torch.optim.lr_scheduler", "LRScheduler"))
        own = attributes_of(value).items()
        return ((f".{name}", each) for name, each in own if not (is_schedule and name == "optimizer"))

    def _of_tensor(self, value: Any) -> str:
        if type(value) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
            return type(value).__name__  # even its shape may be code of the user's
        text = f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
        size = value.numel() * value.element_size() if _is_in_memory(value) else 0
        if not 0 < size <= MAX_BYTES and not value.is_inference():
            text += f", written {value._version} times"
        if size:
            text += self._of_bytes(value.detach().view(-1).view(torch.uint8).numpy())
        return text

    def _of_array(self, value: Any) -> str:
        text = f"{value.dtype}{list(value.shape)}"
        if value.dtype.hasobject or not value.flags.c_contiguous or not value.size:
            return text
        if is_a(value, type_of("numpy", "memmap")):
            return text  # reading it would read the file
        return text + self._of_bytes(value.reshape(-1).view("uint8"))

    def _of_bytes(self, flat: Any) -> str:
        """Digest a flat array of bytes, or evenly spread blocks of a large one."""
        size = min(len(flat), MAX_BYTES)
        self._bytes_left -= size
        if self._bytes_left < 0:
            return ""
        hashed = xxhash.xxh3_64()
        if len(flat) <= MAX_BYTES:
            hashed.update(flat.data)
        else:
            block = MAX_BYTES // _BLOCKS
            for number in range(_BLOCKS):
                begin = (len(flat) - block) * number // (_BLOCKS - 1)
                hashed.update(flat[begin : begin + block].data)
        return f" #{hashed.hexdigest()[:8]}"


def generator_state(value: Any) -> bytes | None:
    """Return the state of a random generator of torch, NumPy or Python; None for any other object."""
    if is_a(value, torch.Generator):
        return bytes(value.get_state().numpy())
    if is_a(value, type_of("numpy.random", "Generator")) and _is_numpys(value.bit_generator):
        return repr(value.bit_generator.state).encode()
    if is_a(value, type_of("numpy.random", "RandomState")):
        return repr(value.get_state(legacy=False)).encode()
    if is_a(value, random.Random) and type(value).getstate is random.Random.getstate:
        return repr(value.getstate()).encode()
    return None


def _is_numpys(value: object) -> bool:
    return type(value).__module__.startswith("numpy.")


def _is_in_memory(value: Tensor) -> bool:
    is_plain = value.device.type == "cpu" and value.layout is torch.strided and not value.is_quantized
    return is_plain and not value.is_conj() and not value.is_neg() and value.is_contiguous() and value.numel() > 0


def _parts(module: torch.nn.Module) -> Iterator[tuple[str, object]]:
    """Yield the parameters, buffers and plain attributes of a module and its submodules."""
    for path, part in submodules(module):
        prefix = f".{path}" if path else ""
        held = attributes_of(part)
        for table in ("_parameters", "_buffers"):
            yield from ((f"{prefix}.{name}", each) for name, each in held.get(table, {}).items() if each is not None)
        plain = ((name, each) for name, each in held.items() if not name.startswith("_") and name != "training")
        yield from ((f"{prefix}.{name}", each) for name, each in plain if not is_a(each, torch.nn.Module))


def _key(key: object) -> str:
    return repr(key)[:40] if type(key) in (str, int, float, bool) else f"key of type {type(key).__name__}"


def _shown(value: object) -> str:
    """Return a number as it is, and of a text or bytes only a digest: they may be secret."""
    if is_a(value, (str, bytes)):
        data = value.encode(errors="surrogatepass") if isinstance(value, str) else bytes(value)  # type: ignore[call-overload]
        return f"text #{xxhash.xxh3_64_hexdigest(data[:MAX_BYTES])[:8]}"
    return repr(value)[:40] if type(value) in PLAIN else type(value).__name__
