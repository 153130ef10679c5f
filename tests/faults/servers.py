"""Real servers on 127.0.0.1 for one test session each, in processes of their own; knows nothing of what they keep.

Each is ready when it is handed out, and gone when its block ends. Where its program is absent the test is skipped.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import getpass
import importlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

T = TypeVar("T")

START_SECONDS = 60.0
KEY, SECRET = "lab", "laboratory"

# Ends with its parent, because its stdin does.
MOTO = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""

SSHD = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 100
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class S3Server:
    """An S3 server, and whether it honours the condition of a conditional PUT."""

    port: int
    conditional: bool

    @property
    def endpoint(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def options(self, endpoint: str | None = None, **config: Any) -> dict[str, Any]:
        """`storage_options` for s3fs, here or through a proxy; `config` goes to botocore."""
        options = {"key": KEY, "secret": SECRET, "endpoint_url": endpoint or self.endpoint}
        return options | {"client_kwargs": {"region_name": "us-east-1"}, "config_kwargs": config}

    def new_bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"bucket-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> Any:
        """A client that is not the one under test."""
        return _client(self.endpoint)

    def objects(self, bucket: str) -> dict[str, int]:
        """Key and size of every object."""
        listed = self.client().list_objects_v2(Bucket=bucket)
        return {entry["Key"]: entry["Size"] for entry in listed.get("Contents", [])}

    def unfinished_uploads(self, bucket: str) -> list[str]:
        """Keys of multipart uploads that were neither completed nor aborted."""
        return [upload["Key"] for upload in self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@dataclass(frozen=True)
class SftpServer:
    """An OpenSSH server that lets this user in by a throw-away key."""

    port: int
    folder: Path
    pid: int

    def url(self, folder: Path) -> str:
        """The URL of a folder of this machine."""
        return f"sftp://127.0.0.1{folder}"

    @property
    def options(self) -> dict[str, Any]:
        """`storage_options` for fsspec's SFTP."""
        return {
            "port": self.port,
            "username": getpass.getuser(),
            "key_filename": str(self.folder / "user_key"),
            "allow_agent": False,
            "look_for_keys": False,
        }

    def drop_connections(self) -> None:
        """End every connection, as a network or a server does."""
        sessions = self._signal(signal.SIGKILL)
        _until(lambda: not set(sessions) & set(children(self.pid)))

    def freeze_connections(self) -> None:
        """Every connection that there is answers no more; new ones do."""
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> list[int]:
        sessions = children(self.pid)
        assert sessions, "nobody is connected"
        for session in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, number)
        return sessions


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """An S3 server that keeps everything in its memory and honours conditions."""
    if not importlib.util.find_spec("moto") or not importlib.util.find_spec("flask"):
        pytest.skip("needs moto[server]")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", MOTO], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdin
        assert process.stdout
        try:
            port = int(_line(process.stdout, rb"127\.0\.0\.1 (\d+)"))
            _until(lambda: _answers(port))
            yield S3Server(port, conditional=True)
        finally:
            process.stdin.close()
            process.kill()


@contextlib.contextmanager
def rclone_server(folder: Path) -> Iterator[S3Server]:
    """An S3 server over a folder that ignores the condition of a conditional PUT."""
    program = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not program:
        pytest.skip("needs rclone")
    command = [program, "serve", "s3", str(folder), "--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}"]
    environment = os.environ | {"RCLONE_CONFIG": os.devnull}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, preexec_fn=_ends_with_parent) as process:
        assert process.stderr
        try:
            port = int(_line(process.stderr, rb"http://127\.0\.0\.1:(\d+)/"))
            # It goes on writing there; a full pipe would stop it.
            threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
            _until(lambda: _answers(port))
            yield S3Server(port, conditional=False)
        finally:
            process.terminate()


@contextlib.contextmanager
def sftp_server(folder: Path) -> Iterator[SftpServer]:
    """An OpenSSH server with its keys in `folder`, for the user that runs the tests."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ["PATH"])
    if not sshd or not shutil.which("ssh-keygen"):
        pytest.skip("needs OpenSSH's sshd")
    if not importlib.util.find_spec("paramiko"):
        pytest.skip("needs paramiko")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd, as root, locks its children up
    for name in ("host_key", "user_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    port = _free_port()
    (folder / "sshd_config").write_text(SSHD.format(port=port, folder=folder))
    command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=_ends_with_parent) as process:
        try:
            _until(lambda: process.poll() is not None or _answers(port))
            if process.poll() is not None:
                pytest.skip("needs an sshd that this user may start")
            yield SftpServer(port, folder, process.pid)
        finally:
            for session in children(process.pid):  # they would outlive it, the more so if a test froze them
                with contextlib.suppress(ProcessLookupError):
                    os.kill(session, signal.SIGKILL)
            process.terminate()


@functools.cache
def botocore_session() -> Any:
    """An option `session` for s3fs, one for all tests: what takes long is to read the description of the service."""
    return importlib.import_module("aiobotocore.session").AioSession()


@functools.cache
def shared_moto() -> S3Server:
    """The one of this pytest worker, started when it is first asked for, ended with the interpreter."""
    return _kept(moto_server())


@functools.cache
def shared_rclone() -> S3Server:
    """As `shared_moto`, over a folder of its own."""
    return _kept(rclone_server(_folder()))


@functools.cache
def shared_sftp() -> SftpServer:
    """As `shared_moto`."""
    return _kept(sftp_server(_folder()))


def _folder() -> Path:
    return Path(_session().enter_context(tempfile.TemporaryDirectory(prefix="servers-")))


def _kept(server: contextlib.AbstractContextManager[T]) -> T:
    return _session().enter_context(server)


@functools.cache
def _session() -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack


@functools.cache
def _client(endpoint: str) -> Any:
    import boto3  # type: ignore[import-untyped]

    session = boto3.session.Session(KEY, SECRET, region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint)


def _ends_with_parent() -> None:
    """In a child: also where the parent is killed."""
    parent_death_signal = 1  # PR_SET_PDEATHSIG
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=START_SECONDS)


def _line(stream: IO[bytes], wanted: str | bytes) -> str:
    """The group of the first line that matches."""
    for line in stream:
        match = re.search(wanted, line)
        if match:
            return str(match[1].decode())
    raise AssertionError("the server ended before it was ready")


def _drain(stream: IO[bytes]) -> None:
    with contextlib.suppress(ValueError):
        for _ in stream:
            pass


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _until(happened: Callable[[], T]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not happened():
        assert time.monotonic() < deadline, "a server did not do in a minute what takes it a second"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Processes below this one, the deepest last."""
    try:
        direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return direct + [below for child in direct for below in children(child)]
