"""Named tuples by the names of their type and fields, deques and defaultdicts: what a document says of them."""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

import pytest
import torch

from resumable.state.codec import decode, encode
from resumable.state.codec.document_paths import named_children, named_tensors, part_at
from resumable.state.codec.tree import NamedValues, PartName
from resumable.state.objects.tree_copies import fresh
from resumable.store.documents.parse_documents import KNOWN_FEATURES
from tests.state.exactness import exactly
from tests.state.roundtrip import save_tree, through


class Seen(NamedTuple):
    state: Any
    reward: float


class Marked(Seen):
    """One with a constructor of its own, which must not run."""

    def __new__(cls, *items: Any) -> Marked:
        raise AssertionError("a constructor ran")


def marked(*items: Any) -> Marked:
    made: Marked = tuple.__new__(Marked, items)
    return made


def made_here(name: str) -> Any:
    return collections.namedtuple(name, "a b")


def test_the_program_has_the_type_already_and_gets_it_back() -> None:
    local = made_here("Local")
    tree = {
        "memory": [Seen(torch.rand(3), 1.0), marked(2, 3.0)],
        ("at", Seen(1, 2.0)): {Seen(3, 4.0)},
        "l": local(1, 2),
    }
    found = fresh(through(tree))
    assert exactly(found, tree)
    assert [type(found["l"]), *map(type, found["memory"])] == [local, Seen, Marked]
    assert [type(key[1]) for key in found if type(key) is tuple] == [Seen]


def test_without_such_a_type_the_values_are_a_tuple_that_is_stored_as_before() -> None:
    gone = made_here("Gone")
    document = encode(gone(1, (2,)), key_of=None, where="x").document
    gone.__qualname__ = "Renamed"
    found = fresh(decode(document, {}))
    assert (found, type(found), found.fields) == ((1, (2,)), NamedValues, ("a", "b"))
    assert encode(found, key_of=None, where="x").document == document


def test_a_type_with_other_fields_is_another_type() -> None:
    document = {"$namedtuple": {"type": f"{__name__}.Seen", "items": {"state": 1, "return_": 2}}}
    assert type(fresh(decode(document, {}))) is NamedValues


def test_the_type_of_the_live_value_comes_first() -> None:
    here, other = made_here("Twin"), made_here("Twin")
    for kind in (here, other):
        assert type(fresh(through([kind(1, 2)]), [kind(3, 4)])[0]) is kind


@pytest.mark.parametrize("name", ["builtins.tuple", "os.stat_result", "torch.Size", f"{__name__}.test_all", "x" * 9999])
def test_a_hostile_name_finds_no_type(name: str) -> None:
    found = fresh(decode({"$namedtuple": {"type": name, "items": {"n_fields": 1}}}, {}))
    assert type(found) is NamedValues


TREE = {
    "memory": collections.deque([Seen(torch.rand(2), 1.0), Seen(torch.rand(40), 2.0)], maxlen=9),
    "counts": collections.defaultdict(list, {"a": [torch.rand(3)], "b": []}),
    "returns": collections.deque([0.5] * 100),
}


def test_tensors_have_the_same_keys_in_the_document_and_in_the_file() -> None:
    stored, inline = save_tree(TREE), save_tree(TREE, inline=True)
    assert set(stored.records) == {"memory.0.state", "memory.1.state", "counts.a.0"}
    assert set(inline.records) == {"memory.1.state"}
    assert exactly(fresh(inline.tree()), TREE)


def test_paths_lead_through_them() -> None:
    document = save_tree(TREE).document
    found = part_at(document, "memory.1.reward")
    assert found is not None
    assert (found.document, found.at) == (2.0, (0, 1, 1))
    assert [name for name, _ in named_children(document["counts"])] == ["a", "b"]
    assert len(named_children(document["returns"])) == 100
    assert dict(named_tensors(document))["memory.0.state"] == "memory.0.state"


@pytest.mark.parametrize(
    ("tree", "features"),
    [
        ([{"a": (1,)}, collections.OrderedDict(), collections.Counter()], set()),
        ([collections.deque()], {"containers"}),
        ({"a": collections.defaultdict(int)}, {"containers"}),
        ({1: Seen(1, 2.0)}, {"containers"}),
        ([PartName("opts.a")], {"parts"}),
    ],
)
def test_what_not_every_reader_knows_is_announced(tree: Any, features: set[str]) -> None:
    found = encode(tree, key_of=None, where="x").features
    assert found == features
    assert found <= KNOWN_FEATURES
