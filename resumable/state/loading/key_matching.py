"""Match stored keys to the names of a model, by names and shapes alone. Independent of tensors and files."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from resumable.errors import RunMismatchError
from resumable.utils.messages import nearest, quoted

Shape = tuple[int, ...] | None
"""None for a value that is not a tensor, and for a lazy tensor, which accepts any shape."""

WRAPPERS = ("module.", "_orig_mod.")  # added by (Distributed)DataParallel and torch.compile
AVERAGED = "n_averaged"  # a buffer of torch's AveragedModel, beside `module.`


@dataclass(frozen=True)
class LiveTensor:
    """One name of a model; names of the same tensor have equal `tensor`s."""

    shape: Shape
    tensor: Hashable


@dataclass(frozen=True)
class Match:
    """The result of matching: names of the model with their stored keys, and what has no counterpart."""

    matched: Mapping[str, str]
    """The stored key for each name of the model that gets a value."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    skipped: tuple[str, ...]
    another_shape: Mapping[str, tuple[Shape, Shape]]
    """By name of the model: the stored shape and the live one."""

    rules: tuple[tuple[str, str], ...] = ()
    prefix: str = ""
    tied: tuple[tuple[str, str], ...] = field(default=())
    """Pairs of names of one live tensor with two stored values, which must be equal."""

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.another_shape)

    def name_of(self, key: str) -> str:
        """Return the name in the model of a stored key."""
        return _renamed_one(key, self.rules)[0].removeprefix(self.prefix)


def match(
    stored: Mapping[str, Shape],
    live: Mapping[str, LiveTensor],
    *,
    rename: Mapping[str, str] | None = None,
    skip: Iterable[str] = (),
    aliases: Mapping[str, str] | None = None,
    is_mixed: bool = False,
) -> Match:
    """Find for each name of a model the stored key that fills it.

    If not every name matches, prefixes of wrappers such as `module.` are removed, provided that then every name does.

    Args:
        stored: The shape of each stored key.
        live: The names of the model.
        rename: Maps prefixes of stored keys to prefixes of names; the first rule that matches wins.
        skip: Patterns of names that are left out on both sides.
        aliases: Further names of stored tensors, each with its key.
        is_mixed: Whether some stored values may be something else than weights.

    Raises:
        RunMismatchError: Two keys get one name, or a rule or a pattern matches nothing.
    """
    search = _Search(stored, live, tuple((rename or {}).items()), _Patterns(skip), aliases or {})
    found = search.mixed() if is_mixed else search.whole()
    search.refuse_idle_patterns(found)
    return found


