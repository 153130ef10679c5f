"""Scenarios about where the batches come from: one loop, many loaders; knows no kill."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    Sampler,
    StackDataset,
    Subset,
    WeightedRandomSampler,
    default_collate,
)

from tests.lab.script import Script, scenario, seed_all
from tests.lab.toys import (
    BATCH,
    CLASSES,
    STEPS_PER_EPOCH,
    TRAIN_SAMPLES,
    Augmented,
    AugmentedByAll,
    Drawn,
    DrawnStateful,
    Islands,
    mlp,
    samples,
)

EPOCHS = 2


def fit(script: Script, loader: Any, *, model: nn.Module | None = None) -> None:
    """The plain loop: AdamW and a one-cycle schedule over whatever gives batches."""
    model = model or mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=1000)
    trainer = script.trainer(model=model, optimizer=optimizer, scheduler=scheduler)
    for _ in trainer.epochs(EPOCHS):
        for x, y in trainer.batches(loader):
            loss = loss_of(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            trainer.log(loss=loss)
            script.saw(trainer, x, y, loss)


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, for classes and for mixed ones."""
    return nn.functional.cross_entropy(outputs, targets)


def worker_options(script: Script) -> dict[str, Any]:
    """The loader's keyword arguments that this launch was asked to use."""
    chosen: dict[str, Any] = {"num_workers": script.option("workers", 0)}
    if chosen["num_workers"]:
        chosen["persistent_workers"] = script.option("persistent", False)
        chosen["multiprocessing_context"] = script.option("start", "fork")
    return chosen


