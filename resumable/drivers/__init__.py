"""Shared parts of the drivers of other frameworks' loops: stand-in loaders, patches, limits, event files."""
