"""Take a snapshot of all state at one boundary, as named tensors and plain values. Imports no storage and no loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

from torch import Tensor

from resumable.checkpointing.capture.golden_input import GoldenInput
from resumable.checkpointing.capture.tensor_columns import tensor_columns
from resumable.checkpointing.position import Position
from resumable.checkpointing.slabs import SlabPlan
from resumable.checkpointing.stored_orders import without_orders
from resumable.errors import ResumableError, StateError
from resumable.policy.suspicion import WitnessState
from resumable.run.reserved_objects import CARRIED, DATASETS, GOLDEN, GRADIENTS, ORDERS
from resumable.state.codec import Encoded, encode
from resumable.state.codec.encoding_plan import Encodings
from resumable.state.codec.tree import Tree
from resumable.state.objects import global_rng
from resumable.state.objects.choose_adapter import Adapter, empty_state_warning
from resumable.state.objects.gradients import Gradients
from resumable.state.staging.file_images import FileImage
from resumable.state.tensors.described import DescribedTensors
from resumable.state.tensors.document_tags import PARTS
from resumable.state.tensors.facts import copy_of
from resumable.state.tensors.slabs import Slab, SlabSizes, slabs_of
from resumable.store.documents.rank_state import dump_rank_state
from resumable.store.layout import MAX_SLAB_OWNER_BYTES, frozen_name, stem, tensors_name
from resumable.utils.environment import environment
from resumable.utils.messages import listed

_SHOWN_NAMES = 20


@dataclass(frozen=True)
class Captured:
    """One object's state: a document of its plain values, and its live tensors by blob.

    Tensors in `slabs` are in no blob: each save decides which slabs it writes. `optimizer_written` returns the keys of
    tensors that only optimizers write. `emptiness` is the warning for a state that holds nothing.
    """

    kind: str
    type: str
    encoded: Encoded
    blobs: Mapping[str, Mapping[str, Tensor]]
    optimizer_written: Callable[[], frozenset[str]]
    emptiness: str | None = None
    slabs: Mapping[Slab, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """All state at one boundary. Its tensors are live, and must be staged before training writes to them.

    `metrics` holds the state of each metric as a witness. `features` are those parts of the format that a reader must
    know.
    """

    position: Position
    reason: str
    objects: Mapping[str, Captured]
    values: Mapping[str, object]
    environment: Mapping[str, object]
    metrics: Mapping[str, WitnessState]
    features: frozenset[str] = frozenset()

    @property
    def blobs(self) -> dict[str, Mapping[str, Tensor]]:
        """Return all tensors that are not in slabs, by file name and key."""
        return {name: tensors for captured in self.objects.values() for name, tensors in captured.blobs.items()}

    @property
    def slabs(self) -> dict[str, Mapping[Slab, Tensor]]:
        """Return the rows of each slab, by object."""
        return {name: captured.slabs for name, captured in self.objects.items() if captured.slabs}

    def tensor_columns(
        self, images: Mapping[str, FileImage], plans: Mapping[str, SlabPlan]
    ) -> dict[str, Mapping[str, object]]:
        """Return the records of all tensors, by object; digests those in `images` that are not digested yet.

        Args:
            images: The files of all tensors that are not in slabs.
            plans: Where each slab lies, by object.
        """
        return {
            name: tensor_columns(captured.encoded, captured.blobs, images, plans[name].slabs if captured.slabs else {})
            for name, captured in self.objects.items()
            if captured.encoded.tensors
        }

    def state_file(self, *, ranges: Mapping[str, str], tensors: Mapping[str, Mapping[str, object]]) -> bytes:
        """Return the state file; `StateError` where it exceeds the limits of the format.

        Args:
            ranges: The digests of the ranges of each file of tensors, as the state file holds them.
            tensors: The records of all tensors, by object.
        """
        with readable("the state"):
            return dump_rank_state(self.values, ranges=ranges, tensors=tensors)


def snapshot(
    adapters: Mapping[str, Adapter],
    gradients: Gradients,
    position: Position,
    encodings: Encodings,
    *,
    reason: str,
    everything: bool,
    golden: GoldenInput | None,
    carried: Tree | None,
    facts: Mapping[str, object],
    notes: Mapping[str, object],
    metrics: Mapping[str, WitnessState],
    slab_sizes: SlabSizes,
) -> Snapshot:
    """Capture all objects, the RNG streams, and the gradients that no optimizer has used (with `everything`, all).

    `encodings` are those of the earlier snapshots. A golden input is run through its module. `carried` is the tree of
    the loop's variables. `facts` are stored beside those of the environment; `notes` inform people and later launches,
    and decide nothing; `metrics` are the states of the metrics as witnesses; `slab_sizes` say which tensors are cut
    into slabs. Raises `StateError` with the path of a value that cannot be stored.
    """
    # First, so that a side effect of the module's code that cannot be undone is captured, too.
    golden_tree = {} if golden is None else {GOLDEN: _captured_tree(GOLDEN, golden.capture(), encodings)}
    objects = {name: _captured(adapter, encodings, slab_sizes) for name, adapter in adapters.items()}
    gradient_tree = gradients.capture(everything=everything)
    carried_tree = {} if carried is None else {CARRIED: _captured_carried(carried, encodings)}
    objects |= {GRADIENTS: _captured_tree(GRADIENTS, gradient_tree, encodings), **golden_tree, **carried_tree}
    position, orders = without_orders(position)
    if orders:
        objects[ORDERS] = _captured_tree(ORDERS, orders, encodings, is_frozen=True)
    stands_at = encode(position.tree(), key_of=None, where="position")
    values = {
        "objects": {name: captured.encoded.document for name, captured in objects.items()},
        "rng": encode(global_rng.capture_streams(), key_of=None, where="rng").document,
        "position": stands_at.document,
        **({"notes": notes} if notes else {}),
    }
    features = stands_at.features | _features(objects, position)
    return Snapshot(position, reason, objects, values, {**environment(), **facts}, metrics, features)


def split_for_late_copy(snapshot: Snapshot) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Copy now what more than optimizers may write. Return all blobs, and the tensors in them that are still live."""
    blobs: dict[str, dict[str, Tensor]] = {}
    live: dict[str, Tensor] = {}
    for owner, captured in snapshot.objects.items():
        written = captured.optimizer_written()
        for file_name, tensors in captured.blobs.items():
            # Detached: assigning to `.data` of a live tensor leaves these with the memory of now.
            late = {key: tensors[key].detach() for key in tensors if key in written and not tensors[key].is_inference()}
            blobs[file_name] = {key: late[key] if key in late else copy_of(value) for key, value in tensors.items()}
            live |= {f"{owner}.{key}": tensor for key, tensor in late.items()}
    return blobs, live


