"""Measure what saving costs training, from the times of its boundaries. Reads no clock; does not import torch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

RECENT_SAVES = 10
RECENT_BLOCKS = 9
BLOCK_STEPS = 16
BLOCK_SECONDS = 1.0
SETTLED_BLOCKS = 3  # from here on, one block of outliers does not decide
STEPS_TO_COMPARE = 4
ENOUGH_SECONDS = 10.0  # of watching after a save began; of short steps a whole block is watched


class Usual:
    """The usual time of a step while nothing is written: the median over the means of recent blocks of steps.

    A median of single steps would be wrong if steps come in kinds, because a save may always meet the slow kind: every
    fourth step runs the optimizer, every second one waits for the loader. Blocks hold all kinds, and the median over
    their means ignores rare outliers ("median of means": Nemirovsky and Yudin, Problem Complexity and Method Efficiency
    in Optimization, 1983).
    """

    __slots__ = ("_blocks", "_longest", "_longest_of_blocks", "_median", "_seconds", "_steps")

    def __init__(self) -> None:
        self._blocks: deque[float] = deque(maxlen=RECENT_BLOCKS)
        self._longest_of_blocks: deque[float] = deque(maxlen=RECENT_BLOCKS)
        self._median: float | None = None
        self._steps = 0
        self._seconds = self._longest = 0.0

    def add(self, seconds: float) -> bool:
        """Add the time of one step, in seconds; return whether it completes a block."""
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
        """Return the usual time of a step, in seconds; None before the first few steps.

        While there are few blocks, it is the least of their means: the first steps of an attempt are slow (cold caches,
        compiled kernels), and a cost that seems too high only delays the next save.
        """
        if self.settled:
            return self._median
        running = [self._seconds / self._steps] if self._steps >= STEPS_TO_COMPARE else []
        return min([*self._blocks, *running], default=None)

    @property
    def longest_seconds(self) -> float:
        """Return the longest of the recent steps, in seconds; 0 before the first."""
        return max(self._longest, *self._longest_of_blocks, 0.0)

    @property
    def settled(self) -> bool:
        """Return whether there are enough blocks for a median that one of them cannot move far."""
        return len(self._blocks) >= SETTLED_BLOCKS


@dataclass(slots=True)
class _Save:
    """One save: training waited `stall_seconds` for it, and ran `steps` in `seconds` while it was written.

    It took `total_seconds`, and cannot have slowed training for longer. `usual_seconds` is the time of one such step
    without it, None until enough blocks were measured.
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
            self.steps -= 1  # another cause made it that long, such as an evaluation outside of the Trainer's loops
            self.seconds -= self.longest_seconds


class Cost:
    """The whole cost of a save: its stall, and how much slower the steps beside it ran.

    `seconds` is a weighted mean of the last ten saves; the newest counts ten times as much as the oldest. It is a mean
    and not a median, so that each save is paid for in full in the ten intervals after it: with a median, saves of which
    one in ten is expensive (all blobs are written again) would exceed their share. The weights forget the effects of a
    first save (fresh memory, cold caches). One outlier is bounded, because no save costs more than its stall and the
    time of its writing.

    Before the first save beside training, `seconds` is the stall of the checkpoint before the first batch, or zero
    after a resume: an early save measures the cost, which is paid for then.
    """

    __slots__ = ("_flight", "_guess", "_mean", "_reached", "_saves", "_stalled", "_to_compare", "_usual")

    def __init__(self) -> None:
        self._usual = Usual()
        self._saves: deque[_Save] = deque(maxlen=RECENT_SAVES)
        self._flight: _Save | None = None
        self._to_compare = STEPS_TO_COMPARE  # undisturbed steps still needed before a save can be measured
        self._guess = 0.0
        self._mean: float | None = None
        self._reached = 0.0  # time of the last boundary
        self._stalled = 0.0  # sum of stalls until then

    @property
    def in_flight(self) -> bool:
        """Return whether a save is being measured."""
        return self._flight is not None

    @property
    def measured_seconds(self) -> float | None:
        """Return the cost of a save, measured on those written beside training; None before the first."""
        return self._mean

    @property
    def estimated_seconds(self) -> float:
        """Return the best estimate of the cost of a save, also while one is written."""
        return self._guess if self._mean is None else self._mean

    @property
    def seconds(self) -> float | None:
        """Return the cost that the next save must earn; None while one is written, and right after."""
        if self._flight is not None or self._to_compare > 0:
            return None
        return self.estimated_seconds

    def first(self, stall_seconds: float) -> None:
        """Record the save before the first batch: no steps run beside it, and only its stall is like later ones."""
        self._guess, self._flight = stall_seconds, None

    def begin(self, *, stalled_seconds: float, save_seconds: float) -> None:
        """Record that a save begins; `stalled_seconds` is the sum of stalls so far, `save_seconds` as in `reached`."""
        if self._flight is not None:
            self._close(self._flight, stalled_seconds, save_seconds)
        self._flight = _Save(self._reached, stalled_seconds)

    def reached(
        self, now: float, *, is_step: bool, beside_save: bool, stalled_seconds: float, save_seconds: float
    ) -> None:
        """Record a boundary.

        Args:
            now: The time, in seconds of any clock.
            is_step: Whether exactly one training step ran since the last boundary.
            beside_save: Whether the next step still runs beside the save that began last.
            stalled_seconds: The sum of all stalls for saves so far.
            save_seconds: The time of the last save that ended, from its snapshot until it was durable.
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
        # At least one block of steps, so that a save that always meets the same kind of step is not compared with all
        # kinds. But not for long: until then no other save is due by its cost.
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
                save.usual_seconds = usual_seconds  # frozen: later steps may be of another speed
            weights += weight
            stalls += weight * save.stall_seconds
            limits += weight * save.total_seconds
            usual = save.usual_seconds or usual_seconds
            if usual is not None:  # without a usual time only the stall counts, which is certain
                slowdowns += weight * (save.seconds - save.steps * usual)
        # A single save that seems to have made steps faster is noise, and clipping each save at zero would turn noise
        # into a cost. So only the sum is clipped, to what is possible.
        self._mean = (stalls + max(0.0, min(slowdowns, limits))) / weights
