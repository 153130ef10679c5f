"""Live tensors by key, with what a file and a copy need to know of them, computed once per structure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

from torch import Tensor

from resumable.state.tensors.facts import TensorFacts, facts_of


class Memory(enum.Enum):
    """The place and order of the bytes of a tensor."""

    AS_STORED = "on the host, in the order of a file"
    OTHERWISE = "on the host, in another order"
    DEVICE = "on a device"


class Description:
    """The facts and the memory of named tensors, in their order.

    Two mappings of tensors with the same description object have the same structure.
    """

    def __init__(self, facts: dict[str, TensorFacts], memory: list[Memory]) -> None:
        self.facts = facts
        self.memory = memory
        self._parts: dict[frozenset[str], Description] = {}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Description:
        """Describe these tensors."""
        return cls({key: facts_of(tensor) for key, tensor in tensors.items()}, [*map(memory_of, tensors.values())])

    def part(self, keys: frozenset[str]) -> Description:
        """Return the description of the tensors with these keys: the same object for the same keys."""
        if keys not in self._parts:
            facts = {key: fact for key, fact in self.facts.items() if key in keys}
            memory = [each for key, each in zip(self.facts, self.memory, strict=True) if key in keys]
            self._parts[keys] = Description(facts, memory)
        return self._parts[keys]


class DescribedTensors(dict[str, Tensor]):
    """Live tensors by key, with their description, and with their addresses of now if these were read."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
        description: Description,
        addresses: list[int] | None = None,
    ) -> None:
        super().__init__(tensors)
        self.description = description
        self.addresses = addresses

    def part(self, keys: frozenset[str]) -> DescribedTensors:
        """Return the tensors with these keys; `keys` has no others."""
        if len(keys) == len(self):
            return self
        return DescribedTensors(
            ((key, tensor) for key, tensor in self.items() if key in keys), self.description.part(keys)
        )


def description_of(tensors: Mapping[str, Tensor]) -> Description:
    """Return the description that the tensors carry, or make one."""
    return tensors.description if isinstance(tensors, DescribedTensors) else Description.of(tensors)


def memory_of(tensor: Tensor) -> Memory:
    """Return where the bytes of a tensor are."""
    if tensor.device.type != "cpu":
        return Memory.DEVICE
    is_as_stored = tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
    return Memory.AS_STORED if is_as_stored else Memory.OTHERWISE


def addresses_of(tensors: Mapping[str, Tensor]) -> list[int]:
    """Return the addresses of tensors, in their order."""
    if isinstance(tensors, DescribedTensors) and tensors.addresses is not None:
        return tensors.addresses
    return [*map(Tensor.data_ptr, tensors.values())]