def suggested(found: Match) -> tuple[str, str, int] | None:
    """Return a rename rule that would match at least half of the unexpected names, and their number, or None.

    Only rules that remove a prefix or add one are tried.
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
    return (name[dot.end() :] for dot in re.finditer(r"\.", name))


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
        live: Mapping[str, LiveTensor],
        rules: tuple[tuple[str, str], ...],
        skip: _Patterns,
        aliases: Mapping[str, str],
    ) -> None:
        self.stored = stored
        self.live = live
        self.rules = rules
        self.skip = skip
        keys = [*stored, *(key for key in aliases if key not in stored and aliases[key] in stored)]
        named = {key: _renamed_one(key, rules) for key in keys}
        _refuse_idle_rules(rules, {rule for _, rule in named.values()}, keys)
        self.touched = [key for key, (_, rule) in named.items() if rule is not None]
        self.names = {key: named[key][0] for key in stored}
        self.aliases = {named[key][0]: aliases[key] for key in keys if key not in stored}
        _refuse_one_name(self.names)

    def whole(self) -> Match:
        """Match stored values that are all weights: names unchanged, or without wrappers if then all match."""
        plain = self._matched(self.names, "")
        if not plain.missing and not plain.unexpected:
            return plain
        names = self._without_average()
        for prefix in _wrappers(names.values()):
            bare = self._matched(names, prefix)
            if not bare.missing and not bare.unexpected:
                return bare
        return plain

    def mixed(self) -> Match:
        """Match weights among other values: those that a rule renames, or all values, or all values of one dict."""
        if self.rules:
            return self._matched({key: self.names[key] for key in self.names if key in self.touched}, "")
        plain = self._matched(self.names, "")
        if not plain.unexpected:
            return plain
        parts = sorted({name.partition(".")[0] + "." for name in self.names.values() if "." in name})
        found = [self._part(prefix) for prefix in parts]
        fitting = [part for part in found if part.matched and not part.unexpected]
        if len(fitting) > 1:
            prefixes = [part.prefix for part in fitting]
            raise RunMismatchError(
                f"these weights are stored {len(fitting)} times: as {_quoted_list(p + '*' for p in prefixes)}",
                f"choose one: rename={{{prefixes[0]!r}: ''}}",
            )
        return fitting[0] if fitting else plain

    def _part(self, prefix: str) -> Match:
        inside = {key: name for key, name in self.names.items() if name.startswith(prefix)}
        return self._matched(inside, prefix)

    def _without_average(self) -> Mapping[str, str]:
        rest = {key: name for key, name in self.names.items() if name != AVERAGED}
        return rest if all(name.startswith(WRAPPERS[0]) for name in rest.values()) else self.names

    def _matched(self, names: Mapping[str, str], prefix: str) -> Match:
        """Match keys to names after removing `prefix`, with which every name in `names` begins."""
        stored = {name.removeprefix(prefix): key for key, name in names.items()}
        keys = self._with_aliases(stored, names, prefix)
        skipped = {name for name in keys.keys() | self.live.keys() if self.skip.match(name)}
        shared = [name for name in keys if name in self.live and name not in skipped]
        other = {name: self._shapes(name, keys[name]) for name in shared if self._differ(name, keys[name])}
        matched = {name: keys[name] for name in shared if name not in other}
        unexpected = [key for name, key in stored.items() if name not in self.live and name not in skipped]
        return Match(
            matched=matched,
            missing=tuple(sorted(self._missing(matched, keys.keys() | skipped))),
            unexpected=tuple(sorted(unexpected)),
            skipped=tuple(sorted(skipped)),
            another_shape=other,
            rules=self.rules,
            prefix=prefix,
            tied=tuple(self._tied(matched)),
        )

    def _with_aliases(self, stored: Mapping[str, str], names: Mapping[str, str], prefix: str) -> dict[str, str]:
        """Return the key for each name, also for names of the model that are only aliases in what is stored."""
        keys = dict(stored)
        for name, key in self.aliases.items():
            bare = name.removeprefix(prefix)
            if bare in self.live and name.startswith(prefix) and key in names:
                keys.setdefault(bare, key)
        return keys

    def _missing(self, matched: Mapping[str, str], considered: Collection[str]) -> Iterator[str]:
        """Yield the names of the model that get no value, also not through another name of their tensor."""
        filled = {self.live[name].tensor for name in matched}
        return (n for n, live in self.live.items() if n not in considered and live.tensor not in filled)

    def _shapes(self, name: str, key: str) -> tuple[Shape, Shape]:
        return self.stored[key], self.live[name].shape

    def _differ(self, name: str, key: str) -> bool:
        there, here = self._shapes(name, key)
        return there is not None and here is not None and there != here

    def _tied(self, matched: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        first: dict[Hashable, str] = {}
        for name, key in matched.items():
            other = first.setdefault(self.live[name].tensor, name)
            if matched[other] != key:
                yield other, name

    def refuse_idle_patterns(self, found: Match) -> None:
        for pattern in self.skip.all:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in found.skipped):
                names = {*self.live, *(name.removeprefix(found.prefix) for name in self.names.values())}
                raise RunMismatchError(
                    f"skip: {quoted(repr(pattern))} matches no name, neither of the model nor of the stored weights",
                    _nearest(pattern, [*names, *(start + "*" for start in _starts(names))]),
                )


def _renamed_one(key: str, rules: Iterable[tuple[str, str]]) -> tuple[str, str | None]:
    """Return the name of a key, and the prefix of the rule that renamed it."""
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
                f"rename: an earlier rule matches every stored key that begins with {quoted(repr(old))}",
                "the first rule that matches wins: put the longer prefix first",
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
                "rename one of them to a name that the model does not have, and skip that name",
            )


def _wrappers(names: Iterable[str]) -> Iterator[str]:
    """Yield `module.`, `module._orig_mod.` and so on, as long as every name begins with the prefix."""
    names, prefix = list(names), ""
    while names:
        longer = [prefix + wrapper for wrapper in WRAPPERS]
        prefix = next((each for each in longer if all(name.startswith(each) for name in names)), "")
        if not prefix:
            return
        yield prefix


def _starts(names: Iterable[str]) -> list[str]:
    return sorted({name[: dot.end()] for name in names for dot in re.finditer(r"\.", name)})


def _nearest(word: str, names: Collection[str]) -> str:
    near = nearest(word, names, cutoff=0)
    return f"the nearest is {quoted(repr(near[0]))}" if near else "nothing is stored there"


def _quoted_list(words: Iterable[str]) -> str:
    return " and ".join(quoted(repr(word)) for word in words)
