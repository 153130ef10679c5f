"""Exact resume for Hugging Face's Trainer by one added line: `Trainer(..., callbacks=[Resume("runs/a")])`."""

from resumable.transformers.callback import Resume

__all__ = ["Resume"]
