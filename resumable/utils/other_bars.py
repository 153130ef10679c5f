"""Progress bars of tqdm that the program has open. Does not import tqdm."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TextIO


def is_bar_open() -> bool:
    """Return whether a bar of tqdm is drawn: by the program, or by a library such as Transformers."""
    return any(not getattr(bar, "disable", True) for bar in _instances(_tqdm()))


def above_bars(stream: TextIO) -> AbstractContextManager[object]:
    """Return a context in which open bars of tqdm are cleared from `stream`; at its end they are drawn below."""
    tqdm = _tqdm()
    if not _instances(tqdm) or not hasattr(tqdm, "external_write_mode"):
        return nullcontext()
    cleared: AbstractContextManager[object] = tqdm.external_write_mode(file=stream)
    return cleared


def _tqdm() -> Any:
    return getattr(sys.modules.get("tqdm"), "tqdm", None)


def _instances(tqdm: Any) -> list[Any]:
    try:
        return list(getattr(tqdm, "_instances", ()))
    except RuntimeError:  # another thread opened or closed a bar meanwhile
        return _instances(tqdm)
