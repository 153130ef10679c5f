"""The configuration of a run: its keys, and how a file, the environment and arguments are merged and checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, PrivateAttr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from resumable.config.bounded_yaml import MAX_BYTES, Unreadable, refuse_boundless, yaml_of
from resumable.config.config_errors import ENVIRONMENT, PREFIX, ValueSource, did_you_mean, explained, shown
from resumable.config.run_or_file import names_run
from resumable.config.run_variable import DRILL, Origin, placed, text_of
from resumable.config.sections import (
    DEFAULT_SIGNALS,
    Audit,
    Every,
    Journal,
    Keep,
    NaturalInt,
    ObjectPath,
    RunLocation,
    Section,
    Seed,
    SignalName,
    Staging,
)
from resumable.errors import ConfigError
from resumable.utils.location import location

RESERVED = ("RESUMABLE_KILL", "RESUMABLE_KILL_LOG", DRILL)  # read elsewhere: not keys of the configuration


class Config(Section):
    """The configuration of a run: every key, checked and frozen.

    `guides/config.md` lists the keys with their defaults.

    Args:
        run: The folder or fsspec URL of the run. `~` is expanded.
        storage_options: Options for fsspec, passed on unchanged. Never written or printed.
        data_seed: Seed of order and augmentation, from 0 to 2**63 - 1. None draws one at the first launch.
        every: When to save: `steps`, `minutes`, `epochs`, `overhead_percent`, whichever comes first.
        keep: Which checkpoints are kept: `last`, `every.steps`, `best`.
        resume: `"auto"`, `"must"` (an error without a run) or `"never"` (an error if there is one).
        signals: Names of the signals at which training saves and exits.
        gradients: `"auto"` stores `.grad` only where needed, `"always"` at every save.
        staging: How state is copied: `mode` is `"eager"` or `"overlap"`; `max_bytes` bounds the host memory.
        fencing: `"auto"`, `"require"` (a storage that creates exclusively) or `"off"`, against two jobs on one run.
        max_failed_saves: How many saves in a row may fail before training stops.
        journal: Whether what is logged is kept step by step: `mode` is `"metrics"` or `"off"`, `flush_seconds` is how
            long it waits on object stores, and `max_bytes` bounds it.
        audit: What to do about state in no checkpoint: `mode` is `"warn"`, `"strict"` or `"off"`, `ignore` names
            variables, and `data` is `"refuse"` or `"warn"` for batches that differ after a resume.
        adopt: Names that begin with the value of this launch where the checkpoint does not hold them.
        drop: Names that the checkpoint holds and that the program no longer has.
        overrule: Settings, such as `optimizer.lr`, of which this launch's value is used where the program was changed.
        progress: `"auto"` (a bar on a terminal), `"always"` or `"never"`.

    Raises:
        ConfigError: A key is unknown, missing or of a wrong type. The message names the key, its source, what was
            expected and what was found.
    """

    run: RunLocation
    storage_options: dict[str, Any] = Field(default={}, repr=False)
    data_seed: Seed | None = None
    every: Every = Every()
    keep: Keep = Keep()
    resume: Literal["auto", "must", "never"] = "auto"
    signals: tuple[SignalName, ...] = DEFAULT_SIGNALS
    gradients: Literal["auto", "always"] = "auto"
    staging: Staging = Staging()
    fencing: Literal["auto", "require", "off"] = "auto"
    max_failed_saves: NaturalInt = 3
    journal: Journal = Journal()
    audit: Audit = Audit()
    adopt: tuple[ObjectPath, ...] = ()
    drop: tuple[ObjectPath, ...] = ()
    overrule: tuple[ObjectPath, ...] = ()
    progress: Literal["auto", "always", "never"] = "auto"

    # Arguments of `load` beat the environment also when the result is loaded once more, as a Trainer does.
    _overrides: dict[str, Any] = PrivateAttr(default_factory=dict)
    _origin: Origin = PrivateAttr(default_factory=Origin)

    def __init__(self, /, **values: Any) -> None:
        values = _plain(values, "Config(...)")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise explained(error, [ValueSource("Config(...)", values)], _key_paths()) from None
        self._origin = Origin(self.run, None)

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any] | Config, /, **overrides: Any) -> Config:
        """Merge `source`, the environment and `overrides` into a checked configuration.

        The overrides win over the environment (`RESUMABLE_RUN`, `RESUMABLE_EVERY__STEPS`), the environment over
        `source`, and `source` over the defaults. Nested keys are merged one by one.

        Args:
            source: The folder or URL of the run, the path of a YAML file (it ends in `.yaml` or `.yml`), a mapping,
                or a `Config`.
            **overrides: Keys of the configuration, nested ones as mappings.

        Returns:
            The configuration. Loading it again gives an equal one.

        Raises:
            ConfigError: The file cannot be read, or a key is unknown, missing or of a wrong type.
        """
        overrides = _plain(overrides, "the arguments")
        if isinstance(source, Config):
            overrides = _merged(_picked(source.model_dump(), source._overrides), overrides)
        given, environment = _given(source), _environment()
        moved_by = None if "run" in overrides else text_of(environment.get("run"))
        origin = Origin(text_of(overrides.get("run", given.values.get("run"))), moved_by)
        if isinstance(source, Config):
            origin = origin.behind(source.configured)
        if moved_by is not None:
            environment["run"] = placed(origin)
        sources = [
            ValueSource("the arguments", overrides),
            ValueSource(ENVIRONMENT, environment, quotable=False),
            given,
        ]
        values: dict[str, Any] = {}
        for each in reversed(sources):
            values = _merged(values, each.values)
        config = cls.__new__(cls)
        try:
            BaseModel.__init__(config, **values)
        except ValidationError as error:
            raise explained(error, sources, _key_paths()) from None
        config._overrides = overrides
        config._origin = origin
        return config

    @property
    def location(self) -> str:
        """Return the location of the run for messages, without the secrets that `run` may hold."""
        return location(self.run)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, self.location if name == "run" else value

    @property
    def configured(self) -> str | None:
        """Return the run that the file, mapping or arguments name, regardless of the environment; None without one."""
        return self._origin.configured

    @property
    def moved_by(self) -> str | None:
        """Return the value of `RESUMABLE_RUN` if it decides which run this is."""
        return self._origin.moved_by

    def public(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values without secrets: for manifests, logs and reports."""
        values = self.model_dump(mode="json")
        values["storage_options"] = dict.fromkeys(self.storage_options, "***")
        values["run"] = self.location
        return values


