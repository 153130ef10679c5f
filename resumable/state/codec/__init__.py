"""Trees of plain values and tensors as JSON documents beside named tensors, and back; knows no object and no file."""

from __future__ import annotations

from resumable.state.codec.decoder import decode
from resumable.state.codec.encoder import Encoded, encode

__all__ = ["Encoded", "decode", "encode"]
