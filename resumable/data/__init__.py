"""Data by address: what a batch is depends on where it stands in the run, not on how the run got there; no storage."""

from resumable.data.addresses import PassAddress
from resumable.data.open_pass import Data
from resumable.data.pass_base import Pass

__all__ = ["Data", "Pass", "PassAddress"]
