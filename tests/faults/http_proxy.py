"""An HTTP proxy on 127.0.0.1 that does to chosen requests what networks and servers do; knows nothing of what they say.

One request a connection, whole in memory, passed on byte by byte. Each rule counts what it did, and a test that injects
a fault asserts that it fired.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

Fault = Literal[
    "400",  # the body did not come whole, says the server
    "412",  # refused because something is there, in the words of a server that does not name the condition
    "500",
    "501",
    "503",
    "reset",  # before the request is applied
    "reset_after",  # after it was applied: the client cannot know
    "cut_request",  # the server gets half of the body, and then no more
    "cut_reply",  # the client gets the head and half of the body, and then a reset
    "end_reply",  # the same, and then a regular end
    "flip_reply",  # one bit in the middle of the body is wrong, and all else is right
    "late",  # applied after some seconds
    "held",  # applied when the rule's `release` is set, whether or not the client still lives
    "twice",  # applied two times, the second answer counts
    "hang",  # no answer, ever
    "stall",  # the body is not even read
]

LATE_SECONDS, HELD_SECONDS = 2.0, 100.0
ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>Injected.</Message></Error>"
REASONS = {
    "400": b"IncompleteBody",
    "412": b"PreconditionFailed",
    "500": b"InternalError",
    "501": b"NotImplemented",
    "503": b"SlowDown",
}


@dataclass
class Rule:
    """What happens to matching requests: the first `skip` go through, the next `times` (None: all) do not."""

    fault: Fault
    method: str
    path: re.Pattern[str]
    skip: int = 0
    times: int | None = 1
    seen: int = 0
    fired: int = 0
    firing: threading.Event = field(default_factory=threading.Event)
    """Set when the first such request has come whole."""
    release: threading.Event = field(default_factory=threading.Event)
    """For the test to set: a held request may go on."""
    applied: threading.Event = field(default_factory=threading.Event)
    """Set when the server has answered a request that was late or held."""

    def takes(self, method: str, path: str) -> bool:
        """Whether this request is one of them."""
        if not re.fullmatch(self.method, method) or not self.path.search(path):
            return False
        self.seen += 1
        return self.seen > self.skip and (self.times is None or self.seen <= self.skip + self.times)


@dataclass(frozen=True)
class Head:
    """The first part of a request: what it is, and its bytes cut for passing on."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    passed: bytes


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    head: Head
    body: bytes


class FaultProxy:
    """A proxy before the server at `port` of this machine, in a thread of its own. Start it with `with`."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._rules: list[Rule] = []
        self._ready = threading.Event()
        # Once its client is gone nothing else holds what waits for the server, and it would be collected.
        self._answering: set[asyncio.Task[None] | None] = set()
        self.requests: list[str] = []
        """Method and path of every request since the start, or since somebody cleared it."""

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def inject(self, fault: Fault, method: str, path: str, *, skip: int = 0, times: int | None = 1) -> Rule:
        """Do this to requests whose method matches whole and whose path (with query) matches somewhere."""
        rule = Rule(fault, method, re.compile(path), skip, times)
        self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Let everything through again."""
        self._rules.clear()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(30)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._answering.add(task)
        # A client that gives up, or is killed, is no fault of ours.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                head = await _head(reader)
                self.requests.append(f"{head.method} {head.path}")
                rule = next((rule for rule in self._rules if rule.takes(head.method, head.path)), None)
                if rule is not None:
                    rule.fired += 1
                if rule is not None and rule.fault == "stall":
                    await self._over.wait()
                request = Request(head, await _body(reader, writer, head.headers))
                if rule is None:
                    writer.write(await self._pass_on(request))
                else:
                    await self._harm(rule, request, writer)
                await writer.drain()
            finally:
                self._answering.discard(task)
                writer.close()

    async def _harm(self, rule: Rule, request: Request, writer: asyncio.StreamWriter) -> None:
        rule.firing.set()
        match rule.fault:
            case "400" | "412" | "500" | "501" | "503":
                writer.write(_error(rule.fault, request.head.method))
            case "reset":
                _reset(writer)
            case "hang":
                await self._over.wait()
            case "cut_request":
                await self._pass_on(request, body=request.body[: len(request.body) // 2])
                _reset(writer)
            case "late" | "held":
                if rule.fault == "late":
                    await asyncio.sleep(LATE_SECONDS)
                else:
                    await asyncio.to_thread(rule.release.wait, HELD_SECONDS)
                reply = await self._pass_on(request)
                rule.applied.set()
                writer.write(reply)
            case "reset_after":
                await self._pass_on(request)
                _reset(writer)
            case "twice":
                await self._pass_on(request)
                writer.write(await self._pass_on(request))
            case "flip_reply":
                writer.write(_flipped(await self._pass_on(request)))
            case "cut_reply" | "end_reply":
                writer.write(_half(await self._pass_on(request)))
                await writer.drain()
                if rule.fault == "cut_reply":
                    _reset(writer)

    async def _pass_on(self, request: Request, body: bytes | None = None) -> bytes:
        """The server's whole answer; where the body is cut, what it says to that."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            writer.write(request.head.passed + (request.body if body is None else body))
            await writer.drain()
            if body is not None:
                writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> Head:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    passed = [line for line in lines if line.partition(b":")[0].lower() not in (b"expect", b"connection")]
    method, path, _ = first.decode("latin1").split()
    return Head(method, path, headers, b"\r\n".join([first, *passed, b"Connection: close", b"", b""]))


async def _body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[bytes, bytes]) -> bytes:
    if headers.get(b"expect", b"").lower() == b"100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
        return await reader.readexactly(int(headers.get(b"content-length", 0)))
    body = b""
    size = -1
    while size:
        line = await reader.readuntil(b"\r\n")
        size = int(line.partition(b";")[0], 16)
        body += line + (await reader.readexactly(size + 2) if size else b"")
    while not body.endswith(b"\r\n\r\n"):  # trailers, and the empty line behind them
        body += await reader.readuntil(b"\r\n")
    return body


def _error(status: str, method: str) -> bytes:
    body = b"" if method == "HEAD" else ERROR % REASONS[status]
    head = f"HTTP/1.1 {status} Injected\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def _half(reply: bytes) -> bytes:
    head, separator, body = reply.partition(b"\r\n\r\n")
    return head + separator + body[: len(body) // 2]


def _flipped(reply: bytes) -> bytes:
    head, separator, body = reply.partition(b"\r\n\r\n")
    flipped = bytearray(body)
    flipped[len(body) // 2] ^= 4
    return head + separator + bytes(flipped)


def _reset(writer: asyncio.StreamWriter) -> None:
    # A close that lingers for no second sends a RST and drops what was not sent.
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
