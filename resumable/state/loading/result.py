"""What became of weights and a model, as the caller and the log are told; knows no tensor."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from resumable.state.loading.key_matching import Match
from resumable.utils.events import emit, emit_aloud
from resumable.utils.messages import listed

_SHOWN = 8


@dataclass(frozen=True)
class Loaded:
    """What became of weights and model: how many names of the model got a value, and everything that did not match."""

    missing: tuple[str, ...]
    """Names of the model without a value."""

    unexpected: tuple[str, ...]
    """Stored keys that the model has no name for."""

    skipped: tuple[str, ...] = ()
    another_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """Names of the model that were left out, with the shape that is stored and the one here."""

    tensors: int = 0
    prefix: str = ""
    """What was taken away from every stored key, because then all of them fit."""

    @classmethod
    def told(cls, found: Match, where: str, *, name: str | None = None) -> Loaded:
        """What a match came to, also as a log line: a warning where something does not fit."""
        shapes = {each: (there or (), here or ()) for each, (there, here) in found.another_shape.items()}
        loaded = cls(found.missing, found.unexpected, found.skipped, shapes, len(found.taken), found.prefix)
        tell = emit if found.fits else emit_aloud
        tell(
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
