"""Rewrites parts of a checkpoint as a careful forger would, so that every size and digest fits; knows no test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resumable.store.digesting import digest_of
from resumable.store.documents.sealed_json import digest
from resumable.store.layout import CHECKPOINTS, MANIFEST, is_state_name, state_name

Document = dict[str, Any]
STATE_BLOB = state_name(0)


def sealed(document: Document) -> bytes:
    """Any document with a digest that fits."""
    return sealed_bytes(json.dumps(document, separators=(",", ":")).encode())


def sealed_bytes(body: bytes) -> bytes:
    """Any JSON object, or what looks like one at its end, with a digest that fits."""
    return body[:-1] + b',"digest":"%s"}' % digest(body).encode()


class Forgery:
    """The newest checkpoint of a run, open to changes."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.folder = max((run / CHECKPOINTS).iterdir())

    def manifest(self) -> Document:
        """The manifest without its digest."""
        document: Document = json.loads((self.folder / MANIFEST).read_bytes())
        del document["digest"]
        return document

    def state(self) -> Document:
        """Everything of the checkpoint that is not a tensor."""
        document: Document = json.loads((self.folder / STATE_BLOB).read_bytes())
        return document

    def write_manifest(self, document: Document | bytes) -> None:
        """Put another manifest there; bytes as they are, a document sealed."""
        (self.folder / MANIFEST).write_bytes(document if isinstance(document, bytes) else sealed(document))

    def write_blob(self, name: str, data: bytes) -> None:
        """Put another blob there and record it in the manifest, and its ranges in the state."""
        (self.folder / name).write_bytes(data)
        if is_state_name(name):
            self.record(name, size=len(data), digest=digest(data))
            return
        found = digest_of([memoryview(data)])
        self.record(name, size=len(data), digest=found.value)
        self.change_state(lambda state: state["ranges"].update({name: "".join(found.ranges)}))

    def record(self, name: str, **facts: Any) -> None:
        """Change what the manifest says of a blob."""
        document = self.manifest()
        document["blobs"][name] |= facts
        self.write_manifest(document)

    def write_state(self, document: Any) -> None:
        """Put another state document there; bytes as they are."""
        data = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
        self.write_blob(STATE_BLOB, data)

    def change_manifest(self, change: Callable[[Document], object]) -> None:
        """Change the manifest in place."""
        document = self.manifest()
        change(document)
        self.write_manifest(document)

    def change_state(self, change: Callable[[Document], object]) -> None:
        """Change the state document in place."""
        document = self.state()
        change(document)
        self.write_state(document)

    def change_tensor(self, name: str, key: str, **facts: Any) -> None:
        """Change what the state records of one tensor of an object: its facts, or where its only piece begins."""

        def change(state: Document) -> None:
            columns = state["tensors"][name]
            number = columns["keys"].index(key)
            piece = columns["pieces"]["key"].index(number)
            for fact, value in facts.items():
                if fact in ("strides", "aliases"):
                    columns[fact][key] = value
                elif fact == "digest":
                    digests = columns["pieces"]["digest"]
                    columns["pieces"]["digest"] = digests[: 32 * piece] + value + digests[32 * (piece + 1) :]
                elif fact in ("dtypes", "shapes", "keys"):
                    columns[fact][number] = value
                else:
                    columns["pieces"][fact][piece] = value

        self.change_state(change)