def broken(snapshot: Snapshot, images: Mapping[str, FileImage]) -> list[str]:
    """Return the names of the modules' tensors that are not finite, by their first elements alone."""
    modules = {name: captured for name, captured in snapshot.objects.items() if captured.kind == "module"}
    return [f"{name}.{key}" for name, each in modules.items() for blob in each.blobs for key in images[blob].broken]


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn a `ValueError` into a `StateError`: the format's readers would refuse this state."""
    try:
        yield
    except ValueError as error:
        if isinstance(error, ResumableError):
            raise
        raise StateError(
            f"{what} exceeds the limits of the format: {error}",
            "keep long lists in tensors, and few large tensors in the place of many",
        ) from error


def is_frozen(file_name: str) -> bool:
    """Return whether a blob is of tensors with `requires_grad=False`."""
    return ".frozen." in file_name


def _features(objects: Mapping[str, Captured], position: Position) -> frozenset[str]:
    """Return the parts of the format that these objects and the samplers of a position need."""
    features = frozenset[str]().union(*(captured.encoded.features for captured in objects.values()))
    features |= {name for name in (ORDERS, CARRIED) if name in objects and objects[name].kind == name}
    if any("." in name for name in objects):  # a list may have lost the object that was taken out of it
        features |= {PARTS}
    if any("dataset" in states for states in position.samplers.values()):
        features |= {DATASETS}
    return features


def _captured(adapter: Adapter, encodings: Encodings, slab_sizes: SlabSizes) -> Captured:
    tree = adapter.capture()
    # The file of a module holds all its weights, for readers that know nothing of the document.
    inline = adapter.kind != "module"
    encoded = encodings.encode(tree, key_of=adapter.key_of, where=adapter.name, advice=adapter.advice, inline=inline)
    slabs = _slabs(adapter, encoded, slab_sizes)
    in_slabs = {slab.key for slab in slabs}
    whole = encoded.tensors.part(frozenset(encoded.tensors.keys() - in_slabs)) if in_slabs else encoded.tensors
    blobs = _blobs(adapter.name, whole, adapter.frozen(tree))
    written = partial(adapter.optimizer_written, encoded.tensors)
    return Captured(adapter.kind, adapter.type, encoded, blobs, written, empty_state_warning(adapter, tree), slabs)


def _slabs(adapter: Adapter, encoded: Encoded, sizes: SlabSizes) -> dict[Slab, Tensor]:
    # Weights and the state of optimizers change everywhere, and any reader of safetensors finds them whole.
    if adapter.kind in ("module", "optimizer") or len(stem(adapter.name).encode()) > MAX_SLAB_OWNER_BYTES:
        return {}
    tensors = encoded.tensors.items()
    return {slab: slab.of(tensor) for key, tensor in tensors for slab in slabs_of(key, tensor, sizes)}


def _captured_carried(tree: Tree, encodings: Encodings) -> Captured:
    """Capture the carried variables. Their names stand in the place of a type, where people see them."""
    names = cast(dict[str, list[str]], tree)["names"]
    return replace(_captured_tree(CARRIED, tree, encodings), type=listed(names, most=_SHOWN_NAMES))


def _captured_tree(name: str, tree: object, encodings: Encodings, *, is_frozen: bool = False) -> Captured:
    """Capture a tree that is stored with the user's objects; `is_frozen` if it seldom changes."""
    encoded = encodings.encode(tree, key_of=".".join, where=name, inline=True)
    frozen = frozenset(encoded.tensors if is_frozen else ())
    return Captured(name, name, encoded, _blobs(name, encoded.tensors, frozen), frozenset)


def _blobs(name: str, tensors: DescribedTensors, frozen: frozenset[str]) -> dict[str, Mapping[str, Tensor]]:
    untrained = frozenset(key for key in tensors if key in frozen) if frozen else frozen
    trained = tensors.part(frozenset(tensors.keys() - untrained)) if untrained else tensors
    named = {tensors_name(name): trained, frozen_name(name): tensors.part(untrained)}
    return {file_name: part for file_name, part in named.items() if part}
