"""Reserve the memory in which the files of a checkpoint are kept, from their verification until the first save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from resumable.state.objects.choose_adapter import Adapter
from resumable.state.objects.modules import ModuleAdapter
from resumable.state.staging.stager import Stager
from resumable.store.verified_images import Reserve
from resumable.utils.memory import available_bytes


def image_memory(stager: Stager, adapters: Iterable[Adapter], *, max_bytes: int | None) -> Reserve:
    """Return a function that reserves buffers of the stager for files of the given sizes.

    It reserves none for files that exceed `max_bytes`, or the memory that this machine has left. These are read twice.
    """
    device = _device(adapters)

    def reserve(sizes: Mapping[str, int]) -> Mapping[str, memoryview]:
        needed = sum(sizes.values())
        fits = needed <= available_bytes() and (max_bytes is None or needed <= max_bytes)
        try:
            return stager.reserve(sizes if fits else {}, device=device)
        except (OSError, MemoryError, RuntimeError):  # RuntimeError is what torch raises for pinned memory
            return stager.reserve({}, device=device)

    return reserve


def _device(adapters: Iterable[Adapter]) -> torch.device:
    """Return the device of the modules; one that is not the CPU, if there is any."""
    modules = [each.target for each in adapters if isinstance(each, ModuleAdapter)]
    devices = {parameter.device for module in modules for parameter in module.parameters()}
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
