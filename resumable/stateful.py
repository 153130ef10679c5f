"""The protocol of an object with a state: `state_dict` and `load_state_dict`, as in torch."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """An object with `state_dict` and `load_state_dict`, by the convention of torch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state: containers of plain values, NumPy arrays and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Restore a state that `state_dict` returned, so that the object is exactly as it was then.

        Args:
            state: What `state_dict` returned.

        Returns:
            Any value; it is ignored.
        """
        ...


def has_state_dict(item: object) -> TypeGuard[Stateful]:
    """Return whether an object has both methods; unlike `isinstance`, attributes that are not callable do not count."""
    return callable(getattr(item, "state_dict", None)) and callable(getattr(item, "load_state_dict", None))
