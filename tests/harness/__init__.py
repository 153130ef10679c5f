"""Launches of real programs for a few milliseconds each: one fork server, and how launches of one run compare."""