def loader_of(script: Script, dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
    """A shuffling loader over `dataset`, or one as `options` say, with this launch's workers."""
    if "sampler" not in options and "batch_sampler" not in options:
        options = {"shuffle": True} | options
    if "batch_sampler" not in options:
        options = {"batch_size": BATCH} | options
    return DataLoader(dataset, **options, **worker_options(script))


@scenario
def workers(script: Script) -> None:
    """Augmentation that draws from every kind of stream, fetched by whoever this launch says."""
    seed_all()
    fit(script, loader_of(script, AugmentedByAll(samples(TRAIN_SAMPLES))))


@scenario
def batch_norm(script: Script) -> None:
    seed_all()
    loader = loader_of(script, Augmented(samples(TRAIN_SAMPLES)))
    fit(script, loader, model=mlp(nn.BatchNorm1d(16)))


def mixup(items: list[Any]) -> tuple[Tensor, Tensor]:
    """Mix every sample with another of its batch; draws from NumPy and torch."""
    x, y = default_collate(items)
    share, order = float(numpy.random.beta(0.4, 0.4)), torch.randperm(len(x))
    targets = nn.functional.one_hot(y, CLASSES).float()
    return share * x + (1 - share) * x[order], share * targets + (1 - share) * targets[order]


@scenario
def mixup_in_collate(script: Script) -> None:
    seed_all()
    fit(script, loader_of(script, Augmented(samples(TRAIN_SAMPLES)), collate_fn=mixup))


@scenario
def weighted_sampler(script: Script) -> None:
    seed_all()
    weights = torch.linspace(0.1, 1, TRAIN_SAMPLES).tolist()
    sampler = WeightedRandomSampler(weights, TRAIN_SAMPLES, generator=torch.Generator().manual_seed(8))
    fit(script, loader_of(script, Augmented(samples(TRAIN_SAMPLES)), sampler=sampler))


class Hard(Sampler[int]):
    """A user's sampler that draws its order by the losses so far, and counts what it gives."""

    def __init__(self) -> None:
        self.losses = torch.ones(TRAIN_SAMPLES, dtype=torch.double)
        self.given = 0

    def __len__(self) -> int:
        return TRAIN_SAMPLES

    def __iter__(self) -> Iterator[int]:
        for index in torch.multinomial(self.losses, TRAIN_SAMPLES, replacement=True).tolist():
            self.given += 1
            yield index

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses.copy_(state["losses"])
        self.given = state["given"]


@scenario
def hard_samples(script: Script) -> None:
    """A sampler that the loop writes every loss to; the option `registered` makes it one of the objects, too."""
    seed_all()
    sampler, model = Hard(), mlp()
    numbered = StackDataset(samples(TRAIN_SAMPLES), range(TRAIN_SAMPLES))
    loader = loader_of(script, numbered, sampler=sampler)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    beside = {"sampler": sampler} if script.option("registered", False) else {}
    trainer = script.trainer(model=model, optimizer=optimizer, **beside)
    for _ in trainer.epochs(EPOCHS):
        for (x, y), index in trainer.batches(loader):
            losses = nn.functional.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            sampler.losses[index] = losses.detach().double() ** 4
            script.saw(trainer, index, losses)


@scenario
def weighted_by_losses(script: Script) -> None:
    """A sampler of torch's own, without a state, whose weights the loop writes; they are one of the objects."""
    seed_all()
    weights = torch.ones(TRAIN_SAMPLES, dtype=torch.double)
    sampler, model = WeightedRandomSampler(weights, TRAIN_SAMPLES), mlp()  # type: ignore[arg-type]
    numbered = StackDataset(samples(TRAIN_SAMPLES), range(TRAIN_SAMPLES))
    loader = loader_of(script, numbered, sampler=sampler)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = script.trainer(model=model, optimizer=optimizer, of_sampler={"weights": sampler.weights})
    for _ in trainer.epochs(EPOCHS):
        for (x, y), index in trainer.batches(loader):
            losses = nn.functional.cross_entropy(model(x), y, reduction="none")
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            sampler.weights[index] = losses.detach().double() ** 4
            script.saw(trainer, index, losses)


class Wearing(Dataset[Any]):
    """A map-style dataset with a state, which each sample that is read changes."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset, self.reads = dataset, 0

    def __len__(self) -> int:
        return TRAIN_SAMPLES

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        x, y = self.dataset[index]
        return x / (1 + self.reads / 100), y

    def state_dict(self) -> dict[str, int]:
        return {"reads": self.reads}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.reads = state["reads"]


@scenario
def wearing_dataset(script: Script) -> None:
    seed_all()
    fit(script, loader_of(script, Wearing(samples(TRAIN_SAMPLES))))


class Coins(Sampler[int]):
    """A user's sampler: an order from NumPy's global stream, thinned by Python's as it goes."""

    def __iter__(self) -> Iterator[int]:
        for index in numpy.random.permutation(2 * TRAIN_SAMPLES).tolist():
            if random.random() < 0.5:
                yield index % TRAIN_SAMPLES


@scenario
def user_sampler(script: Script) -> None:
    seed_all()
    fit(script, loader_of(script, Augmented(samples(TRAIN_SAMPLES)), sampler=Coins()))


class Buckets(Sampler[list[int]]):
    """A user's batch sampler: batches of neighbours, of random sizes, in random order, another one each epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        edges = sorted(random.sample(range(1, TRAIN_SAMPLES), 9))
        batches = [list(range(*pair)) for pair in zip([0, *edges], [*edges, TRAIN_SAMPLES], strict=True)]
        random.shuffle(batches)
        for batch in batches:
            yield [(index + self.epoch) % TRAIN_SAMPLES for index in batch]


@scenario
def user_batch_sampler(script: Script) -> None:
    seed_all()
    fit(script, loader_of(script, Augmented(samples(TRAIN_SAMPLES)), batch_sampler=Buckets()))


@scenario
def subset(script: Script) -> None:
    seed_all()
    chosen = Subset(AugmentedByAll(samples(TRAIN_SAMPLES)), torch.randperm(TRAIN_SAMPLES)[:32].tolist())
    fit(script, loader_of(script, chosen, drop_last=True, batch_size=3))


@scenario
def iterable_replayed(script: Script) -> None:
    """An iterable dataset without `state_dict`: what was consumed is read again."""
    seed_all()
    fit(script, loader_of(script, Drawn(), shuffle=None))


@scenario
def iterable_stateful(script: Script) -> None:
    seed_all()
    fit(script, loader_of(script, DrawnStateful(), shuffle=None))


@scenario
def buffered_stream(script: Script) -> None:
    """A stream of Hugging Face's with a shuffle buffer, whose `state_dict` leaves the buffer out."""
    import datasets
    from datasets.table import InMemoryTable

    seed_all()
    x, y = samples(TRAIN_SAMPLES).tensors
    values = InMemoryTable.from_pydict({"x": x.tolist(), "y": y.tolist()})
    stream = datasets.Dataset(values, fingerprint="x").to_iterable_dataset(num_shards=4)
    rows = stream.shuffle(seed=1, buffer_size=10).map(
        lambda row: {"x": [value + random.random() for value in row["x"]]}
    )
    fit(script, loader_of(script, rows.with_format("torch"), shuffle=None, collate_fn=pairs))


def pairs(rows: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Columns of a batch."""
    return torch.stack([row["x"] for row in rows]), torch.stack([row["y"] for row in rows])


@scenario
def plain_iterable(script: Script) -> None:
    seed_all()
    fit(script, Islands(STEPS_PER_EPOCH))


@scenario
def stateful_data_loader(script: Script) -> None:
    from torchdata.stateful_dataloader import StatefulDataLoader

    seed_all()
    dataset = AugmentedByAll(samples(TRAIN_SAMPLES))
    fit(script, StatefulDataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=script.option("workers", 0)))


@scenario
def zipped_loaders(script: Script) -> None:
    """`batches(a, b)`: labelled and unlabelled batches together, of which one is the longer."""
    seed_all()
    labelled = loader_of(script, Augmented(samples(TRAIN_SAMPLES)))
    unlabelled = loader_of(script, AugmentedByAll(samples(60, seed=6)), batch_size=5)
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = script.trainer(model=model, optimizer=optimizer)
    for _ in trainer.epochs(EPOCHS):
        for (x, y), (other, _) in trainer.batches(labelled, unlabelled):
            loss = loss_of(model(x), y) - 0.1 * model(other).log_softmax(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trainer.log(loss=loss)
            script.saw(trainer, x, y, other, loss)


@scenario
def cycle_in_steps(script: Script) -> None:
    """Two endless loaders of unlike lengths, drawn from at will within `steps`."""
    seed_all()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = script.trainer(model=model, optimizer=optimizer)
    often = trainer.cycle(loader_of(script, AugmentedByAll(samples(TRAIN_SAMPLES))), name="often")
    seldom = trainer.cycle(loader_of(script, Augmented(samples(12, seed=6))), name="seldom")
    for step in trainer.steps(25):
        drawn = [next(often), next(often), *([next(seldom)] if step % 3 == 0 else [])]
        x, y = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        loss = loss_of(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainer.log(loss=loss)
        script.saw(trainer, x, y, loss)
