"""Modules as trees: weights, buffers of both kinds, and the flags that training may change; knows no optimizer."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resumable.state.objects.adapter import Plain, listed
from resumable.state.objects.tree_copies import Own, fresh
from resumable.state.tensors.facts import Recorded, copy_of, empty, facts_of, fill, same_place

HIDDEN = "non_persistent_buffers."
EXTRA = "_extra_state"  # in a state_dict, part of the name of what get_extra_state gave
_LOADING = ("state_dict", "load_state_dict", "_save_to_state_dict", "_load_from_state_dict", "set_extra_state")
_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class ModuleAdapter(Plain):
    """An `nn.Module`; its tensor keys are exactly those of its `state_dict`."""

    kind = "module"
    target: nn.Module

    def capture(self) -> dict[str, Any]:
        state = self.target.state_dict()
        return {
            "state": state,
            "metadata": getattr(state, "_metadata", None),
            "buffers": {name: buffer for name, _, _, buffer in _unsaved_buffers(self.target)},
            "requires_grad": {name: parameter.requires_grad for name, parameter in self.target.named_parameters()},
            "training": {name: module.training for name, module in self.target.named_modules()},
        }

    def key_of(self, path: tuple[str, ...]) -> str:
        return ".".join(path[1:]) if path[0] == "state" else HIDDEN + ".".join(path[1:])

    def frozen(self) -> frozenset[str]:
        # One that trains nothing (an average, a teacher) is written by something else, or is small.
        parameters = dict(self.target.named_parameters(remove_duplicate=False))
        if not any(parameter.requires_grad for parameter in parameters.values()):
            return frozenset()
        return frozenset(name for name, parameter in parameters.items() if not parameter.requires_grad)

    def steady(self, keys: Iterable[str]) -> frozenset[str]:
        return frozenset(name for name, _ in self.target.named_parameters(remove_duplicate=False))

    def comparable(self, document: Any) -> Any:
        # Versions of modules change with libraries, and attributes may be defined in another order.
        state = document["state"]
        if "$ordered" in state and all(type(key) is str and key[:1] != "$" for key, _ in state["$ordered"]):
            state = dict(state["$ordered"])
        return {**document, "state": state, "metadata": None}

    def misfits(self, tensors: Mapping[str, Recorded]) -> list[str]:
        live = self.target.state_dict()
        stored = {key: record for key, record in tensors.items() if not key.startswith(HIDDEN)}
        # Buffers come and go with training, and an extra state may hold tensors of any name.
        changing = {name for name, _, _ in _all_buffers(self.target)}
        nested = tuple(f"{key}." for key, value in live.items() if not isinstance(value, Tensor))
        here = {key for key, value in live.items() if isinstance(value, Tensor)}
        absent = {key for key in stored.keys() - here - changing if not key.startswith(nested)}
        other = [
            f"{key} (checkpoint {record.dtype}{list(record.shape)}, here {_dtype(live[key])}{list(live[key].shape)})"
            for key, record in stored.items()
            if key in here
            and not nn.parameter.is_lazy(live[key])
            and (record.dtype, tuple(record.shape)) != (_dtype(live[key]), tuple(live[key].shape))
        ]
        return [
            *listed("missing in the checkpoint", sorted(here - changing - stored.keys())),
            *listed("not in this module", sorted(absent)),
            *listed("another shape or dtype", other),
        ]

    def places(self) -> Mapping[str, Tensor] | None:
        return places(self.target)

    def _restore(self, tree: dict[str, Any], own: Own) -> None:
        self._refuse_misfit(tree)
        state = weights(tree)
        self._place_buffers({**_tensors(state), **tree["buffers"]})
        _prepare(self.target, state)
        try:
            _load(self.target, state)
        except RuntimeError as error:
            raise self.mismatch([str(error)]) from error
        for name, parameter in self.target.named_parameters():
            parameter.requires_grad_(tree["requires_grad"].get(name, parameter.requires_grad))
        for name, module in self.target.named_modules():
            module.training = tree["training"][name]

    def _refuse_misfit(self, tree: dict[str, Any]) -> None:
        saved, live = tree["state"], self.target.state_dict()
        # A buffer may be None and get its tensor in training, or lose it: then only its place has to be there.
        places = {name: module._buffers[attribute] for name, module, attribute in _all_buffers(self.target)}
        filled = {key for key in saved if key in places and places[key] is None}
        emptied = {key for key, buffer in tree["buffers"].items() if buffer is None}
        unsaved = {name for name, _, _, _ in _unsaved_buffers(self.target)}
        modules = {name or "(itself)" for name, _ in self.target.named_modules()}
        saved_modules = {name or "(itself)" for name in tree["training"]}
        reasons = [
            *misfits(
                {key: value for key, value in saved.items() if key not in filled},
                {key: value for key, value in live.items() if key not in emptied},
            ),
            *untied(saved, live),
            *listed("buffers missing in the checkpoint", sorted(unsaved - saved.keys() - tree["buffers"].keys())),
            *listed("buffers not in this module", sorted(tree["buffers"].keys() - places.keys())),
            *listed("modules missing in the checkpoint", sorted(modules - saved_modules)),
            *listed("modules not in this module", sorted(saved_modules - modules)),
        ]
        if reasons:
            raise self.mismatch(reasons)

    def _place_buffers(self, saved: Mapping[str, Tensor | None]) -> None:
        device = next((tensor.device for tensor in self.target.parameters()), torch.device("cpu"))
        for name, module, attribute in _all_buffers(self.target):
            tensor, live = saved.get(name), module._buffers[attribute]
            if tensor is None:
                module._buffers[attribute] = None if name in saved else live
            elif live is tensor:
                continue  # filled where it is
            elif live is None:
                module._buffers[attribute] = copy_of(tensor, device)
            elif facts_of(live) == facts_of(tensor):
                fill(live, tensor)
            elif attribute in module._non_persistent_buffers_set:
                module._buffers[attribute] = copy_of(tensor, live.device)


def weights(tree: Mapping[str, Any]) -> collections.OrderedDict[str, Any]:
    """The `state_dict` of a stored module, with its metadata, as the module itself would have given it.

    `ValueError`, `KeyError` or `TypeError` for a tree that is none of a module.
    """
    stored, metadata = tree["state"], tree["metadata"]
    if not isinstance(stored, dict) or not all(type(key) is str for key in stored):
        raise ValueError("its state is no dict by name")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(m, dict) for m in metadata.values())
    ):
        raise ValueError("its metadata is no dict of dicts")
    state: Any = collections.OrderedDict(stored)
    if metadata is not None:
        state._metadata = metadata
    ordered: collections.OrderedDict[str, Any] = state
    return ordered


def state_of(document: Any) -> list[tuple[str, Any]]:
    """The encoded `state_dict` in a module's document: names and nodes. `ValueError` for any other."""
    state = document["state"]
    pairs = state.get("$ordered", list(state.items())) if isinstance(state, dict) else None
    if type(pairs) is not list or any(len(pair) != 2 or type(pair[0]) is not str for pair in pairs):
        raise ValueError("its state is no dict by name")
    return [(name, node) for name, node in pairs]


