"""Every private name of Accelerate's and Fabric's that exact resume needs, checked against the versions in `CHECKED`.

No other module of this package reads or writes an attribute of theirs with a leading underscore. Nothing is imported:
where a library is not in `sys.modules`, no object can be of it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

# The lowest and the highest minor version that was tested; between them 1.5, 1.10 and 1.13, and 2.5.
CHECKED = {"accelerate": ((1, 0), (1, 15)), "lightning_fabric": ((2, 4), (2, 6)), "lightning": ((2, 4), (2, 6))}

_FABRICS = ("lightning_fabric", "lightning.fabric")


def unchecked_version(target: object) -> str | None:
    """Return the name and version of the library of this object if it is outside of the versions in `CHECKED`."""
    kind = next(kind for kind in type(target).__mro__ if kind.__module__.partition(".")[0] in CHECKED)
    package = kind.__module__.partition(".")[0]
    version = str(getattr(sys.modules[package], "__version__", ""))
    lowest, highest = CHECKED[package]
    minor = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    return None if lowest <= minor <= highest else f"{package} {version}"


def _types(name: str, *modules: str) -> tuple[type, ...]:
    found = (getattr(sys.modules.get(module), name, None) for module in modules)
    return tuple(kind for kind in found if isinstance(kind, type))


def _fabric_types(name: str, module: str) -> tuple[type, ...]:
    return _types(name, *(f"{package}.{module}" for package in _FABRICS))


# -- the objects that prepare others ----------------------------------------------------------------------------------


def accelerator_types() -> tuple[type[Any], ...]:
    """Return the class `Accelerator`, or nothing where Accelerate is not imported."""
    return _types("Accelerator", "accelerate.accelerator")


def fabric_types() -> tuple[type[Any], ...]:
    """Return the classes `Fabric` of the packages that are imported."""
    return _fabric_types("Fabric", "fabric")


def registered_objects(accelerator: Any) -> list[Any]:
    """Return the objects that `register_for_checkpointing` was called with."""
    return list(accelerator._custom_objects)


def skipped_steps(accelerator: Any) -> list[bool]:
    """Return whether each prepared optimizer skipped its last step, because gradients had overflowed."""
    return [bool(optimizer.step_was_skipped) for optimizer in accelerator._optimizers]


def set_skipped_steps(accelerator: Any, skipped: list[bool]) -> None:
    """Set what `skipped_steps` returned."""
    for optimizer, value in zip(accelerator._optimizers, skipped, strict=True):
        optimizer._is_overflow = value


def prepared_updates(accelerator: Any) -> list[Any]:
    """Return the optimizers and schedulers inside those that this accelerator prepared."""
    return [
        *(optimizer.optimizer for optimizer in accelerator._optimizers),
        *(getattr(scheduler, "scheduler", scheduler) for scheduler in accelerator._schedulers),
    ]


def gradient_state() -> Mapping[str, Any]:
    """Return the state that all objects of Accelerate in this program share; empty without one."""
    shared: Mapping[str, Any] = {}
    for kind in _types("GradientState", "accelerate.state"):
        shared = getattr(kind, "_shared_state", {})
    return shared


# -- what they prepare ------------------------------------------------------------------------------------------------


def is_of_accelerate(target: object) -> bool:
    """Return whether `Accelerator.prepare` returned this model, optimizer, scheduler or loader."""
    kinds = (
        *_types("AcceleratedOptimizer", "accelerate.optimizer"),
        *_types("AcceleratedScheduler", "accelerate.scheduler"),
        *_types("DataLoaderAdapter", "accelerate.data_loader"),
    )
    marked = getattr(target, "__dict__", {}).get("_is_accelerate_prepared", False)
    return isinstance(target, kinds) or marked is True


def is_of_fabric(target: object) -> bool:
    """Return whether a `Fabric` set up this model, optimizer or loader."""
    names = ("_FabricModule", "_FabricOptimizer", "_FabricDataLoader")
    return isinstance(target, tuple(kind for name in names for kind in _fabric_types(name, "wrappers")))


def plain_forward_of_accelerate(model: object) -> Any:
    """Return the forward of a model to which mixed precision of Accelerate's added autocast; else None."""
    return getattr(model, "__dict__", {}).get("_original_forward")


def plain_loader_of_accelerate(loader: object) -> Any:
    """Return the loader inside a loader of Accelerate's that only moves batches and marks the last one; else None."""
    names = {"base_dataloader", "device", "skip_batches", "_non_blocking"}
    for kind in _types("DataLoaderShard", "accelerate.data_loader"):
        if _iterates_as(loader, kind) and vars(loader).keys() >= names and not vars(loader)["skip_batches"]:
            return vars(loader)["base_dataloader"]
    return None


def loader_inside_accelerate(loader: object) -> Any:
    """Return the loader inside any loader of Accelerate's, whatever that does; None for any other object."""
    return getattr(loader, "__dict__", {}).get("base_dataloader")


def accelerate_around(prepared: Any, loader: object) -> Any:
    """Return a copy of a loader of Accelerate's around another loader; the prepared one stays as it is."""
    # Not by `copy`: Accelerate's loaders reduce to a class that they are not.
    twin = object.__new__(type(prepared))
    vars(twin).update(vars(prepared), base_dataloader=loader)
    return twin


def moved_by_accelerate(loader: Any, batch: Any) -> Any:
    """Return the batch on the device of this loader of Accelerate's, if it has one."""
    device = vars(loader).get("device")
    if device is None:
        return batch
    send_to_device = sys.modules["accelerate.data_loader"].send_to_device
    return send_to_device(batch, device, non_blocking=loader._non_blocking)


def is_seeded_sampler(sampler: object) -> bool:
    """Return whether the order of this sampler of Accelerate's depends on a seed that it drew when it was made."""
    return isinstance(sampler, _types("SeedableRandomSampler", "accelerate.data_loader"))


def plain_loader_of_fabric(loader: object) -> Any:
    """Return the loader inside a loader of Fabric's; None for any other object."""
    for kind in _fabric_types("_FabricDataLoader", "wrappers"):
        if _iterates_as(loader, kind) and vars(loader).keys() >= {"_dataloader", "_device"}:
            return vars(loader)["_dataloader"]
    return None


def moved_by_fabric(loader: Any, batch: Any) -> Any:
    """Return the batch on the device of this loader of Fabric's."""
    if loader._device is None:
        return batch
    return sys.modules[type(loader).__module__].move_data_to_device(batch, loader._device)


def _iterates_as(loader: object, kind: type) -> bool:
    # By its real type: a loader of Accelerate's fakes its `__class__`.
    return issubclass(type(loader), kind) and type(loader).__iter__ is kind.__iter__  # type: ignore[attr-defined]
