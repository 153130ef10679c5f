"""The JSON documents: what they keep, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from resumable.errors import CorruptCheckpointError, FormatVersionError, StateError
from resumable.store import strict_record
from resumable.store.manifest import AttemptFile, BlobRecord, Manifest, ObjectRecord, RunFile, TensorRecord
from resumable.store.parse_documents import parse_attempt_file, parse_manifest, parse_run_file
from resumable.store.sealed_json import digest

FOLDER = "checkpoints/step-000000500.e0002.a0003"
DIGEST = "0123456789abcdef" * 2


def tensor(**fields: Any) -> TensorRecord:
    facts: dict[str, Any] = {
        "dtype": "float32",
        "shape": [2, 3],
        "global_shape": [2, 3],
        "offsets": [0, 0],
        "digest": DIGEST,
    }
    return TensorRecord(**{**facts, **fields})


def example() -> Manifest:
    tensors = {"weight": tensor(strides=[1, 2]), "tied": tensor(strides=[1, 2], alias="weight"), "scalar": scalar()}
    return Manifest(
        run_id="run",
        attempt=3,
        token="token",
        lineage=[(1, None), (3, "step-000000400.e0001.a0001")],
        step=500,
        epoch=2,
        position={"batch": 17},
        metrics={"loss": 0.1, "bad": math.nan, "worse": math.inf, "best": -math.inf},
        config={"run": "runs/ü", "every": {"steps": None}},
        versions={"torch": "2.13.0"},
        environment={"threads": 2},
        world=1,
        finished=False,
        reason="steps",
        created=1.25,
        objects={"model": ObjectRecord(kind="module", type="Linear", blobs=["model.safetensors"], tensors=tensors)},
        blobs={"model.safetensors": BlobRecord(path=f"{FOLDER}/model.safetensors", rank=0, size=48, digest=DIGEST)},
    )


def scalar() -> TensorRecord:
    return tensor(shape=[], global_shape=[], offsets=[])


def blob(path: str, **fields: Any) -> dict[str, Any]:
    return {"path": path, "rank": 0, "size": 1, "digest": DIGEST, **fields}


def sealed(document: Any) -> bytes:
    """What a hostile but careful writer would write: any document, with a digest that fits."""
    body = json.dumps(document, separators=(",", ":")).encode()
    return body[:-1] + b',"digest":"' + digest(body).encode() + b'"}'


def changed(**fields: Any) -> bytes:
    return sealed({**json.loads(example().model_dump_json()), "metrics": {}, **fields})


def test_a_manifest_comes_back_as_it_was() -> None:
    parsed = parse_manifest(example().dump())
    assert math.isnan(parsed.metrics["bad"])
    assert parsed.metrics == pytest.approx(example().metrics, nan_ok=True, abs=0)
    assert parsed.model_dump(exclude={"metrics"}) == example().model_dump(exclude={"metrics"})
    assert parsed.dump() == example().dump()
    assert str(parsed.name) == "step-000000500.e0002.a0003"


def test_a_document_is_plain_json_that_ends_in_the_digest_of_the_rest() -> None:
    data = example().dump()
    document = json.loads(data)
    assert next(iter(document)) == "format_version"
    assert list(document)[-1] == "digest"
    assert digest(data.replace(b',"digest":"%s"' % document["digest"].encode(), b"")) == document["digest"]


def test_the_smaller_documents_come_back_too() -> None:
    run = RunFile.new(data_seed=2**70)
    attempt = AttemptFile(attempt=3, token="t", host="gpu7", pid=4711, started=1.0)
    assert parse_run_file(run.dump()) == run
    assert parse_attempt_file(attempt.dump()) == attempt


def test_every_flipped_bit_is_found() -> None:
    data = example().dump()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(CorruptCheckpointError):
            parse_manifest(bytes(damaged))


def test_every_truncation_is_found() -> None:
    data = example().dump()
    for length in range(len(data)):
        with pytest.raises(CorruptCheckpointError, match=r"manifest\.json: "):
            parse_manifest(data[:length])


def test_a_newer_version_is_told_from_damage() -> None:
    newer = sealed({"format_version": 3, "unheard": "of"})
    with pytest.raises(FormatVersionError, match="format version 3, expected at most 2") as caught:
        parse_manifest(newer)
    assert "upgrade" in str(caught.value.hint)
    with pytest.raises(CorruptCheckpointError, match="its digest differs"):
        parse_manifest(newer.replace(b'"format_version":3', b'"format_version":4'))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"extra": 1}, "extra"),
        ({"step": "500"}, "step"),
        ({"step": -1}, "step"),
        ({"step": 2**63}, "step"),
        ({"step": True}, "step"),
        ({"step": 1.0}, "step"),
        ({"world": 0}, "world"),
        ({"finished": 0}, "finished"),
        ({"format_version": 0}, "format_version"),
        ({"format_version": "1"}, "format_version"),
        ({"metrics": {"loss": "low"}}, "metrics.loss"),
        ({"lineage": []}, "lineage: ends in attempt None, expected 3"),
        ({"lineage": [[2, None]]}, "lineage: ends in attempt 2, expected 3"),
        ({"lineage": [[3, None], [3, "step-000000001.e0000.a0003"]]}, "lineage: attempt 3 cannot"),
        ({"lineage": [[1, None], [3, None]]}, "lineage: attempt 3 cannot"),
        ({"lineage": [[1, None], [3, "step-000000001.e0000.a0002"]]}, "lineage: attempt 3 cannot"),
        ({"lineage": [[3, "step-000000001.e0000.a0001"]]}, "lineage: attempt 3 cannot"),
        ({"lineage": [["3", None]]}, "lineage.0.0"),
        ({"lineage": [[3]]}, "lineage.0"),
        ({"blobs": {}}, "its blob 'model.safetensors' is not among the blobs"),
        (
            {"blobs": {"../x": blob(f"{FOLDER}/x.safetensors")}},
            "not the name",
        ),
        ({"blobs": {"x.safetensors": blob("/etc/passwd")}}, "not the path"),
        (
            {"blobs": {"x.safetensors": blob(f"{FOLDER}/../x")}},
            "not the path",
        ),
        (
            {"blobs": {"x.safetensors": blob(f"{FOLDER}/x.safetensors", digest="0")}},
            "digest",
        ),
    ],
)
def test_a_well_sealed_document_is_still_checked_field_by_field(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(CorruptCheckpointError) as caught:
        parse_manifest(changed(**fields))
    assert reason in str(caught.value)


def first_version(**part: Any) -> bytes:
    """The manifest of `example`, as version 1 of the format wrote it."""
    document = json.loads(changed())
    del document["digest"]
    model = {key: value for key, value in document["objects"]["model"].items() if key != "blobs"}
    return sealed({**document, "format_version": 1, "objects": {"model": {**model, **part}}})


def test_the_first_version_is_read_as_if_the_present_one_had_written_it() -> None:
    assert parse_manifest(first_version(blob="model.safetensors")) == parse_manifest(changed())
    assert parse_manifest(first_version(blob=None, tensors={})).objects["model"].blobs == []
    run = RunFile.new(data_seed=1)
    assert parse_run_file(sealed({**run.model_dump(), "format_version": 1})) == run


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (first_version(blobs=["model.safetensors"]), "objects.model: expected a blob, or null"),
        (first_version(), "objects.model: expected a blob, or null"),
        (first_version(blob="x", blobs=["model.safetensors"]), "objects.model: expected a blob, or null"),
        (first_version(blob=5), "objects.model.blobs.0"),
        (first_version(blob=["model.safetensors"]), "objects.model.blobs.0"),
        (first_version(blob=None), "3 tensors, and no blob for them"),
        (changed(format_version=1), "objects.model: expected a blob, or null"),
        (changed(format_version=1, objects={"model": 5}), "objects.model"),
        (changed(format_version=1, objects=5), "objects"),
        (sealed({"format_version": True}), "format_version"),
    ],
)
def test_two_versions_are_never_mixed(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptCheckpointError) as caught:
        parse_manifest(data)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("blobs", "reason"),
    [
        (["model.safetensors", "model.safetensors"], "duplicate name"),
        (["model.safetensors", "model.frozen.safetensors"], "'model.frozen.safetensors' is not among the blobs"),
        ([], "3 tensors, and no blob for them"),
        (None, "objects.model.blobs"),
        ("model.safetensors", "objects.model.blobs"),
    ],
)
def test_the_blobs_of_an_object_are_there_and_each_once(blobs: Any, reason: str) -> None:
    document = json.loads(changed())
    del document["digest"]
    document["objects"]["model"]["blobs"] = blobs
    with pytest.raises(CorruptCheckpointError) as caught:
        parse_manifest(sealed(document))
    assert reason in str(caught.value)


def test_a_document_of_this_version_with_the_key_of_the_first_is_malformed() -> None:
    document = json.loads(changed())
    del document["digest"]
    document["objects"]["model"]["blob"] = "model.safetensors"
    with pytest.raises(CorruptCheckpointError, match=r"objects\.model\.blob"):
        parse_manifest(sealed(document))


def test_the_frozen_tensors_of_an_object_lie_in_a_blob_of_their_own() -> None:
    document = json.loads(changed())
    del document["digest"]
    document["objects"]["model"]["blobs"].append("model.frozen.safetensors")
    document["blobs"]["model.frozen.safetensors"] = blob(f"{FOLDER}/model.frozen.safetensors")
    assert parse_manifest(sealed(document)).objects["model"].blobs == ["model.safetensors", "model.frozen.safetensors"]


@pytest.mark.parametrize("body", ["[]", "7", '"x"', "null", '{"a":1,"a":2}', "[" * 100 + "]" * 100, '{"a":NaN}'])
def test_other_json_is_refused(body: str) -> None:
    data = body.encode()
    with pytest.raises(CorruptCheckpointError):
        parse_manifest(data[:-1] + b',"digest":"' + digest(data[:-1] + b"}").encode() + b'"}')


def test_an_alias_must_lead_to_a_tensor_of_its_own() -> None:
    for tensors in (
        {"a": tensor(alias="b")},
        {"a": tensor(alias="a")},
        {"a": tensor(alias="b"), "b": tensor(alias="a")},
    ):
        with pytest.raises(ValueError, match="is no tensor of its own"):
            ObjectRecord(kind="module", type="x", blobs=["a.safetensors"], tensors=tensors)


def test_an_alias_must_be_the_tensor_that_it_leads_to() -> None:
    with pytest.raises(ValueError, match="'b' is an alias of 'a', which is another tensor"):
        ObjectRecord(kind="module", type="x", blobs=["a.safetensors"], tensors={"a": tensor(), "b": scalar_of("a")})


def scalar_of(alias: str) -> TensorRecord:
    return tensor(shape=[], global_shape=[], offsets=[], alias=alias)


def test_a_blob_may_be_no_larger_than_what_is_recorded_of_it() -> None:
    most = 8 + 64 * 2**20 + 16 * (6 + 1)  # the header, and the tensors of `example` at 16 bytes an element
    record = blob(f"{FOLDER}/model.safetensors", size=most)
    assert parse_manifest(changed(blobs={"model.safetensors": record})).blobs["model.safetensors"].size == most
    with pytest.raises(CorruptCheckpointError, match=f"{most + 1} bytes, expected at most {most} for its tensors"):
        parse_manifest(changed(blobs={"model.safetensors": {**record, "size": most + 1}}))


@pytest.mark.parametrize("bound", ["MAX_TENSORS", "MAX_OBJECTS"])
def test_what_no_reader_would_take_is_neither_read_nor_written(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = example().dump()
    monkeypatch.setattr(strict_record, bound, 0)
    with pytest.raises(CorruptCheckpointError, match="more than the 0 allowed"):
        parse_manifest(data)
    with pytest.raises(StateError, match=r"no reader would take this manifest: .* more than the 0 allowed"):
        example().dump()


@pytest.mark.parametrize(
    "fields",
    [
        {"created": 1e300},
        {"created": -1.0},
        {"step": 10**18},
        {"position": {"loop": []}},
        {"lineage": [[3, "no checkpoint"]]},
        {"world": 2**31},
        {"objects": {"a b": {"kind": "x", "type": "x", "blobs": [], "tensors": {}}}},
    ],
)
def test_values_that_no_writer_would_write_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptCheckpointError):
        parse_manifest(changed(**fields))


def test_a_reason_is_short_and_holds_nothing_that_steers_a_terminal() -> None:
    with pytest.raises(CorruptCheckpointError) as caught:
        parse_manifest(changed(**{"\x1b[2J" + "x" * 10_000: 1}))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


def test_a_tensor_has_one_number_per_dimension() -> None:
    for field in ("global_shape", "offsets", "strides"):
        with pytest.raises(ValueError, match="differ in length"):
            tensor(**{field: [1]})


def test_the_format_document_names_every_field() -> None:
    text = Path(strict_record.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
    for record in (RunFile, AttemptFile, Manifest, ObjectRecord, BlobRecord, TensorRecord):
        for field in record.model_fields:
            assert f"`{field}`" in text
