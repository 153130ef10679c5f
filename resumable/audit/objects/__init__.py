"""Objects that the loop changes and that were not given: found by looking at the first boundaries of an attempt."""
