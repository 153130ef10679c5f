"""Modules as trees: weights, persistent and other buffers, and flags. Independent of optimizers."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resumable.state.codec.tree import Document, Tree
from resumable.state.objects.adapter import BaseAdapter, listed, mismatch_on_error
from resumable.state.objects.pruning import prune_again
from resumable.state.objects.tree_copies import Own, fresh
from resumable.state.tensors.facts import Recorded, copy_bits, copy_of, empty, facts_of, same_place
from resumable.state.tensors.module_walk import named_modules, named_parameters

HIDDEN = "non_persistent_buffers."
EXTRA = "_extra_state"  # ends the key of the value of get_extra_state() in a state_dict
_LOADING = ("state_dict", "load_state_dict", "_save_to_state_dict", "_load_from_state_dict", "set_extra_state")
_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class ModuleAdapter(BaseAdapter):
    """An `nn.Module`; its tensor keys are exactly those of its `state_dict`."""

    kind = "module"
    target: nn.Module

    def capture(self) -> dict[str, Tree]:
        state = self.target.state_dict()
        return {
            "state": state,
            "metadata": getattr(state, "_metadata", None),
            "buffers": {name: buffer for name, _, _, buffer in _unsaved_buffers(self.target)},
            "requires_grad": {name: parameter.requires_grad for name, parameter in named_parameters(self.target)},
            "training": {name: module.training for name, module in named_modules(self.target)},
        }

    def key_of(self, path: tuple[str, ...]) -> str:
        return ".".join(path[1:]) if path[0] == "state" else HIDDEN + ".".join(path[1:])

    def frozen(self, tree: Any) -> frozenset[str]:
        # A module that trains nothing (an average, a teacher) is written by other code, or is small.
        flags = tree["requires_grad"].values()
        if all(flags) or not any(flags):
            return frozenset()
        parameters = named_parameters(self.target, remove_duplicate=False)
        return frozenset(name for name, parameter in parameters if not parameter.requires_grad)

    def optimizer_written(self, keys: Iterable[str]) -> frozenset[str]:
        return frozenset(name for name, _ in named_parameters(self.target, remove_duplicate=False))

    def comparable(self, document: Any) -> Document:
        # Versions of modules change with libraries, and attributes may be defined in another order.
        state = document["state"]
        if "$ordered" in state and all(type(key) is str and key[:1] != "$" for key, _ in state["$ordered"]):
            state = dict(state["$ordered"])
        return {**document, "state": state, "metadata": None}

    def misfits(self, tensors: Mapping[str, Recorded], document: Any) -> list[str]:
        live = self.target.state_dict()
        with mismatch_on_error(self.name):
            return self._tensor_misfits(tensors, live) or [
                *untied_names(tensor_keys(document), live),
                *self._buffer_misfits(_names(document["state"]), _names(document["buffers"])),
                *self._module_misfits(_names(document["training"])),
            ]

    def build_again(self, document: Any) -> None:
        """Give the module what torch's pruning added to it before a checkpoint, which its document shows."""
        with mismatch_on_error(self.name):
            prune_again(self.target, _names(document["state"]))

    def _tensor_misfits(self, tensors: Mapping[str, Recorded], live: Mapping[str, Any]) -> list[str]:
        stored = {key: record for key, record in tensors.items() if not key.startswith(HIDDEN)}
        # Training creates and drops buffers, and an extra state may hold tensors of any name.
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

    def read_targets(self) -> Mapping[str, Tensor] | None:
        return read_targets(self.target)

    def _restore(self, tree: dict[str, Any], own: Own) -> None:
        self._refuse_misfit(tree)
        state = loadable_state_dict(tree)
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
        reasons = [
            *self._state_misfits(saved, live, tree["buffers"]),
            *untied(saved, live),
            *self._buffer_misfits(saved, tree["buffers"]),
            *self._module_misfits(tree["training"]),
        ]
        if reasons:
            raise self.mismatch(reasons)

    def _state_misfits(
        self, saved: Mapping[str, Any], live: Mapping[str, Any], saved_buffers: Mapping[str, Tensor | None]
    ) -> list[str]:
        # Training may set a buffer from None to a tensor, or back: then only its name must exist.
        buffers = {name: module._buffers[attribute] for name, module, attribute in _all_buffers(self.target)}
        filled = {key for key in saved if key in buffers and buffers[key] is None}
        emptied = {key for key, buffer in saved_buffers.items() if buffer is None}
        return misfits(
            {key: value for key, value in saved.items() if key not in filled},
            {key: value for key, value in live.items() if key not in emptied},
        )

    def _buffer_misfits(self, saved: Collection[str], saved_buffers: Collection[str]) -> list[str]:
        buffers = {name for name, _, _ in _all_buffers(self.target)}
        unsaved = {name for name, _, _, _ in _unsaved_buffers(self.target)}
        return [
            *listed("buffers missing in the checkpoint", sorted(unsaved.difference(saved, saved_buffers))),
            *listed("buffers not in this module", sorted(set(saved_buffers) - buffers)),
        ]

    def _module_misfits(self, saved: Iterable[str]) -> list[str]:
        here, there = ({name or "(itself)" for name in names} for names in (dict(self.target.named_modules()), saved))
        return [
            *listed("modules missing in the checkpoint", sorted(here - there)),
            *listed("modules not in this module", sorted(there - here)),
        ]

    def _place_buffers(self, saved: Mapping[str, Tensor | None]) -> None:
        device = next((tensor.device for tensor in self.target.parameters()), torch.device("cpu"))
        for name, module, attribute in _all_buffers(self.target):
            tensor, live = saved.get(name), module._buffers[attribute]
            if tensor is None:
                module._buffers[attribute] = None if name in saved else live
            elif live is tensor:
                continue  # filled in place
            elif live is None or attribute in module._non_persistent_buffers_set or facts_of(live) == facts_of(tensor):
                fill_buffer(module, attribute, tensor, device)


