"""A scenario whose metrics and weights stop being finite where the test wants it; knows no kill."""

from __future__ import annotations

import torch

from tests.lab.script import Script, scenario, seed_all
from tests.lab.toys import mlp


@scenario
def diverging(script: Script) -> None:
    """Logs what `logged` says of each metric at each step (as text), and ruins the weights in step `ruined_at`."""
    seed_all()
    model = mlp()
    trainer = script.trainer(model=model)
    for _ in trainer.steps(script.option("steps", 20)):
        step = trainer.step + 1
        weight = next(model.parameters())
        with torch.no_grad():
            weight += torch.randn(())
            if step == script.option("ruined_at", None):
                weight.fill_(float("nan"))
        metrics = script.option("logged", {})
        trainer.log(**{name: float(values[str(step)]) for name, values in metrics.items() if str(step) in values})
        script.saw(trainer, weight)
