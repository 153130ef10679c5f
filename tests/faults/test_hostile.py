"""Checkpoints that somebody forged: refused in words, in bounded memory and time, and nothing else is touched."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xxhash

from resumable import CorruptCheckpointError, ResumableError, Run
from resumable.cli import app
from resumable.store.catalog import Catalog
from resumable.store.digesting import RANGE_BYTES
from resumable.store.layout import ATTEMPTS, CHECKPOINTS, MANIFEST, PINS, RUN_FILE
from resumable.store.storage.local import LocalStorage
from resumable.store.storage.protocol import Entry
from tests.faults.bounded import bounded
from tests.faults.forgery import STATE_BLOB, Document, Forgery, sealed_bytes
from tests.tiny import Tiny, crashed

OLDER, NEWEST = "step-000000004.e0000.a0001", "step-000000006.e0001.a0001"
MIB = 2**20
# What reading any one checkpoint may take beyond what the program takes at rest. Most take next to nothing.
SMALL_BYTES, LARGE_BYTES = 128 * MIB, 1024 * MIB
STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")

Harm = Callable[[Forgery], object]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("hostile") / "run"
    crashed(run, step=7, keep={"last": 3})
    return run


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


# -- what is done with a run ------------------------------------------------------------------------------------------


def read(run: Path) -> list[str]:
    """Look at every checkpoint, verify it and load what is in it; the names of those that can be had."""
    good = []
    for checkpoint in Run(str(run)).checkpoints():
        try:
            checkpoint.verify()
            for name in checkpoint.manifest.objects:
                checkpoint.load(name)
            checkpoint.inline_tree("position")
            good.append(checkpoint.name)
        except ResumableError:
            continue
    return good


def shown(run: Path) -> str:
    """What `ls`, `show`, `verify` and `prune --dry-run` print about a run; that they end as programs should."""
    text = io.StringIO()
    for arguments in (["ls"], ["ls", "--json"], ["show"], ["show", "--json"], ["verify"], ["verify", "--json"]):
        text.write(_said([*arguments, str(run)]))
    return text.getvalue() + _said(["prune", "--dry-run", str(run)])


def _said(arguments: list[str]) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            app(arguments)
        except SystemExit as ended:
            if ended.code not in (0, 1):
                raise AssertionError(text.getvalue()) from ended
        except ResumableError as error:
            text.write(str(error))
    return text.getvalue()


def train(run: Path) -> str:
    """Restore and take one step, as the first moments of a launch do; where it resumed."""
    with Tiny(run, saves=()).trainer() as trainer:
        for _ in trainer.epochs(2):
            for _ in trainer.batches(Tiny(run).loader):
                return str(trainer.resumed_from)
    raise AssertionError("nothing was left to train")


# -- one file after the other: rejected, and the one before is used ---------------------------------------------------


def manifest(**fields: Any) -> Harm:
    return lambda forgery: forgery.change_manifest(lambda document: document.update(fields))


def tensor(**facts: Any) -> Harm:
    """Other facts of one tensor."""
    return lambda forgery: forgery.change_tensor("model", "0.weight", **facts)


def aliases(forgery: Forgery) -> None:
    tensor(aliases="0.bias")(forgery)
    forgery.change_tensor("model", "0.bias", aliases="0.weight")


def blob(**fields: Any) -> Harm:
    return lambda forgery: forgery.record("model.safetensors", **fields)


def manifest_text(make: Callable[[bytes], bytes]) -> Harm:
    """A manifest made of another's text."""

    def harm(forgery: Forgery) -> None:
        text = json.dumps(forgery.manifest(), separators=(",", ":")).encode()
        forgery.write_manifest(sealed_bytes(make(text)))

    return harm


def put(name: str, make: Callable[[Path], object]) -> Harm:
    """Something else where a file or folder of the checkpoint, or of the run, was."""

    def harm(forgery: Forgery) -> None:
        path = (forgery.run if name.startswith("/") else forgery.folder) / name.strip("/")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        make(path)

    return harm


def sparse(size_bytes: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size_bytes)

    return make


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def own_link(path: Path) -> None:
    """A link to a file with the very bytes that belong there."""
    other = path.parents[2].parent / f"kept-{path.name}"
    path.symlink_to(other)


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("needs root: makes a device")


