"""Clipping by the recent losses, which are in a deque."""

from collections import deque

from resumable import Trainer
from tests.patterns.toys import *

model = net()
optimizer = sgd(model)
recent = deque([2.0], maxlen=5)
given = {"recent": recent} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        loss = loss_of(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), sum(recent) / len(recent))
        optimizer.step()
        recent.append(loss.item())
finish(model)
