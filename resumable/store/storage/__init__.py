"""Storages: one protocol over local folders and every filesystem that fsspec reaches, with retries."""
