"""Data by address: the content of a batch depends on its address in the run, not on the history of the program."""

from resumable.data.addresses import PassAddress
from resumable.data.open_pass import Data
from resumable.data.pass_base import Pass

__all__ = ["Data", "Pass", "PassAddress"]
