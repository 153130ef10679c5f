"""The version of this package; knows nothing else."""

__version__ = "0.1.0"
