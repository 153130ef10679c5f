"""Records of several ranks that somebody forged: refused in words, in bounded memory, by whoever reads them."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resumable import CheckpointError, CorruptCheckpointError, FormatVersionError, Run
from resumable.cli import app
from resumable.run import tensor_records
from resumable.run.rank_records import blobs_by_rank, refuse_bad_records
from resumable.run.tensor_records import joined_records
from resumable.state.tensors.boxes import Box
from resumable.store.digesting import digest_of
from resumable.store.documents.rank_state import RankState
from resumable.store.layout import state_name
from tests.faults.bounded import bounded
from tests.faults.forgery import Document, Forgery
from tests.ranks import Part, RankWriter, along

MIB = 2**20
STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Change = Callable[[int, Document], object]
"""Changes the state file of a rank before it is written, so that every digest fits."""


class Replay:
    def __init__(self) -> None:
        self.rows = torch.arange(60.0).reshape(20, 3)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


def divide(owner: str, key: str, tensor: Tensor) -> Iterable[Part]:
    """Rows on two ranks; slabs, a whole tensor on one rank, and a tensor of which each rank has its own copy."""
    if owner == "replay":
        return [Part(1, Box((first, 0), (10, 3)), None, "slabs") for first in (0, 10)]
    if key == "1.running_mean":
        return [Part(rank, value=tensor + rank) for rank in range(2)]
    return [Part(1)] if key == "1.running_var" else along(2)(owner, key, tensor)


def objects() -> dict[str, Any]:
    torch.manual_seed(1)
    tied = nn.Linear(6, 6)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), tied, nn.Linear(6, 6))
    net[3].weight = tied.weight
    return {"model": net, "replay": Replay(), "notes": {"seen": [1]}}


def written(run: Path, change: Change) -> None:
    RankWriter(run, 2, divide).save(1, **objects())
    RankWriter(run, 2, divide, change=change).save(2, **objects())


# -- what may be wrong with one state file, or with several -----------------------------------------------------------


def columns(rank: int, make: Callable[[Document], object], owner: str = "model") -> Change:
    """Other columns of an object in the state of one rank, or of both."""

    def change(number: int, state: Document) -> None:
        if rank in (number, BOTH):
            make(state["tensors"][owner])

    return change


BOTH = -1


def piece(name: str, *, owner: str = "model", rank: int = 1, **fields: Any) -> Change:
    """Another value in some columns of the piece of this tensor."""

    def make(table: Document) -> None:
        index = table["pieces"]["key"].index(table["keys"].index(name))
        for column, value in fields.items():
            table["pieces"][column][index] = value

    return columns(rank, make, owner)


def fact(key: str, column: str, value: Any, *, rank: int = 1) -> Change:
    def make(table: Document) -> None:
        table[column][table["keys"].index(key)] = value

    return columns(rank, make)


def table(column: str, value: Any, *, rank: int = 1, owner: str = "model") -> Change:
    return columns(rank, lambda held: held.update({column: value}), owner)


def pieces(column: str, make: Callable[[Any], Any], *, rank: int = 1) -> Change:
    return columns(rank, lambda held: held["pieces"].update({column: make(held["pieces"][column])}))


def without(key: str, *, rank: int = 1) -> Change:
    """The tensor without its piece."""

    def make(held: Document) -> None:
        index = held["pieces"]["key"].index(held["keys"].index(key))
        for name in ("key", "blob", "begin", "offsets", "shape"):
            del held["pieces"][name][index]
        held["pieces"]["own"] = [each - (each > index) for each in held["pieces"]["own"] if each != index]
        held["pieces"]["digest"] = held["pieces"]["digest"][: 32 * index] + held["pieces"]["digest"][32 * (index + 1) :]

    return columns(rank, make)


def gone(key: str, *, rank: int = 1) -> Change:
    """Nothing of the tensor at all."""

    def make(held: Document) -> None:
        number = held["keys"].index(key)
        for name in ("keys", "dtypes", "shapes"):
            del held[name][number]
        held["pieces"]["key"] = [each - (each > number) for each in held["pieces"]["key"]]

    remove = without(key, rank=rank)

    def change(number: int, state: Document) -> None:
        remove(number, state)
        columns(rank, make)(number, state)

    return change


def state(rank: int, make: Callable[[Document], object]) -> Change:
    return lambda number, document: make(document) if number == rank else None


def ranges(make: Callable[[dict[str, str]], object]) -> Change:
    return state(1, lambda document: make(document["ranges"]))


BLOB, OTHER, SLABS = (
    "model.rank00001.safetensors",
    "model.rank00000.safetensors",
    "replay.rank00001.slabs-s000000002-e0000.safetensors",
)
ROWS = "0.weight"  # [6, 4] in two times three rows
RECORDS: dict[str, tuple[Change, str]] = {
    # not a grid
    "a box moved over another": (piece(ROWS, offsets=[2, 0]), "a piece begins at 2 with size 3, expected one at 3"),
    "a box moved away": (piece(ROWS, offsets=[4, 0]), "a piece begins at 4 with size 3, expected one at 3"),
    "a box that is too small": (piece(ROWS, shape=[2, 4]), "the pieces end at 5, expected 6"),
    "a box that is too large": (piece(ROWS, shape=[4, 4], begin=8), "ends? at 7, expected 6|overlaps another"),
    "a box of fewer columns": (piece(ROWS, shape=[3, 3]), "a piece begins at 0 with size 4, expected one at 3"),
    "a box without elements": (piece(ROWS, offsets=[6, 0], shape=[0, 4]), "a piece begins at 6 with size 0"),
    "a box of other dimensions": (piece(ROWS, offsets=[3], shape=[3]), "1 offsets and 1 sizes, expected 2"),
    "a box of 65 dimensions": (piece(ROWS, offsets=[0] * 65, shape=[1] * 65), "at most 64"),
    "offsets without a shape": (piece(ROWS, shape=None), "offsets or a shape alone"),
    "a shape without offsets": (piece(ROWS, offsets=None), "offsets or a shape alone"),
    "a box that is the whole tensor": (piece("1.running_var", offsets=[0], shape=[6]), "written as null"),
    "a whole tensor where another rank has a box": (
        piece("0.bias", offsets=None, shape=None, begin=100),
        "overlaps another|in a tensor that is whole",
    ),
    "a negative offset": (piece(ROWS, offsets=[-1, 0]), "greater than or equal to 0"),
    "an offset beyond all numbers": (piece(ROWS, offsets=[2**63, 0]), "less than"),
    "an offset of text": (piece(ROWS, offsets=["3", 0]), "valid integer"),
    "an offset that is true": (piece(ROWS, offsets=[True, 0]), "valid integer"),
    "a part that no rank wrote": (gone(ROWS), "the pieces end at 3, expected 6"),
    # numbers
    "a key that is none": (piece(ROWS, key=10**6), "not the index of a key"),
    "a blob that is none": (piece(ROWS, blob=1), "not the index of a blob"),
    "a negative key": (piece(ROWS, key=-1), "greater than or equal to 0"),
    "one key in two pieces of a file": (piece(ROWS, key=1), "no piece|two pieces in"),
    "a piece in the header's length": (piece(ROWS, begin=7), "overlaps another, or an end"),
    "a piece behind the file": (piece(ROWS, begin=2**62), "overlaps another, or an end"),
    "two pieces at one place": (
        columns(1, lambda t: t["pieces"].update(begin=[t["pieces"]["begin"][0]] * len(t["keys"]))),
        "overlaps another|differ in length",
    ),
    "a column that is shorter": (pieces("begin", lambda held: held[:-1]), "differ in length"),
    "too few digests": (pieces("digest", lambda held: held[:-32]), "differ in length"),
    "half a digest": (pieces("digest", lambda held: held[:-16]), "pattern"),
    "a digest in capitals": (pieces("digest", lambda held: held.upper()), "pattern"),
    "a digest with an escape": (pieces("digest", lambda held: "\x1b" + held[1:]), "pattern"),
    # copies
    "the own copy of one rank alone": (pieces("own", lambda held: []), "the own copy of one rank alone"),
    "copies that none calls its own": (
        columns(BOTH, lambda t: t["pieces"].update(own=[])),
        "recorded twice",
    ),
    "an own copy that no other rank has": (
        pieces("own", lambda held: sorted({0, *held})),
        "the own copy of one rank alone|recorded twice",
    ),
    "an own copy of no piece": (pieces("own", lambda held: [10**6]), "own: not an ascending list"),
    "an own copy twice": (pieces("own", lambda held: held * 2), "own: not an ascending list"),
    # facts
    "another dtype": (fact(ROWS, "dtypes", "int32"), "rank 1 records"),
    "another shape": (fact(ROWS, "shapes", [7, 4]), "rank 1 records"),
    "a shape of other dimensions": (fact(ROWS, "shapes", [6, 4, 1]), "rank 1 records"),
    "strides of boxes": (table("strides", {ROWS: [1, 6]}, rank=BOTH), "has strides, and is in parts"),
    "strides of fewer dimensions": (table("strides", {"1.running_var": []}), "shape and strides differ in length"),
    "strides of what is no key": (table("strides", {"x": [1]}), "not a key of this object"),
    "a key twice": (fact(ROWS, "keys", "0.bias"), "a key is there twice"),
    "more keys than dtypes": (columns(1, lambda t: t["keys"].append("x")), "differ in length"),
    "a tensor without a piece": (without(ROWS), f"'{ROWS}': no piece"),
    "a dtype with an escape": (fact(ROWS, "dtypes", "\x1b[31m", rank=BOTH), "pattern"),
    "an unknown dtype": (fact(ROWS, "dtypes", "float33", rank=BOTH), "unknown dtype|expected float33"),
    # aliases
    "an alias of itself": (table("aliases", {"3.weight": "3.weight"}), "an alias of '3.weight'"),
    "aliases in a circle": (table("aliases", {"3.weight": "2.weight", "2.weight": "3.weight"}), "an alias of"),
    "an alias of what is not there": (table("aliases", {"3.weight": "x"}), "an alias of 'x'"),
    "an alias of another tensor": (table("aliases", {"3.weight": ROWS}), f"an alias of '{ROWS}'"),
    "an alias with pieces": (
        table("aliases", {"3.weight": "2.weight", "2.bias": "3.bias"}),
        "'2.bias': an alias, and has pieces",
    ),
    "an alias for one rank alone": (
        columns(
            1,
            lambda t: (
                t["aliases"].clear(),
                t["keys"].remove("3.weight"),
                t["dtypes"].pop(),
                t["shapes"].pop(),
                t["keys"].append("3.weight2"),
                t["dtypes"].append("float32"),
                t["shapes"].append([6, 6]),
                t["aliases"].update({"3.weight2": ROWS}),
            ),
        ),
        "an alias of",
    ),
    # sizes
    "a whole tensor of exabytes": (
        columns(1, lambda t: t["shapes"].__setitem__(t["keys"].index("1.running_var"), [2**60])),
        "overlaps another, or an end",
    ),
    "64 dimensions beyond all numbers": (fact("1.running_var", "shapes", [2**62] * 64), "overlaps another, or an end"),
    "a tensor of exabytes, of a dtype whose size takes torch": (
        columns(
            1,
            lambda t: (
                t["dtypes"].__setitem__(i := t["keys"].index("1.running_var"), "bits16"),
                t["shapes"].__setitem__(i, [2**60]),
            ),
        ),
        "expected bits16|more than the memory",
    ),
    # blobs
    "the blob of another rank": (table("blobs", [OTHER]), f"{BLOB}|{OTHER}"),
    "the blob of another object": (
        table("blobs", ["notes.rank00001.safetensors"]),
        "named by the manifest or the records",
    ),
    "a blob that goes up": (table("blobs", ["../../etc/passwd"]), "named by the manifest or the records"),
    "a blob twice": (table("blobs", [BLOB, BLOB]), "duplicate name"),
    "a blob without a piece": (table("blobs", [BLOB, SLABS]), "no piece of model is in it"),
    "a blob that no record names": (
        state(1, lambda d: (d["tensors"].pop("replay"), d["ranges"].pop(SLABS))),
        "not by both",
    ),
    # ranges
    "no ranges": (ranges(lambda held: held.clear()), "no ranges, or no records"),
    "a wrong range": (ranges(lambda held: held.update({BLOB: "0" * 32})), "its ranges are not those"),
    "one range more": (ranges(lambda held: held.update({BLOB: held[BLOB] * 2})), "its ranges are not those"),
    "not one range": (ranges(lambda held: held.update({BLOB: ""})), "its ranges are not those"),
    "ranges of what is not there": (
        ranges(lambda held: held.update({"x.safetensors": "0" * 32})),
        "no ranges, or no records",
    ),
    # slabs
    "a slab of some columns": (
        columns(
            1,
            lambda t: t["pieces"].update(offsets=[[0, 0], [0, 1]], shape=[[20, 1], [20, 2]], begin=[4096, 4176]),
            "replay",
        ),
        "a slab that is not a run of whole rows",
    ),
    "a slab without rows": (piece("rows", owner="replay", shape=[0, 3]), "a piece begins at 0 with size 0"),
    "a slab under another row": (
        columns(1, lambda t: t["pieces"].update(begin=t["pieces"]["begin"][::-1]), "replay"),
        "begins at byte|digest differs",
    ),
    # documents
    "an object that is none": (state(1, lambda d: d["tensors"].update(x=d["tensors"]["model"])), "'x': not an object"),
    "a document of what is none": (state(1, lambda d: d["objects"].update(x={})), "'x': not an object"),
    "no document of an object": (
        state(0, lambda d: d["objects"].pop("notes")),
        "not a document for each object: 'notes'",
    ),
    "no records of an object": (state(1, lambda d: (d["tensors"].pop("model"), d["ranges"].pop(BLOB))), "not by both"),
    "a column that is none": (columns(1, lambda t: t.update(x=1)), "Extra inputs"),
    "a column of pieces that is none": (columns(1, lambda t: t["pieces"].update(x=1)), "Extra inputs"),
    "records that are a list": (state(1, lambda d: d["tensors"].update(model=[])), "valid dictionary"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize(("change", "reason"), RECORDS.values(), ids=RECORDS.keys())
def test_forged_records_are_refused_by_all_who_read_them(tmp_path: Path, change: Change, reason: str) -> None:
    run = tmp_path / "run"
    written(run, change)
    spent = bounded(lambda: refusals(run), memory_bytes=64 * MIB)
    verified, loaded, older = spent.result
    assert older == "right"
    assert re.search(reason, verified), verified
    assert loaded != "right"
    for text in (verified, loaded):
        assert len(text) < 1500
        assert not STEERING.search(text), text


def refusals(run: Path) -> list[str]:
    newest, older = Run(str(run)).checkpoints()[::-1][:2]
    assert (newest.step, older.step) == (2, 1)
    return [outcome(newest.verify), outcome(lambda: everything(run, 2)), outcome(older.verify)]


def everything(run: Path, step: int) -> None:
    """Verify as whoever goes on from a checkpoint does, and load it."""
    checkpoint = Run(str(run)).at(step)
    checkpoint.verify()
    for name in checkpoint.manifest.objects:
        checkpoint.load(name)


def outcome(action: Callable[[], object]) -> str:
    try:
        action()
    except CorruptCheckpointError as error:
        return str(error)
    except CheckpointError as error:
        return str(error)
    return "right"


def test_the_unforged_run_is_right(tmp_path: Path) -> None:
    written(tmp_path / "run", lambda rank, state: None)
    everything(tmp_path / "run", 2)


# -- what may be wrong with a manifest of several ranks ---------------------------------------------------------------

SECOND = state_name(1)
MANIFESTS: dict[str, tuple[Callable[[Document], object], str]] = {
    "a rank without a state": (lambda m: m["blobs"].pop(SECOND), "state.rank00001.json: not among the blobs"),
    "more ranks than states": (lambda m: m.update(world=65_536), "state.rank00002.json: not among the blobs"),
    "fewer ranks than states": (lambda m: m.update(world=1), "of rank 1, expected less than 1"),
    "a state of another rank": (lambda m: m["blobs"][SECOND].update(rank=0), "of rank 0, expected 1"),
    "a blob of another rank": (lambda m: m["blobs"][BLOB].update(rank=0), "of rank 0, expected 1"),
    "the state of one rank twice": (
        lambda m: m["blobs"].update({SECOND: {**m["blobs"][state_name(0)], "rank": 1}}),
        "expected a file of the same name",
    ),
    "one file under two names": (
        lambda m: m["blobs"][BLOB].update(path=m["blobs"][OTHER]["path"]),
        "expected a file of the same name",
    ),
    "a state of another checkpoint": (
        lambda m: m["blobs"][SECOND].update(
            path=m["blobs"][SECOND]["path"].replace("000000002.e0000.a0002", "000000001.e0000.a0001")
        ),
        "shared, which no state file is",
    ),
    "a state that was shared": (lambda m: m["blobs"][SECOND].update(named=2), "shared, which no state file is"),
    "a blob that ages for ever": (lambda m: m["blobs"][BLOB].update(named=11), "less than or equal to 10"),
    "an object that nobody describes": (lambda m: m["objects"].update(x={"kind": "x", "type": "x"}), "'x'"),
    "notes beyond their bound": (lambda m: m.update(notes={"x": "y" * 70_000}), "notes: 70"),
    "notes that are a list": (lambda m: m.update(notes=[]), "valid dictionary"),
    "more than a hundred features": (lambda m: m.update(features=[7] * 101), "features"),
    "more ranks than any": (lambda m: m.update(world=65_537), "world"),
    "a mesh of text": (lambda m: m.update(mesh="2x2"), "mesh"),
}


@pytest.mark.parametrize(("change", "reason"), MANIFESTS.values(), ids=MANIFESTS.keys())
def test_forged_manifests_of_several_ranks_are_refused(
    tmp_path: Path, change: Callable[[Document], object], reason: str
) -> None:
    run = tmp_path / "run"
    written(run, lambda rank, state: None)
    Forgery(run).change_manifest(change)
    text = bounded(lambda: said("verify", str(run)), memory_bytes=64 * MIB).result
    assert re.search(reason, text.replace("\n", " ")), text
    assert not STEERING.search(text), text


def said(*arguments: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text), pytest.raises(SystemExit, match="1"):
        app([*arguments, "--json"])
    return " ".join(map(str, walked(json.loads(text.getvalue()))))


def walked(document: Any) -> Iterable[object]:
    for each in document.values() if isinstance(document, dict) else document:
        if isinstance(each, dict | list):
            yield from walked(each)
        else:
            yield each


def test_a_feature_that_nobody_knows_is_of_a_newer_version(tmp_path: Path) -> None:
    run = tmp_path / "run"
    written(run, lambda rank, state: None)
    Forgery(run).change_manifest(lambda manifest: manifest.update(features=["node_files\x1b[2J"]))
    with pytest.raises(FormatVersionError, match=r"uses the feature node_files\\x1b\[2J") as caught:
        Run(str(run)).latest()
    assert "upgrade" in str(caught.value.hint)


def test_the_blob_of_another_rank_under_this_name_is_found(tmp_path: Path) -> None:
    """Its digests fit, and its tensors are of the same names and shapes."""
    run = tmp_path / "run"
    written(run, lambda rank, state: None)
    forgery = Forgery(run)
    data = (forgery.folder / OTHER).read_bytes()
    (forgery.folder / BLOB).write_bytes(data)
    digest = digest_of([memoryview(data)])
    forgery.record(BLOB, size=len(data), digest=digest.value)
    document = json.loads((forgery.folder / SECOND).read_bytes())
    document["ranges"][BLOB] = "".join(digest.ranges)
    forgery.write_blob(SECOND, json.dumps(document).encode())
    with pytest.raises(CorruptCheckpointError, match=BLOB):
        Run(str(run)).latest().verify()


# -- many of something ------------------------------------------------------------------------------------------------


def many(count: int, *, own: bool = False, boxes: bool = False) -> Change:
    """A rank of many pieces without elements, or of boxes of one element each."""

    def change(rank: int, state: Document) -> None:
        held = state["tensors"]["model"]
        keys = [f"{rank}.{number:x}" for number in range(count)] if not boxes else ["many"]
        held.update(
            keys=keys,
            dtypes=["float32"] * len(keys),
            shapes=[[count]] if boxes else [[0]] * count,
            aliases={},
            strides={},
        )
        held["pieces"] = {
            "key": [0] * count if boxes else list(range(count)),
            "blob": [0] * count,
            "begin": [8 + 4 * number for number in range(count)] if boxes else [8] * count,
            "offsets": [[number] for number in range(count)] if boxes else [None] * count,
            "shape": [[1]] * count if boxes else [None] * count,
            "own": list(range(count)) if own else [],
            "digest": "0123456789abcdef" * 2 * count,
        }

    return change


def forged(run: Path, change: Change) -> None:
    """A run whose newest checkpoint has state files that no writer would write."""
    written(run, lambda rank, state: None)
    forgery = Forgery(run)
    document = json.loads((forgery.folder / SECOND).read_bytes())
    change(1, document)
    forgery.write_blob(SECOND, json.dumps(document, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (many(250_000), "250001 tensors, more than the 250000 allowed"),
        (many(249_998), "the own copy of one rank alone"),
        pytest.param(
            many(249_999, boxes=True), "250001 pieces, more than the 250000 allowed", marks=pytest.mark.matrix
        ),
        pytest.param(many(100_000, boxes=True), "two pieces in", marks=pytest.mark.matrix),
    ],
    ids=["one tensor too many", "as many tensors as there may be", "one box too many", "a hundred thousand boxes"],
)
def test_many_pieces_are_refused_or_read_within_the_bounds(tmp_path: Path, change: Change, reason: str) -> None:
    forged(tmp_path / "run", change)
    spent = bounded(lambda: outcome(Run(str(tmp_path / "run")).latest().verify), memory_bytes=512 * MIB)
    assert re.search(reason, spent.result), spent.result


def test_more_pieces_than_a_checkpoint_may_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "run", lambda rank, state: None)
    total = Run(str(tmp_path / "run")).latest()
    count = sum(
        len(record.pieces) for records in total.records.values() for record in records.values() if not record.alias
    )
    monkeypatch.setattr(tensor_records, "MAX_PIECES", count)
    with pytest.raises(CorruptCheckpointError, match=f"{count + 1} pieces, more than the {count} allowed"):
        Run(str(tmp_path / "run")).latest().verify()
    monkeypatch.setattr(tensor_records, "MAX_PIECES", count + 1)
    Run(str(tmp_path / "run")).latest().verify()
    monkeypatch.setattr(tensor_records, "MAX_PIECES_OF_TENSOR", 1)
    with pytest.raises(CorruptCheckpointError, match="2 pieces of one tensor, more than the 1 allowed"):
        Run(str(tmp_path / "run")).latest().verify()


def test_the_check_of_many_ranks_takes_time_in_proportion_to_them(tmp_path: Path) -> None:
    """Each looked through the blobs and the objects of all once: minutes of CPU for a few megabytes."""
    written(tmp_path / "run", lambda rank, state: None)
    found = Run(str(tmp_path / "run")).latest().manifest
    blob, an_object = found.blobs[state_name(0)], found.objects["model"]
    manifest = found.model_copy(
        update={
            "world": 40_000,
            "blobs": {state_name(rank): blob.model_copy(update={"rank": rank}) for rank in range(40_000)},
            "objects": {f"part{number}": an_object for number in range(10_000)},
        }
    )
    empty = RankState(objects={}, rng=None, position=None, ranges={}, tensors={})

    def check() -> int:
        of_ranks = blobs_by_rank(manifest)
        for rank in range(manifest.world):
            refuse_bad_records(manifest, of_ranks.get(rank, ()), rank, empty)
        return len(joined_records(manifest, dict.fromkeys(range(manifest.world), empty)))

    assert bounded(check, cpu_seconds=10).result == 10_000
