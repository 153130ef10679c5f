"""The callback that makes `transformers.Trainer` resume exactly; `session` does the work."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from resumable.config.config import Config
from resumable.drivers.versions import warn_of_unchecked
from resumable.loop.launch_checks import refuse_while_building
from resumable.transformers import private
from resumable.transformers.attributes import Attributes
from resumable.transformers.refusals import refuse, refuse_own_loop
from resumable.transformers.session import Session
from resumable.transformers.unsaved import warn_of_tensors
from resumable.utils.events import show_events

_Callback: Any = private.package().TrainerCallback


class Resume(_Callback):  # type: ignore[misc]
    """Make `trainer.train()` continue at the exact batch when the same command runs again after a crash.

    A step is one optimizer update, as in Hugging Face's `global_step`. Script, model and arguments may stay as they
    are. Outside of `train()` the callback does nothing.

    Args:
        config: The folder or URL of the run, the path of a YAML file, a mapping or a `Config`, as for
            `resumable.Trainer`.
        golden: A golden input of the model, as for `Trainer.golden`: every checkpoint stores it with the model's
            output. A dict of tensors is passed as `model(**golden)`.

    Raises:
        ConfigError: At the start of `train()`, for what cannot resume exactly, such as more than one process.
        RunMismatchError: At the start of `train()`, if the checkpoint has other objects.
        ResumableError: Any other error of a run or its storage.
    """

    def __init__(self, config: str | Path | Mapping[str, Any] | Config, *, golden: object = None) -> None:
        self.config = Config.load(config)
        self._golden = golden
        self._session: Session | None = None
        self._attributes: Attributes | None = None
        self._warned = False
        private.drive(_train)

    def on_train_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Restore the run, so that other callbacks see the state of the checkpoint."""
        if self._session is None:
            raise refuse_own_loop("this trainer")
        self._session.begin(self._golden)

    def on_epoch_begin(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Warn, before anything is trained, of what other callbacks keep since their `on_train_begin`."""
        if self._session is not None and not self._warned:
            self._warned = True
            trainer = self._session.trainer
            warn_of_tensors(trainer, [each for each in trainer.callback_handler.callbacks if each is not self])

    def on_substep_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Leave between two batches of an update, where a signal cannot wait for its end."""
        if self._session is not None:
            self._session.between_batches()

    def on_train_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Save the final checkpoint."""
        if self._session is not None:
            self._session.end()

    def train(self, request: private.Request) -> object:
        """Run the loop of a trainer under exact resume."""
        trainer = request.trainer
        callbacks = trainer.callback_handler.callbacks
        callbacks.remove(self)
        callbacks.insert(0, self)  # the others see at their start what was restored
        if self._attributes is None or self._attributes.target is not trainer:
            read = partial(private.attributes, trainer)
            self._attributes = Attributes(trainer, read, device=trainer.args.device)
        with Session(self.config, trainer, self._attributes) as session:
            self._session = session
            try:
                return request.run(session.folder)
            finally:
                self._session = None


def _train(request: private.Request) -> object:
    """Run the loop of any trainer: under exact resume where it has the callback."""
    found = [each for each in request.trainer.callback_handler.callbacks if isinstance(each, Resume)]
    if not found:
        return request.run(request.resume_from_checkpoint)
    refuse_while_building()
    show_events()
    refuse(request, callbacks=len(found))
    warn_of_unchecked("transformers", private.version(), private.CHECKED)
    return found[0].train(request)
