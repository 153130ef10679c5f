"""Objects with `state_dict` and `load_state_dict`: schedulers, scalers, metrics, environments."""

from __future__ import annotations

from resumable.state.codec.tree import Tree
from resumable.state.objects.adapter import BaseAdapter
from resumable.state.objects.generators import GENERATOR_TYPES
from resumable.state.objects.tree_copies import Own
from resumable.stateful import has_state_dict


class StatefulAdapter(BaseAdapter):
    """Any object with `state_dict` and `load_state_dict`."""

    kind = "stateful"

    def capture(self) -> Tree:
        state: Tree = self.target.state_dict()
        return state

    def _restore(self, tree: Tree, own: Own) -> None:
        # A copy: some implementations change their argument, and most keep parts of it.
        self.target.load_state_dict(own(tree, self.target.state_dict()))


def is_stateful(value: object) -> bool:
    """Return whether an object can be passed to a Trainer under its own name, because it has a state."""
    if isinstance(value, type):
        return False
    return isinstance(value, GENERATOR_TYPES) or has_state_dict(value)
