"""Load stored weights into a live model, in place, once all names and shapes match. Independent of files."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from resumable.errors import RunMismatchError
from resumable.state.files.read_targets import fillable
from resumable.state.loading.arguments import check_model, check_rename, skip_patterns
from resumable.state.loading.key_matching import LiveTensor, Match, Shape, match, suggested
from resumable.state.objects.adapter import listed, mismatch_on_error, unwrapped
from resumable.state.objects.modules import is_extra, read_targets
from resumable.state.tensors.facts import TensorFacts, same_place

GROUP_BYTES = 256 * 2**20
_MOST_GROUPS = 8  # some sources must be read completely for each group


class StoredWeights(Protocol):
    """Tensors by key, wherever they are stored."""

    @property
    def where(self) -> str:
        """Its name in messages."""

    @property
    def facts(self) -> Mapping[str, TensorFacts | None]:
        """The facts of each key; None for a value that is not a plain tensor, such as a module's extra state."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names of tensors, each with its key."""

    @property
    def is_mixed(self) -> bool:
        """Whether some values may be something else than weights."""

    @property
    def metadata(self) -> Mapping[str, object] | None:
        """The versions of modules, as in a `state_dict`."""

    def identity(self, key: str) -> object:
        """Return a value that is equal for tensors of the same dtype, shape and bits."""

    def read(self, keys: Collection[str], into: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Return the values of `keys`; tensors of `into` are filled in place if possible, and returned themselves."""


def load_into_model(
    model: nn.Module, weights: StoredWeights, *, strict: bool, rename: Mapping[str, str] | None, skip: Iterable[str]
) -> Match:
    """Fill a model's parameters and buffers in place; dtypes and devices stay.

    All names and shapes are compared before the first value is written.

    Raises:
        RunMismatchError: With `strict`, something does not match; without, nothing matches.
        ConfigError: An argument has another type.
    """
    check_model(model)
    check_rename(rename)
    skip = skip_patterns(skip)
    model = unwrapped(model)
    live = model.state_dict()
    found = match(
        {key: None if facts is None else facts.shape for key, facts in weights.facts.items()},
        {name: LiveTensor(_shape(name, value), _tensor(name, value)) for name, value in live.items()},
        rename=rename,
        skip=skip,
        aliases=weights.aliases,
        is_mixed=weights.is_mixed,
    )
    if not found.fits and (strict or not found.matched):
        raise RunMismatchError(
            f"{type(model).__name__} does not fit {weights.where}: {'; '.join(_reasons(found))}", _hint(found)
        )
    _refuse_meta(model, {name: live[name] for name in found.matched})
    _refuse_untied(model, weights, found)
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
        *([f"another shape: {', '.join(shapes)}"] if shapes else []),  # not shortened: the user works through this list
        *listed("missing in the checkpoint", found.missing),
        *listed("not in this module", unexpected),
    ]


def _hint(found: Match) -> str:
    better = suggested(found)
    if better is not None:
        old, new, count = better
        return f"rename={{{old!r}: {new!r}}} would make {count} of {len(found.unexpected)} fit"
    if not found.matched:
        return "check the model and the object (name=...); rename={'old.': 'new.'} maps prefixes of names"
    return (
        "build the model as it was when the checkpoint was written, pass strict=False to load what matches, or leave "
        "names out with skip=['head.*']"
    )


def _refuse_meta(model: nn.Module, live: Mapping[str, object]) -> None:
    empty = [name for name, value in live.items() if isinstance(value, Tensor) and value.is_meta]
    if empty:
        raise RunMismatchError(
            f"{type(model).__name__} has no memory to load into: {'; '.join(listed('on the meta device', empty))}",
            "allocate it first: model.to_empty(device='cpu')",
        )


def _refuse_untied(model: nn.Module, weights: StoredWeights, found: Match) -> None:
    apart = [
        (one, other)
        for one, other in found.tied
        if weights.identity(found.matched[one]) != weights.identity(found.matched[other])
    ]
    if apart:
        pairs = [f"{one} and {other}" for one, other in apart]
        reasons = "; ".join(listed("two tensors in the checkpoint, one here", pairs))
        raise RunMismatchError(
            f"{type(model).__name__} does not fit {weights.where}: {reasons}",
            f"do not tie them in the model, or choose one: skip=[{apart[0][1]!r}]",
        )


def _fill(model: nn.Module, weights: StoredWeights, found: Match) -> None:
    twice = {other for _, other in found.tied}  # the first name is enough
    matched = {name: key for name, key in found.matched.items() if name not in twice}
    into = _into(model, weights, matched)
    groups = [matched] if into is None else _groups(weights, matched, into)
    metadata = _named(weights.metadata, found)
    for group in groups:
        _put(model, weights, group, into or {}, metadata)


def _put(
    model: nn.Module,
    weights: StoredWeights,
    group: Mapping[str, str],
    into: Mapping[str, Tensor],
    metadata: Mapping[str, object] | None,
) -> None:
    keys = set(group.values())
    values = weights.read(keys, {key: tensor for key, tensor in into.items() if key in keys})
    state = collections.OrderedDict((name, values[key]) for name, key in group.items())
    if metadata is not None:
        vars(state)["_metadata"] = metadata  # the attribute in which torch keeps it
    with mismatch_on_error(type(model).__name__):
        model.load_state_dict(state, strict=False)


def _into(model: nn.Module, weights: StoredWeights, matched: Mapping[str, str]) -> dict[str, Tensor] | None:
    """Return the live tensor to read each stored key into, if possible; None if the model has loading code of its own.

    Such code gets everything at once, since it may combine several tensors.
    """
    live = read_targets(model)
    if live is None:
        return None
    into = {key: live[name] for name, key in matched.items() if name in live and weights.facts[key] is not None}
    facts = {key: each for key in into if (each := weights.facts[key]) is not None}
    direct = fillable(into, facts)
    return {key: tensor for key, tensor in into.items() if key in direct}


def _groups(weights: StoredWeights, matched: Mapping[str, str], into: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield what is read in place, then the rest in groups, so that little memory beside the model is needed."""
    direct = {name: key for name, key in matched.items() if key in into}
    if direct:
        yield direct
    rest = [(name, key, _nbytes(weights, key)) for name, key in matched.items() if key not in into]
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


def _nbytes(weights: StoredWeights, key: str) -> int:
    facts = weights.facts[key]
    return facts.nbytes if facts is not None else 0


def _named(metadata: Mapping[str, object] | None, found: Match) -> dict[str, object] | None:
    """Return the metadata under the names that the modules have in the model."""
    if metadata is None:
        return None
    return {found.name_of(f"{module}.").removesuffix(".") if module else "": each for module, each in metadata.items()}
