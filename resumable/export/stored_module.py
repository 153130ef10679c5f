"""What a checkpoint gives to an export: its weights by name, and its golden input; knows no format and no artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resumable.errors import ExportError, NoCheckpointError
from resumable.export.proof.schema import Source
from resumable.run.checkpoint import Checkpoint
from resumable.state.objects.modules import EXTRA, HIDDEN, is_extra
from resumable.store.manifest import TensorRecord

if TYPE_CHECKING:
    from torch import Tensor

AVERAGED = "torch.optim.swa_utils.AveragedModel"


@dataclass(frozen=True)
class Stored:
    """The `state_dict` of one module in a checkpoint, without its values.

    `records` by name, `tied`: another name of which one, `hidden`: buffers that are in no `state_dict`; `read` gives
    the values of one of them, `read_extra` all extra states by name, which are no weights.
    """

    source: Source
    records: Mapping[str, TensorRecord]
    tied: Mapping[str, str]
    hidden: Mapping[str, TensorRecord]
    read: Callable[[str], Tensor]
    read_extra: Callable[[], Mapping[str, Any]]


def stored(checkpoint: Checkpoint, name: str) -> Stored:
    """The module `name` of a checkpoint, an average of weights under the names of the averaged module.

    Raises `ExportError` for what is no module, `NoCheckpointError` for what is not there.
    """
    record = checkpoint.manifest.objects.get(name)
    if record is None:
        known = ", ".join(checkpoint.manifest.objects)
        raise NoCheckpointError(f"{checkpoint.name}: no object {name!r}", f"this checkpoint holds: {known}")
    if record.kind != "module":
        modules = [other for other, found in checkpoint.manifest.objects.items() if found.kind == "module"]
        raise ExportError(
            f"{checkpoint.name}: {name}: expected a module, found {record.kind} ({record.type})",
            f"this checkpoint holds the modules: {', '.join(modules) or 'none'}",
        )
    prefix = "module." if record.type == AVERAGED else ""
    plain = [key for key in record.tensors if EXTRA not in key.split(".")]
    weights = {key.removeprefix(prefix): key for key in plain if key.startswith(prefix) and not key.startswith(HIDDEN)}
    hidden = {HIDDEN + key.removeprefix(HIDDEN + prefix): key for key in plain if key.startswith(HIDDEN + prefix)}
    named = {**weights, **hidden}
    tied = _tied(weights, record.tensors)
    read = checkpoint.reader(name)
    return Stored(
        source=Source(
            run_id=checkpoint.manifest.run_id,
            checkpoint=checkpoint.name,
            step=checkpoint.step,
            epoch=checkpoint.epoch,
            object=name,
        ),
        records={short: _value(record.tensors, key) for short, key in weights.items() if short not in tied},
        tied=tied,
        hidden={short: record.tensors[key] for short, key in hidden.items()},
        read=lambda short: read(named[short]),
        read_extra=lambda: {
            key.removeprefix(prefix): value for key, value in checkpoint.load(name).items() if is_extra(key)
        },
    )


def _tied(weights: Mapping[str, str], records: Mapping[str, TensorRecord]) -> dict[str, str]:
    """For each weight that is another name of one, which that is.

    What the checkpoint leads to may be no weight: an extra state and a hidden buffer can share memory with one.
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


def _value(records: Mapping[str, TensorRecord], key: str) -> TensorRecord:
    return records[_home(records, key)]
