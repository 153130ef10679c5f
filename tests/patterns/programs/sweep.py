"""A sweep over learning rates, a run for each."""

from resumable import Trainer
from tests.patterns.toys import *


def train(lr):
    torch.manual_seed(0)
    model = net()
    optimizer = sgd(model, lr)
    with Trainer(CONFIG | {"run": f"{RUN}/lr{lr}"}, model=model, optimizer=optimizer) as trainer:
        for _ in trainer.epochs(2):
            for x, y in trainer.batches(batches()):
                update(optimizer, loss_of(model, x, y))
    return loss_of(model.eval(), INPUTS, LABELS).item()


finish({lr: train(lr) for lr in (0.1, 0.01)})
