"""Shows outcomes as rows of a table in Markdown, and their digests. Measures nothing."""

from __future__ import annotations

from tests.peers.compare import Outcome
from tests.peers.programs import Program

COLUMNS = ("framework", "resume", "weights", "optimizer", "streams", "log", "data", "apart")
HEAD = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def row(program: Program, outcome: Outcome) -> str:
    """Return a row of the table."""
    equal = (outcome.weights, outcome.optimizer, outcome.streams, outcome.log)
    cells = [program.framework, program.way, *(_word(each) for each in equal), data(outcome), apart(outcome)]
    return f"| {' | '.join(cells)} |"


def data(outcome: Outcome) -> str:
    """Return what differs in the batches, worst first."""
    if outcome.twice or outcome.never:
        return f"**{outcome.twice} samples twice, {outcome.never} never**"
    if not outcome.order:
        return "**another order**"
    return "equal" if outcome.augmentation else "**other augmentation**"


def apart(outcome: Outcome) -> str:
    """Return how far the weights are apart."""
    return "0" if outcome.weights else f"{outcome.apart:.3f}"


def details(program: Program, outcome: Outcome) -> str:
    """Return a line with where each launch began, and the digests of the undisturbed and the killed run."""
    begins = " ".join(f"{epoch}:{number}" for epoch, number in outcome.begins)
    pairs = (f"{name} {one} {other}" for name, (one, other) in outcome.digests.items())
    return f"{program.framework}, {program.way}: began at epoch:batch {begins}; {', '.join(pairs)}"


def _word(equal: bool) -> str:
    return "equal" if equal else "**no**"
