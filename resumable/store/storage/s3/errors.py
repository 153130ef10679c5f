"""Translate the errors of s3fs, by the codes of the server, into those that `Backend` documents. Makes no request."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

BEYOND_THE_END = ("InvalidRange", "416")
UNKNOWN_CONDITION = ("NotImplemented", "501", "InvalidArgument", "MethodNotAllowed", "405")
# Of servers without the request, of those that want a checksum which the client does not send, and for users who may
# not make it. Removing one file after the other then works, or reports what is wrong.
NO_REQUEST_FOR_SEVERAL = (
    *UNKNOWN_CONDITION,
    "400",
    "403",
    "AccessDenied",
    "InvalidDigest",
    "InvalidRequest",
    "MalformedXML",
    "MissingContentMD5",
)
_REFUSED = ("PreconditionFailed", "412")
_REFUSED_REMOVAL = ("AccessDenied", "MethodNotAllowed")
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")  # of botocore, which need not be there
_DAMAGED_ON_THE_WAY = ("IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload", "RequestTimeout")


@contextmanager
def translated() -> Iterator[None]:
    """Translate the errors of s3fs into those that `Backend` documents."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ in _NO_CREDENTIALS:  # no retry brings any
            raise PermissionError(errno.EACCES, str(error)) from error
        if not isinstance(error, OSError):
            raise
        code = code_of(error)
        if code in _REFUSED:  # not every server names the condition as s3fs expects
            raise FileExistsError(errno.EEXIST, "refused by the server: it exists already") from error
        if code in _DAMAGED_ON_THE_WAY:  # worth a retry, which their own errno would rule out
            raise OSError(errno.EIO, f"{code}: {error.strerror or error}") from error
        raise


def code_of(error: BaseException) -> str | None:
    """Return the error code of the server."""
    response = getattr(error.__cause__, "response", None) or {}
    return cast(str | None, response.get("Error", {}).get("Code"))


def raise_if_kept(failed: Mapping[str, Any]) -> None:
    """Raise the error of one file in the answer to a request that removes several; a missing file is no failure."""
    code = failed.get("Code")
    if code == "NoSuchKey":
        return
    reason = f"{code}: {failed.get('Message') or failed.get('Key')}"
    if code in _REFUSED_REMOVAL:
        raise PermissionError(errno.EACCES, reason)
    raise OSError(errno.EIO, reason)
