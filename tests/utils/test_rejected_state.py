"""What code raises for a foreign state becomes one error; what says nothing about the state stays as it is."""

from __future__ import annotations

import pytest

from resumable.errors import LoopError, StateError
from resumable.utils.rejected_state import rejected_state


class Harmless(Exception):
    """Says nothing about the state."""


@pytest.mark.parametrize("raised", [KeyError("step"), ValueError("odd"), RecursionError("deep")])
def test_whatever_a_foreign_state_raises_is_the_reason_of_one_error(raised: Exception) -> None:
    with pytest.raises(LoopError) as caught, rejected_state(LoopError, passing=Harmless):
        raise raised
    assert caught.value.message == f"{type(raised).__name__}: {raised}"
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(
    "raised", [StateError("ours"), MemoryError(), OSError("disk"), Harmless(), KeyboardInterrupt()]
)
def test_what_says_nothing_about_the_state_passes(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as caught, rejected_state(LoopError, passing=Harmless):
        raise raised
    assert caught.value is raised


def test_a_block_that_raises_nothing_ends_as_it_is() -> None:
    with rejected_state(LoopError, passing=Harmless):
        pass
