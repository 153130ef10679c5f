"""What saving costs training, learnt from the times of its boundaries; knows no clock, no storage and no torch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

RECENT_SAVES = 10
RECENT_BLOCKS = 9
BLOCK_STEPS = 16
BLOCK_SECONDS = 1.0
SETTLED_BLOCKS = 3  # from here on one block of strange steps no longer decides
STEPS_TO_COMPARE = 4
ENOUGH_SECONDS = 10.0  # to watch after a save began; short steps are watched for a whole block of them


class Usual:
    """How long a step takes while nothing is written: the median over the means of the last blocks of such steps.

    The median alone would be wrong where steps come in kinds (every fourth one steps the optimizer, every second one
    waits for the loader): many of the slower kind run while a save is written, and are no slower for it. So the means
    are over blocks that hold all kinds, and the median over blocks leaves out what is rare ("median of means":
    Nemirovsky and Yudin, Problem Complexity and Method Efficiency in Optimization, 1983).
    """

    __slots__ = ("_blocks", "_longest", "_longest_of_blocks", "_median", "_seconds", "_steps")

    def __init__(self) -> None:
        self._blocks: deque[float] = deque(maxlen=RECENT_BLOCKS)
        self._longest_of_blocks: deque[float] = deque(maxlen=RECENT_BLOCKS)
        self._median: float | None = None
        self._steps = 0
        self._seconds = self._longest = 0.0

    def add(self, seconds: float) -> bool:
        """Learn one step; whether a block is full with it."""
        self._steps += 1
        self._seconds += seconds
        if seconds > self._longest:
            self._longest = seconds
        if self._steps < BLOCK_STEPS or self._seconds < BLOCK_SECONDS:
            return False
        self._blocks.append(self._seconds / self._steps)
        self._longest_of_blocks.append(self._longest)
        self._median = median(self._blocks)
        self._steps, self._seconds, self._longest = 0, 0.0, 0.0
        return True

    @property
    def seconds(self) -> float | None:
        """None before the first few steps.

        As long as there are few blocks it is the least of them: among the first steps of an attempt are slow ones
        (caches are cold, kernels are compiled), and what seems to cost too much is only saved later.
        """
        if self.settled:
            return self._median
        running = [self._seconds / self._steps] if self._steps >= STEPS_TO_COMPARE else []
        return min([*self._blocks, *running], default=None)

    @property
    def longest_seconds(self) -> float:
        """The longest of the steps that were learnt lately; 0 before the first."""
        return max(self._longest, *self._longest_of_blocks, 0.0)

    @property
    def settled(self) -> bool:
        """Whether there were enough blocks for a median that one of them cannot move far."""
        return len(self._blocks) >= SETTLED_BLOCKS


@dataclass(slots=True)
class _Save:
    """One save: training waited `stall_seconds` for it, and ran `steps` in `seconds` beside it.

    It took `total_seconds`, and cannot have slowed training for longer. `usual_seconds` is what one such step would
    have taken without it, None as long as that is not yet known well.
    """

    began: float
    stalled_before: float
    stall_seconds: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    longest_seconds: float = 0.0
    total_seconds: float = 0.0
    usual_seconds: float | None = None

    def add(self, seconds: float) -> None:
        self.steps += 1
        self.seconds += seconds
        if seconds > self.longest_seconds:
            self.longest_seconds = seconds

    def close(self, *, stall_seconds: float, total_seconds: float, longest_usual_seconds: float) -> None:
        self.stall_seconds, self.total_seconds = stall_seconds, total_seconds
        if self.longest_seconds > longest_usual_seconds + total_seconds:
            self.steps -= 1  # something else made it so long, such as an evaluation that nobody told of
            self.seconds -= self.longest_seconds


class Cost:
    """The whole cost of a save: what training waited for it, and how much slower its steps ran beside it.

    `seconds` is the mean of the last ten saves, the newest counting ten times what the oldest does. A mean and not a
    median, so that each save is paid for in full in the ten intervals after it: with a median, saves of which one in
    ten is dear (everything is written anew) would cost more than their share. Weighted, so that what was special about
    a first save (fresh memory, cold caches) is soon forgotten. One strange save cannot do more than its share either,
    because no save costs more than its waits and the time it took to write.

    Before the first save that was written beside training, `seconds` is what the checkpoint before the first batch
    made training wait, or zero after a resume: saving soon is how its cost is found out, and it is paid for then.
    """

    __slots__ = ("_flight", "_guess", "_mean", "_reached", "_saves", "_stalled", "_to_compare", "_usual")

    def __init__(self) -> None:
        self._usual = Usual()
        self._saves: deque[_Save] = deque(maxlen=RECENT_SAVES)
        self._flight: _Save | None = None
        self._to_compare = STEPS_TO_COMPARE  # steps still wanted, undisturbed, before a save is worth measuring
        self._guess = 0.0
        self._mean: float | None = None
        self._reached = 0.0  # when the last boundary was
        self._stalled = 0.0  # and what training had waited by then

    @property
    def in_flight(self) -> bool:
        """Whether a save is being measured."""
        return self._flight is not None

    @property
    def measured_seconds(self) -> float | None:
        """The cost of a save by those that were written beside training; None before the first."""
        return self._mean

    @property
    def known_seconds(self) -> float:
        """Return what a save costs by all that is known, also while one is written."""
        return self._guess if self._mean is None else self._mean

    @property
    def seconds(self) -> float | None:
        """What the next save is to be paid with; None while one is written, and right after."""
        if self._flight is not None or self._to_compare > 0:
            return None
        return self.known_seconds

    def first(self, stall_seconds: float) -> None:
        """The save before the first batch: it has no steps beside it, and only its wait is like that of later ones."""
        self._guess, self._flight = stall_seconds, None

    def begin(self, *, stalled_seconds: float, save_seconds: float) -> None:
        """A save begins; `stalled_seconds` is all that training waited until now, `save_seconds` as in `reached`."""
        if self._flight is not None:
            self._close(self._flight, stalled_seconds, save_seconds)
        self._flight = _Save(self._reached, stalled_seconds)

    def reached(
        self, now: float, *, is_step: bool, beside_save: bool, stalled_seconds: float, save_seconds: float
    ) -> None:
        """Learn from a boundary at the time `now`, in seconds of any clock.

        `is_step` says whether all since the last boundary was one step of training, `beside_save` whether the next one
        still belongs to the save that began last, `stalled_seconds` is all that training waited for saves so far,
        wherever it did, and `save_seconds` how long the last save that ended took, from its capture until it was
        durable.
        """
        seconds = now - self._reached - (stalled_seconds - self._stalled)
        self._reached, self._stalled = now, stalled_seconds
        flight = self._flight
        if flight is None:
            if is_step:
                self._to_compare -= 1
                if self._usual.add(seconds):
                    self._weigh()
            return
        if is_step:
            flight.add(seconds)
        # A block of steps at least, so that a save that always meets the same kind of step is not compared with all
        # kinds; but not for long, because until then no other save comes due for its cost.
        enough = flight.steps >= BLOCK_STEPS or now - flight.began >= ENOUGH_SECONDS
        if enough and not beside_save:
            self._close(flight, stalled_seconds, save_seconds)

    def _close(self, save: _Save, stalled_seconds: float, save_seconds: float) -> None:
        save.close(
            stall_seconds=stalled_seconds - save.stalled_before,
            total_seconds=save_seconds,
            longest_usual_seconds=self._usual.longest_seconds,
        )
        self._saves.append(save)
        self._flight = None
        self._to_compare = STEPS_TO_COMPARE
        self._weigh()

    def _weigh(self) -> None:
        if not self._saves:
            return
        usual_seconds = self._usual.seconds
        stalls = slowdowns = limits = weights = 0.0
        for weight, save in enumerate(self._saves, 1):
            if save.usual_seconds is None and self._usual.settled:
                save.usual_seconds = usual_seconds  # from here on it may change; then was then
            weights += weight
            stalls += weight * save.stall_seconds
            limits += weight * save.total_seconds
            usual = save.usual_seconds or usual_seconds
            if usual is not None:  # with nothing to compare with, only what is certain counts: the wait
                slowdowns += weight * (save.seconds - save.steps * usual)
        # One save that seems to have made steps faster was measured among noise, which would add up to a cost if it
        # were cut off there. All together they are cut off at what is possible.
        self._mean = (stalls + max(0.0, min(slowdowns, limits))) / weights
