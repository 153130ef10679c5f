"""Encode trees of plain values and tensors as JSON documents beside named tensors, and decode them."""

from __future__ import annotations

from resumable.state.codec.decoder import decode
from resumable.state.codec.encoder import Encoded, encode
from resumable.state.codec.tree import Document, Tree

__all__ = ["Document", "Encoded", "Tree", "decode", "encode"]
