"""Bytes and names: where checkpoints lie and which of them count; knows no torch. The format is in FORMAT.md."""
