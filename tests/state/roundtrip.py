"""Sends an object's state through document and file image into another object, as a save and a resume would."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from safetensors.torch import load as read_with_the_library
from torch import Tensor

from resumable.state.codec import decode, encode
from resumable.state.objects.choose_adapter import Adapter, adapt, verify_round_trip
from resumable.state.staging.file_images import FileImage
from resumable.state.staging.stager import Stager
from resumable.state.tensors.records import Piece, TensorRecord
from resumable.utils import strict_json
from tests.state.image_views import view_tensors


@dataclass(frozen=True)
class Saved:
    """One object as it stands in a checkpoint."""

    document: Any
    image: bytearray
    records: dict[str, TensorRecord]

    def tensors(self) -> dict[str, Tensor]:
        return view_tensors([self.image], self.records)

    def tree(self) -> Any:
        return decode(self.document, self.tensors())


def stage(tensors: dict[str, Tensor], stager: Stager | None = None, **how: Any) -> FileImage:
    """The image of one blob, staged as a save would."""
    stager = stager or Stager()
    stager.begin({"object": tensors})
    return stager.stage({"object": tensors}, **({"threads": 2} | how))["object"]


def file_of(image: FileImage) -> bytearray:
    """The whole file that an image is."""
    return bytearray(b"".join(image.chunks))


def save(adapter: Adapter, *, inline: bool = False) -> Saved:
    return save_tree(adapter.capture(), key_of=adapter.key_of, inline=inline)


def save_tree(tree: Any, *, key_of: Any = ".".join, inline: bool = False) -> Saved:
    encoded = encode(tree, key_of=key_of, where="object", inline=inline)
    staged = stage(encoded.tensors)
    records = {
        key: TensorRecord(facts.dtype, facts.shape, facts.strides, None, (Piece(staged.digests[key]),))
        for key, facts in staged.facts.items()
    }
    for key, stored in encoded.aliases.items():
        records[key] = replace(records[stored], alias=stored)
    image = file_of(staged)
    read_with_the_library(bytes(image))  # every file opens in the format's own library
    return Saved(strict_json.loads(strict_json.dumps(encoded.document)), image, records)


def through(tree: Any, *, inline: bool = False) -> Any:
    """The tree that comes back."""
    return save_tree(tree, inline=inline).tree()


def transfer(source: dict[str, Any], target: dict[str, Any]) -> None:
    """Save every object of `source`, restore it into its namesake in `target`, and verify the round trip."""
    adapters, targets = adapt(source), adapt(target)
    for name, adapter in adapters.items():
        saved = save(adapter, inline=adapter.kind != "module")
        targets[name].restore(saved.tree())
        verify_round_trip(targets[name], saved.document, saved.records)
