"""The random streams of data pipelines: found in the user's objects, seeded per batch, saved and restored."""
