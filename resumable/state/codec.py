"""Trees of plain values and tensors as JSON documents beside named tensors, and back; knows no object and no file."""

from __future__ import annotations

from resumable.state.decoder import decode
from resumable.state.encoder import Encoded, encode

__all__ = ["Encoded", "decode", "encode"]