def terabyte_in_a_sparse_file(forgery: Forgery) -> None:
    put("model.safetensors", sparse(2**40))(forgery)
    blob(size=2**40)(forgery)


LONG = "x" * 10_000
REJECTED: dict[str, Harm] = {
    "a terabyte is named and not there": blob(size=2**40),
    "a terabyte is named and there, in a sparse file": terabyte_in_a_sparse_file,
    "a blob of exabytes": blob(size=2**63 - 1),
    "a negative size": blob(size=-1),
    "a path that goes up": blob(path="checkpoints/../../secret.safetensors"),
    "a path that goes up from a checkpoint": blob(path=f"checkpoints/{NEWEST}/../../../secret.safetensors"),
    "an absolute path": blob(path="/etc/passwd"),
    "a path with a backslash": blob(path=f"checkpoints\\{NEWEST}\\model.safetensors"),
    "a path with a NUL": blob(path=f"checkpoints/{NEWEST}/model.safetensors\0"),
    "a path of another kind of file": blob(path="run.json"),
    "a name that goes up": manifest(objects={"../model": {"kind": "module", "type": "x"}}),
    "a name with an escape": manifest(objects={"\x1b[2J": {"kind": "module", "type": "x"}}),
    "a step beyond all names": manifest(step=10**18),
    "a time beyond all calendars": manifest(created=1e300),
    "a lineage whose first parent is no checkpoint": manifest(lineage=[[1, "/etc/passwd"]]),
    "a position that is a tree": manifest(position={"loop": ["epochs"]}),
    "a world of four thousand digits": manifest(world=int("9" * 4000)),
    "an integer of four million digits": manifest_text(lambda text: text[:-1] + b',"n":' + b"9" * 4_000_000 + b"}"),
    "a float beyond all floats": manifest_text(lambda text: text.replace(b'"created":', b'"created":1e999,"x":')),
    "NaN": manifest_text(lambda text: text.replace(b'"metrics":{', b'"metrics":{"x":NaN,')),
    "a key that stands twice": manifest_text(lambda text: text.replace(b'"world":1', b'"world":1,"world":1')),
    "nested five million deep": manifest_text(lambda text: b'{"a":' + b"[" * 5_000_000 + b"}"),
    "five million brackets without partners": manifest_text(lambda text: b'{"a":' + b"]" * 5_000_000 + b"}"),
    "a hundred megabytes": manifest_text(lambda text: text[:-1] + b" " * 100 * 10**6 + b"}"),
    "nothing but quotes": manifest_text(lambda text: b'"' * (4 * MIB) + b"}"),
    "a manifest of a terabyte": put(MANIFEST, sparse(2**40)),
    "a manifest that is a pipe": put(MANIFEST, os.mkfifo),
    "a manifest that is a folder": put(MANIFEST, Path.mkdir),
    "a manifest that is a device": put(MANIFEST, device),
    "a manifest that is a link": put(MANIFEST, own_link),
    "a manifest that is a link to itself": put(MANIFEST, link(MANIFEST)),
    "a blob that is a pipe": put("model.safetensors", os.mkfifo),
    "a blob that is a folder": put("model.safetensors", Path.mkdir),
    "a blob that is a device": put("model.safetensors", device),
    "a blob that is a link out of the run": put("model.safetensors", own_link),
    "a blob that is a link to /etc/passwd": put("model.safetensors", link("/etc/passwd")),
    "a blob that is a link to an endless device": put("model.safetensors", link("/dev/zero")),
    "a checkpoint that is a link to another": put(f"/{CHECKPOINTS}/{NEWEST}", link(OLDER)),
    "a checkpoint that is a link to /etc": put(f"/{CHECKPOINTS}/{NEWEST}", link("/etc")),
}


@pytest.mark.parametrize("harm", REJECTED.values(), ids=REJECTED.keys())
def test_it_is_rejected_with_a_short_reason_and_the_one_before_is_used(run: Path, harm: Harm) -> None:
    assert_passed_over(run, harm)


