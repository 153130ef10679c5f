"""Stored weights into a live model, in place, after everything that can be compared was; knows no file."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from resumable.errors import RunMismatchError
from resumable.state.files.read_targets import fillable
from resumable.state.loading.arguments import patterns, refuse_other_model, refuse_other_rules
from resumable.state.loading.key_matching import Match, Place, Shape, match, suggested
from resumable.state.objects.adapter import listed, taking, unwrapped
from resumable.state.objects.modules import is_extra, places
from resumable.state.tensors.facts import TensorFacts, same_place

GROUP_BYTES = 256 * 2**20
_MOST_GROUPS = 8  # some sources have to be read whole for each


class Weights(Protocol):
    """Tensors by keys, in whatever place."""

    @property
    def where(self) -> str:
        """What messages call it."""

    @property
    def facts(self) -> Mapping[str, TensorFacts | None]:
        """Of each key; None of what is no plain tensor, such as a module's extra state."""

    @property
    def others(self) -> Mapping[str, str]:
        """Further names of tensors, each with its key."""

    @property
    def is_mixed(self) -> bool:
        """Whether not everything has to be a weight."""

    @property
    def metadata(self) -> Mapping[str, Any] | None:
        """The versions of modules, as `state_dict` gives them."""

    def identity(self, key: str) -> object:
        """Equal for two tensors of the same type, shape and bits."""

    def read(self, keys: Collection[str], into: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """The values of `keys`; those of `into` that can be filled in place are, and are returned themselves."""


def load(
    model: nn.Module, weights: Weights, *, strict: bool, rename: Mapping[str, str] | None, skip: Iterable[str]
) -> Match:
    """Fill a model's parameters and buffers in place; their dtypes and devices stay.

    All names and shapes are compared before the first value is written. Raises `RunMismatchError` for what does not
    fit: with `strict` for anything, otherwise where nothing fits; `ConfigError` for what cannot be asked.
    """
    refuse_other_model(model)
    refuse_other_rules(rename)
    skip = patterns(skip)
    model = unwrapped(model)
    live = model.state_dict()
    found = match(
        {key: None if facts is None else facts.shape for key, facts in weights.facts.items()},
        {name: Place(_shape(name, value), _tensor(name, value)) for name, value in live.items()},
        rename=rename,
        skip=skip,
        others=weights.others,
        is_mixed=weights.is_mixed,
    )
    if not found.fits and (strict or not found.taken):
        raise RunMismatchError(
            f"{type(model).__name__} does not fit {weights.where}: {'; '.join(_reasons(found))}", _hint(found)
        )
    _refuse_meta(model, {name: live[name] for name in found.taken})
    _refuse_twins(model, weights, found)
    _fill(model, weights, found)
    return found


def _shape(name: str, value: Any) -> Shape:
    plain = isinstance(value, Tensor) and not is_extra(name) and not nn.parameter.is_lazy(value)
    return tuple(value.shape) if plain else None


def _tensor(name: str, value: Any) -> object:
    if _shape(name, value) is None or value.is_meta:
        return id(value), name
    return same_place(value) or name


def _reasons(found: Match) -> list[str]:
    shapes = [f"{name} (checkpoint {there}, here {here})" for name, (there, here) in found.another_shape.items()]
    unexpected = [key if found.name_of(key) == key else f"{key} (as {found.name_of(key)})" for key in found.unexpected]
    return [
        *([f"another shape: {', '.join(shapes)}"] if shapes else []),  # every one: it is the list to work through
        *listed("missing in the checkpoint", found.missing),
        *listed("not in this module", unexpected),
    ]


def _hint(found: Match) -> str:
    better = suggested(found)
    if better is not None:
        old, new, count = better
        return f"rename={{{old!r}: {new!r}}} would make {count} of {len(found.unexpected)} fit"
    if not found.taken:
        return "is this the model that was saved there, and the object (name=...)? rename={'old.': 'new.'} maps names"
    return (
        "build the model as it was when the checkpoint was written, pass strict=False to take what fits, or leave "
        "names out with skip=['head.*']"
    )


def _refuse_meta(model: nn.Module, live: Mapping[str, Any]) -> None:
    empty = [name for name, value in live.items() if isinstance(value, Tensor) and value.is_meta]
    if empty:
        raise RunMismatchError(
            f"{type(model).__name__} has no memory to load into: {'; '.join(listed('on the meta device', empty))}",
            "give it some first: model.to_empty(device='cpu')",
        )


def _refuse_twins(model: nn.Module, weights: Weights, found: Match) -> None:
    apart = [
        (one, other)
        for one, other in found.twins
        if weights.identity(found.taken[one]) != weights.identity(found.taken[other])
    ]
    if apart:
        pairs = [f"{one} and {other}" for one, other in apart]
        reasons = "; ".join(listed("two tensors in the checkpoint, one here", pairs))
        raise RunMismatchError(
            f"{type(model).__name__} does not fit {weights.where}: {reasons}",
            f"do not tie them in the model, or choose one: skip=[{apart[0][1]!r}]",
        )


def _fill(model: nn.Module, weights: Weights, found: Match) -> None:
    twice = {other for _, other in found.twins}  # the same once more
    taken = {name: key for name, key in found.taken.items() if name not in twice}
    into = _into(model, weights, taken)
    groups = [taken] if into is None else _groups(weights, taken, into)
    metadata = _named(weights.metadata, found)
    for group in groups:
        _put(model, weights, group, into or {}, metadata)


def _put(
    model: nn.Module,
    weights: Weights,
    group: Mapping[str, str],
    into: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None,
) -> None:
    keys = set(group.values())
    values = weights.read(keys, {key: tensor for key, tensor in into.items() if key in keys})
    state: Any = collections.OrderedDict((name, values[key]) for name, key in group.items())
    if metadata is not None:
        state._metadata = metadata
    with taking(type(model).__name__):
        model.load_state_dict(state, strict=False)


def _into(model: nn.Module, weights: Weights, taken: Mapping[str, str]) -> dict[str, Tensor] | None:
    """For each stored key the live tensor to read it into, where that can be; None where it is others' code that loads.

    That code gets everything at once, since it may look at several tensors.
    """
    live = places(model)
    if live is None:
        return None
    into = {key: live[name] for name, key in taken.items() if name in live and weights.facts[key] is not None}
    facts = {key: each for key in into if (each := weights.facts[key]) is not None}
    direct = fillable(into, facts)
    return {key: tensor for key, tensor in into.items() if key in direct}


def _groups(weights: Weights, taken: Mapping[str, str], into: Collection[str]) -> Iterator[dict[str, str]]:
    """All that is read in place at once, then the rest: little of it has to be in memory beside the model."""
    direct = {name: key for name, key in taken.items() if key in into}
    if direct:
        yield direct
    rest = [(name, key, _nbytes(weights, key)) for name, key in taken.items() if key not in into]
    most = max(GROUP_BYTES, sum(nbytes for _, _, nbytes in rest) // _MOST_GROUPS)
    group: dict[str, str] = {}
    held = 0
    for name, key, nbytes in rest:
        if group and held + nbytes > most:
            yield group
            group, held = {}, 0
        group[name] = key
        held += nbytes
    if group:
        yield group


def _nbytes(weights: Weights, key: str) -> int:
    facts = weights.facts[key]
    return facts.nbytes if facts is not None else 0


def _named(metadata: Mapping[str, Any] | None, found: Match) -> dict[str, Any] | None:
    """Under the names that the modules have in the model."""
    if metadata is None:
        return None
    return {found.name_of(f"{module}.").removesuffix(".") if module else "": each for module, each in metadata.items()}
