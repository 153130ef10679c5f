"""Exact resume for PyTorch Lightning by one added line: `pl.Trainer(callbacks=[Resume("config.yaml")])`."""

from resumable.lightning.callback import Resume

__all__ = ["Resume"]