class _Environment(Config, BaseSettings):
    """Declares the variables that pydantic-settings looks for. Never instantiated."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", env_parse_none_str="null")


# ---- reading the sources


def _given(source: str | os.PathLike[str] | Mapping[str, Any] | Config) -> ValueSource:
    if isinstance(source, Config):
        return ValueSource("the Config given", source.model_dump(exclude_unset=True))
    if isinstance(source, Mapping):
        return ValueSource("the mapping given", _plain(source, "the mapping given"))
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if isinstance(text, str):
        if names_run(text):
            return ValueSource("the argument", {"run": text})
        return ValueSource(location(text), _file(text), quotable=False)
    raise ConfigError(
        "config: expected a folder, a URL, the path of a YAML file, a mapping or a Config, "
        f"found {type(source).__name__}",
        'for example Trainer("runs/digits", ...) or Trainer("configs/digits.yaml", ...)',
    )


def _file(path: str | os.PathLike[str]) -> dict[str, Any]:
    name = location(path)
    try:
        with Path(path).open("rb") as file:
            values = yaml_of(file.read(MAX_BYTES + 1))
    except OSError as error:
        hint = "give the path of a YAML file; relative paths start in the working directory"
        cause = error if name == str(path) else None
        raise ConfigError(f"config {name}: {error.strerror or error} (in {os.getcwd()})", hint) from cause
    except Unreadable as error:
        raise ConfigError(f"config {name}: not valid YAML: {error}", "correct the file at the place named") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        hint = "begin with a line such as `run: runs/mine`"
        raise ConfigError(f"config {name}: expected keys and values, found {type(values).__name__}", hint)
    return _plain(values, name)


def _environment() -> dict[str, Any]:
    for name in os.environ:
        key = name.upper().removeprefix(PREFIX).lower()
        if name.upper().startswith(PREFIX) and name not in RESERVED and key.split("__")[0] not in Config.model_fields:
            variables = [PREFIX + "__".join(each).upper() for each in _paths_of(Config)]
            raise ConfigError(
                f"config: unknown environment variable {name}{did_you_mean(name, variables)}",
                f"correct or unset {name}: every variable that begins with {PREFIX} is a key of the configuration",
            )
    try:
        values = EnvSettingsSource(_Environment)()
    except (SettingsError, RecursionError) as error:
        field = re.search(r'"(\w+)"', str(error)) if isinstance(error, SettingsError) else None
        name = PREFIX + field[1].upper() if field else f"one of {PREFIX}*"
        raise ConfigError(
            f"config: {name} in the environment: expected JSON", f"for example {PREFIX}SIGNALS='[\"SIGTERM\"]'"
        ) from None  # the cause holds the value
    return _plain(values, "the environment")


def _plain(values: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Return plain dictionaries with text keys at every level; raise `ConfigError` for unbounded values."""
    try:
        refuse_boundless(values)
    except Unreadable as error:
        raise ConfigError(f"config: {where}: {error}", "write plain values, as in resumable/guides/config.md") from None
    return _with_text_keys(values, where)


def _with_text_keys(values: Mapping[Any, Any], where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(
                f"config: {where}: expected text for a key, found {shown(key)}", "put the key into quotation marks"
            )
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True)
        result[key] = _with_text_keys(value, where) if isinstance(value, Mapping) else value
    return result


def _merged(lower: Mapping[str, Any], higher: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(lower)
    for key, value in higher.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def _picked(values: Mapping[str, Any], shape: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values whose keys are also in `shape`, at any depth."""
    return {
        key: _picked(values[key], each)
        if isinstance(each, Mapping) and isinstance(values[key], Mapping)
        else values[key]
        for key, each in shape.items()
        if key in values
    }


def _paths_of(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all keys, as the annotations declare them."""
    for name, field in model.model_fields.items():
        yield (name,)
        for section in (field.annotation, *get_args(field.annotation)):
            if isinstance(section, type) and issubclass(section, BaseModel):
                yield from ((name, *rest) for rest in _paths_of(section))


def _key_paths() -> list[tuple[str, ...]]:
    return list(_paths_of(Config))
