"""Training loops as people write them, killed and run again: exact, or named, or refused, and never silently wrong."""
