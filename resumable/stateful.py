"""The protocol of an object whose state can be saved; knows nothing of how."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """Anything with `state_dict` and `load_state_dict`, the convention of torch.

    `state_dict` returns containers of plain values, NumPy arrays and tensors; `load_state_dict` takes the same back
    and leaves the object exactly as it was when `state_dict` was called.
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...
