"""Methods of Lightning's objects that are replaced for one fit, and put back at its end."""

from __future__ import annotations

from collections.abc import Callable


class Patches:
    """Replaces methods on instances. After `undo` the methods of the class are visible again."""

    def __init__(self) -> None:
        self._patched: list[tuple[object, str]] = []

    def set(self, owner: object, name: str, value: Callable[..., object]) -> None:
        """Replace `owner.name` by `value` until `undo`."""
        setattr(owner, name, value)
        self._patched.append((owner, name))

    def undo(self) -> None:
        """Remove every replacement, the newest first. Safe to call twice."""
        while self._patched:
            owner, name = self._patched.pop()
            vars(owner).pop(name, None)
