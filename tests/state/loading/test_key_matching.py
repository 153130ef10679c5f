"""Which stored tensor goes where, as names and shapes: everything that can be said before anything is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resumable.errors import RunMismatchError
from resumable.state.loading.key_matching import LiveTensor, Match, Shape, match, suggested

Shapes = Mapping[str, Shape]


def stored(*keys: str, **shapes: Shape) -> dict[str, Shape]:
    return dict.fromkeys(keys, (2, 3)) | shapes


def live(*names: str, tied: Collection[str] = (), **shapes: Shape) -> dict[str, LiveTensor]:
    every = dict.fromkeys([*names, *tied], (2, 3)) | shapes
    return {name: LiveTensor(shape, "tied" if name in tied else name) for name, shape in every.items()}


def bare(found: Match) -> dict[str, Any]:
    return {
        "taken": found.matched,
        "missing": found.missing,
        "unexpected": found.unexpected,
        "skipped": found.skipped,
        "another_shape": found.another_shape,
        "prefix": found.prefix,
    }


# -- names as they are ------------------------------------------------------------------------------------------------


def test_equal_names_match() -> None:
    found = match(stored("a.w", "b.w"), live("b.w", "a.w"))
    assert found.fits
    assert found.matched == {"a.w": "a.w", "b.w": "b.w"}


def test_what_does_not_match_is_listed_on_each_side_in_order() -> None:
    found = match(stored("x", "b", "c"), live("z", "b", "y"))
    assert (found.matched, found.missing, found.unexpected) == ({"b": "b"}, ("y", "z"), ("c", "x"))
    assert not found.fits


def test_another_shape_is_listed_with_both_and_is_neither_missing_nor_unexpected() -> None:
    found = match(stored("a", b=(4,)), live("a", b=(5,)))
    assert found.another_shape == {"b": ((4,), (5,))}
    assert (found.matched, found.missing, found.unexpected) == ({"a": "a"}, (), ())


def test_what_has_no_shape_fits_any() -> None:
    assert match(stored(a=None, b=(4,)), live(a=(2,), b=None)).fits


# -- rename -----------------------------------------------------------------------------------------------------------


def test_beginnings_are_renamed_and_the_first_rule_that_matches_wins() -> None:
    rename = {"old.deep.": "deep.", "old.": "new.", "": "rest."}
    found = match(stored("old.a", "old.deep.a", "b"), live("new.a", "deep.a", "rest.b"), rename=rename)
    assert found.matched == {"new.a": "old.a", "deep.a": "old.deep.a", "rest.b": "b"}
    assert found.name_of("old.deep.a") == "deep.a"


def test_what_is_unexpected_keeps_the_key_that_is_stored() -> None:
    assert match(stored("old.a", "old.b"), live("new.a"), rename={"old.": "new."}).unexpected == ("old.b",)


def test_a_rule_that_matches_nothing_is_an_error_with_the_nearest_beginning() -> None:
    with pytest.raises(RunMismatchError, match=r"rename: no stored key begins with 'backbnoe\.'") as caught:
        match(stored("backbone.conv.w", "head.w"), live("conv.w"), rename={"backbnoe.": ""})
    assert caught.value.hint == "the nearest is 'backbone.'"


def test_a_rule_behind_one_that_takes_everything_is_an_error() -> None:
    with pytest.raises(
        RunMismatchError, match=r"an earlier rule matches every stored key that begins with 'a\.b\.'"
    ) as caught:
        match(stored("a.b.c"), live("c"), rename={"a.": "", "a.b.": ""})
    assert "the longer prefix first" in str(caught.value.hint)


@pytest.mark.parametrize("keys", [("old.a", "new.a"), ("old.a", "older.a")])
def test_two_keys_with_one_name_are_an_error(keys: tuple[str, str]) -> None:
    rename = {"old.": "new."} if keys[1] == "new.a" else {"old.": "new.", "older.": "new."}
    with pytest.raises(RunMismatchError, match=f"'{keys[0]}' and '{keys[1]}' both become 'new.a'"):
        match(stored(*keys), live("new.a"), rename=rename)


# -- skip -------------------------------------------------------------------------------------------------------------


def test_skipped_names_are_neither_taken_nor_missing_nor_unexpected_nor_of_another_shape() -> None:
    there = stored("body.w", "head.old", **{"head.w": (9,)})
    found = match(there, live("body.w", "head.w", "head.new"), skip=["head.*"])
    assert found.fits
    assert (found.matched, found.skipped) == ({"body.w": "body.w"}, ("head.new", "head.old", "head.w"))


def test_patterns_see_the_names_after_renaming_and_without_the_wrapper() -> None:
    assert match(stored("old.w", "a"), live("new.w", "a"), rename={"old.": "new."}, skip=["new.*"]).matched == {
        "a": "a"
    }
    found = match(stored("module.a", "module.head.w"), live("a", "top.w"), skip=["head.*", "top.*"])
    assert (found.matched, found.prefix) == ({"a": "module.a"}, "module.")


def test_one_pattern_may_stand_alone() -> None:
    assert match(stored("a"), live("a", "head.w"), skip="head.*").skipped == ("head.w",)


def test_a_pattern_that_matches_nothing_is_an_error_with_the_nearest() -> None:
    with pytest.raises(RunMismatchError, match=r"skip: 'haed\.\*' matches no name") as caught:
        match(stored("body.w", "head.w"), live("body.w", "head.w"), skip=["haed.*"])
    assert caught.value.hint == "the nearest is 'head.*'"


# -- wrappers of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_wrappers_are_taken_away_where_then_every_name_fits(wrapper: str) -> None:
    found = match(stored(wrapper + "a.w", wrapper + "b"), live("a.w", "b"))
    assert found.fits
    assert (found.prefix, found.name_of(wrapper + "b")) == (wrapper, "b")


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (("module.a", "module.b"), ("a",)),  # one too many
        (("module.a",), ("a", "b")),  # one too few
        (("module.a", "b"), ("a", "b")),  # not all of them wrapped
        (("model.a",), ("a",)),  # no wrapper
    ],
)
def test_wrappers_stay_where_not_every_name_would_fit(keys: tuple[str, ...], names: tuple[str, ...]) -> None:
    found = match(stored(*keys), live(*names))
    assert found.prefix == ""
    assert not found.fits


def test_a_models_own_child_of_that_name_is_not_taken_for_a_wrapper() -> None:
    assert match(stored("module.a"), live("module.a")).prefix == ""
    found = match(stored("module.module.a"), live("module.a"))
    assert (found.matched, found.prefix) == ({"module.a": "module.module.a"}, "module.")


def test_what_torch_counts_beside_an_average_is_no_weight() -> None:
    found = match(stored("module.a", n_averaged=()), live("a"))
    assert found.fits
    assert found.matched == {"a": "module.a"}
    for key in ("a", "_orig_mod.a"):
        assert "n_averaged" in match(stored(key, n_averaged=()), live("a")).unexpected
    assert match(stored("module.a", n_averaged=()), live("module.a", n_averaged=())).prefix == ""


# -- tied names -------------------------------------------------------------------------------------------------------


def test_a_tied_name_is_not_missing_where_its_twin_is_there() -> None:
    found = match(stored("embed"), live(tied=["embed", "head"]))
    assert found.fits
    assert found.matched == {"embed": "embed"}
    assert match(stored("a"), live("a", tied=["embed", "head"])).missing == ("embed", "head")


def test_two_stored_values_for_one_tensor_are_told() -> None:
    assert match(stored("embed", "head"), live(tied=["embed", "head"])).tied == (("embed", "head"),)
    assert match(stored("embed", "head"), live(tied=["embed", "head"]), skip=["head"]).tied == ()


def test_a_name_that_was_dropped_fills_a_model_that_does_not_tie_it() -> None:
    found = match(stored("embed"), live("embed", "head"), aliases={"head": "embed"})
    assert found.matched == {"embed": "embed", "head": "embed"}
    assert found.fits
    assert not found.tied


def test_a_name_that_was_dropped_is_renamed_and_unwrapped_like_others_and_never_unexpected() -> None:
    found = match(
        stored("module.old.w"),
        live("new.w", "head"),
        aliases={"module.head": "module.old.w", "format": "pt"},
        rename={"module.old.": "module.new."},
    )
    assert (found.matched, found.prefix) == ({"new.w": "module.old.w", "head": "module.old.w"}, "module.")
    assert match(stored("embed"), live("embed"), aliases={"head": "embed"}).fits
    assert match(stored("a"), live("b"), aliases={"head": "a"}, rename={"head": "b"}).matched == {"b": "a"}


# -- objects that hold more than weights ------------------------------------------------------------------------------


def test_weights_are_found_in_one_dict_of_an_object() -> None:
    found = match(stored("shadow.a.w", "shadow.b", "backup.x"), live("a.w", "b"), is_mixed=True)
    assert (found.matched, found.prefix) == ({"a.w": "shadow.a.w", "b": "shadow.b"}, "shadow.")
    assert found.fits
    assert match(stored("a.w"), live("a.w"), is_mixed=True).prefix == ""


def test_weights_of_parameters_alone_leave_the_buffers_missing() -> None:
    assert match(stored("shadow.w"), live("w", "mean"), is_mixed=True).missing == ("mean",)


def test_weights_that_stand_there_twice_must_be_chosen() -> None:
    with pytest.raises(RunMismatchError, match=r"2 times: as 'backup\.\*' and 'shadow\.\*'") as caught:
        match(stored("shadow.w", "backup.w"), live("w"), is_mixed=True)
    assert "rename={'backup.': ''}" in str(caught.value.hint)
    found = match(stored("shadow.w", "backup.w"), live("w"), rename={"shadow.": ""}, is_mixed=True)
    assert found.fits
    assert found.matched == {"w": "shadow.w"}


def test_where_no_dict_of_an_object_fits_all_its_keys_are_unexpected() -> None:
    found = match(stored("shadow.0", "shadow.1"), live("w"), is_mixed=True)
    assert (found.matched, found.unexpected) == ({}, ("shadow.0", "shadow.1"))


# -- what is suggested ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "names", "rename"),
    [
        (("model.a.w", "model.b"), ("a.w", "b"), ("model.", "", 2)),
        (("a.w", "b"), ("encoder.a.w", "encoder.b"), ("", "encoder.", 2)),
        (("model.a.w", "x"), ("a.w",), ("model.", "", 1)),
        (("model.a.w", "x", "y"), ("a.w",), None),
        (("x",), ("y",), None),
    ],
)
def test_a_rename_that_would_help_is_found(keys: Any, names: Any, rename: Any) -> None:
    assert suggested(match(stored(*keys), live(*names))) == rename


# -- whatever the names are -------------------------------------------------------------------------------------------

_names = st.lists(st.sampled_from(["a", "b", "module", "_orig_mod", "head"]), min_size=1, max_size=3).map(".".join)
_shapes = st.sampled_from([(), (1,), (2, 2), None])
_stored = st.dictionaries(_names, _shapes, max_size=6)
_live = st.dictionaries(_names, st.tuples(_shapes, st.integers(0, 9)), max_size=6).map(
    lambda places: {name: LiveTensor(shape, (shape, number)) for name, (shape, number) in places.items()}
)


@given(_stored, _live)
def test_every_name_and_every_key_is_accounted_for_once(there: dict[str, Shape], here: dict[str, LiveTensor]) -> None:
    found = match(there, here)
    filled = {here[name].tensor for name in found.matched}
    beside = {name for name in here if name not in found.matched and here[name].tensor in filled}
    parts = [set(found.matched), set(found.missing), set(found.another_shape)]
    assert set.union(*parts, beside) == set(here)
    assert sum(map(len, parts)) == len(set.union(*parts))
    keys = [*found.matched.values(), *found.unexpected]
    assert len(keys) == len(set(keys))
    assert {found.name_of(key) for key in there} <= {*found.matched, *found.another_shape, *map(found.name_of, keys)}


@given(_stored, _live)
def test_shapes_of_what_is_taken_are_equal(there: dict[str, Shape], here: dict[str, LiveTensor]) -> None:
    found = match(there, here)
    pairs = [(there[key], here[name].shape) for name, key in found.matched.items()]
    assert all(None in pair or pair[0] == pair[1] for pair in pairs)


@given(_stored, _live, st.randoms())
def test_the_order_of_names_changes_nothing(there: dict[str, Shape], here: dict[str, LiveTensor], shuffle: Any) -> None:
    keys, names = list(there), list(here)
    shuffle.shuffle(keys)
    shuffle.shuffle(names)
    again = match({key: there[key] for key in keys}, {name: here[name] for name in names})
    assert bare(again) == bare(match(there, here))


@given(_stored, st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=3).map("".join))
def test_what_was_wrapped_comes_back_whole(there: dict[str, Shape], wrapper: str) -> None:
    here = {name: LiveTensor(shape, name) for name, shape in there.items()}
    found = match({wrapper + name: shape for name, shape in there.items()}, here)
    assert found.fits
    assert {found.name_of(key) for key in found.matched.values()} == set(here)


@given(_stored, _live)
def test_skipping_everything_leaves_nothing_to_take_or_to_miss(there: Any, here: Any) -> None:
    if there or here:
        found = match(there, here, skip=["*"])
        assert found.fits
        assert not found.matched
        assert found.prefix == ""
