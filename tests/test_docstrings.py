"""Public names have docstrings in Google's form: every argument, every result."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import resumable
import resumable.export
import resumable.lightning
import resumable.transformers


def _public() -> Iterator[tuple[str, Any]]:
    for package in (resumable, resumable.export, resumable.lightning, resumable.transformers):
        for name in package.__all__:
            value = getattr(package, name)
            yield f"{package.__name__}.{name}", value
            if inspect.isclass(value):
                for member, function in vars(value).items():
                    function = function.__func__ if isinstance(function, classmethod | staticmethod) else function
                    if not member.startswith("_") and inspect.isfunction(function) and _is_ours(function):
                        yield f"{package.__name__}.{name}.{member}", function


def _is_ours(function: Callable[..., Any]) -> bool:
    # Hooks of a callback are documented by its framework.
    return function.__module__ not in ("resumable.lightning.callback", "resumable.transformers.callback")


FUNCTIONS = {name: value for name, value in _public() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in _public() if inspect.isclass(value)}


def _section(docstring: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    return found[1] if found else ""


def _parameters(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters
    return [name for name in parameters if name not in ("self", "cls") and not name.startswith("_")]


def _returns_nothing(function: Callable[..., Any]) -> bool:
    return inspect.signature(function).return_annotation in ("None", "NoReturn")


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_public_function_describes_its_arguments_and_its_result(name: str) -> None:
    function = FUNCTIONS[name]
    docstring = inspect.getdoc(function) or ""
    arguments = _section(docstring, "Args")
    assert [each for each in _parameters(function) if not re.search(rf"^ +\**{each}:", arguments, re.MULTILINE)] == []
    assert _returns_nothing(function) or re.search(r"^(Returns|Yields):|^(Return|Yield)\b", docstring, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_public_class_has_a_docstring(name: str) -> None:
    assert vars(CLASSES[name])["__doc__"]
