"""Gradients of three batches to an update, and a gradient scaler."""

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, scaler=scaler)
for _ in trainer.epochs(3):
    for number, (x, y) in trainer.enumerate(batches()):
        scaler.scale(loss_of(model, x, y) / 3).backward()
        pause()
        if number % 3 == 2:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
finish(model, scaler.get_scale())
