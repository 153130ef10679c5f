"""Passes over the kinds of loaders: by address, by the state of a stream, or by replay."""
