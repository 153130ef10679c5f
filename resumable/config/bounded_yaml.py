"""Parse untrusted YAML, and bound the size and depth of plain values; independent of the configuration's keys.

An alias makes a small file large: nine references to a list of nine references, and so on, eight times, are 43 million
values. So nodes are counted as if every alias were written out, before any value is constructed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import yaml

MAX_BYTES = 256 * 2**10
MAX_DEPTH = 64
MAX_VALUES = 4096
MAX_PLAIN_CHARACTERS = 100  # of a scalar other than text: a number, a date

_TEXT = "tag:yaml.org,2002:str"
_TAGS = "tag:yaml.org,2002:"
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"
_TOO_MANY = f"more than {MAX_VALUES:,} values"
_ITSELF = "a value that holds itself"


class Unreadable(ValueError):
    """Invalid YAML, or a value beyond the bounds. The message quotes nothing of the document."""


def yaml_of(data: bytes) -> Any:
    """Return the value of a YAML document.

    Raises:
        Unreadable: It is no valid YAML, with line and column, or it exceeds a bound.
    """
    if len(data) > MAX_BYTES:
        raise Unreadable(f"more than {MAX_BYTES // 1024} KiB")
    loader = None
    try:
        loader = _Loader(data.decode("utf-8"))
        return loader.get_single_data()
    except UnicodeDecodeError as error:
        raise Unreadable(f"no UTF-8: {error.reason} at byte {error.start + 1}") from None
    except yaml.reader.ReaderError as error:
        raise Unreadable(f"{error.reason} at character {error.position + 1}") from None
    except yaml.MarkedYAMLError as error:
        raise Unreadable(_problem(error)) from None
    except yaml.YAMLError as error:
        raise Unreadable(type(error).__name__) from None
    finally:
        if loader is not None:
            loader.dispose()


def refuse_boundless(value: Any) -> None:
    """Raise `Unreadable` for plain values that contain themselves, are nested too deep, or are too many."""
    _measure(value, _children, {})


def _children(value: Any) -> Collection[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple | set | frozenset) else ()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader within bounds. It also refuses duplicate keys, of which the last would win silently."""

    _depth = 0
    _nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._nodes += 1
        self._depth += 1
        if self._depth > MAX_DEPTH or self._nodes > MAX_VALUES:
            problem = _TOO_DEEP if self._depth > MAX_DEPTH else _TOO_MANY
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_document(self) -> Any:
        node: Any = super().compose_document()
        try:
            _measure(node, _parts, {})
        except Unreadable as error:
            raise yaml.composer.ComposerError(None, None, str(error), node.start_mark) from None
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, _twice(key.value), key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        kind = node.tag.removeprefix(_TAGS)
        if isinstance(node, yaml.ScalarNode) and node.tag != _TEXT and len(node.value) > MAX_PLAIN_CHARACTERS:
            problem = f"a value of more than {MAX_PLAIN_CHARACTERS} characters that is not text"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # PyYAML raises anything for `!!timestamp x`, `!!int ""` and the like
            problem = f"an invalid value of the type {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _parts(node: Any) -> Collection[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else ()


# Containers by `id`: the container, which keeps its id taken, and its (count, levels), or None while it is measured.
_Measured: TypeAlias = dict[int, tuple[object, tuple[int, int] | None]]


def _measure(
    value: object, parts: Callable[[Any], Collection[Any]], measured: _Measured, depth: int = 1
) -> tuple[int, int]:
    """Count the values and the levels in `value`; shared parts count each time that they are reached."""
    if depth > MAX_DEPTH:
        raise Unreadable(_TOO_DEEP)
    inside = parts(value)
    if not inside:
        return 1, 1
    if id(value) in measured:
        _, found = measured[id(value)]
        if found is None:
            raise Unreadable(_ITSELF)
    else:
        measured[id(value)] = value, None
        count, levels = 1, 0
        for part in inside:
            more, below = _measure(part, parts, measured, depth + 1)
            count, levels = count + more, max(levels, below)
            if count > MAX_VALUES:
                raise Unreadable(_TOO_MANY)
        found = count, levels + 1
        measured[id(value)] = value, found
    if depth - 1 + found[1] > MAX_DEPTH:
        raise Unreadable(_TOO_DEEP)
    return found


# ---- messages

_QUOTED = re.compile(r"'(?:[^'\w\s]|\\t|<[\w ]+>)'")  # tokens that the scanner quotes, never the user's text


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Describe the problem and its position without quoting a line of the file: one may hold a password."""
    mark = error.problem_mark or error.context_mark
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    parts = [_without_quotes(part) for part in (error.context, error.problem) if part]
    return f"{', '.join(parts) or type(error).__name__}{where}"


def _without_quotes(problem: str) -> str:
    if problem.startswith(_TWICE):
        return problem
    kept = _QUOTED.sub(lambda found: "_" * len(found[0]), problem)
    quote = re.search(r"['\"]", kept)
    return problem[: quote.start()].rstrip() if quote else problem


_TWICE = "the key "


def _twice(key: str) -> str:
    named = re.fullmatch(r"\w{1,40}", key)
    return f"{_TWICE}{key!r} occurs twice" if named else f"{_TWICE}occurs twice"
