"""Optimizers as trees: state and groups by parameter name, with exact dtypes. Independent of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from resumable.state.codec import Document, Tree, decode, encode
from resumable.state.objects.adapter import BaseAdapter, listed, mismatch_on_error
from resumable.state.objects.bounds_checks import misshapen
from resumable.state.objects.tree_copies import Own, fresh
from resumable.state.tensors.facts import Recorded, facts_of, tensor_digest
from resumable.state.tensors.inline_records import key_in_optimizer
from resumable.state.tensors.module_walk import named_parameters

_BESIDE_STATE = ("groups", "shapes", "extra", "rest")

Names = Callable[[], Mapping[int, str]]


class OptimizerAdapter(BaseAdapter):
    """A `torch.optim.Optimizer`; `names` returns the names of all registered modules' parameters by `id`."""

    kind = "optimizer"
    target: torch.optim.Optimizer

    def __init__(self, name: str, target: torch.optim.Optimizer, names: Names) -> None:
        super().__init__(name, target)
        self._names = names

    def capture(self) -> dict[str, Tree]:
        state_dict = self.target.state_dict()
        group_names = self._group_names()
        names = list(chain.from_iterable(group_names))
        by_name, extra = {}, {}
        for key, value in state_dict["state"].items():
            if type(key) is int and key < len(names):
                by_name[names[key]] = value
            else:
                extra[key] = value
        return {
            "state": by_name,
            "groups": [
                {**group, "params": params}
                for group, params in zip(state_dict["param_groups"], group_names, strict=True)
            ],
            "shapes": self._shapes(group_names),
            "extra": extra,
            "rest": {key: value for key, value in state_dict.items() if key not in ("state", "param_groups")},
        }

    def key_of(self, path: tuple[str, ...]) -> str:
        return key_in_optimizer(path)

    def optimizer_written(self, keys: Iterable[str]) -> frozenset[str]:
        # Schedulers write learning rates that are tensors.
        return frozenset(key for key in keys if key.partition(".")[0] not in _BESIDE_STATE)

    def comparable(self, document: Any) -> Document:
        groups = [{**group, "params": sorted(group["params"])} for group in document["groups"]]
        return {**document, "groups": groups}

    def read_targets(self) -> Mapping[str, Tensor] | None:
        if not _is_torchs(self.target):
            return None
        return encode({"state": self.capture()["state"]}, key_of=self.key_of, where=self.name).tensors

    def _restore(self, tree: dict[str, Any], own: Own) -> None:
        self._refuse_misfit(tree)
        index = {name: number for number, name in enumerate(chain.from_iterable(self._group_names()))}
        saved = {index[name]: state for name, state in tree["state"].items()}
        wanted = own(saved, self._live_state(saved))
        groups, states = self.target.param_groups, self.target.state
        self._load(tree, wanted)
        self._put_right(wanted, own)
        self._keep_identity(groups, states)

    def _load(self, tree: dict[str, Any], wanted: dict[int, Any]) -> None:
        state_dict = {
            **fresh(tree["rest"]),
            "state": {**{number: _castable(state) for number, state in wanted.items()}, **fresh(tree["extra"])},
            "param_groups": [
                {**fresh(group), "params": params["params"]}
                for group, params in zip(tree["groups"], self.target.state_dict()["param_groups"], strict=True)
            ],
        }
        try:
            self.target.load_state_dict(state_dict)
        except (ValueError, KeyError) as error:
            raise self.mismatch([str(error)]) from error

    def _put_right(self, wanted: dict[int, Any], own: Own) -> None:
        # torch casts floating-point state to the parameter's dtype, and rebuilds iterables.
        parameters = list(chain.from_iterable(group["params"] for group in self.target.param_groups))
        for number, state in wanted.items():
            live = self.target.state[parameters[number]]
            for key, value in state.items():
                if not _is_same(live.get(key), value):
                    live[key] = own(value, live.get(key))

    def _keep_identity(self, groups: list[dict[str, Any]], states: Any) -> None:
        # A loop that holds `optimizer.param_groups[0]` must keep the group that the optimizer uses.
        for kept, loaded in zip(groups, self.target.param_groups, strict=True):
            if kept is not loaded:
                content = loaded.copy()
                kept.clear()
                kept.update(content)
        self.target.param_groups = groups
        if states is not self.target.state and type(states) is type(self.target.state):
            loaded_state: Any = self.target.state.copy()
            states.clear()
            states.update(loaded_state)
            self.target.state = states

    def _live_state(self, saved: Mapping[int, Any]) -> dict[int, Any]:
        # New tensors go to the devices of the state that the optimizer already has.
        parameters = list(chain.from_iterable(group["params"] for group in self.target.param_groups))
        return {number: self.target.state.get(parameters[number]) for number in saved}

    def _group_names(self) -> list[list[str]]:
        names = self._names()
        return [
            [names.get(id(parameter), f"group{number}.{place}") for place, parameter in enumerate(group["params"])]
            for number, group in enumerate(self.target.param_groups)
        ]

    def misfits(self, tensors: Mapping[str, Recorded], document: Any) -> list[str]:
        with mismatch_on_error(self.name):
            saved: Any = [decode(group["params"], {}) for group in document["groups"]]
            shapes: Any = decode(document["shapes"], {})
            return self._group_misfits(saved) + self._other_shapes(shapes)

    def _refuse_misfit(self, tree: dict[str, Any]) -> None:
        saved, live = [group["params"] for group in tree["groups"]], self._group_names()
        reasons = self._group_misfits(saved)
        reasons += self._other_shapes(tree["shapes"])
        reasons += self._misshapen(tree["state"])
        numbers = range(len(list(chain.from_iterable(live))))
        reasons += listed(
            "extra state under the number of a parameter", [str(k) for k in tree["extra"] if k in numbers]
        )
        if reasons:
            raise self.mismatch(reasons)

    def _group_misfits(self, saved: list[list[str]]) -> list[str]:
        live, reasons = self._group_names(), []
        if len(saved) != len(live):
            reasons.append(f"{_groups(len(saved))} in the checkpoint, {len(live)} here")
        for number, (then, now) in enumerate(zip(saved, live, strict=False)):
            reasons += listed(f"group {number}, missing in the checkpoint", sorted(set(now) - set(then)))
            reasons += listed(f"group {number}, not in this optimizer", sorted(set(then) - set(now)))
        if not reasons and isinstance(self.target, torch.optim.LBFGS) and saved != live:
            reasons.append("LBFGS keeps all parameters in one vector, and their order differs")
        return reasons

    def _other_shapes(self, saved: Mapping[str, list[int]]) -> list[str]:
        live = self._shapes(self._group_names())
        apart = [name for name, shape in saved.items() if live.get(name, shape) != shape]
        return listed("another shape", [f"{name} (checkpoint {saved[name]}, here {live[name]})" for name in apart])

    def _misshapen(self, saved: Mapping[str, Any]) -> list[str]:
        if not type(self.target).step.__module__.startswith("torch.optim"):
            return []  # other optimizers, such as low-rank ones, may keep smaller state, and check it themselves
        return [
            reason
            for name, parameter in self._named(self._group_names())
            if name in saved
            for reason in listed(f"state of {name} of another shape", misshapen(parameter, saved[name]))
        ]

    def _shapes(self, names: list[list[str]]) -> dict[str, list[int]]:
        return {name: list(parameter.shape) for name, parameter in self._named(names)}

    def _named(self, names: list[list[str]]) -> Iterator[tuple[str, Tensor]]:
        parameters = chain.from_iterable(group["params"] for group in self.target.param_groups)
        return zip(chain.from_iterable(names), parameters, strict=True)


