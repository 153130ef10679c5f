"""An `Accelerator` or a `Fabric`, whose state is beside the objects that it prepares."""

from __future__ import annotations

from typing import Any

from resumable.prepared.preparers import LOSS, Preparer
from resumable.state.codec.tree import Tree
from resumable.state.objects.adapter import BaseAdapter
from resumable.state.objects.tree_copies import Own


class PreparerAdapter(BaseAdapter):
    """An object that prepares others. A run that was begun without it goes on."""

    kind = "stateful"

    def __init__(self, name: str, target: Any, state: Preparer) -> None:
        super().__init__(name, target)
        self._state = state
        self.joins = LOSS[state.library]

    def capture(self) -> Tree:
        state: Tree = self._state.state_dict()
        return state

    def _restore(self, tree: Any, own: Own) -> None:
        self._state.load_state_dict(own(tree, self._state.state_dict()))
