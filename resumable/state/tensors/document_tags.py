"""Tags in documents that not every reader of the format knows, and the names that announce them. Imports no torch."""

from __future__ import annotations

from typing import Any

CONTAINERS = "containers"  # a document has a tag of `FILLED`
PARTS = "parts"  # an object is stored beside the container that it lies in, where the document has `$object`

FILLED = ("$deque", "$defaultdict", "$namedtuple")
"""Tags whose content has a container under `items`, and something beside it."""


def items_below(tag: str | None, content: Any) -> tuple[Any, dict[str, Any]] | None:
    """Return the container in the content of a tag of `FILLED`, and what is beside it; None for any other content."""
    if tag not in FILLED or not isinstance(content, dict) or "items" not in content:
        return None
    return content["items"], {key: part for key, part in content.items() if key != "items"}
