"""What a program has and its checkpoint lacks, or the other way round: what the config accepts, and the way on.

Independent of what has the names: objects that are passed, and variables that are carried.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from resumable.errors import ConfigError
from resumable.utils.events import emit
from resumable.utils.messages import listed, nearest, printable

_SHOWN = 20


@dataclass(frozen=True)
class Adoption:
    """The names in the config's `adopt` and `drop`. One of them also covers names inside it: `opts` covers `opts.a`."""

    adopt: Collection[str] = ()
    drop: Collection[str] = ()

    def adopts(self, name: str) -> bool:
        """Return whether a name that the checkpoint lacks begins with the value of this launch."""
        return _covers(self.adopt, name)

    def drops(self, name: str) -> bool:
        """Return whether the run goes on without a name that the checkpoint holds."""
        return _covers(self.drop, name)


def _covers(keys: Collection[str], name: str) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in keys)


def accepted_by(key: Literal["adopt", "drop"], names: Iterable[str]) -> str:
    """Return the line that accepts these names, for the config and for the environment."""
    sorted_names = [printable(name) for name in sorted(names)]
    return f"{key}: [{', '.join(sorted_names)}] in the config, or RESUMABLE_{key.upper()}='{json.dumps(sorted_names)}'"


def report_adopted(names: Iterable[str]) -> None:
    """Log the names that begin with the value of this launch, in one line."""
    note = "not in the checkpoint: begins with the value of this launch"
    emit("CHANGED", adopted=listed(sorted(names), most=_SHOWN), note=note)


def report_dropped(names: Iterable[str]) -> None:
    """Log the names that are in no later checkpoint, in one line."""
    emit("CHANGED", dropped=listed(sorted(names), most=_SHOWN), note="in the checkpoint, and in no later one")


def refuse_unknown(key: Literal["adopt", "drop"], names: Iterable[str], known: Collection[str]) -> None:
    """Raise `ConfigError` for a name of the config that neither the program nor the checkpoint has."""
    for name in names:
        if not any(_covers([name], each) for each in known):
            near = nearest(name, known, cutoff=0.5)
            raise ConfigError(
                f"{key}: expected names that are passed, carried or in the checkpoint, found {name!r}",
                f"did you mean {near[0]!r}?" if near else f"remove it from `{key}`",
            )
