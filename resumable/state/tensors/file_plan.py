"""Plan the safetensors file of given tensors, before any of its bytes exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from resumable.state.tensors.facts import TensorFacts
from resumable.state.tensors.safetensors_layout import Layout


@dataclass(frozen=True)
class FilePlan:
    """The facts of tensors and the layout of the file that will hold them."""

    facts: dict[str, TensorFacts]
    layout: Layout

    @classmethod
    def of(cls, facts: dict[str, TensorFacts], *, metadata: Mapping[str, str] | None = None) -> FilePlan:
        """Plan the file that this program writes for these tensors, in this order.

        Raises:
            ValueError: The tensors exceed the limits of the format.
        """
        # Widest first by torch's item size too: a complex128 among float64 must begin at a multiple of 16. Small
        # tensors are adjacent, so that one read returns them all.
        ordered = sorted(facts.items(), key=lambda item: (-item[1].torch_dtype.itemsize, -item[1].nbytes))
        entries = ((key, *fact.stored_as, fact.nbytes) for key, fact in ordered)
        return cls(facts, Layout(entries, metadata=metadata))
