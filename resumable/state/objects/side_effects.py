"""Run a module without side effects: buffers, flags, attributes and random streams are restored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from resumable.errors import StateError
from resumable.state.objects import global_rng
from resumable.state.objects.generators import GENERATOR_TYPES, GeneratorAdapter
from resumable.state.tensors.facts import copy_bits, copy_of, raw, refusal
from resumable.utils.messages import listed

Undo = Callable[[], None]

_REGISTRIES = ("_parameters", "_buffers", "_modules")


@contextmanager
def without_side_effects(module: nn.Module) -> Iterator[None]:
    """Restore the module and the random streams, bit for bit, at the end of the block, also after an error.

    Restored are the training flag, attributes and buffers of each submodule, generators among its attributes, and all
    global random streams. Values inside a list or another object are not. Copying parameters would cost as much as a
    save, so they are only watched.

    Raises:
        StateError: The block wrote to a parameter.
    """
    parts = list(module.modules())
    versions = {name: _version(parameter) for name, parameter in module.named_parameters()}
    with ExitStack() as undo:
        undo.callback(global_rng.restore_streams, global_rng.capture_streams())
        for tensor in _written_in_passing(parts):
            undo.callback(_tensor(tensor))
        for part in parts:
            undo.callback(_attributes(part))
        yield
        _refuse_written(module, versions)


def _written_in_passing(parts: list[nn.Module]) -> list[Tensor]:
    """Return the buffers, and embedding weights that lookups rescale."""
    buffers = (buffer for part in parts for buffer in part.buffers(recurse=False))
    found = [buffer for buffer in buffers if refusal(buffer) is None]  # a tensor that cannot be stored cannot be copied
    found += _scaled(parts)
    return list({id(tensor): tensor for tensor in found}.values())


def _scaled(parts: Iterable[nn.Module]) -> list[Tensor]:
    tables = [part for part in parts if isinstance(part, nn.Embedding | nn.EmbeddingBag)]
    return [table.weight for table in tables if table.max_norm is not None]


def _tensor(tensor: Tensor) -> Undo:
    place, copy = tensor.detach(), copy_of(tensor)  # the memory, even if the tensor moves, and the bits

    def undo() -> None:
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            if tensor.data_ptr() != place.data_ptr() or tensor.shape != place.shape:
                tensor.data = place
            # A write increments the version counter, so it happens only if the bits differ.
            if not torch.equal(raw(place), raw(copy)):
                copy_bits(tensor, copy)

    return undo


def _attributes(part: nn.Module) -> Undo:
    registries = [registry for name in _REGISTRIES if isinstance(registry := vars(part).get(name), dict)]
    undos = [_entries(vars(part)), *map(_entries, registries), *map(_generator, _generators(part))]
    training = part.training

    def undo() -> None:
        for each in undos:
            each()
        part.training = training  # a scripted module keeps it elsewhere than among its attributes

    return undo


def _entries(held: MutableMapping[str, object]) -> Undo:
    before = dict(held)

    def undo() -> None:
        same = list(before) == list(held) and all(before[name] is held[name] for name in before)
        if not same:
            held.clear()
            held.update(before)

    return undo


def _generators(part: nn.Module) -> list[object]:
    return [value for value in vars(part).values() if isinstance(value, GENERATOR_TYPES)]


def _generator(generator: object) -> Undo:
    adapter = GeneratorAdapter("generator", generator)
    state = adapter.capture()
    return lambda: adapter.restore(state)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _refuse_written(module: nn.Module, versions: dict[str, int]) -> None:
    kept = set(map(id, _scaled(module.modules())))
    written = [
        name
        for name, parameter in module.named_parameters()
        if id(parameter) not in kept and _version(parameter) != versions.get(name, _version(parameter))
    ]
    if written:
        raise StateError(
            f"{type(module).__name__}: its forward writes to its own parameters: {listed(written, most=20)}",
            "write to them in the training loop only (`if self.training: ...`)",
        )
