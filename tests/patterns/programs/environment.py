"""On-policy learning: an environment with a state and a random stream, and the observation of the last turn."""

from resumable import Trainer, attributes
from tests.patterns.toys import *


class Walk:
    def __init__(self):
        self.np_random = numpy.random.default_rng(3)
        self.place = numpy.zeros(8, numpy.float32)

    def step(self, action):
        self.place = 0.9 * self.place + self.np_random.normal(size=8).astype(numpy.float32)
        self.place[0] += action
        return self.place.copy(), float(self.place.sum() > 0)


model = net()
optimizer = sgd(model, 0.05)
env = Walk()
given = {"env": attributes(env)} if MENDED else {}
trainer = Trainer(CONFIG, model=model, optimizer=optimizer, **given)
obs = env.place
if MENDED:
    trainer.carry("obs")
for _ in trainer.steps(24):
    action = model(torch.as_tensor(obs)).argmax().item()
    next_obs, reward = env.step(action)
    update(optimizer, loss_of(model, torch.as_tensor(next_obs)[None], torch.tensor([int(reward)])))
    obs = next_obs
finish(model)
