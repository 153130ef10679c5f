"""Which stored tensor goes where in a model, found from names and shapes alone; knows no tensor and no file."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from resumable.errors import RunMismatchError
from resumable.utils.messages import nearest, quoted

Shape = tuple[int, ...] | None
"""None: of no tensor, or of one that takes whatever shape it is given."""

WRAPPERS = ("module.", "_orig_mod.")  # of (Distributed)DataParallel and torch.compile
AVERAGED = "n_averaged"  # what torch's AveragedModel has beside `module.`


@dataclass(frozen=True)
class Place:
    """One name of a model. Two names of one tensor have equal `tensor`s."""

    shape: Shape
    tensor: Hashable


@dataclass(frozen=True)
class Match:
    """What a model takes of what is stored, by the names of the model; what it does not, by stored keys."""

    taken: Mapping[str, str]
    """The stored key for each name of the model that gets a value."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    skipped: tuple[str, ...]
    another_shape: Mapping[str, tuple[Shape, Shape]]
    """Of names of the model: the shape that is stored, and the one here."""

    rules: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    twins: tuple[tuple[str, str], ...] = field(default=())
    """Names of the model for one tensor that get two stored values: these must be the same."""

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.another_shape)

    def name_of(self, key: str) -> str:
        """What a stored key is called in the model."""
        return _renamed_one(key, self.rules)[0].removeprefix(self.prefix)


def match(
    stored: Mapping[str, Shape],
    live: Mapping[str, Place],
    *,
    rename: Mapping[str, str] | None = None,
    skip: Iterable[str] = (),
    others: Mapping[str, str] | None = None,
    is_mixed: bool = False,
) -> Match:
    """Find for each name of a model the stored key that fills it.

    `rename` maps beginnings of stored keys to beginnings of names, the first that matches wins; names that match a
    pattern of `skip` are left out on both sides. `others` are further names of stored tensors, each with its key. Of
    what `is_mixed` not everything has to be a weight. Where not every name fits, wrappers of others (`module.`) are
    taken away if then every one does.

    Raises `RunMismatchError` for two keys with one name, and for a rule or a pattern that matches nothing.
    """
    search = _Search(stored, live, tuple((rename or {}).items()), _Patterns(skip), others or {})
    found = search.mixed() if is_mixed else search.whole()
    search.refuse_idle_patterns(found)
    return found


def suggested(found: Match) -> tuple[str, str, int] | None:
    """A rename that would make names fit which do not, and how many; None where no single one makes half of them fit.

    Only one that takes something away, or puts something before, is looked for.
    """
    missing, unexpected = set(found.missing), {found.name_of(key) for key in found.unexpected}
    counts: Counter[tuple[str, str]] = Counter()
    for name in unexpected:
        counts.update((name[: -len(end)], "") for end in _ends(name) if end in missing)
    for name in missing:
        counts.update(("", name[: -len(end)]) for end in _ends(name) if end in unexpected)
    if not counts:
        return None
    (old, new), count = counts.most_common(1)[0]
    return (old, new, count) if 2 * count >= len(unexpected) else None


def _ends(name: str) -> Iterator[str]:
    return (name[match.end() :] for match in re.finditer(r"\.", name))