def assert_passed_over(run: Path, harm: Harm) -> None:
    for name in (MANIFEST, "model.safetensors"):  # what links may lead to: bytes that would be right
        shutil.copy(run / CHECKPOINTS / NEWEST / name, run.parent / f"kept-{name}")
    harm(Forgery(run))

    def work() -> list[Any]:
        return [read(run), shown(run), train(run)]

    spent = bounded(work, memory_bytes=LARGE_BYTES if "hundred" in str(harm) else 512 * MIB)
    good, text, resumed_from = spent.result
    assert (good[-1], resumed_from) == (OLDER, OLDER)
    assert NEWEST in text
    assert len(text) < 100_000
    assert not STEERING.search(text), STEERING.search(text)


# -- forged with digests that fit: found when it is read --------------------------------------------------------------


def state(change: Callable[[Document], object]) -> Harm:
    return lambda forgery: forgery.change_state(change)


def notes(value: Any) -> Harm:
    """Another value in the loop's own dict."""
    return state(lambda document: document["objects"]["notes"].update(seen=value))


def state_text(make: Callable[[bytes], bytes]) -> Harm:
    def harm(forgery: Forgery) -> None:
        forgery.write_blob(STATE_BLOB, make((forgery.folder / STATE_BLOB).read_bytes()))

    return harm


def header(make: Callable[[Document], Any]) -> Harm:
    """Another safetensors header before the same tensors; bytes as they are."""

    def harm(forgery: Forgery) -> None:
        data = (forgery.folder / "model.safetensors").read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        table = make(json.loads(data[8 : 8 + length]))
        text = table if isinstance(table, bytes) else json.dumps(table).encode()
        forgery.write_blob("model.safetensors", struct.pack("<Q", len(text)) + text + data[8 + length :])

    return harm


def entry(**fields: Any) -> Harm:
    return header(lambda table: {**table, "0.weight": {**table["0.weight"], **fields}})


def header_length(length: int) -> Harm:
    def harm(forgery: Forgery) -> None:
        data = (forgery.folder / "model.safetensors").read_bytes()
        forgery.write_blob("model.safetensors", struct.pack("<Q", length) + data[8:])

    return harm


def shifted(table: Document) -> Document:
    table["0.bias"]["data_offsets"] = table["0.weight"]["data_offsets"]
    return table


def gapped(table: Document) -> Document:
    for item in table.values():
        if "data_offsets" in item:
            item["data_offsets"] = [place + 4 for place in item["data_offsets"]]
    return table


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


def inline(**fields: Any) -> Document:
    return {"$inline": {"dtype": "float32", "shape": [1], "strides": None, "data": "AAAAAA=="} | fields}


def array(**fields: Any) -> Document:
    return {"$ndarray": {"dtype": "<f4", "shape": [1], "order": "C", "data": "AAAAAA=="} | fields}


def rng(path: str, value: Any) -> Harm:
    """Another value in the state of a random stream, under the names of `path`."""

    def change(document: Document) -> None:
        node = document["rng"]
        *way, last = path.split("/")
        for key in way:
            node = node[key]
        node[last] = value

    return state(change)


def position(**fields: Any) -> Harm:
    return state(lambda document: document["position"].update(fields))


def torch_head(*head: int) -> Harm:
    """Another head (seed, left, seeded, next) of torch's generator."""
    import base64

    def change(document: Document) -> None:
        node = document["rng"]["torch"]["$inline"]
        data = base64.b64decode(node["data"])
        node["data"] = base64.b64encode(struct.pack("<QiiQ", *head) + data[24:]).decode()

    return state(change)