def fill_buffer(module: nn.Module, attribute: str, value: Tensor, device: torch.device) -> None:
    """Copy a stored value into a buffer of the module, or replace the buffer if it is None or has other facts.

    `device` is that of a buffer which is None so far.
    """
    live = module._buffers[attribute]
    if live is not None and facts_of(live) == facts_of(value):
        copy_bits(live, value)
    else:
        module._buffers[attribute] = copy_of(value, device if live is None else live.device)


def loadable_state_dict(tree: Any) -> collections.OrderedDict[str, Any]:
    """Return the `state_dict` of a stored module with its metadata, as the module itself would return it.

    Raises:
        ValueError, KeyError, TypeError: The tree is not that of a module.
    """
    stored, metadata = tree["state"], tree["metadata"]
    if not isinstance(stored, dict) or not all(type(key) is str for key in stored):
        raise ValueError("its state is not a dict with names as keys")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(m, dict) for m in metadata.values())
    ):
        raise ValueError("its metadata is not a dict of dicts")
    state = collections.OrderedDict(stored)
    if metadata is not None:
        vars(state)["_metadata"] = metadata  # the attribute in which torch keeps it
    return state


def encoded_state(document: Any) -> list[tuple[str, Document]]:
    """Return the names and documents of the `state_dict` in a module's document.

    Raises:
        ValueError: The document is not that of a module.
    """
    state = document["state"]
    pairs = state.get("$ordered", list(state.items())) if isinstance(state, dict) else None
    if type(pairs) is not list or any(len(pair) != 2 or type(pair[0]) is not str for pair in pairs):
        raise ValueError("its state is not a dict with names as keys")
    return [(name, node) for name, node in pairs]


def _names(document: Any) -> list[str]:
    """Return the keys of an encoded mapping."""
    pairs = next((document[tag] for tag in ("$ordered", "$dict") if tag in document), None)
    return list(document) if pairs is None else [key for key, _ in pairs]


