"""Decide when to save and which checkpoints to keep. Pure functions: no clock, no storage, no torch."""
