"""Tensors whose autograd graph `backward()` has freed: nothing can differentiate through them any more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import Tensor

_MAX_NODES = 256  # the graph of a step can be as deep as the model
_FREED = "backward through the graph a second time"  # in the error of torch
_RAW = "_raw_saved_"


def is_used_up(tensor: Tensor) -> bool:
    """Return whether `backward()` freed what the nearest nodes of the tensor's graph had kept.

    Such a tensor is worth no more than its values. False where that cannot be seen.
    """
    return any(map(_is_freed, _nodes(tensor)))


def _nodes(tensor: Tensor) -> Iterator[Any]:
    """Yield the nodes of the graph that made the tensor, the nearest first."""
    waiting, seen = deque([tensor.grad_fn]), set[Any]()
    while waiting and len(seen) < _MAX_NODES:
        node = waiting.popleft()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(before for before, _ in node.next_functions)


def _is_freed(node: Any) -> bool:
    return any(_raises(node, name) for name in dir(node) if name.startswith(_RAW))


def _raises(node: Any, name: str) -> bool:
    try:
        kept = getattr(node, name)
        # With a hook, reading would compute or load the tensor again.
        if getattr(kept, "unpack_hook", kept) is None:
            getattr(node, f"_saved_{name.removeprefix(_RAW)}")
    except RuntimeError as error:
        return _FREED in str(error)
    return False
