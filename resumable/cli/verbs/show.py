"""`resumable show`: print the manifest of one checkpoint. Reads nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from resumable.cli.formatting import batch_text, metrics_text
from resumable.cli.options import Json, StorageOptions, Target, open_checkpoint
from resumable.cli.terminal import Column, print_json, print_line, print_table
from resumable.policy.suspicion import mark
from resumable.run.checkpoint import Checkpoint
from resumable.state.tensors.records import TensorRecord
from resumable.store.documents.manifest import Manifest
from resumable.store.layout import checkpoint_path
from resumable.utils.events import duration, size
from resumable.utils.location import location


@dataclass(frozen=True)
class ObjectSummary:
    """One object of a checkpoint; the fields are the keys of its `summary` in `--json`."""

    kind: str
    type: str
    tensors: int
    elements: int
    size_bytes: int


def show(target: Target, json: Json = False, storage_options: StorageOptions = "{}") -> None:
    """Show the manifest of a checkpoint.

    Prints position, lineage, objects, metrics, config, versions, environment and blobs.

    --json: the manifest as FORMAT.md describes it, and beside it "name", "size_bytes" and "summary", which has "kind",
    "type", "tensors", "elements" and "size_bytes" of each object.
    """
    checkpoint = open_checkpoint(target, storage_options)
    if json:
        print_json(_document(checkpoint))
        return
    manifest = checkpoint.manifest
    _head(checkpoint)
    _objects(checkpoint)
    _pairs("config", _flat(_public(manifest.config)))
    _pairs("versions", manifest.versions)
    _pairs("environment", _flat(manifest.environment))
    _blobs(manifest)


def _document(checkpoint: Checkpoint) -> dict[str, object]:
    summary = {name: asdict(_summary(checkpoint, name)) for name in checkpoint.manifest.objects}
    document = checkpoint.manifest.model_dump(mode="json")
    document["config"] = _public(checkpoint.manifest.config)
    for name, record in document["objects"].items():
        record["blobs"] = checkpoint.blobs_of(name)
        record["tensors"] = {key: _facts(tensor) for key, tensor in checkpoint.records[name].items()}
    return {"name": checkpoint.name, "size_bytes": checkpoint.size_bytes, "summary": summary, **document}


def _facts(tensor: TensorRecord) -> dict[str, object]:
    boxes = tensor.boxes and [{"offsets": box.offsets, "shape": box.shape} for box in tensor.boxes]
    facts = {"dtype": tensor.dtype, "shape": tensor.shape, "strides": tensor.strides, "alias": tensor.alias}
    return {**facts, "digest": tensor.digest, "pieces": boxes}


def _public(config: dict[str, object]) -> dict[str, object]:
    """Return a run's config without secrets in its URL, which older versions stored in part."""
    return config | {"run": location(config["run"])} if "run" in config else config


def _summary(checkpoint: Checkpoint, name: str) -> ObjectSummary:
    manifest, tensors = checkpoint.manifest, checkpoint.records[name]
    record = manifest.objects[name]
    return ObjectSummary(
        kind=record.kind,
        type=record.type,
        tensors=len(tensors),
        elements=sum(tensor.elements for tensor in tensors.values()),
        size_bytes=sum(manifest.blobs[blob].size for blob in checkpoint.blobs_of(name)),
    )


def _head(checkpoint: Checkpoint) -> None:
    manifest = checkpoint.manifest
    age = duration(max(time.time() - manifest.created, 0))
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created))
    print_line((checkpoint.name, "bold"), (" finished", "green") if manifest.finished else "")
    _line("position", _position(manifest))
    _line("metrics", metrics_text(manifest.metrics, digits=8) or "none")
    if suspect := mark(manifest):
        _line("suspect", f"{suspect.what} is not finite since step {suspect.since}")
    _line("saved", f"{created}, {age} ago, because of: {manifest.reason}")
    _line("run", f"{manifest.run_id}, format version {manifest.format_version}, world {manifest.world}")
    for number, resumed_from in manifest.lineage:
        _line(f"attempt {number}", f"resumed from {resumed_from}" if resumed_from else "began the run")


def _position(manifest: Manifest) -> str:
    position = manifest.position
    total = {position.get("loop"): position.get("total")}
    text = f"step {_of(manifest.step, total.get('steps'))}, {_of(manifest.epoch, total.get('epochs'))} epochs completed"
    return text + (f", batch {batch_text(position)} of the next" if position.get("batch") is not None else "")


def _of(number: int, total: int | None) -> str:
    return str(number) if total is None else f"{number} of {total}"


def _line(name: str, value: str) -> None:
    print_line((f"{name:<12}", "dim"), value)


def _objects(checkpoint: Checkpoint) -> None:
    print_line("")
    columns = [
        Column("object"),
        Column("kind", drop=1),
        Column("type", wrap=True),
        Column("tensors", "right"),
        Column("elements", "right"),
        Column("size", "right"),
    ]
    rows = []
    for name in checkpoint.manifest.objects:
        facts = _summary(checkpoint, name)
        numbers = [f"{facts.tensors:,}", f"{facts.elements:,}", size(facts.size_bytes)]
        rows.append([name, facts.kind, facts.type, *numbers])
    print_table(columns, rows)


def _blobs(manifest: Manifest) -> None:
    print_line("")
    own = checkpoint_path(manifest.name) + "/"
    rows = [[blob.path.removeprefix(own), size(blob.size), blob.digest] for blob in manifest.blobs.values()]
    print_table([Column("blob", wrap=True), Column("size", "right"), Column("digest", drop=1)], rows)


def _pairs(title: str, values: Mapping[str, object]) -> None:
    print_line("")
    print_line((title, "bold"))
    width = max(map(len, values), default=0)
    for name, value in values.items():
        print_line((f"  {name:<{width}}  ", "dim"), str(value))


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Join nested keys by dots."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "null" if value is None else value
    return flat
