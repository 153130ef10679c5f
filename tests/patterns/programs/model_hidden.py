"""A network keeps its hidden state in an attribute of its own, from one batch to the next."""

from resumable import Trainer
from tests.patterns.toys import *


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 8), nn.Linear(8, 2)
        self.hidden = None
        if MENDED:
            self.register_buffer("h", torch.zeros(1, 8))
            self.register_buffer("c", torch.zeros(1, 8))

    def forward(self, x):
        hidden = (self.h, self.c) if MENDED else self.hidden
        out, hidden = self.rnn(x, hidden)
        if MENDED:
            self.h, self.c = (each.detach() for each in hidden)
        else:
            self.hidden = tuple(each.detach() for each in hidden)
        return self.head(out)


model = Recurrent()
optimizer = sgd(model)
trainer = Trainer(CONFIG, model=model, optimizer=optimizer)
for _ in trainer.epochs(3):
    for x, y in trainer.batches(batches()):
        update(optimizer, loss_of(model, x, y))
finish(model)
