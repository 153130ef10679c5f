"""Loaders that Accelerate or Fabric prepared, as the plain loader inside and what the wrapper does around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from resumable.prepared import private


class Follower(Protocol):
    """A loader of Accelerate's, which `accelerator.accumulate` consults for the end of a pass."""

    end_of_dataloader: bool

    def begin(self) -> None:
        """Note that a pass begins."""

    def end(self) -> None:
        """Note that the pass is over."""


@dataclass(frozen=True)
class PreparedLoader:
    """A wrapper that moves the batches of a plain loader, and may follow where a pass stands."""

    plain: Any
    moved: Callable[[Any], Any]  # a batch to the device of the wrapper
    follower: Follower | None


def prepared_loader(loader: object) -> PreparedLoader | None:
    """Return what a loader of Accelerate's or Fabric's is made of; None for one that does more than move batches."""
    plain: Any = private.plain_loader_of_accelerate(loader)
    if plain is not None:
        follower: Any = loader
        return PreparedLoader(plain, partial(private.moved_by_accelerate, loader), follower)
    plain = private.plain_loader_of_fabric(loader)
    return None if plain is None else PreparedLoader(plain, partial(private.moved_by_fabric, loader), None)


def driven_loader(loader: object) -> PreparedLoader | None:
    """Return the parts of any loader of Accelerate's that a framework's loop reads; None for another loader.

    Nothing follows where its passes stand, because such a loop counts its windows itself.
    """
    plain = private.loader_inside_accelerate(loader)
    return None if plain is None else PreparedLoader(plain, partial(private.moved_by_accelerate, loader), None)


def wrapped_again(loader: Any, replaced: Callable[[Any], Any]) -> Any:
    """Return `replaced(plain)` in the place of the plain loader inside a copy of one that Accelerate prepared."""
    plain = private.loader_inside_accelerate(loader)
    return replaced(loader) if plain is None else private.accelerate_around(loader, replaced(plain))


def seed_samplers(plain: Any, key: bytes) -> None:
    """Replace the seed that a sampler of Accelerate's drew from the program's streams when it was made."""
    samplers: list[Any] = [plain.sampler, getattr(plain.batch_sampler, "sampler", None)]
    for sampler in samplers:
        if private.is_seeded_sampler(sampler):
            sampler.initial_seed = int.from_bytes(key[:7], "big")
