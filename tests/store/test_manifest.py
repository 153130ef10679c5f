"""The JSON documents: what they keep, and what they refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from resumable.errors import CorruptCheckpointError, FormatVersionError, StateError
from resumable.store.documents import strict_record
from resumable.store.documents.earlier_versions import EarlierObjectRecord, EarlierTensorRecord
from resumable.store.documents.manifest import AttemptFile, BlobRecord, Manifest, Mesh, ObjectRecord, RunFile
from resumable.store.documents.parse_documents import (
    parse_attempt_file,
    parse_earlier_objects,
    parse_manifest,
    parse_run_file,
)
from resumable.store.documents.rank_state import ObjectColumns, PieceColumns, RankState
from resumable.store.documents.sealed_json import digest

FOLDER = "checkpoints/step-000000500.e0002.a0003"
DIGEST = "0123456789abcdef" * 2


def tensor(**fields: Any) -> EarlierTensorRecord:
    facts: dict[str, Any] = {
        "dtype": "float32",
        "shape": [2, 3],
        "global_shape": [2, 3],
        "offsets": [0, 0],
        "digest": DIGEST,
    }
    return EarlierTensorRecord(**{**facts, **fields})


def example() -> Manifest:
    record = BlobRecord(path=f"{FOLDER}/model.safetensors", rank=0, size=48, named=1, digest=DIGEST)
    return Manifest(
        features=[],
        notes={"written by": ["a", "test"]},
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
        world=2,
        mesh=Mesh(names=["dp"], shape=[2], hosts=[2]),
        finished=False,
        reason="steps",
        created=1.25,
        objects={"model": ObjectRecord(kind="module", type="Linear")},
        blobs={"model.safetensors": record},
    )


def scalar() -> EarlierTensorRecord:
    return tensor(shape=[], global_shape=[], offsets=[])


def blob(path: str, **fields: Any) -> dict[str, Any]:
    return {"path": path, "rank": 0, "size": 1, "named": 1, "digest": DIGEST, **fields}


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
    newer = sealed({"format_version": 4, "unheard": "of"})
    with pytest.raises(FormatVersionError, match="format version 4, expected at most 3") as caught:
        parse_manifest(newer)
    assert "upgrade" in str(caught.value.hint)
    with pytest.raises(CorruptCheckpointError, match="its digest differs"):
        parse_manifest(newer.replace(b'"format_version":4', b'"format_version":5'))


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
        ({"world": 65_537}, "world"),
        ({"features": "none"}, "features"),
        ({"notes": []}, "notes"),
        ({"notes": {"long": "x" * 2**16}}, "notes: 65547 bytes, more than the 65536 allowed"),
        ({"mesh": {"names": ["dp"]}}, "mesh.shape"),
        ({"blobs": {"x.safetensors": blob(f"{FOLDER}/x.safetensors", rank=2)}}, "of rank 2, expected less than 2"),
        ({"blobs": {"x.safetensors": blob(f"{FOLDER}/x.safetensors", named=0)}}, "named"),
        ({"blobs": {"x.safetensors": blob(f"{FOLDER}/x.safetensors", named=11)}}, "named"),
        (
            {"blobs": {"state.rank00000.json": blob(f"{FOLDER}/state.rank00000.json", size=2**26 + 1)}},
            "67108865 bytes, expected at most 67108864",
        ),
        ({"objects": {"model": {"kind": "module", "type": "Linear", "blobs": []}}}, "objects.model.blobs"),
        ({"objects": {"model": {"kind": "module", "type": "Linear", "tensors": {}}}}, "objects.model.tensors"),
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


def test_a_feature_that_is_unknown_is_refused_as_a_newer_version_is() -> None:
    with pytest.raises(FormatVersionError, match="uses the feature spirals of the format") as caught:
        parse_manifest(changed(features=["spirals"]))
    assert "upgrade" in str(caught.value.hint)


def test_notes_that_are_unknown_are_read_over() -> None:
    assert parse_manifest(changed(notes={"unheard": {"of": [1, None]}})).notes == {"unheard": {"of": [1, None]}}


# -- earlier versions -------------------------------------------------------------------------------------------------

TENSORS = {"weight": tensor(strides=[1, 2]), "tied": tensor(strides=[1, 2], alias="weight"), "scalar": scalar()}


def earlier(version: int = 2, *, without: str = "", all_blobs: Any = None, **part: Any) -> bytes:
    """The manifest of `example`, as an earlier version of the format wrote it."""
    document = json.loads(changed())
    for key in ("digest", "features", "notes", "mesh"):
        del document[key]
    del document["blobs"]["model.safetensors"]["named"]
    tensors = {key: record.model_dump() for key, record in TENSORS.items()}
    home = {"blob": "model.safetensors"} if version == 1 else {"blobs": ["model.safetensors"]}
    document["objects"]["model"] |= {"tensors": tensors, **home, **part}
    document["objects"]["model"].pop(without, None)
    return sealed({**document, "format_version": version, **({"blobs": all_blobs} if all_blobs else {})})


@pytest.mark.parametrize("version", [1, 2])
def test_an_earlier_version_is_read_as_if_the_present_one_had_written_it(version: int) -> None:
    found = parse_manifest(earlier(version))
    assert found.format_version == version
    assert {name: blob.named for name, blob in found.blobs.items()} == {"model.safetensors": 10}, "it is never shared"
    same = {"format_version", "features", "notes", "mesh", "blobs"}
    assert found.model_dump(exclude=same) == parse_manifest(changed()).model_dump(exclude=same)
    model = parse_earlier_objects(earlier(version)).objects["model"]
    assert (model.blobs, model.tensors) == (["model.safetensors"], TENSORS)
    run = RunFile.new(data_seed=1)
    assert parse_run_file(sealed({**run.model_dump(), "format_version": version})) == run


def test_an_object_of_the_first_version_may_have_no_blob() -> None:
    assert parse_earlier_objects(earlier(1, blob=None, tensors={})).objects["model"].blobs == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (earlier(1, blobs=["model.safetensors"]), "objects.model: expected blob and tensors"),
        (earlier(1, without="blob"), "objects.model: expected blob and tensors"),
        (earlier(2, blob="model.safetensors"), "objects.model: expected blobs and tensors"),
        (earlier(2, without="blobs"), "objects.model: expected blobs and tensors"),
        (earlier(2, without="tensors"), "objects.model: expected blobs and tensors"),
        (changed(format_version=2), "features: not a key of version 2"),
        (earlier(2, all_blobs={"x.safetensors": blob(f"{FOLDER}/x.safetensors")}), "named: not a key of version 2"),
        (sealed({"format_version": True}), "format_version"),
    ],
)
def test_two_versions_are_never_mixed(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptCheckpointError) as caught:
        parse_manifest(data)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (earlier(1, blob=5), "objects.model.blobs.0"),
        (earlier(1, blob=None), "3 tensors, and no blob for them"),
        (earlier(2, blobs_of=1), "objects.model.blobs_of"),
        (earlier(2, tensors={"a": {}}), "objects.model.tensors.a"),
        (earlier(2, tensors={"a": tensor().model_dump() | {"dtype": "\x1b[31m"}}), "dtype"),
    ],
)
def test_malformed_records_of_an_earlier_version_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptCheckpointError) as caught:
        parse_earlier_objects(data)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("blobs", "reason"),
    [
        (["model.safetensors", "model.safetensors"], "duplicate name"),
        ([], "3 tensors, and no blob for them"),
        (None, "blobs"),
        ("model.safetensors", "blobs"),
    ],
)
def test_the_blobs_of_an_object_are_there_and_each_once(blobs: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        EarlierObjectRecord(kind="module", type="x", blobs=blobs, tensors=TENSORS)


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
            EarlierObjectRecord(kind="module", type="x", blobs=["a.safetensors"], tensors=tensors)


def test_an_alias_must_be_the_tensor_that_it_leads_to() -> None:
    with pytest.raises(ValueError, match="'b' is an alias of 'a', which is another tensor"):
        EarlierObjectRecord(
            kind="module", type="x", blobs=["a.safetensors"], tensors={"a": tensor(), "b": scalar_of("a")}
        )


def scalar_of(alias: str) -> EarlierTensorRecord:
    return tensor(shape=[], global_shape=[], offsets=[], alias=alias)


def test_what_no_reader_would_take_is_neither_read_nor_written(monkeypatch: pytest.MonkeyPatch) -> None:
    data = example().dump()
    monkeypatch.setitem(strict_record._PARTS, "objects", 0)
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
        {"objects": {"a b": {"kind": "x", "type": "x"}}},
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
    text = (Path(strict_record.__file__).parents[1] / "FORMAT.md").read_text(encoding="utf-8")
    records = (RunFile, AttemptFile, Manifest, ObjectRecord, BlobRecord, RankState, ObjectColumns, PieceColumns)
    for record in (*records, EarlierObjectRecord, EarlierTensorRecord):
        for field in record.model_fields:
            assert f"`{field}`" in text
