"""The state of an `Accelerator` or a `Fabric`, as of an object with `state_dict` and `load_state_dict`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from resumable.errors import ConfigError
from resumable.prepared import private
from resumable.stateful import Stateful
from resumable.utils.events import warn

# By library: the class of the object that prepares others, and what is lost where no checkpoint has its state.
NAMES = {"Accelerate": "Accelerator", "Fabric": "Fabric"}
LOSS = {
    "Accelerate": (
        "after a resume inside a window of accumulation all later ones are shifted, and a gradient scaler and "
        "registered objects begin again"
    ),
    "Fabric": "after a resume a gradient scaler of its precision begins again",
}


class Preparer(Stateful, Protocol):
    """The state of an object that prepares others, and its library."""

    library: str


class AcceleratorState:
    """The state of an `Accelerator` between two steps: its place in the window, scaler and registered objects."""

    library = "Accelerate"

    def __init__(self, name: str, accelerator: Any) -> None:
        """Refuse an accelerator that trains with more than one process, or shards the state."""
        self._name = name
        self._accelerator = accelerator
        kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
        if kind != "NO" and not kind.startswith("MULTI_"):
            raise _refused(name, f"an Accelerator of the type {kind}")
        _refuse_several(name, accelerator.num_processes)

    def state_dict(self) -> dict[str, Any]:
        """Return plain values, and the states of the registered objects."""
        accelerator = self._accelerator
        scaler = accelerator.scaler
        return {
            "step": accelerator.step,
            "sync_gradients": accelerator.sync_gradients,
            "num_steps": accelerator.gradient_accumulation_steps,
            "scaler": None if scaler is None else scaler.state_dict(),
            "skipped": [] if scaler is None else private.skipped_steps(accelerator),
            "objects": [each.state_dict() for each in private.registered_objects(accelerator)],
        }

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore what `state_dict` returned; `ValueError` where it is of another accelerator."""
        accelerator, objects = self._accelerator, private.registered_objects(self._accelerator)
        _refuse_other_state(state, scaler=accelerator.scaler is not None, objects=len(objects))
        accelerator.step, accelerator.sync_gradients = state["step"], state["sync_gradients"]
        self._set_window(state["num_steps"])
        if accelerator.scaler is not None:
            if len(state["skipped"]) != len(private.skipped_steps(accelerator)):
                raise ValueError("another number of optimizers was prepared when the checkpoint was written")
            accelerator.scaler.load_state_dict(state["scaler"])
            private.set_skipped_steps(accelerator, state["skipped"])
        for target, stored in zip(objects, state["objects"], strict=True):
            target.load_state_dict(stored)

    def _set_window(self, num_steps: int) -> None:
        now = self._accelerator.gradient_accumulation_steps
        if now != num_steps:
            warn(
                f"{self._name}: gradient_accumulation_steps is {num_steps} in the checkpoint and {now} in the program; "
                f"the run goes on with {num_steps}"
            )
            self._accelerator.gradient_accumulation_steps = num_steps


class FabricState:
    """The state of a `Fabric` between two steps: the gradient scaler of its precision."""

    library = "Fabric"

    def __init__(self, name: str, fabric: Any) -> None:
        """Refuse a fabric that trains with more than one process, or shards the state."""
        kind = type(fabric.strategy).__name__
        if kind not in ("SingleDeviceStrategy", "DDPStrategy"):
            raise _refused(name, f"a Fabric with {kind}")
        _refuse_several(name, fabric.world_size)
        self._fabric = fabric

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the precision, empty without a scaler."""
        return {"precision": self._fabric.strategy.precision.state_dict()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore what `state_dict` returned; `ValueError` where it is of another precision."""
        precision = self._fabric.strategy.precision
        if state["precision"].keys() != precision.state_dict().keys():
            raise ValueError("the precision of this Fabric is not that of the checkpoint")
        precision.load_state_dict(state["precision"])


def preparer(name: str, target: object) -> Preparer | None:
    """Return the state of an `Accelerator` or a `Fabric` that was passed as `name`; None for any other object.

    Raises:
        ConfigError: It trains with more than one process, or shards the state.
    """
    if not isinstance(target, (*private.accelerator_types(), *private.fabric_types())):
        return None
    unchecked = private.unchecked_version(target)
    if unchecked is not None:
        warn(f"{name}: exact resume was not checked with {unchecked}; `resumable drill` checks it for this program")
    of_accelerate = isinstance(target, private.accelerator_types())
    return AcceleratorState(name, target) if of_accelerate else FabricState(name, target)


def library_of(target: object) -> str | None:
    """Return the library that prepared this object, by its name in `NAMES`; None for any other object."""
    if private.is_of_accelerate(target):
        return "Accelerate"
    return "Fabric" if private.is_of_fabric(target) else None


def passed_libraries(objects: Iterable[object]) -> frozenset[str]:
    """Return the libraries whose `Accelerator` or `Fabric` is among the objects."""
    kinds = {"Accelerate": private.accelerator_types(), "Fabric": private.fabric_types()}
    objects = tuple(objects)
    return frozenset(library for library, types in kinds.items() if any(isinstance(each, types) for each in objects))


def _refused(name: str, found: str) -> ConfigError:
    return ConfigError(
        f"{name}: expected one process that holds the whole state, found {found}",
        "train in one process, without DeepSpeed and sharding; they are refused until they are exact",
    )


def _refuse_several(name: str, processes: int) -> None:
    if processes > 1:
        raise _refused(name, f"{processes} processes")


def _refuse_other_state(state: dict[str, Any], *, scaler: bool, objects: int) -> None:
    if (state["scaler"] is not None) != scaler:
        raise ValueError("its mixed precision has a gradient scaler, or had one, only on one side of the resume")
    if len(state["objects"]) != objects:
        raise ValueError(f"registered for checkpointing are {objects} objects, expected {len(state['objects'])}")
    counts = state["step"], state["num_steps"]
    if any(type(count) is not int or count < 0 for count in counts) or not state["num_steps"]:
        raise ValueError("step and gradient_accumulation_steps are not counts of batches")
