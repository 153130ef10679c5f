"""Every pattern with what is promised of it. The first line of each program says what it does."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"


@dataclass(frozen=True)
class Pattern:
    """One way to write a loop.

    `names` must stand in a WARN or CHANGED line of the killed run, or in the refusal: what is missing. Without them the
    killed run is exact, and no such line may be logged. With `mends` the program does what the line says when it is run
    with the word `mended`, and is exact then.
    """

    name: str
    names: tuple[str, ...] = ()
    mends: bool = True
    changes: bool = False
    """Whether the relaunches run a program that was changed."""

    @property
    def path(self) -> Path:
        """The program."""
        return PROGRAMS / f"{self.name}.py"

    @property
    def what(self) -> str:
        """The first line of the program."""
        return (ast.get_docstring(ast.parse(self.path.read_text())) or "").partition("\n")[0]


PATTERNS = (
    Pattern("plain"),
    Pattern("accumulation"),
    Pattern("closure"),
    Pattern("shown_mean"),
    Pattern("folds"),
    Pattern("sweep"),
    Pattern("dict_of_nets"),
    Pattern("ensemble"),
    Pattern("stream"),
    Pattern("transform_state"),
    Pattern("module_generator"),
    Pattern("class_generator"),
    Pattern("stateful_sampling"),
    Pattern("meters"),
    Pattern("prefetch", ("X", "Y", "best_loss")),
    Pattern("hidden_state", ("hidden",)),
    Pattern("local_rate", ("lr",)),
    Pattern("early_stopping", ("bad", "best")),
    Pattern("baseline", ("running_reward",)),
    Pattern("step_counter", ("global_step",)),
    Pattern("enumerate_batches", ("trainer.enumerate",)),
    Pattern("counted_batches", ("trainer.enumerate",), mends=False),
    Pattern("notebook", ("weight",)),
    Pattern("own_generator", ("mean",)),
    Pattern("replay_buffer", ("buffer", "global_step")),
    Pattern("environment", ("env", "obs")),
    Pattern("forgotten_average", ("ema",)),
    Pattern("average_in_a_list", ("averages",)),
    Pattern("averaged_model", ("averaged",)),
    Pattern("forgotten_optimizer", ("other",)),
    Pattern("rebuilt_optimizer", ("optimizer",)),
    Pattern("forgotten_model", ("model",)),
    Pattern("forgotten_scheduler", ("scheduler",)),
    Pattern("forgotten_scaler", ("scaler",)),
    Pattern("forgotten_generator", ("noise",)),
    Pattern("numpy_generator", ("rng",)),
    Pattern("temperature", ("temperature",)),
    Pattern("model_hidden", ("model.hidden",)),
    Pattern("dropout_rate", ("model.2.p",)),
    Pattern("curriculum", ("data",)),
    Pattern("window_of_losses", ("recent",)),
    Pattern("dataclass_state", ("state",)),
    Pattern("loss_weights", ("class_weights",)),
    Pattern("per_sample", ("seen",)),
    Pattern("late_target", ("target",)),
    Pattern("weighted_sampling", ("weights",)),
    Pattern("method_attribute", ("scale",)),
    Pattern("head_of_epoch", ("lr",)),
    Pattern("active_learning", ("batches.dataset",)),
    Pattern("unfreezing", ("optimizer",)),
    Pattern("growing", ("model",)),
    Pattern("pruning"),
    Pattern("state_dict_given", ("optimizer",)),
    Pattern("unseeded_stream", ("other batches",), mends=False),
    Pattern("wrong_state"),
    Pattern("changed_rate", ("optimizer.lr",), mends=False, changes=True),
    Pattern("changed_batch_size", ("batches.batch_size",), mends=False, changes=True),
)
