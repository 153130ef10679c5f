"""The result of loading weights: missing, unexpected, skipped and mismatched names. Also logs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from resumable.state.loading.key_matching import Match
from resumable.utils.events import emit, emit_aloud
from resumable.utils.messages import listed

_SHOWN = 8


@dataclass(frozen=True)
class Loaded:
    """The result of loading weights into a model.

    Attributes:
        missing: Names of the model without a value.
        unexpected: Stored keys without a name in the model.
        skipped: Names left out by `skip`.
        another_shape: By name of the model: the stored shape and the live one. These names were left out.
        tensors: The number of names of the model that got a value.
        prefix: The prefix that was removed from every stored key, so that all of them match.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    another_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    tensors: int = 0
    prefix: str = ""

    @classmethod
    def report(cls, found: Match, where: str, *, name: str | None = None) -> Loaded:
        """Return the result of a match and log it, as a warning if something does not match."""
        shapes = {each: (there or (), here or ()) for each, (there, here) in found.another_shape.items()}
        loaded = cls(found.missing, found.unexpected, found.skipped, shapes, len(found.matched), found.prefix)
        log = emit if found.fits else emit_aloud
        log(
            "LOADED",
            **{"from": where},
            object=name,
            tensors=loaded.tensors,
            prefix=loaded.prefix or None,
            missing=_some(loaded.missing),
            unexpected=_some(loaded.unexpected),
            skipped=_some(loaded.skipped),
            another_shape=_some(loaded.another_shape),
        )
        return loaded


def _some(names: Collection[str]) -> str | None:
    return listed(names, most=_SHOWN, separator=",") or None
