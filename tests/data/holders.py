"""Objects that hold random generators in every way that people do; knows no walk."""

from __future__ import annotations

import enum
import functools
import random
import types
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tests.data.kinds import FLOAT

GLOBAL = random.Random(0)
OTHER_GLOBAL = np.random.default_rng(0)


class Rand:
    """A transform with a stream of its own, as MONAI has them."""

    def __init__(self, seed: int = 7) -> None:
        self.seed = seed
        self.R = np.random.RandomState(seed)

    def __call__(self, x: Any) -> Any:
        return x + self.R.rand()


class Compose:
    def __init__(self, *transforms: Any) -> None:
        self.transforms = transforms

    def __call__(self, x: Any) -> Any:
        for transform in self.transforms:
            x = transform(x)
        return x


class Cases(Dataset[Any]):
    """Cases with what was found in each, and transforms behind them."""

    def __init__(self, cases: int, found: int, length: int = 40) -> None:
        self.data = [
            {"image": f"case{number}.nii", "lesions": [{"box": [j, j]} for j in range(found)]}
            for number in range(cases)
        ]
        self.length = length
        self.transform = Compose(Rand(), Rand())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        value: torch.Tensor = self.transform(torch.full((2,), float(index), dtype=FLOAT))
        return value


class Slotted:
    __slots__ = ("_rng",)

    def __init__(self) -> None:
        self._rng = random.Random(0)


def closing(captured: Any, default: Any) -> Any:
    return lambda x, *, rng=default: (captured, rng, x)


class Held:
    """One of everything that the first rule follows."""

    shared = np.random.default_rng(9)

    def __init__(self) -> None:
        captured = torch.Generator()
        self.torch = torch.Generator()
        self.list = [np.random.default_rng(1), {"b": Slotted(), "a": random.Random(1)}]
        self.partial = functools.partial(max, random.Random(2), key=np.random.RandomState(1))
        self.method = Rand().__call__
        self.closure = closing(captured, random.Random(3))
        self.itself = self
        self.numpy_global = np.random.mtrand._rand
        self.data = [str(number) for number in range(300)]

    def draw(self) -> float:
        return GLOBAL.random()


def attribute(value: Any) -> Any:
    held = types.SimpleNamespace()
    held.it = value
    return held


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*arguments: Any) -> Any:
        return function(*arguments)

    return inner


class Decorated:
    @decorated
    def draw(self) -> float:
        return GLOBAL.random()


class Cached:
    @functools.cached_property
    def draw(self) -> float:
        return GLOBAL.random()

    @functools.lru_cache  # noqa: B019
    def other(self) -> float:
        return OTHER_GLOBAL.random()


class Static:
    @staticmethod
    def draw() -> float:
        return GLOBAL.random()

    @classmethod
    def other(cls) -> float:
        return OTHER_GLOBAL.random()


def _closing(rng: Any) -> Any:
    def draw(self: Any = None) -> float:
        value: float = rng.random()
        return value

    return draw


class Property:
    closed = property(_closing(random.Random(5)), lambda self, value: GLOBAL.seed(value))

    @property
    def other(self) -> float:
        raise AssertionError("a property was evaluated")

    @other.deleter
    def other(self) -> None:
        OTHER_GLOBAL.random()


class Closing:
    draw = _closing(random.Random(5))
    bound = staticmethod(functools.partial(_closing(random.Random(6)), None))


class ClassWide:
    transform = Compose(Rand())


class Nested:
    def draw(self) -> Any:
        def inner() -> Any:
            return [(lambda: GLOBAL.random())(), OTHER_GLOBAL.random()]

        return inner


class Table(dict[str, Any]):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rng = random.Random(1)

    def items(self) -> Any:
        raise AssertionError("items() was called")


class Stack(list[Any]):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rng = random.Random(1)

    def __iter__(self) -> Any:
        raise AssertionError("__iter__ was called")

    def __len__(self) -> int:
        raise AssertionError("__len__ was called")


Pair = namedtuple("Pair", "left right")


def suspended() -> Iterator[float]:
    rng = random.Random(3)
    yield rng.random()
    yield OTHER_GLOBAL.random()


def begun(iterator: Any) -> Any:
    next(iterator)
    return iterator


def driving(make: Any, bits: Any) -> list[Any]:
    return [bits, make(bits)]


class Color(enum.Enum):
    RED = 1


KINDS: dict[str, tuple[Callable[[], Any], int]] = {
    "static and class methods": (Static, 2),
    "a property's functions": (Property, 3),
    "a decorated method": (Decorated, 1),
    "cached functions": (Cached, 2),
    "a method with a closure": (Closing, 2),
    "an attribute of the class": (ClassWide, 1),
    "code inside of code": (Nested, 2),
    "a lambda inside of a function": (lambda: lambda: [lambda: GLOBAL.random()], 1),
    "a set": (lambda: {Rand(1), Rand(2), Slotted(), "plain"}, 3),
    "a frozen set": (lambda: frozenset({Rand()}), 1),
    "a deque": (lambda: deque([Rand(1), "x", Rand(2)], maxlen=3), 2),
    "a view of a dict": (lambda: types.MappingProxyType({"a": Rand()}), 1),
    "a view of a dict of one's own": (lambda: types.MappingProxyType(Table({"a": Rand()})), 2),
    "a dict of one's own": (lambda: Table({"a": Rand(), "b": [Rand()]}), 3),
    "a list of one's own": (lambda: Stack([Rand()]), 2),
    "a default dict": (lambda: defaultdict(_closing(random.Random(1)), a=Rand()), 2),
    "an ordered dict": (lambda: OrderedDict(b=Rand(), a=Rand()), 2),
    "a dict behind an object": (lambda: UserDict({"a": Rand()}), 1),
    "a named tuple": (lambda: Pair(Rand(), [Rand()]), 2),
    "keys of any type": (lambda: {1: Rand(), (1, 2): Rand(), Color.RED: Rand(), None: Rand(), int: Rand()}, 5),
    "a method of a generator": (lambda: [np.random.default_rng(1).normal, random.Random(1).random], 2),
    "a partial of a method": (lambda: functools.partial(np.random.RandomState(3).rand, 2), 1),
    "a bit generator": (lambda: [np.random.PCG64(3), np.random.MT19937(1)], 2),
    "a generator and what drives it": (lambda: (lambda b: [b, np.random.Generator(b)])(np.random.PCG64(1)), 1),
    "a legacy generator and what drives it": (
        lambda: (lambda b: [b, np.random.RandomState(b)])(np.random.MT19937(1)),
        1,
    ),
    "global streams": (
        lambda: [
            np.random.mtrand._rand,
            np.random.get_bit_generator(),  # type: ignore[attr-defined]
            np.random.Generator(np.random.get_bit_generator()),  # type: ignore[attr-defined]
            np.random.rand,
            random.random,
            torch.default_generator,
        ],
        0,
    ),
    "a suspended generator": (lambda: begun(suspended()), 2),
    "something that waits for another": (lambda: begun((lambda it: (yield from it))(suspended())), 2),
    "a class": (lambda: Static, 2),
}


def drawn(generator: Any) -> int:
    """One large number of a generator of any kind."""
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**62, (), generator=generator))
    if isinstance(generator, np.random.BitGenerator):
        return int(generator.random_raw())
    if isinstance(generator, np.random.Generator):
        return int(generator.integers(2**62))
    return int(generator.randint(2**31)) if isinstance(generator, np.random.RandomState) else generator.getrandbits(62)