OTHER_FILES: dict[str, Harm] = {
    "header of 2^62 bytes": header_length(2**62),
    "header longer than the file": header_length(10**6),
    "header that is no object": header(lambda table: b"[]"),
    "header nested five million deep": header(lambda table: b'{"a":' + b"[" * 5_000_000),
    "header with a key twice": header(lambda table: json.dumps(table).encode()[:-1] + b',"0.bias":1,"0.bias":2}'),
    "overlapping tensors": header(shifted),
    "a gap before the tensors": header(gapped),
    "a tensor outside of the file": entry(data_offsets=[0, 2**40]),
    "a tensor of overflowing shape": entry(shape=[2**40, 2**40]),
    "a tensor of negative shape": entry(shape=[-4, -2]),
    "a tensor of 10^6 dimensions": entry(shape=[1] * 10**6),
    "a tensor of 2^63": entry(shape=[2**63]),
    "state that is a list": state_text(lambda text: b"[]"),
    "state without objects": state(lambda document: document.pop("objects")),
    "state without the model": state(lambda document: document["objects"].pop("model")),
    "state with a key twice": state_text(lambda text: text.replace(b'"rng":', b'"rng":{},"rng":', 1)),
    "state with 1e999": state_text(lambda text: text.replace(b'"step":6', b'"step":1e999', 1)),
    "state nested a million deep": state_text(lambda text: b'{"objects":' + b'{"a":' * 10**6),
    "eighty lists in one another": notes(nested(80)),
    "an alias of itself": tensor(aliases="0.weight"),
    "an alias of an alias": aliases,
    "an alias of another tensor": tensor(aliases="0.bias"),
    "an alias that goes up": tensor(aliases="../../etc/passwd"),
    "a shape with a negative size": tensor(shapes=[-1, 2]),
    "a shape with a size of 2^63": tensor(shapes=[2**63, 2]),
    "a shape with a million dimensions": tensor(shapes=[1] * 10**6),
    "a dtype with an escape": tensor(dtypes="\x1b[31m"),
    "a dtype that is a document": tensor(dtypes={"$dtype": "float32"}),
    "a tensor that begins before its file": tensor(begin=-1),
    "a tensor that begins behind its file": tensor(begin=10**6),
    "a tensor that begins in another": tensor(begin=130),
    "a tensor in a blob that is none": tensor(blob=7),
}


@pytest.mark.parametrize("harm", OTHER_FILES.values(), ids=OTHER_FILES.keys())
def test_a_forged_file_that_is_not_as_recorded_is_rejected_too(run: Path, harm: Harm) -> None:
    assert_passed_over(run, harm)


COLLIDING = {"$set": [{"$tuple": [-1 if number >> bit & 1 else -2 for bit in range(13)]} for number in range(2**13)]}
REFUSED: dict[str, Harm] = {
    "strides that overlap": tensor(strides=[0, 1]),
    "strides that leave the storage": tensor(strides=[2**40, 1]),
    "unknown tag": notes({"$import": "os.system"}),
    "two tags": notes({"$tuple": [], "$set": []}),
    "a tag with the wrong content": notes({"$tuple": {"a": 1}}),
    "an integer in other digits": notes({"$int": "0xZZ"}),
    "octets that are nowhere": notes({"$octets": "nowhere"}),
    "base64 of something else": notes({"$bytes": "!!!!"}),
    "an array of terabytes": notes(array(shape=[2**40])),
    "an array of overflowing shape": notes(array(shape=[2**47, 2**47, 0, 2**47])),
    "an array of texts beyond Unicode": notes(array(dtype="<U1", data="////fw==")),
    "an array of Python objects": notes(array(dtype="|O8", data="AAAAAAAAAAA=")),
    "a time span divided by nothing": notes({"$scalar": {"dtype": "<m8[0D]", "data": "AAAAAAAAAAA="}}),
    "a tensor of terabytes": notes(inline(shape=[2**40])),
    "a tensor of unknown dtype": notes(inline(dtype="qint8")),
    "a tensor with overlapping strides": notes(inline(shape=[2], strides=[0], data="AAAAAAAAAAA=")),
    "a deque of a length that it exceeds": notes({"$deque": {"maxlen": 1, "items": [1, 2]}}),
    "a deque in a list of its own": notes({"$deque": [{"$deque": 1}]}),
    "a defaultdict that calls code": notes({"$defaultdict": {"factory": "os.abort", "items": {}}}),
    "a named tuple of nothing": notes({"$namedtuple": {"type": "x", "items": nested(20)}}),
    "a named tuple with fields that are none": notes({"$namedtuple": {"type": "x", "items": {"__del__()": 1}}}),
    "an object in the place of a value": notes({"$object": "model"}),
    "thousands of keys of one hash": notes(COLLIDING),
    "a generator of Python that is none": rng("python", {"$tuple": [3, {"$tuple": [1, 2]}, None]}),
    "a NumPy stream that reads behind its words": rng("numpy/state/pos", 10**8),
    "a NumPy stream that reads before its words": rng("numpy/state/pos", -1),
    "a torch stream that reads behind its words": torch_head(1, 624, 1, 624),
    "a position that is a list": state(lambda document: document.update(position=[])),
    "a position that never was": position(step=-1),
    "a position beyond all names": position(step=10**18),
    "a position in no pass": position(loaders=[{}]),
    "a position in another way": position(loaders=[{"batches": 1, "kind": "else"}]),
    "a position with half of a pass": position(loaders=[{"batches": 1, "kind": "address"}]),
    "a cycle that is none": position(cycles={"a": 1}),
}