def tensor_keys(document: Document) -> dict[str, str]:
    """Return the blob keys of a module's parameters and persistent buffers, by name."""
    return {
        name: str(node["$tensor"])
        for name, node in encoded_state(document)
        if isinstance(node, dict) and node.keys() == {"$tensor"}
    }


def read_targets(module: nn.Module) -> dict[str, Tensor] | None:
    """Return a module's parameters and buffers by blob key, or None if code other than torch's own loads it."""
    if not all(map(_is_torchs, module.modules())):
        return None
    state = {key: value for key, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    hidden = {HIDDEN + name: buffer for name, _, _, buffer in _unsaved_buffers(module) if buffer is not None}
    return state | hidden


def _is_torchs(module: nn.Module) -> bool:
    # Torch's own code copies loaded values into the existing parameters and buffers, and does nothing else with them.
    return (
        all(getattr(getattr(type(module), name), "__module__", "").startswith("torch.nn.") for name in _LOADING)
        and not vars(module).keys() & set(_LOADING)
        and not any(getattr(module, hooks, None) for hooks in _HOOKS)
        and type(module).get_extra_state is nn.Module.get_extra_state
    )


def misfits(saved: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Return the differences in names, shapes and dtypes between a stored `state_dict` and a live one."""
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


def _both_tensors(saved: Mapping[str, object], live: Mapping[str, Any], key: str) -> bool:
    both = not is_extra(key) and key in live and isinstance(saved[key], Tensor) and isinstance(live[key], Tensor)
    return both and not nn.parameter.is_lazy(live[key])


def untied(saved: Mapping[str, Tree], live: Mapping[str, Tensor]) -> list[str]:
    """Return the names that share one stored tensor, but are two tensors of the live `state_dict`."""
    return untied_names({key: id(tensor) for key, tensor in saved.items() if isinstance(tensor, Tensor)}, live)


def untied_names(stored: Mapping[str, object], live: Mapping[str, Tensor]) -> list[str]:
    """Return the names with one stored tensor, which `stored` identifies, that are two tensors of the live module."""
    first: dict[object, str] = {}
    apart = []
    for key, tensor in stored.items():
        if key not in live:
            continue
        other = first.setdefault(tensor, key)
        if other != key and same_place(live[other]) != same_place(live[key]):
            apart.append(f"{other} and {key}")
    return listed("one tensor in the checkpoint, two here", apart)


def _load(module: nn.Module, state: Mapping[str, Any]) -> None:
    # The names were compared already; strict loading would refuse a state_dict that hooks have filtered.
    if type(module).load_state_dict is nn.Module.load_state_dict:
        module.load_state_dict(state, strict=False)
    else:
        module.load_state_dict(state)


def _prepare(module: nn.Module, state: dict[str, Tree]) -> None:
    live = module.state_dict(keep_vars=True)
    for key, value in state.items():
        target = live.get(key)
        if is_extra(key) or not isinstance(value, Tensor):
            state[key] = fresh(value)  # the module may keep it
        elif isinstance(target, Tensor) and not nn.parameter.is_lazy(target):
            _take_memory_format(target, value)


def _take_memory_format(live: Tensor, saved: Tensor) -> None:
    alone = live.untyped_storage().nbytes() == live.numel() * live.element_size()
    if alone and facts_of(live) != facts_of(saved):
        live.data = empty(facts_of(saved), live.device)


def _tensors(state: Mapping[str, Tree]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and not is_extra(key)}


def is_extra(key: str) -> bool:
    """Return whether a `state_dict` key holds the value of `get_extra_state`."""
    return key.rpartition(".")[2] == EXTRA


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _all_buffers(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for prefix, child in named_modules(module, remove_duplicate=False):
        for attribute in child._buffers:
            yield (f"{prefix}.{attribute}" if prefix else attribute), child, attribute


def _unsaved_buffers(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor | None]]:
    for name, child, attribute in _all_buffers(module):
        buffer = child._buffers[attribute]
        if buffer is None or attribute in child._non_persistent_buffers_set:
            yield name, child, attribute, buffer
