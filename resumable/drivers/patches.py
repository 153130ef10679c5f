"""Attributes of a framework's objects that are replaced for one fit, and put back at its end."""

from __future__ import annotations

_ABSENT = object()


class Patches:
    """Replaces attributes of instances. After `undo` those of before are visible again."""

    def __init__(self) -> None:
        self._patched: list[tuple[object, str, object]] = []

    def set(self, owner: object, name: str, value: object) -> None:
        """Replace `owner.name` by `value` until `undo`."""
        self._patched.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Undo every replacement, the newest first. Safe to call twice."""
        while self._patched:
            owner, name, before = self._patched.pop()
            if before is _ABSENT:
                vars(owner).pop(name, None)
            else:
                setattr(owner, name, before)