@pytest.mark.parametrize("harm", REFUSED.values(), ids=REFUSED.keys())
def test_what_was_forged_with_every_digest_is_refused_by_whoever_reads_it(run: Path, harm: Harm) -> None:
    harm(Forgery(run))

    def work() -> list[Any]:
        text, outcome = shown(run), "trained"
        good = read(run)
        try:
            train(run)
        except ResumableError as error:
            outcome = f"{type(error).__name__}: {error}"
        return [good, text, outcome]

    spent = bounded(work, memory_bytes=512 * MIB)
    good, text, outcome = spent.result
    assert OLDER in good
    assert outcome.startswith(("CorruptCheckpointError", "RunMismatchError", "StateError", "LoopError")), outcome
    assert len(outcome) < 2000
    assert not STEERING.search(text + outcome)


# -- kernels that do not look -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["state", "extra"])
def test_optimizer_state_smaller_than_its_parameter_never_reaches_a_fused_kernel(hidden: str) -> None:
    """torch 2.13 reads and writes behind it, which is how weights that somebody forged could become code."""
    import torch

    from resumable.errors import RunMismatchError
    from resumable.state.objects.choose_adapter import adapt

    parameter = torch.nn.Parameter(torch.zeros(4096))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(4096)
    optimizer.step()
    adapter = adapt({"optimizer": optimizer})["optimizer"]
    tree = adapter.capture()
    [name] = tree["state"]
    short = {**tree["state"][name], "exp_avg": torch.zeros(1)}
    tree = {**tree, "state": {name: short}} if hidden == "state" else {**tree, "extra": {0: short}}
    with pytest.raises(RunMismatchError, match=r"state of .* of another shape|under the number of a parameter"):
        adapter.restore(tree)


# -- the run's own files ----------------------------------------------------------------------------------------------

RUN_FILES: dict[str, Harm] = {
    "run.json of gigabytes": put(f"/{RUN_FILE}", sparse(2**32)),
    "run.json that is a pipe": put(f"/{RUN_FILE}", os.mkfifo),
    "run.json that is a folder": put(f"/{RUN_FILE}", Path.mkdir),
    "run.json that is a link": put(f"/{RUN_FILE}", link("/etc/passwd")),
    "run.json of deep brackets": put(f"/{RUN_FILE}", lambda path: path.write_bytes(b"[" * 60_000)),
    "a folder of attempts that is a link": put(f"/{ATTEMPTS}", link("/etc")),
    "an attempt of gigabytes": put(f"/{ATTEMPTS}/000001.json", sparse(2**32)),
    "an attempt that is a pipe": put(f"/{ATTEMPTS}/000001.json", os.mkfifo),
    "the last of all attempts": lambda forgery: (forgery.run / ATTEMPTS / f"{10**18 - 1}.json").write_text(""),
    "a folder of checkpoints that is a link": put(f"/{CHECKPOINTS}", link("/etc")),
}


