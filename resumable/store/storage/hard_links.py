"""Hard links from one folder of this machine into another one. Independent of what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from resumable.store.storage.open import local_path, open_storage


def links_between(source: str, target: str) -> Callable[[str, str], bool]:
    """Return a function that gives a file in `source` a name in `target`, durably, by paths below each.

    It returns False where these are no folders of one file system with hard links, and raises `FileNotFoundError` where
    the file does not exist.
    """
    one, other = local_path(source), local_path(target)
    if one is None or other is None:
        return lambda path, name: False
    roots = [os.path.realpath(one), os.path.realpath(other)]
    try:
        common = os.path.commonpath(roots)
    except ValueError:  # on two drives
        return lambda path, name: False
    storage = open_storage(common)
    before, behind = (Path(root).relative_to(common) for root in roots)

    def link(path: str, name: str) -> bool:
        with suppress(ValueError):  # a path that a run does not have: the bytes are copied
            return storage.link((before / path).as_posix(), (behind / name).as_posix())
        return False

    return link
