"""How a place is named where others read it: nothing secret of a URL is left, and a path stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from resumable.utils.location import Secrets, file_location, location, scrubbed, showable


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://bob:hunter2@host/x", "sftp://host/x"),
        ("sftp://bob@host/x", "sftp://host/x"),
        ("sftp://bob:pa/ss@host/x", "sftp://host/x"),
        ("sftp://bob:pa@ss@host/x", "sftp://host/x"),
        ("sftp://bob:pa:ss@host/x", "sftp://host/x"),
        ("sftp://bob:pa?ss@host/x", "sftp://host/x"),
        ("sftp://bob:pa#ss@host/x", "sftp://host/x"),
        ("sftp://bob:pa::ss@host/x", "sftp://host/x"),
        ("sftp://bob:pa%2Fss@host:22/x", "sftp://host:22/x"),
        ("sftp://bob:12/34@host/x", "sftp://host/x"),
        ("sftp://bob:pa/ss@host/x@best", "sftp://host/x@best"),
        ("sftp://bob:hunter2@[::1]:22/x", "sftp://[::1]:22/x"),
        (" sftp://bob:hunter2@host/x", " sftp://host/x"),
        ("https://host/x?X-Amz-Signature=abc", "https://host/x"),
        ("https://host:443/x?mail=a@b#part", "https://host:443/x"),
        ("s3://bucket/x#part", "s3://bucket/x"),
        ("filecache::https://bob:pa/ss@host/x?sig=1", "filecache::https://host/x"),
        ("zip://a.pt::sftp://bob:hunter2@host/x.zip", "zip://a.pt::sftp://host/x.zip"),
        ("https://bob:pw@host/x?mail=a@b", "https://***"),  # it may go on up to the last @
        ("sftp://bob:hunter2/x", "sftp://***/x"),  # the host was forgotten
    ],
)
def test_nothing_secret_of_a_url_is_left(url: str, shown: str) -> None:
    assert location(url) == shown
    assert location(shown) == shown


@pytest.mark.parametrize(
    "url",
    [
        "runs/a@b",
        "runs/a?b#c",
        "runs/10:30",
        "user:name@host",
        "C:\\runs\\a@b?c",
        "/tmp/a@b:c?d#e",
        "file:///tmp/a@b?c",
        "s3://bucket/a:b@c",
        "s3://arn:aws:s3:eu-west-1:1234:accesspoint/x",
        "sftp://host:22/x",
        "sftp://host/x@latest",
        "simplecache::s3://bucket/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "",
    ],
)
def test_what_is_not_secret_stays_readable(url: str) -> None:
    assert location(url) == url


def test_what_is_no_text_has_a_location_too() -> None:
    assert location(Path("/tmp/a@b?c")) == "/tmp/a@b?c"
    assert location(b"sftp://bob:hunter2@host/x") == "sftp://host/x"
    assert location({"url": "hunter2"}) == "a dict"
    assert location(None) == "a NoneType"


def test_a_file_in_a_folder_is_named_without_its_query() -> None:
    assert file_location("https://host", "x.safetensors?sig=abc") == "https://host/x.safetensors"
    assert file_location("/tmp/a@b", "x?y#z") == "/tmp/a@b/x?y#z"
    assert file_location("zip://a::s3://bucket/b.zip", "c") == "zip://a/c::s3://bucket/b.zip"


def test_the_words_of_a_client_are_freed_of_secrets_however_it_writes_them() -> None:
    url = "sftp://bob:hun/ter%402@host/x"
    options = {"key": "AKIAKEY", "client_kwargs": {"tokens": ["t0/k'en", 123456], "deep": ({"raw": b"bytes!"},)}}
    told = (
        f"no {url}; port 'hun'; AKIAKEY is no key, nor t0/k'en, {chr(34)}t0%2Fk%27en{chr(34)}, 123456, {b'bytes!'!r}; "
        "http://me:x@other/y?token=z is down, and the host is fine"
    )
    assert scrubbed(told, Secrets(url, options)) == (
        "no sftp://host/x; port '***'; *** is no key, nor ***, \"***\", ***, b'***'; "
        "http://other/y is down, and the host is fine"
    )


def test_options_that_hold_themselves_are_looked_at_once() -> None:
    options: dict[str, object] = {"secret": "hunter2"}
    options["self"] = options
    assert scrubbed("hunter2", Secrets("", options)) == "***"


def test_a_cause_that_quotes_a_secret_is_not_told() -> None:
    secrets = Secrets("", {"secret": "hunter2"})
    outer = OSError("no")
    outer.__cause__ = ValueError("hunter2")
    assert showable(outer, secrets) is None
    assert showable(OSError("no"), secrets) is not None
    assert "hunter2" not in repr(secrets)
