"""Give the libraries behind a storage a random stream of their own: Python's global one belongs to the training.

Some draw from it when a request fails or connections are scarce: botocore and the libraries of Google and Azure for
the wait before a retry, aiohttp for the next of the waiting requests. An outage would change the bits of a training.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import sys
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType

# Top-level packages behind the filesystems of fsspec that reach a network.
LIBRARIES = (
    *("s3fs", "aiobotocore", "boto3", "botocore", "s3transfer", "obstore"),
    *("gcsfs", "google", "adlfs", "azure", "huggingface_hub", "ocifs", "oss2", "aiooss2", "ossfs", "tosfs", "webdav4"),
    *("fsspec", "aiohttp", "httpcore", "httpx", "paramiko", "requests", "urllib3", "backoff", "tenacity"),
)

_GLOBAL_STREAM: object = getattr(random.random, "__self__", None)


def separate_random_streams() -> None:
    """Let the loaded `LIBRARIES` draw from a stream of their own; call it once they are imported, and again at will.

    Their variables, class attributes and defaults of arguments that are the module `random`, or a function of its
    global stream, then belong to a second copy of that module. `random` and all other modules stay as they are.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in LIBRARIES and isinstance(module, ModuleType):
            _separate_in(module)


def _separate_in(owner: ModuleType | type) -> None:
    """Replace what draws from the global stream in a module, or in a class, and in what is defined there."""
    home = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    for name, value in list(vars(owner).items()):
        if _draws(value):
            setattr(owner, name, _separated(value))
        elif isinstance(value, FunctionType) and value.__module__ == home:
            _separate_defaults(value)
        elif isinstance(value, type) and value.__module__ == home and isinstance(owner, ModuleType):
            _separate_in(value)


def _separate_defaults(function: FunctionType) -> None:
    defaults, by_name = function.__defaults__ or (), function.__kwdefaults__ or {}
    if any(map(_draws, defaults)):
        function.__defaults__ = tuple(map(_separated, defaults))
    if any(map(_draws, by_name.values())):
        function.__kwdefaults__ = {name: _separated(value) for name, value in by_name.items()}


def _draws(value: object) -> bool:
    return value is random or (
        type(value) in (MethodType, BuiltinMethodType) and getattr(value, "__self__", None) is _GLOBAL_STREAM
    )


def _separated(value: object) -> object:
    if not _draws(value):
        return value
    if isinstance(value, MethodType | BuiltinMethodType):
        return getattr(_second_random(), value.__name__)
    return _second_random()


@functools.cache
def _second_random() -> ModuleType:
    """Return a copy of the module `random` with another global stream, seeded by the operating system."""
    specification = importlib.util.find_spec("random")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
