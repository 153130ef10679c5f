"""The fork server of the tests of transformers, which has imported it and all programs."""

from __future__ import annotations

from tests.harness.client import ForkServer, shared_server

PRELOADED = ("resumable.transformers", "s3fs", "tests.huggingface.programs", "tests.huggingface.launches:import_all")


def shared_transformers() -> ForkServer:
    """Return the one fork server of this pytest worker for launches with transformers."""
    return shared_server(*PRELOADED)
