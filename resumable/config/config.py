"""The configuration of a run, from a YAML file, the environment and arguments; knows nothing of what obeys it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from resumable.config.bounded_yaml import MAX_BYTES, Unreadable, refuse_boundless, yaml_of
from resumable.config.config_errors import ENVIRONMENT, PREFIX, Source, did_you_mean, explained, shown
from resumable.config.run_or_file import names_run
from resumable.config.run_variable import DRILL, Origin, placed, text_of
from resumable.errors import ConfigError
from resumable.policy.retention import Rule
from resumable.policy.save_policy import Schedule
from resumable.utils.location import location

RESERVED = ("RESUMABLE_KILL", "RESUMABLE_KILL_LOG", DRILL)  # read elsewhere, no keys of the configuration

# Python cannot watch the first two; the next are faults, at which a Python function would be called for ever; torch
# needs the last to notice a loader worker that died.
_UNWATCHABLE = ("SIGKILL", "SIGSTOP", "SIGSEGV", "SIGFPE", "SIGILL", "SIGBUS", "SIGABRT", "SIGCHLD")


def _a_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _a_run(value: object) -> object:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and not value.strip():
        raise ValueError("a folder or a URL")
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def _a_signal(value: object) -> object:
    names = [number.name for number in signal.Signals if number.name not in _UNWATCHABLE]
    if value not in names:
        guess = "" if value in _UNWATCHABLE else did_you_mean(str(value), names)
        raise ValueError(f"the name of a signal that can be watched{guess}")
    return value


Count = Annotated[int, BeforeValidator(_a_number), Field(ge=1, lt=2**63)]
Amount = Annotated[float, BeforeValidator(_a_number), Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Every(_Section):
    """When to save, whichever comes first; null switches one off.

    `minutes` is the most that may be lost. `overhead_percent` is the share of the time that saving may cost: its waits
    and the slower steps beside it, as measured. Where that is given and `steps` is not, `steps` is null: 500 steps may
    well be over sooner than the share allows.
    """

    steps: Count | None = 500
    minutes: Amount | None = 10.0
    epochs: Count | None = None
    overhead_percent: Annotated[Amount, Field(le=100)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _share_before_steps(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("overhead_percent") is not None:
            return {"steps": None} | dict(values)
        return values

    def schedule(self) -> Schedule:
        """The same as the plain value that `policy.due` takes."""
        return Schedule(
            steps=self.steps, minutes=self.minutes, epochs=self.epochs, overhead_percent=self.overhead_percent
        )


class KeepEvery(_Section):
    """Checkpoints that stay for good: the first at or after each multiple of `steps`."""

    steps: Count | None = None


class Best(_Section):
    """Checkpoints that stay because of a logged metric."""

    metric: Annotated[str, Field(min_length=1)] = "val_loss"
    mode: Literal["min", "max"] = "min"
    count: Count = 1


class Keep(_Section):
    """What stays of the committed checkpoints; `best: null` keeps none for a metric."""

    last: Count = 3
    every: KeepEvery = KeepEvery()
    best: Best | None = Best()

    def rule(self) -> Rule:
        """The same as the plain value that `retention.keep` takes."""
        if self.best is None:
            return Rule(last=self.last, every_steps=self.every.steps)
        best = self.best
        return Rule(
            last=self.last,
            every_steps=self.every.steps,
            best_metric=best.metric,
            best_mode=best.mode,
            best_count=best.count,
        )


class Staging(_Section):
    """How the state gets out of training's way, and how much memory of the host that may take."""

    mode: Literal["eager", "overlap"] = "eager"
    max_bytes: Annotated[int, BeforeValidator(_a_number), Field(ge=2**20)] | None = None


