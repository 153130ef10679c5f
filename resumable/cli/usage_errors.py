"""Report a wrong command line without the secrets of a URL in it. Independent of verbs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from resumable.utils.location import scrubbed


class VerbGroup(TyperGroup):
    """The group of all verbs. Its errors quote unexpected arguments, and one of them may be a URL."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _scrubbed():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _scrubbed():
            return super().invoke(ctx)


# The class of `click`, or of the copy that newer versions of typer contain.
_UsageError: Any = typer.BadParameter.__mro__[1]


@contextmanager
def _scrubbed() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = scrubbed(error.message)
        raise
