"""Decide whether the first argument of a Trainer is a run or a config file. Opens neither."""

from __future__ import annotations

import os
import re

from resumable.errors import ConfigError
from resumable.utils.location import location
from resumable.utils.messages import nearest

ENDINGS = (".yaml", ".yml")
_OTHER_CONFIGS = (".json", ".toml", ".ini", ".cfg", ".conf", ".py")


def names_run(text: str) -> bool:
    """Return whether `text` is the folder or the URL of a run: any text that does not end in .yaml or .yml.

    Raises:
        ConfigError: It resembles a config file, so a run of that name would be a surprise.
    """
    if text.lower().endswith(ENDINGS):
        return False
    if "://" not in text:
        _refuse_unless_folder(text)
    return True


def _refuse_unless_folder(text: str) -> None:
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return
    if "\n" in text:
        raise ConfigError(
            "config: expected a folder, a URL or the path of a YAML file, found text of several lines",
            'pass its keys as a mapping: Trainer({"run": "runs/digits"}, ...)',
        )
    if re.match(r"[A-Za-z][\w+.-]+:/", text):
        shown = location(text.replace(":/", "://", 1))
        raise ConfigError(
            f"config: {shown}: expected a URL with ://, found :/", "pass a URL as text: a Path changes it"
        )
    if os.path.exists(path):
        raise ConfigError(
            f"config: {text}: expected the folder of a run, or a YAML file that ends in .yaml or .yml, found a file",
            "rename the file if it is YAML, or name a folder",
        )
    stem, ending = os.path.splitext(path)
    looks = ending.lower() in _OTHER_CONFIGS or nearest(ending.lower(), ENDINGS, cutoff=0.75)
    stems = (path, stem) if looks else (path,)
    meant = next((name + each for name in stems for each in ENDINGS if os.path.isfile(name + each)), None)
    if meant or looks:
        guess = f" (did you mean {meant!r}?)" if meant else ""
        raise ConfigError(
            f"config: {text}: expected the folder of a run, or a YAML file that ends in .yaml or .yml, found neither"
            f"{guess}",
            f'write the full name of the file; Trainer({{"run": {text!r}}}, ...) starts a run of this name',
        )
