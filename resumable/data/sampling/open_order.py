"""Open the order of a pass, from its start or a stored position: known in whole where it can be, else drawn."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from resumable.data.pass_base import Opening, length_of
from resumable.data.sampling.follows_as_it_goes import follows_as_it_goes
from resumable.data.sampling.order_kind import (
    SequentialOrder,
    follows_from_key,
    index_sampler,
    is_drawn_at_iter,
    is_sequential_name,
    name_of,
)
from resumable.data.sampling.packed_order import PackedOrder
from resumable.data.sampling.sampler_state import SamplerStates, stateful_samplers
from resumable.data.sampling.sampling_order import (
    OTHER_ORDER,
    DrawnOrder,
    KnownOrder,
    Order,
    other_order,
    refuse_other_length,
    refuse_other_samplers,
)
from resumable.errors import ChangedDataError
from resumable.stateful import has_state_dict


def open_order(loader: DataLoader[Any], opening: Opening, now: SamplerStates) -> Order:
    """Return the order of one pass.

    `now` are the states of samplers at the checkpoint, by role. Raises `LoopError` where the data or its order is not
    that of the checkpoint.
    """
    resume = opening.resume
    if resume is None:
        return _begun(loader, opening)
    if "indices" in resume or is_sequential_name(resume["order"]):
        return _gone_on(loader, opening)
    return DrawnOrder(loader, opening, now)


def _begun(loader: DataLoader[Any], opening: Opening) -> Order:
    sampler = index_sampler(loader)
    sequential = SequentialOrder.of(sampler)
    if sequential is not None:
        return _known(loader, opening, sequential)
    drawn = DrawnOrder(loader, opening, {})
    if follows_from_key(sampler) or _has_state(loader) or _is_drawn_as_it_goes(loader, opening):
        return drawn
    packed = drawn.whole()
    return drawn if packed is None else _known(loader, opening, packed)


def _gone_on(loader: DataLoader[Any], opening: Opening) -> Order:
    assert opening.resume is not None
    resume: Any = opening.resume
    refuse_other_length(opening, resume, length_of(loader.dataset))
    refuse_other_samplers(opening, resume, stateful_samplers(loader))
    order = resume.get("indices") or SequentialOrder.of(index_sampler(loader))
    wanted = opening.batches_done
    found = wanted if order is None else len(order)
    if order is None or order.name != resume["order"] or found < wanted:
        raise other_order(opening, found=found, wanted=wanted, hint=OTHER_ORDER)
    if isinstance(order, PackedOrder):
        _refuse_other_facts(opening, _facts(loader, order))
    return _known(loader, opening, order)


def _known(loader: DataLoader[Any], opening: Opening, order: SequentialOrder | PackedOrder) -> KnownOrder:
    return KnownOrder(opening, order, _facts(loader, order), has_length=length_of(loader) is not None)


def _facts(loader: DataLoader[Any], order: SequentialOrder | PackedOrder) -> dict[str, Any]:
    """Return what a loader must have in common with that of the checkpoint, besides a sequential order's name."""
    length = {"dataset_length": length_of(loader.dataset)}
    if isinstance(order, SequentialOrder):
        return length
    batched = {name: getattr(loader.batch_sampler, name, None) for name in ("batch_size", "drop_last")}
    plain = {name: value for name, value in batched.items() if type(value) in (int, bool)}
    return length | {"drawn_by": name_of(index_sampler(loader)), "batched": plain}


def _refuse_other_facts(opening: Opening, facts: dict[str, Any]) -> None:
    resume: Any = opening.resume
    different = [
        f"{name} is {facts[name]}, it was {resume.get(name)} when the checkpoint was written"
        for name in ("drawn_by", "batched")
        if facts[name] != resume.get(name)
    ]
    if different:
        raise ChangedDataError(f"{opening.address}: the order of this pass is stored: {different[0]}", OTHER_ORDER)


def _has_state(loader: DataLoader[Any]) -> bool:
    parts = (loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None), loader.sampler)
    return any(map(has_state_dict, parts))


def _is_drawn_as_it_goes(loader: DataLoader[Any], opening: Opening) -> bool:
    sampler = index_sampler(loader)
    return not is_drawn_at_iter(sampler) and follows_as_it_goes(
        sampler, loader.dataset, key=opening.key, rule=opening.generator_rule
    )
