"""The base of all documents of the format, and the types of their fields. Independent of what a document is about."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from resumable.errors import StateError
from resumable.store.documents.sealed_json import sealed
from resumable.store.layout import MAX_NUMBER
from resumable.utils import strict_json
from resumable.utils.messages import quoted

MAX_TENSORS = 250_000
MAX_OBJECTS = 10_000
MAX_BLOBS = 100_000
MAX_RANKS = 65_536
MAX_LINEAGE = 100_000
MAX_DIMENSIONS = 64

_PARTS = {"objects": MAX_OBJECTS, "blobs": MAX_BLOBS, "lineage": MAX_LINEAGE}


def _from_text(value: object) -> object:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _to_text(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _plain(value: object) -> object:
    if value is not None and type(value) not in (int, str):
        raise ValueError(f"a {type(value).__name__}, expected a number or a word")
    return value


Natural = Annotated[int, Field(ge=0, lt=2**63)]
BoundedCount = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Sizes = Annotated[list[Natural], Field(max_length=MAX_DIMENSIONS)]
Seconds = Annotated[float, Field(ge=0, lt=250_000_000_000)]  # since 1970; the calendars of programs end in year 9999
Number = Annotated[float, BeforeValidator(_from_text), PlainSerializer(_to_text)]
HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=1000)]
PlainValue = Annotated[Any, BeforeValidator(_plain)]
Dtype = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]
Descent = Annotated[tuple[BoundedCount, Name | None], Field(strict=False)]


class StrictRecord(BaseModel):
    """One document, or a part of one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    def dump(self) -> bytes:
        """Return the document as JSON, sealed by its digest."""
        document = self.model_dump()
        try:
            refuse_too_many_parts(document)
            body = strict_json.dumps(document)
        except ValueError as error:
            raise StateError(
                f"no reader would take this {type(self).__name__.lower()}: {quoted(error)}",
                "keep the state in fewer and larger tensors",
            ) from error
        return sealed(body)


def refuse_too_many_parts(document: object) -> None:
    """Raise `ValueError` for more parts than a manifest may have, before each of them becomes a record."""
    if not isinstance(document, dict):
        return
    for name, most in _PARTS.items():
        if isinstance(part := document.get(name), dict | list):
            refuse_more_than(most, name, len(part))


def refuse_more_than(most: int, what: str, count: int) -> None:
    """Raise `ValueError` if a document has more than `most` of something."""
    if count > most:
        raise ValueError(f"{count} {what}, more than the {most} allowed")


def first_fault(error: ValidationError) -> str:
    """Return the first thing that is wrong with a document, and where in it."""
    found = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in found["loc"])
    message = found["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
