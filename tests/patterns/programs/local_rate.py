"""The learning rate is a local variable, divided by four when the validation stalls."""

from resumable import Trainer
from tests.patterns.toys import *


def main():
    model = net()
    optimizer = sgd(model, 0.5)
    trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
    lr, best = 0.5, float("inf")
    if MENDED:
        trainer.carry("lr", "best")
    for _ in trainer.epochs(4):
        for x, y in trainer.batches(batches()):
            loss = loss_of(model, x, y)
            model.zero_grad()
            loss.backward()
            pause()
            for p in model.parameters():
                p.data.add_(p.grad, alpha=-lr)
        model.eval()
        value = loss_of(model, INPUTS, LABELS).item()
        model.train()
        if value < best * 0.5:
            best = value
        else:
            lr /= 4.0
    finish(model, lr)


main()