def tensor_keys(document: Any) -> dict[str, str]:
    """The keys in its blobs of a module's parameters and persistent buffers, by their names."""
    return {
        name: node["$tensor"]
        for name, node in state_of(document)
        if isinstance(node, dict) and node.keys() == {"$tensor"}
    }


def places(module: nn.Module) -> dict[str, Tensor] | None:
    """A module's parameters and buffers by their keys in its blobs, if only torch's own code saves and loads it."""
    if not all(map(_is_torchs, module.modules())):
        return None
    state = {key: value for key, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    hidden = {HIDDEN + name: buffer for name, _, _, buffer in _unsaved_buffers(module) if buffer is not None}
    return state | hidden


def _is_torchs(module: nn.Module) -> bool:
    # Then what is loaded is copied into the parameters and buffers that are there, and nothing else becomes of it.
    return (
        all(getattr(getattr(type(module), name), "__module__", "").startswith("torch.nn.") for name in _LOADING)
        and not vars(module).keys() & set(_LOADING)
        and not any(getattr(module, hooks, None) for hooks in _HOOKS)
        and type(module).get_extra_state is nn.Module.get_extra_state
    )


def misfits(saved: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """What keeps one `state_dict` from being taken for another: names, shapes, dtypes."""
    dtypes = [
        f"{key} (checkpoint {saved[key].dtype}, here {live[key].dtype})"
        for key in saved
        if _both_tensors(saved, live, key) and saved[key].dtype != live[key].dtype
    ]
    return [
        *listed("missing in the checkpoint", [key for key in live if key not in saved]),
        *listed("not in this module", [key for key in saved if key not in live]),
        *listed("another shape", _other_shapes(saved, live)),
        *listed("another dtype", dtypes),
    ]


def _other_shapes(saved: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} (checkpoint {tuple(saved[key].shape)}, here {tuple(live[key].shape)})"
        for key in saved
        if _both_tensors(saved, live, key) and saved[key].shape != live[key].shape
    ]


def _both_tensors(saved: Mapping[str, Any], live: Mapping[str, Any], key: str) -> bool:
    both = not is_extra(key) and key in live and isinstance(saved[key], Tensor) and isinstance(live[key], Tensor)
    return both and not nn.parameter.is_lazy(live[key])


def untied(saved: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Names under which one tensor was saved that are two tensors of the live `state_dict`."""
    first: dict[int, str] = {}
    apart = []
    for key, tensor in saved.items():
        if not isinstance(tensor, Tensor) or key not in live:
            continue
        other = first.setdefault(id(tensor), key)
        if other != key and same_place(live[other]) != same_place(live[key]):
            apart.append(f"{other} and {key}")
    return listed("one tensor in the checkpoint, two here", apart)


def _load(module: nn.Module, state: collections.OrderedDict[str, Any]) -> None:
    # The names were compared already; torch's own strictness would refuse a state_dict that hooks have filtered.
    if type(module).load_state_dict is nn.Module.load_state_dict:
        module.load_state_dict(state, strict=False)
    else:
        module.load_state_dict(state)


def _prepare(module: nn.Module, state: dict[str, Any]) -> None:
    live = module.state_dict(keep_vars=True)
    for key, value in state.items():
        target = live.get(key)
        if is_extra(key) or not isinstance(value, Tensor):
            state[key] = fresh(value)  # handed over to the module, which may keep it
        elif isinstance(target, Tensor) and not nn.parameter.is_lazy(target):
            _take_memory_format(target, value)


def _take_memory_format(live: Tensor, saved: Tensor) -> None:
    alone = live.untyped_storage().nbytes() == live.numel() * live.element_size()
    if alone and facts_of(live) != facts_of(saved):
        live.data = empty(facts_of(saved), live.device)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and not is_extra(key)}


def is_extra(key: str) -> bool:
    """Whether a name in a `state_dict` is that of what `get_extra_state` gave."""
    return key.rpartition(".")[2] == EXTRA


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _all_buffers(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for prefix, child in module.named_modules(remove_duplicate=False):
        for attribute in child._buffers:
            yield (f"{prefix}.{attribute}" if prefix else attribute), child, attribute


def _unsaved_buffers(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
    for name, child, attribute in _all_buffers(module):
        buffer = child._buffers[attribute]
        if buffer is None or attribute in child._non_persistent_buffers_set:
            yield name, child, attribute, buffer