class _Patterns:
    """Shell patterns of names."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.all = (patterns,) if isinstance(patterns, str) else tuple(patterns)

    def match(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.all)


class _Search:
    def __init__(
        self,
        stored: Mapping[str, Shape],
        live: Mapping[str, Place],
        rules: tuple[tuple[str, str], ...],
        skip: _Patterns,
        others: Mapping[str, str],
    ) -> None:
        self.stored = stored
        self.live = live
        self.rules = rules
        self.skip = skip
        keys = [*stored, *(key for key in others if key not in stored and others[key] in stored)]
        named = {key: _renamed_one(key, rules) for key in keys}
        _refuse_idle_rules(rules, {rule for _, rule in named.values()}, keys)
        self.touched = [key for key, (_, rule) in named.items() if rule is not None]
        self.names = {key: named[key][0] for key in stored}
        self.others = {named[key][0]: others[key] for key in keys if key not in stored}
        _refuse_one_name(self.names)

    def whole(self) -> Match:
        """Everything stored is a weight: names as they are, or without the wrappers if then all fit."""
        plain = self._matched(self.names, "")
        if not plain.missing and not plain.unexpected:
            return plain
        counted = self._without_average()
        for prefix in _wrappers(counted.values()):
            bare = self._matched(counted, prefix)
            if not bare.missing and not bare.unexpected:
                return bare
        return plain

    def mixed(self) -> Match:
        """Weights are what a rule names, or everything, or all that stands in one dict of the object."""
        if self.rules:
            return self._matched({key: self.names[key] for key in self.names if key in self.touched}, "")
        plain = self._matched(self.names, "")
        if not plain.unexpected:
            return plain
        parts = sorted({name.partition(".")[0] + "." for name in self.names.values() if "." in name})
        found = [self._part(prefix) for prefix in parts]
        fitting = [part for part in found if part.taken and not part.unexpected]
        if len(fitting) > 1:
            prefixes = [part.prefix for part in fitting]
            raise RunMismatchError(
                f"these weights stand there {len(fitting)} times: as {_quoted_list(p + '*' for p in prefixes)}",
                f"say which: rename={{{prefixes[0]!r}: ''}}",
            )
        return fitting[0] if fitting else plain

    def _part(self, prefix: str) -> Match:
        inside = {key: name for key, name in self.names.items() if name.startswith(prefix)}
        return self._matched(inside, prefix)

    def _without_average(self) -> Mapping[str, str]:
        others = {key: name for key, name in self.names.items() if name != AVERAGED}
        return others if all(name.startswith(WRAPPERS[0]) for name in others.values()) else self.names

    def _matched(self, names: Mapping[str, str], prefix: str) -> Match:
        """Every name in `names` begins with `prefix`, which is taken away."""
        here = {name.removeprefix(prefix): key for key, name in names.items()}
        given = dict(here)
        for name, key in self.others.items():
            bare = name.removeprefix(prefix)
            if bare in self.live and name.startswith(prefix) and key in names:
                given.setdefault(bare, key)
        skipped = {name for name in given.keys() | self.live.keys() if self.skip.match(name)}
        both = [name for name in given if name in self.live and name not in skipped]
        other = {name: self._shapes(name, given[name]) for name in both if self._differ(name, given[name])}
        taken = {name: given[name] for name in both if name not in other}
        filled = {self.live[name].tensor for name in taken}
        missing = [
            name
            for name, place in self.live.items()
            if name not in given and name not in skipped and place.tensor not in filled
        ]
        unexpected = [key for name, key in here.items() if name not in self.live and name not in skipped]
        return Match(
            taken=taken,
            missing=tuple(sorted(missing)),
            unexpected=tuple(sorted(unexpected)),
            skipped=tuple(sorted(skipped)),
            another_shape=other,
            rules=self.rules,
            prefix=prefix,
            twins=tuple(self._twins(taken)),
        )

    def _shapes(self, name: str, key: str) -> tuple[Shape, Shape]:
        return self.stored[key], self.live[name].shape

    def _differ(self, name: str, key: str) -> bool:
        there, here = self._shapes(name, key)
        return there is not None and here is not None and there != here

    def _twins(self, taken: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        first: dict[Hashable, str] = {}
        for name, key in taken.items():
            other = first.setdefault(self.live[name].tensor, name)
            if taken[other] != key:
                yield other, name

    def refuse_idle_patterns(self, found: Match) -> None:
        for pattern in self.skip.all:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in found.skipped):
                names = {*self.live, *(name.removeprefix(found.prefix) for name in self.names.values())}
                raise RunMismatchError(
                    f"skip: {quoted(repr(pattern))} matches no name, neither of the model nor of what is stored",
                    _nearest(pattern, [*names, *(start + "*" for start in _starts(names))]),
                )


def _renamed_one(key: str, rules: Iterable[tuple[str, str]]) -> tuple[str, str | None]:
    """The name of a key, and the rule that gave it."""
    for old, new in rules:
        if key.startswith(old):
            return new + key[len(old) :], old
    return key, None


def _refuse_idle_rules(rules: Iterable[tuple[str, str]], used: Collection[str | None], keys: Collection[str]) -> None:
    for old, _ in rules:
        if old in used:
            continue
        if any(key.startswith(old) for key in keys):
            raise RunMismatchError(
                f"rename: every stored key that begins with {quoted(repr(old))} is taken by a rule before it",
                "the first rule that matches wins: put the longer beginning first",
            )
        raise RunMismatchError(
            f"rename: no stored key begins with {quoted(repr(old))}", _nearest(old, [*keys, *_starts(keys)])
        )


def _refuse_one_name(names: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for key, name in names.items():
        other = first.setdefault(name, key)
        if other != key:
            raise RunMismatchError(
                f"rename: {quoted(repr(other))} and {quoted(repr(key))} both become {quoted(repr(name))}",
                "rename one of them to a name that the model does not have, and skip that",
            )


def _wrappers(names: Iterable[str]) -> Iterator[str]:
    """`module.`, `module._orig_mod.`, ...: as far as every name begins so."""
    names, prefix = list(names), ""
    while names:
        longer = [prefix + wrapper for wrapper in WRAPPERS]
        prefix = next((each for each in longer if all(name.startswith(each) for name in names)), "")
        if not prefix:
            return
        yield prefix


def _starts(names: Iterable[str]) -> list[str]:
    return sorted({name[: dot.end()] for name in names for dot in re.finditer(r"\.", name)})


def _nearest(word: str, known: Collection[str]) -> str:
    near = nearest(word, known, cutoff=0)
    return f"the nearest is {quoted(repr(near[0]))}" if near else "nothing is stored there"


def _quoted_list(words: Iterable[str]) -> str:
    return " and ".join(quoted(repr(word)) for word in words)
