"""Turn pydantic's validation errors into one `ConfigError`, without quoting a value that may be secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from resumable.errors import ConfigError
from resumable.utils.location import location, scrubbed
from resumable.utils.messages import nearest, quoted

PREFIX = "RESUMABLE_"
ENVIRONMENT = "the environment"
MOST = 20  # faults reported: a file may have thousands

KeyPath: TypeAlias = tuple[int | str, ...]
Keys: TypeAlias = Sequence[tuple[str, ...]]


class ValueSource(NamedTuple):
    """A named source of values. Text from one that is not `quotable` (a file, the environment) is never shown."""

    name: str
    values: dict[str, Any]
    quotable: bool = True


def explained(error: ValidationError, sources: Sequence[ValueSource], keys: Keys) -> ConfigError:
    """Return one error for all faults.

    Args:
        error: What pydantic raised.
        sources: The sources of values, the one with the highest precedence first.
        keys: The paths of all valid keys.
    """
    faults = error.errors(include_url=False)
    described = [_message_and_hint(dict(fault), sources, keys) for fault in faults[:MOST]]
    messages = [message for message, _ in described]
    if len(faults) > MOST:
        messages.append(f"config: and {len(faults) - MOST} more")
    return ConfigError("\n".join(messages), "; ".join(dict.fromkeys(hint for _, hint in described)))


def _message_and_hint(error: dict[str, Any], sources: Sequence[ValueSource], keys: Keys) -> tuple[str, str]:
    place: KeyPath = error["loc"]
    key = quoted(scrubbed(".".join(str(part) for part in place)))
    source = _origin(place, sources)
    where = _variable(place) if source.name == ENVIRONMENT else source.name
    if error["type"] == "extra_forbidden":
        guess = did_you_mean(key, [".".join(each) for each in keys])
        return f"config: unknown key {key!r} in {where}{guess}", f"correct or remove {key!r} in {where}"
    if error["type"] == "missing":
        return (
            f"config: {key}: expected a value, found none in {sources[-1].name}",
            f"add a line such as `run: runs/mine`, or set {PREFIX}{key.upper()}",
        )
    expected = re.sub(r"^(Input should be |Value error, )", "", error["msg"])
    found = shown(error["input"], quotable=source.quotable and place[0] != "storage_options")
    return f"config: {key} in {where}: expected {expected}, found {found}", f"correct {key!r} in {where}"


def shown(value: object, *, quotable: bool = False) -> str:
    """Describe a value that was found: a number as it is, a container by its type, text only if `quotable`."""
    if isinstance(value, str):
        return quoted(repr(location(value))) if quotable else f"text of length {len(value)}"
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() < 1000):
        return repr(value)
    return type(value).__name__


def _origin(place: KeyPath, sources: Sequence[ValueSource]) -> ValueSource:
    """Return the first source that sets this key, or the last one."""
    return next((source for source in sources if _sets(source.values, place)), sources[-1])


def _sets(values: object, place: KeyPath) -> bool:
    for part in place:
        if not isinstance(values, Mapping):
            return True  # a list, for example: lists are never merged, so a fault inside comes from here
        if part not in values:
            return False
        values = values[part]
    return True


def _variable(place: KeyPath) -> str:
    parts = [str(part).upper() for part in place]
    names = [PREFIX + "__".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((name for name in names if name in os.environ), ENVIRONMENT)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the end of a sentence that suggests the name nearest to `name`; empty if none is near."""
    found = nearest(name, known, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""
