"""One module of a checkpoint, for an export: its tensors by name, read on demand. Independent of formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resumable.errors import ExportError, NoCheckpointError
from resumable.export.proof.schema import SourceRecord
from resumable.run.checkpoint import Checkpoint
from resumable.state.objects.modules import EXTRA, HIDDEN, is_extra
from resumable.state.tensors.records import TensorRecord
from resumable.store.documents.manifest import ObjectRecord

if TYPE_CHECKING:
    from torch import Tensor

AVERAGED = "torch.optim.swa_utils.AveragedModel"


@dataclass(frozen=True)
class CheckpointModule:
    """The `state_dict` of one module in a checkpoint, without its values.

    `records`: by name. `tied`: further names of a tensor, each with the name that it is stored under. `hidden`: buffers
    that no `state_dict` contains. `read` returns the values of one of them. `read_extra` returns the extra states,
    which are not weights, by name.
    """

    source: SourceRecord
    records: Mapping[str, TensorRecord]
    tied: Mapping[str, str]
    hidden: Mapping[str, TensorRecord]
    read: Callable[[str], Tensor]
    read_extra: Callable[[], Mapping[str, object]]

    def digest_of(self, name: str) -> str:
        """Return the XXH3-128 of a weight's bytes; one that is stored in pieces is read, and verified, for that."""
        from resumable.state.tensors.facts import tensor_digest

        record = self.records[name]
        return record.digest if record.boxes is None else tensor_digest(self.read(name))


def open_module(checkpoint: Checkpoint, name: str) -> CheckpointModule:
    """Look up the module `name` of a checkpoint; an averaged model gets the names of the module that it averages.

    Raises `NoCheckpointError` where there is no such object, `ExportError` where it is not a module.
    """
    record, records = _module_record(checkpoint, name), checkpoint.records[name]
    prefix = "module." if record.type == AVERAGED else ""
    plain = [key for key in records if EXTRA not in key.split(".")]
    weights = {key.removeprefix(prefix): key for key in plain if key.startswith(prefix) and not key.startswith(HIDDEN)}
    hidden = {HIDDEN + key.removeprefix(HIDDEN + prefix): key for key in plain if key.startswith(HIDDEN + prefix)}
    stored_names = {**weights, **hidden}
    tied = _tied(weights, records)
    read = checkpoint.reader(name)
    return CheckpointModule(
        source=_source(checkpoint, name),
        records={short: _home_record(records, key) for short, key in weights.items() if short not in tied},
        tied=tied,
        hidden={short: records[key] for short, key in hidden.items()},
        read=lambda short: read(stored_names[short]),
        read_extra=lambda: _extra_states(checkpoint, name, prefix),
    )


def _module_record(checkpoint: Checkpoint, name: str) -> ObjectRecord:
    objects = checkpoint.manifest.objects
    record = objects.get(name)
    if record is None:
        raise NoCheckpointError(
            f"{checkpoint.name}: no object {name!r}", f"this checkpoint holds: {', '.join(objects)}"
        )
    if record.kind != "module":
        modules = [other for other, found in objects.items() if found.kind == "module"]
        raise ExportError(
            f"{checkpoint.name}: {name}: expected a module, found {record.kind} ({record.type})",
            f"this checkpoint holds the modules: {', '.join(modules) or 'none'}",
        )
    return record


def _source(checkpoint: Checkpoint, name: str) -> SourceRecord:
    return SourceRecord(
        run_id=checkpoint.manifest.run_id,
        checkpoint=checkpoint.name,
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        object=name,
    )


def _extra_states(checkpoint: Checkpoint, name: str, prefix: str) -> dict[str, object]:
    return {key.removeprefix(prefix): value for key, value in checkpoint.load(name).items() if is_extra(key)}


def _tied(weights: Mapping[str, str], records: Mapping[str, TensorRecord]) -> dict[str, str]:
    """Map each further name of a weight to its first name.

    The alias in the checkpoint may point to something else: an extra state or hidden buffer can share the memory.
    """
    first: dict[str, str] = {}
    found = {}
    for name in sorted(weights, key=lambda name: records[weights[name]].alias is not None):
        other = first.setdefault(_home(records, weights[name]), name)
        if other != name:
            found[name] = other
    return found


def _home(records: Mapping[str, TensorRecord], key: str) -> str:
    return records[key].alias or key


def _home_record(records: Mapping[str, TensorRecord], key: str) -> TensorRecord:
    return records[_home(records, key)]