def _groups(count: int) -> str:
    return f"{count} parameter group{'' if count == 1 else 's'}"


def parameter_names(modules: Mapping[str, torch.nn.Module]) -> dict[int, str]:
    """Return names such as `model.0.weight` of all parameters by `id`; a shared parameter has its first name."""
    names: dict[int, str] = {}
    for prefix, module in modules.items():
        for name, parameter in named_parameters(module):
            names.setdefault(id(parameter), f"{prefix}.{name}")
    return names


def is_standard(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the `state_dict` has torch's layout: parameters numbered in order, state by number."""
    state_dict = optimizer.state_dict()
    if not {"state", "param_groups"} <= state_dict.keys() or type(state_dict["state"]) is not dict:
        return False
    numbers = list(chain.from_iterable(group["params"] for group in state_dict["param_groups"]))
    sizes = [len(group["params"]) for group in state_dict["param_groups"]]
    return numbers == list(range(len(numbers))) and sizes == [len(group["params"]) for group in optimizer.param_groups]


def _is_torchs(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether only torch's own code saves and loads it, which neither changes nor keeps the values."""
    hooks = (
        f"_optimizer_{name}_{when}_hooks" for name in ("state_dict", "load_state_dict") for when in ("pre", "post")
    )
    return (
        type(optimizer).__module__.startswith("torch.optim.")
        and not {"state_dict", "load_state_dict"} & vars(optimizer).keys()
        and not any(getattr(optimizer, hook, None) for hook in hooks)
    )


def _castable(state: Any) -> Any:
    # `load_state_dict` would rebuild a string or an array as an iterable: these are set afterwards.
    if type(state) is dict:
        return {key: _castable(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(_castable(value) for value in state)
    return None if not isinstance(state, Tensor) and isinstance(state, Iterable) else state


def _is_same(live: Any, saved: Any) -> bool:
    if live is saved:
        return True
    if type(live) is not type(saved):
        return False
    if isinstance(saved, Tensor):
        return facts_of(live) == facts_of(saved) and tensor_digest(live) == tensor_digest(saved)
    if type(saved) is dict:
        return live.keys() == saved.keys() and all(_is_same(live[key], saved[key]) for key in saved)
    if type(saved) in (list, tuple):
        return len(live) == len(saved) and all(map(_is_same, live, saved))
    return type(saved) in (int, bool, type(None), str) and bool(live == saved)
