"""The fork server of the tests of Lightning, which has imported Lightning and all programs and cases."""

from __future__ import annotations

from tests.harness.client import ForkServer, shared_server

PRELOADED = (
    "omegaconf",  # Lightning imports it when it first handles hyper-parameters
    "torch.utils.tensorboard",
    "resumable.lightning",
    "tests.lightning.threads",
    "tests.lightning.script",
)


def shared_lightning() -> ForkServer:
    """Return the one fork server of this pytest worker for launches with Lightning."""
    return shared_server(*PRELOADED)