@pytest.mark.parametrize("harm", RUN_FILES.values(), ids=RUN_FILES.keys())
def test_a_run_whose_own_files_are_something_else_is_refused_or_read_but_never_begun_anew(
    run: Path, harm: Harm
) -> None:
    harm(Forgery(run))

    def launched() -> str:
        try:
            return train(run)
        except ResumableError as error:
            return type(error).__name__

    def looked_at() -> str:
        try:
            return ",".join(read(run))
        except ResumableError as error:
            return type(error).__name__

    spent = bounded(lambda: [looked_at(), launched(), shown(run)], memory_bytes=SMALL_BYTES)
    looked, outcome, _ = spent.result
    assert looked.endswith(NEWEST) or looked in ("", "CorruptCheckpointError", "StorageError")
    assert outcome in (NEWEST, "CorruptCheckpointError", "StorageError", "FencedError"), outcome


# -- many of something ------------------------------------------------------------------------------------------------


def many_tensors(count: int) -> Harm:
    """Records of so many tensors more."""

    def change(document: Document) -> None:
        columns = document["tensors"]["model"]
        before = len(columns["keys"])
        columns["keys"] += [f"{number:x}" for number in range(count)]
        columns["dtypes"] += ["float32"] * count
        columns["shapes"] += [[]] * count
        pieces = columns["pieces"]
        pieces["key"] += range(before, before + count)
        for fact, value in (("blob", 0), ("begin", 0), ("offsets", None), ("shape", None)):
            pieces[fact] += [value] * count
        pieces["digest"] += "0" * 32 * count

    return state(change)


def many_ancestors(count: int) -> bytes:
    ancestors = (f',[{number},"step-000000000.e0000.a{number - 1:04}"]' for number in range(2, count))
    return f'"lineage":[[1,null]{"".join(ancestors)}],"x":'.encode()


MANY: dict[str, Harm] = {
    "240,000 tensors in a state": many_tensors(240_000),
    "550,000 tensors in a state": many_tensors(550_000),
    "a lineage of a million": manifest_text(lambda text: text.replace(b'"lineage":', many_ancestors(10**6), 1)),
    "a million empty tensors in a header": header(
        lambda table: (
            b"{"
            + b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % number for number in range(10**6))
            + b"}"
        )
    ),
    "a header of a hundred megabytes": header(lambda table: json.dumps(table).encode() + b" " * 10**8),
    "millions of names in a state": state_text(
        lambda text: b'{"objects":{' + b",".join(b'"%x":0' % number for number in range(3_900_000)) + b"}}"
    ),
}


SLOW = ("550,000 tensors in a state", "a lineage of a million", "millions of names in a state")
SOME = [pytest.param(MANY[name], id=name, marks=[pytest.mark.matrix] if name in SLOW else []) for name in MANY]


@pytest.mark.parametrize("harm", SOME)
def test_a_million_of_something_costs_less_than_a_gibibyte(run: Path, harm: Harm) -> None:
    harm(Forgery(run))
    spent = bounded(lambda: read(run), memory_bytes=LARGE_BYTES)
    assert spent.result[-1] == OLDER


@pytest.mark.matrix
@pytest.mark.parametrize("harm", MANY.values(), ids=MANY.keys())
def test_a_million_of_something_is_refused_by_a_launch_too(run: Path, harm: Harm) -> None:
    harm(Forgery(run))

    def work() -> str:
        try:
            return train(run)
        except CorruptCheckpointError:
            return "refused"

    assert bounded(work, memory_bytes=LARGE_BYTES).result in (OLDER, "refused")


class Crowded(LocalStorage):
    """A run with `more` names in each of its folders than there are."""

    def __init__(self, root: Path, names: Callable[[int], str], *, more: int) -> None:
        super().__init__(root)
        self._names = names
        self.more = more

    def list(self, path: str) -> list[Entry]:
        more = [Entry(self._names(number), path == CHECKPOINTS) for number in range(self.more)]
        return more + super().list(path) if path in (ATTEMPTS, CHECKPOINTS, PINS) else super().list(path)


NAMES = ("step-{:09}.junk", "junk-{}", "{}.json")
MILLION = pytest.param(NAMES[0], 10**6, marks=pytest.mark.matrix)  # the longest names, whose number is parsed


