"""What code does to the objects that it names, read from its source."""

from __future__ import annotations

import ast

import pytest

from resumable.audit.objects.shown_values import ShownValues
from resumable.audit.objects.sources import Scope, parents_of
from resumable.audit.objects.uses import Evidence, uses_of


def scope_of(text: str) -> Scope:
    tree = ast.parse(text)
    return Scope(0, tree.body, tree, parents_of([tree]))


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("f(x)", Evidence.NAMED),
        ("y = x[0].mean()", Evidence.NAMED),
        ("x.eval()", Evidence.NAMED),
        ("x.level = epoch", Evidence.SET),
        ("x.set_epoch(epoch)", Evidence.SET),
        ("x['epoch'] = epoch", Evidence.SET),
        ("x.load_state_dict(model.state_dict())", Evidence.SET),
        ("x[0].p = 0.1 * epoch", Evidence.SET),
        ("x[:] = 0", Evidence.FILLED),
        ("for i in range(4): x[i] = f(i)", Evidence.FILLED),
        ("for i, batch in trainer.enumerate(loader): x[i] = f(batch)", Evidence.INDEXED),
        ("x[place] = 1", Evidence.INDEXED),
        ("for i in range(4): x[i] += f(i)", Evidence.INDEXED),
        ("if late: x.level = epoch", Evidence.CHANGED),
        ("x.level = x.level * 0.9", Evidence.CHANGED),
        ("x.level += 1", Evidence.CHANGED),
        ("x[0].p *= 0.9", Evidence.CHANGED),
        ("x.update(y)", Evidence.CHANGED),
        ("x['a'].append(y)", Evidence.CHANGED),
        ("if step % 10 == 0: x.load_state_dict(model.state_dict())", Evidence.CHANGED),
        ("heapq.heappush(x, y)", Evidence.CHANGED),
        ("x.copy_(y); z = f(x)", Evidence.SET),
        ("z = f(x); x.copy_(y)", Evidence.CHANGED),
        ("z = x[0]; x.fill_(z)", Evidence.CHANGED),
        ("for a, b in zip(x, y): a.detach().mul_(0.9).add_(b)", Evidence.CHANGED),
        ("for a in x: a.data.mul_(0.9)", Evidence.CHANGED),
        ("for a in x: a.zero_()", Evidence.NAMED),
        ("y = next(x)", Evidence.CHANGED),
    ],
)
def test_evidence(text: str, evidence: Evidence) -> None:
    assert uses_of(scope_of(text)).paths["x",].evidence is evidence


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x.update(y); print(x.mean)", True),
        ("x.append(y); trainer.log(loss=sum(x) / len(x))", True),
        ("x.append(y); a = x[-1]; print(f'{a:.2f}')", True),
        ("x.append(y); h = []; h.append(x[-1]); print(h)", True),
        ("x.append(y); y = random.sample(x, 3)", False),
        ("x.append(y)\nif len(x) > 3: stop()", False),
        ("x.append(y); plot(x)", False),
        ("x.total += y; x.mean = x.total / 3; print(x.mean)", True),
        ("x.mul_(y); loss = f(y); loss = x * 3; loss.backward()", False),
        ("x.append(y); best['a'] = x[-1]", False),
        ("for y in x: train(y)", False),
    ],
)
def test_what_is_only_shown(text: str, shown: bool) -> None:
    scope = scope_of(text)
    assert ShownValues(scope, frozenset(), returns_are_shown=False).has(("x",)) is shown


@pytest.mark.parametrize(
    ("text", "crossing"),
    [
        ("x.step = epoch; print(x.step)", set()),
        ("for x.step in steps: print(x.step)", set()),
        ("act(x.obs); x.obs = observe()", {"obs"}),
        ("out, x.hidden = rnn(y, x.hidden)", {"hidden"}),
        ("if late: x.level = epoch", {"level"}),
    ],
)
def test_attributes_that_cross_a_turn(text: str, crossing: set[str]) -> None:
    use = uses_of(scope_of(text)).paths["x",]
    assert use.changed | (use.renewed & use.read) == crossing
