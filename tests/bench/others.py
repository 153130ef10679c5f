"""Figures that are measured in files of their own by a `measure(...) -> dict`; fits their answers into the same form.

`measure` is given what it names of: `folder` (an empty Path), `size` ("1.5GB"), `pairs`, `quick`. In its answer,
however nested, a number is one sample, a list of numbers are samples in order, a `Summary` as a mapping counts as its
median, and text is a note. The last part of a path says what it is, with its unit (`..._seconds`), the parts before it
whose.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from tests.bench.figures import Figure, Measured, Setting
from tests.bench.ours import NotThereYet
from tests.bench.timing import Summary

_SUMMARY = {field.name for field in fields(Summary)}


def _of(module_name: str, setting: Setting) -> Measured:
    try:
        measure = importlib.import_module(f"tests.bench.{module_name}").measure
    except ModuleNotFoundError as error:
        if error.name != f"tests.bench.{module_name}":
            raise
        raise NotThereYet(f"tests/bench/{module_name}.py") from None
    offered = {
        "folder": setting.folder,
        "size": setting.size,
        "pairs": setting.pairs,
        "quick": setting.pairs < 5,
    }
    wanted = inspect.signature(measure).parameters
    return fitted(measure(**{name: value for name, value in offered.items() if name in wanted}))


def fitted(answer: Mapping[str, Any]) -> Measured:
    """A nested answer as samples."""
    measured = Measured()
    for path, value in _leaves(answer, ()):
        who, what = " · ".join(path[:-1]) or "resumable", path[-1]
        if isinstance(value, str):
            measured.notes.append(f"{' · '.join(path)}: {value}")
        elif who == "resumable" and what == "state_bytes":
            measured.state_bytes = int(value)
        else:
            for each in value if isinstance(value, list) else [value]:
                measured.add(who, **{what: each})
    return measured


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping) and set(tree) == _SUMMARY:
        yield path, tree["median"]
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(tree, (list, tuple)) and all(isinstance(each, (int, float)) for each in tree):
        yield path, list(tree)
    elif isinstance(tree, (int, float, str)):
        yield path, tree
    elif isinstance(tree, (list, tuple)):
        for number, each in enumerate(tree):
            yield from _leaves(each, (*path, str(number)))


FIGURES = [
    Figure("loading", "verified load into the existing objects", partial(_of, "loading")),
    Figure("restart", "a restart beyond imports, processor time", partial(_of, "restart")),
    Figure("writing", "how blobs reach the disk", partial(_of, "writing"), sizes=("1.5GB",)),
    Figure("object-store", "S3 on a local server", partial(_of, "object_store"), once=True),
    Figure("requests", "requests to an object store", partial(_of, "requests"), once=True),
    Figure("kept", "many kept checkpoints", partial(_of, "kept"), once=True),
    Figure("batches", "overhead of `batches()` per batch", partial(_of, "batches"), once=True),
    Figure("startup", "imports, discovery, `Trainer(...)`", partial(_of, "startup"), once=True),
    Figure("lightning", "what `Resume` adds to a step of 5 ms", partial(_of, "lightning"), once=True),
    Figure("overhead", "the share that `overhead_percent` holds", partial(_of, "overhead"), once=True),
]