@pytest.mark.parametrize(("names", "more"), [*((names, 10**5) for names in NAMES), MILLION])
def test_a_million_other_names_are_looked_at_by_their_names_only(run: Path, names: str, more: int) -> None:
    def work() -> str:
        catalog = Catalog(Crowded(run, names.format, more=more))
        return str(catalog.history()[0][0]) + str(len(catalog.pinned()))

    assert bounded(work, memory_bytes=512 * MIB).result == f"{NEWEST}0"


def test_a_thousand_other_files_and_folders_in_a_run_harm_nothing(run: Path) -> None:
    for folder in (ATTEMPTS, CHECKPOINTS, PINS):
        (run / folder).mkdir(exist_ok=True)
        for number in range(1000):
            (run / folder / f"step-{number}").mkdir()
            (run / folder / f"{number}.json").touch()
    assert bounded(lambda: [read(run)[-1], train(run)], memory_bytes=SMALL_BYTES).result == [NEWEST, NEWEST]


# -- what is shown ----------------------------------------------------------------------------------------------------

EVIL = "a\x1b[2J\x1b]0;b\x07\u202egnp.exe\u2066\x9bc\r"


def test_no_verb_and_no_log_line_lets_a_checkpoint_steer_the_terminal(run: Path, capfd: Any) -> None:
    def change(document: Document) -> None:
        document["metrics"][EVIL] = 1.0
        document["config"] = {EVIL: EVIL, "keep": {"best": {"metric": EVIL, "mode": EVIL}}}
        document["versions"][EVIL] = EVIL
        document["environment"][EVIL] = {EVIL: EVIL}
        document["position"][EVIL] = EVIL
        document["reason"] = EVIL
        document["token"] = EVIL
        document["objects"]["model"] |= {"type": EVIL, "kind": EVIL}

    Forgery(run).change_manifest(change)

    def work() -> str:
        text = shown(run) + _said(["diff", f"{run}@4", f"{run}@6"]) + _said(["show", f"{run}@best"])
        try:
            train(run)
        except ResumableError as error:
            text += _reported(error)
        return text

    text = bounded(work, memory_bytes=SMALL_BYTES).result + capfd.readouterr().err
    assert "\\x1b[2J" in text
    assert "\\u202e" in text
    assert not STEERING.search(text), STEERING.search(text)


def _reported(error: ResumableError) -> str:
    from resumable.cli.terminal import print_error

    text = io.StringIO()
    with contextlib.redirect_stderr(text):
        print_error(error)
    return text.getvalue()


@pytest.mark.parametrize(
    "keep", [[], "x", {"best": "x"}, {"best": {"metric": []}}, {"best": {"metric": 1, "mode": {}}}]
)
def test_a_config_that_means_nothing_leaves_no_checkpoint_the_best(run: Path, keep: Any) -> None:
    Forgery(run).change_manifest(lambda document: document["config"].update(keep=keep))
    text = bounded(lambda: shown(run) + _said(["show", f"{run}@best"]), memory_bytes=SMALL_BYTES).result
    assert "sets no keep.best.metric" in text