class Config(_Section):
    """Everything that can be chosen about a run. Frozen; every failure is a `ConfigError` that says where."""

    run: Annotated[str, BeforeValidator(_a_run)]
    storage_options: dict[str, Any] = Field(default={}, repr=False)
    data_seed: Annotated[int, BeforeValidator(_a_number), Field(ge=0, lt=2**63)] | None = None
    every: Every = Every()
    keep: Keep = Keep()
    resume: Literal["auto", "must", "never"] = "auto"
    signals: tuple[Annotated[str, BeforeValidator(_a_signal)], ...] = ("SIGTERM", "SIGUSR1", "SIGINT")
    gradients: Literal["auto", "always"] = "auto"
    staging: Staging = Staging()
    fencing: Literal["auto", "require", "off"] = "auto"
    max_failed_saves: Annotated[int, BeforeValidator(_a_number), Field(ge=0)] = 3
    progress: Literal["auto", "always", "never"] = "auto"

    # Arguments of `load` beat the environment also when the result is loaded once more, as a Trainer does.
    _overrides: dict[str, Any] = PrivateAttr(default_factory=dict)
    _origin: Origin = PrivateAttr(default_factory=Origin)

    def __init__(self, /, **values: Any) -> None:
        values = _plain(values, "Config(...)")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise explained(error, [Source("Config(...)", values)], _known()) from None
        self._origin = Origin(self.run, None)

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any] | Config, /, **overrides: Any) -> Config:
        """The configuration of `source`, completed and checked.

        `source` is the folder or URL of the run, the path of a YAML file (it ends in `.yaml` or `.yml`), a mapping, or
        a `Config`.
        `overrides` beat the environment (`RESUMABLE_RUN`, `RESUMABLE_EVERY__STEPS`), which beats `source`, which beats
        the defaults; nested keys are merged one by one. Raises `ConfigError` for anything that cannot be used.
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
            Source("the arguments", overrides),
            Source(ENVIRONMENT, environment, quotable=False),
            given,
        ]
        values: dict[str, Any] = {}
        for each in reversed(sources):
            values = _merged(values, each.values)
        config = cls.__new__(cls)
        try:
            BaseModel.__init__(config, **values)
        except ValidationError as error:
            raise explained(error, sources, _known()) from None
        config._overrides = overrides
        config._origin = origin
        return config

    @property
    def location(self) -> str:
        """Where the run is, for messages: without the secrets that `run` may hold."""
        return location(self.run)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, self.location if name == "run" else value

    @property
    def configured(self) -> str | None:
        """The run that file, mapping or arguments name, whatever the environment says; None where they name none."""
        return self._origin.configured

    @property
    def moved_by(self) -> str | None:
        """What `RESUMABLE_RUN` says, where that decides which run this is."""
        return self._origin.moved_by

    def public(self) -> dict[str, Any]:
        """The configuration as plain JSON values without secrets: for manifests, logs and reports."""
        values = self.model_dump(mode="json")
        values["storage_options"] = dict.fromkeys(self.storage_options, "***")
        values["run"] = self.location
        return values


class _Environment(Config, BaseSettings):
    """Only its keys are used: what pydantic-settings looks for in the environment. Never made."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", env_parse_none_str="null")


# ---- reading the sources


def _given(source: str | os.PathLike[str] | Mapping[str, Any] | Config) -> Source:
    if isinstance(source, Config):
        return Source("the Config given", source.model_dump(exclude_unset=True))
    if isinstance(source, Mapping):
        return Source("the mapping given", _plain(source, "the mapping given"))
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if isinstance(text, str):
        if names_run(text):
            return Source("the argument", {"run": text})
        return Source(location(text), _file(text), quotable=False)
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
            variables = [PREFIX + "__".join(each).upper() for each in _keys(Config)]
            raise ConfigError(
                f"config: unknown environment variable {name}{did_you_mean(name, variables)}",
                f"correct or unset {name}: everything that begins with {PREFIX} belongs to the configuration",
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
    """Plain dictionaries with text keys, all the way down; `ConfigError` for values without bound."""
    try:
        refuse_boundless(values)
    except Unreadable as error:
        raise ConfigError(f"config: {where}: {error}", "write plain values, as in configs/full.yaml") from None
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
    """Those of the values whose keys are in `shape` too, at any depth."""
    return {
        key: _picked(values[key], each)
        if isinstance(each, Mapping) and isinstance(values[key], Mapping)
        else values[key]
        for key, each in shape.items()
        if key in values
    }


def _keys(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """The paths of all keys, read off the annotations."""
    for name, field in model.model_fields.items():
        yield (name,)
        for section in (field.annotation, *get_args(field.annotation)):
            if isinstance(section, type) and issubclass(section, BaseModel):
                yield from ((name, *rest) for rest in _keys(section))


def _known() -> list[tuple[str, ...]]:
    return list(_keys(Config))
