"""Passes over loaders: where control is in one, and the batches of those that have an end and of those that do not."""
