"""A module of a user's with random generators in it, in the ways that people keep them; knows no walk."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
import torch

RNG = np.random.default_rng(1)
UNUSED = random.Random(2)
STREAMS = {"a": random.Random(3), "b": [np.random.RandomState(4)]}
TORCH = torch.Generator()


class Jitter:
    shared = random.Random(5)

    def __init__(self) -> None:
        self.own = random.Random(6)

    def __call__(self, x: float) -> float:
        return x + self.shared.random() + self.own.random()

    @classmethod
    def of_class(cls, x: float) -> float:
        return x + cls.shared.random()

    @property
    def harmful(self) -> Any:
        raise AssertionError("a property ran")


JITTER = Jitter()


def inner(x: float) -> float:
    return x + RNG.random()


def outer(x: float) -> float:
    return inner(x) if x else x


def of_streams(x: float) -> float:
    return x + STREAMS["a"].random()


@functools.lru_cache
def cached(x: float) -> float:
    return inner(x)


def of_cached(x: float) -> float:
    return cached(x)


def of_object(x: float) -> float:
    return JITTER(x)


def of_class(x: float) -> float:
    return Jitter.of_class(x)


def recursive(x: float) -> float:
    return other(x) + TORCH.initial_seed()


def other(x: float) -> float:
    return recursive(x) if x > 1 else x
