"""Where a program differs from its checkpoint: what is refused, and what the config accepts."""
