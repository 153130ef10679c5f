"""Recognize files of `torch.save` by their first bytes. Opens nothing."""

from __future__ import annotations

from resumable.errors import CheckpointError

HEAD_BYTES = 4
_ARCHIVE = b"PK\x03\x04"
_PROTO = 0x80  # the opcode that a pickle of protocol 2 or later begins with


def is_archive(head: bytes | bytearray) -> bool:
    """Return whether a file that begins with `head` is a zip archive, such as torch.save writes."""
    return head.startswith(_ARCHIVE)


def is_pickle(head: bytes | bytearray) -> bool:
    """Return whether a file that begins with `head` is a bare pickle of protocol 2 to 5.

    The length field of a safetensors header may begin with the same bytes: parse the header first.
    """
    return len(head) > 1 and head[0] == _PROTO and 2 <= head[1] <= 5


def pickle_error(name: str) -> CheckpointError:
    """Return the error for the file `name`, which holds a pickle."""
    return CheckpointError(
        f"{name}: a pickle of torch.save, which may run any code when it is opened: it was not opened",
        f"convert it once, which runs nothing: `resumable convert {name} TO`",
    )
