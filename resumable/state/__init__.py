"""Encode live objects as documents and file images, and restore them. Independent of paths and storages."""
