"""Build the parts of messages: quoted text, short lists, the nearest names. Imports nothing of the package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_QUOTED_CHARACTERS = 400


def quoted(text: object) -> str:
    """Return text from a checkpoint or a file in a form fit for a message: shortened and `printable`."""
    whole = str(text)
    brief = whole if len(whole) <= MAX_QUOTED_CHARACTERS else whole[: MAX_QUOTED_CHARACTERS - 3] + "..."
    return printable(brief)


def printable(text: str) -> str:
    """Escape every character that could steer a terminal or reverse the direction of its text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(items: Iterable[str], *, most: int, separator: str = ", ") -> str:
    """Join the first `most` items and count the rest, as in "a, b and 4 more"; return "" for no items."""
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def nearest(word: str, names: Iterable[str], *, cutoff: float, most: int = 1) -> list[str]:
    """Return at most `most` of the names that resemble `word`, the best first.

    `cutoff` is the least resemblance that counts, from 0 (any name) to 1 (equal names).
    """
    return difflib.get_close_matches(word, names, n=most, cutoff=cutoff)
