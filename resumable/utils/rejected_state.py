"""Turn what code raises for a state that is not its own into an error with a reason. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from resumable.errors import ResumableError
from resumable.utils.messages import quoted


@contextmanager
def rejected_state(refusal: Callable[[str], ResumableError], *, passing: type[Exception]) -> Iterator[None]:
    """Raise `refusal` of the reason for whatever the block raises about a state that it loads.

    A checkpoint may come from anybody, so a stored state need not be one that the object ever returned. Errors that say
    nothing about the state pass: those of this package, of memory, of the operating system, and `passing`.
    """
    try:
        yield
    except (ResumableError, MemoryError, OSError, passing):
        raise
    except Exception as error:
        raise refusal(f"{type(error).__name__}: {quoted(error)}") from error
