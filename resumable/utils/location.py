"""Show a URL without its secrets, for messages and for what is stored about it. Opens nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"

_NEXT_LINK = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_LINK = re.compile(r"(.*?)://(.*)", re.DOTALL)  # the part before :// need not be a protocol
_URL = re.compile(r"[A-Za-z0-9+.-]{0,20}://[^\s'\"<>]+")  # bounded: the text may be a megabyte of letters
_HOST_AND_PORT = re.compile(r"(\[[^]]*\]|[^:@\[\]]*)(:\d{0,5})?")
_SELECTED = re.compile(r"(.*@[^@]*/[^@]*)(@(?:latest|best|finite|\d+|step-[0-9.ea]+))", re.DOTALL)
_LOCAL = ("file", "local")
_CONTAINERS = ("abfs", "abfss", "adl", "az", "wasb", "wasbs")  # whose URLs are CONTAINER@ACCOUNT
_SHORT = 8
_SHORTEST = 3


def location(url: object) -> str:
    """Return `url` without user info, query and fragment; a path of this machine stays as it is.

    Each link of a chain (`simplecache::s3://...`) is treated alike. An unquoted password may hold any character. If
    its end is not clear, more is left out rather than less.
    """
    if isinstance(url, os.PathLike):
        url = os.fspath(url)
    if isinstance(url, bytes):
        url = os.fsdecode(url)
    if not isinstance(url, str):
        return f"a {type(url).__name__}"
    return "::".join(map(_link, _NEXT_LINK.split(url)))


def absolute_location(run: str) -> str:
    """Return the absolute location of a run; a copy of the run has another one."""
    return location(run) if "://" in run else os.path.abspath(run)


def file_location(folder: str, path: str) -> str:
    """Return the location of the file `path` in a folder whose own location is `folder`."""
    link, chained, rest = folder.partition("::")
    return f"{link}/{_before_query(path) if '://' in link else path}{chained}{rest}"


@dataclass(frozen=True, repr=False)
class Secrets:
    """The secrets of one storage: parts of its URL, and every value of its options at any depth."""

    url: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


NONE = Secrets()


def scrubbed(text: str, secrets: Secrets = NONE) -> str:
    """Return the text of another library without `secrets`, and with the `location` of each URL in it."""
    if secrets.url:
        text = text.replace(secrets.url, location(secrets.url))
    for secret in sorted({*_in_url(secrets.url), *_in_options(secrets.options)}, key=len, reverse=True):
        edges = ("(?<![A-Za-z0-9])", "(?![A-Za-z0-9])") if len(secret) < _SHORT else ("", "")
        text = re.sub(edges[0] + re.escape(secret) + edges[1], HIDDEN, text)
    return _URL.sub(lambda found: location(found[0]), text)


def showable(error: BaseException, secrets: Secrets = NONE) -> BaseException | None:
    """Return `error` if a traceback may show it as a cause; None if it, or a cause of it, quotes a secret."""
    shown = "\n".join(f"{each}\n{each.args}" for each in _chain(error))
    return error if scrubbed(shown, secrets) == shown else None


# ---- one link


def _link(link: str) -> str:
    match = _LINK.fullmatch(link)
    if not match or match[1] in _LOCAL:
        return link
    return f"{match[1]}://{_place(match[1], match[2])}"


def _place(protocol: str, rest: str) -> str:
    if selected := _SELECTED.fullmatch(rest):
        return _place(protocol, selected[1]) + selected[2]
    head = _before_query(rest).partition("/")[0]
    if ":" in head and "@" in rest:
        return _behind_password(rest, head)
    if "@" in head and protocol not in _CONTAINERS:
        return _before_query(rest[head.rindex("@") + 1 :])
    if ":" in head and not _HOST_AND_PORT.fullmatch(head) and "::" not in rest and not head.startswith("arn:"):
        return HIDDEN + _before_query(rest[len(head) :])  # a name and a password, and the host was forgotten
    return _before_query(rest)


def _behind_password(rest: str, head: str) -> str:
    before, _, behind = rest.rpartition("@")
    if _before_query(before) == before:
        return _before_query(behind)
    if _HOST_AND_PORT.fullmatch(head):
        return _before_query(rest)  # the @ is in the query
    return _before_query(behind) if rest.count("@") == 1 else HIDDEN


def _before_query(text: str) -> str:
    return re.split(r"[?#]", text, maxsplit=1)[0]


# ---- what is secret


def _in_url(url: str) -> Iterator[str]:
    """Yield what a URL holds and its location does not: whole, and in the pieces that a parser may make of it."""
    for link in _NEXT_LINK.split(url):
        shown, match = _link(link), _LINK.fullmatch(link)
        if match is None or shown == link:
            continue
        kept = shown.partition("://")[2].removeprefix(HIDDEN)
        before, _, behind = match[2].partition(kept) if kept else (match[2], "", "")
        for hidden in (before, behind):
            yield from _forms(hidden.strip("@?#"))
            for piece in re.split(r"[:/@?#&=]", hidden):
                yield from _forms(piece)


def _in_options(options: object) -> Iterator[str]:
    waiting, seen = [options], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            if id(value) not in seen:
                seen.add(id(value))
                waiting.extend(value.values() if isinstance(value, Mapping) else value)
        elif isinstance(value, bytes | bytearray):
            yield from _forms(bytes(value).decode("latin-1"))
        elif value is not None and not isinstance(value, bool):
            yield from _forms(str(value))
            yield from _in_url(str(value))


def _forms(secret: str) -> Iterable[str]:
    """Return a secret as it is, and as URLs, Python and JSON quote it."""
    forms = {secret, unquote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {
        written
        for form in forms
        for written in (form, repr(form)[1:-1], json.dumps(form)[1:-1])
        if len(written) >= _SHORTEST
    }


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
