"""The names of the files that storages make for themselves: temporary files and probes. Touches no file.

All storages spell them alike (FORMAT.md), since a run may be copied from one storage to another with what a killed
program left in it.
"""

from __future__ import annotations

import re
import secrets

DIGITS = 16

_PROBE = re.compile(r"\.probe-[0-9a-f]+")
_TEMPORARY = re.compile(rf"\.tmp-[0-9a-f]{{{DIGITS}}}")


def temporary_name(digits: str | None = None) -> str:
    """Return the name of a temporary file: of these hexadecimal `digits`, or of random ones."""
    return f".tmp-{digits or secrets.token_hex(DIGITS // 2)}"


def is_temporary(file_name: str) -> bool:
    """Return whether a storage made this file and removes it, unless its program is killed before."""
    return _TEMPORARY.fullmatch(file_name) is not None


def probe_path() -> str:
    """Return a new path at which a storage may try out whether create is exclusive."""
    return f"attempts/.probe-{secrets.token_hex(8)}"


def is_probe(file_name: str) -> bool:
    """Return whether this file in `attempts/` is a probe, which is removed unless its program is killed before."""
    return _PROBE.fullmatch(file_name) is not None
