"""Name the tensors that callbacks keep, and that no checkpoint has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from resumable.transformers import private
from resumable.transformers.protocols import Trainer
from resumable.utils.events import warn
from resumable.utils.messages import listed


def warn_of_tensors(trainer: Trainer, callbacks: Iterable[object]) -> None:
    """Log a WARN for each of these callbacks that keeps tensors of its own, and has no state that is exported."""
    own = {id(each) for each in _parts(list(vars(trainer).values()))}
    for callback in callbacks:
        if isinstance(callback, private.package().trainer_callback.ExportableState):
            continue
        found = [name for name, value in vars(callback).items() if any(id(part) not in own for part in _parts(value))]
        if found:
            warn(
                f"callback {type(callback).__name__}: no checkpoint has the tensors in {listed(found, most=5)}; "
                "if they change, keep them as attributes of a subclass of the trainer, which are saved"
            )


def _parts(value: Any) -> Iterator[torch.Tensor]:
    """Return the tensors in a value, and in modules, lists and dicts of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, torch.nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _parts(item)
