"""Proofs that were written again, so that their digests fit whatever was done: what digests alone cannot find."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from resumable.store.documents.sealed_json import digest
from resumable.utils import strict_json

Document = dict[str, Any]


def signed(document: Document) -> bytes:
    """A document with a digest that fits, whatever is in it."""
    body = strict_json.dumps({key: value for key, value in document.items() if key != "digest"})
    return body[:-1] + b',"digest":"%s"}' % digest(body).encode()


def rewritten(folder: Path, change: Callable[[Document], object]) -> None:
    """Change the proof in a folder, and sign it anew."""
    path = folder / "proof.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(signed(document))


def accepted(folder: Path) -> None:
    """Let the proof be of the files as they are now."""

    def change(document: Document) -> None:
        for name in document["files"]:
            data = (folder / name).read_bytes()
            document["files"][name] = {"size": len(data), "digest": xxhash.xxh3_128_hexdigest(data)}

    rewritten(folder, change)