def test_a_terabyte_that_is_recorded_and_there_is_listed_and_not_loaded(run: Path) -> None:
    """Everything about it fits; only there is no machine that would hold it."""

    forgery = Forgery(run)
    forgery.change_tensor("model", "0.bias", shapes=[2**37], begin=2**30)
    ranges = "0" * 32 * (2**40 // RANGE_BYTES)
    forgery.change_state(lambda document: document["ranges"].update({"model.safetensors": ranges}))
    forgery.record("model.safetensors", digest=xxhash.xxh3_128_hexdigest(bytes(16 * (2**40 // RANGE_BYTES))))
    terabyte_in_a_sparse_file(forgery)

    def work() -> list[Any]:
        latest = Run(str(run)).latest()
        try:
            latest.load("model")
        except ResumableError as error:
            return [latest.name, str(error), _said(["ls", str(run)])]
        return []

    name, message, text = bounded(work, memory_bytes=SMALL_BYTES).result
    assert name == NEWEST
    assert "512.0GiB, more than the memory of this machine" in message
    assert "1.0TiB" in text


# -- nothing else is opened -------------------------------------------------------------------------------------------

OPENED = re.compile(
    r"(?P<call>open|openat|openat2|creat|unlink|unlinkat|rename|renameat2?|mkdir|mkdirat|link|linkat|symlink\w*)\("
    r'(?:(?:AT_FDCWD|\d+)<(?P<folder>[^>]*)>, )?"(?P<path>(?:[^"\\]|\\.)*)"(?P<rest>.*)'
)


def opened(command: list[str], log: Path) -> set[tuple[str, str]]:
    """Every path that a program opened or changed, and how."""
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("needs strace")
    calls = (
        "trace=open,openat,openat2,creat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,link,linkat,symlink"
    )
    done = subprocess.run(
        [tracer, "-f", "-y", "-qq", "-s", "4096", "-e", calls, "-o", str(log), sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    if "Operation not permitted" in done.stderr and "ptrace" in done.stderr:
        pytest.skip("needs the right to trace")
    return set(_paths(log))


def _paths(log: Path) -> Iterator[tuple[str, str]]:
    for line in log.read_text(errors="replace").splitlines():
        match = OPENED.search(line)
        if match:
            path = os.path.join(match["folder"] or "/", match["path"])
            path = re.sub(r"/proc/\d+", "/proc/self", os.path.normpath(path))
            path = re.sub(r"[0-9a-z_]{8,}$", "*", path) if path.startswith(("/tmp/", "/dev/shm/")) else path
            yield path, "write" if match["call"] not in ("open", "openat", "openat2") or "O_WR" in line else "read"


def _trap(run: Path) -> None:
    """Everything in a run that could lead out of it, all at once; a good checkpoint stays."""
    secret = run.parent / "secret"
    shutil.copytree(run / CHECKPOINTS / NEWEST, secret)
    forgery = Forgery(run)
    forgery.change_manifest(lambda document: document["blobs"]["model.safetensors"].update(path="../secret/x"))
    for number, (name, target) in enumerate(
        [
            ("model.safetensors", secret / "model.safetensors"),
            (MANIFEST, secret / MANIFEST),
            (STATE_BLOB, "/etc/passwd"),
        ]
    ):
        folder = run / CHECKPOINTS / f"step-{10 + number:09}.e0000.a0001"
        shutil.copytree(run / CHECKPOINTS / OLDER, folder)
        Forgery(run).change_manifest(lambda document, number=number: document.update(step=10 + number, epoch=0))
        (folder / name).unlink()
        (folder / name).symlink_to(target)
    (run / CHECKPOINTS / "step-000000020.e0000.a0001").symlink_to(secret)
    (run / CHECKPOINTS / "step-000000021.e0000.a0001").symlink_to("/etc")
    (run / ATTEMPTS / "000007.json").symlink_to("/etc/passwd")
    (run / PINS).symlink_to("/etc")


RESTORE = """
import sys
from resumable import ResumableError, Run
try:
    checkpoint = Run(sys.argv[1]).latest()
    for name in checkpoint.manifest.objects:
        checkpoint.load(name)
    print(checkpoint.name)
except ResumableError as error:
    print(error)
"""
COMMANDS = {
    "verify": ["-m", "resumable", "verify"],
    "ls": ["-m", "resumable", "ls", "--json"],
    "restore": ["-c", RESTORE],
}


@pytest.mark.parametrize(
    "verb", ["verify", "ls", pytest.param("restore", marks=[pytest.mark.matrix, pytest.mark.timeout(300)])]
)
def test_nothing_outside_of_the_run_is_opened_and_nothing_in_it_is_written(
    original: Path, tmp_path: Path, verb: str
) -> None:
    found = {}
    for name in ("trap", "plain"):  # at one place, so that every path but those of the trap is the same
        run = tmp_path / "run"
        shutil.copytree(original, run)
        if name == "trap":
            _trap(run)
        found[name] = opened([*COMMANDS[verb], str(run)], tmp_path / f"{name}.strace")
        shutil.rmtree(run)
    inside = {(path, how) for path, how in found["trap"] if Path(path).is_relative_to(tmp_path / "run")}
    assert (str(tmp_path / "run" / CHECKPOINTS / OLDER / MANIFEST), "read") in inside, "it did look"
    assert not [path for path, how in inside if how == "write"]
    assert not {path for path, _ in found["trap"] - inside - found["plain"]}
