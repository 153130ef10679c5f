"""Loaders of other libraries as rows of a table, and the training over one of them; knows no kill."""

from __future__ import annotations

import importlib
import io
import json
import random
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

from tests.lab.feeds import EPOCHS
from tests.lab.script import Script, scenario, seed_all
from tests.lab.toys import BATCH, INPUTS, TRAIN_SAMPLES, mlp, samples

SHARDS = 8


@dataclass(frozen=True)
class Row:
    """The functions that make a loader for a number of workers, and tensors of its batches."""

    make: Callable[[int, Path], Any]
    tensor: Callable[[Any], Tensor] = lambda batch: batch


ROWS: dict[str, Row] = {}


def row(name: str, **settings: Any) -> Callable[[Callable[[int, Path], Any]], None]:
    """Add a row."""

    def add(make: Callable[[int, Path], Any]) -> None:
        ROWS[name] = Row(make, **settings)

    return add


def preload() -> None:
    """Import what rows import, as far as it is installed."""
    for name in ("datasets", "webdataset", "torchdata.nodes", "monai.data", "monai.transforms"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue


@scenario
def library(script: Script) -> None:
    """The plain loop over the row that the option `row` names."""
    if script.option("seeded", True):
        seed_all()
    torch.manual_seed(1)
    chosen = ROWS[script.option("row", "")]
    loader = chosen.make(script.option("workers", 0), Path(script.option("beside", "")))
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = script.trainer(model=model, optimizer=optimizer)
    for _ in trainer.epochs(EPOCHS):
        for batch in trainer.batches(loader):
            x = chosen.tensor(batch)
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trainer.log(loss=loss)
            script.saw(trainer, x, loss)


def values() -> Tensor:
    """The samples of every row."""
    return samples(TRAIN_SAMPLES).tensors[0]


def noisy(x: Any) -> Tensor:
    """Noise from torch's global stream."""
    return torch.as_tensor(x) + 0.1 * torch.randn(INPUTS)


# -- datasets ---------------------------------------------------------------------------------------------------------


def table() -> Any:
    import datasets
    from datasets.table import InMemoryTable

    return datasets.Dataset(InMemoryTable.from_pydict({"x": values().tolist()}), fingerprint="x")


def column(batch: Any) -> Tensor:
    """The one column."""
    return batch["x"]  # type: ignore[no-any-return]


@row("datasets, map-style, with_format", tensor=lambda batch: noisy(batch["x"]))
def _(workers: int, folder: Path) -> Any:
    return DataLoader(table().with_format("torch"), BATCH, shuffle=True, num_workers=workers)


@row("datasets, map-style, set_transform", tensor=column)
def _(workers: int, folder: Path) -> Any:
    rows = table()
    rows.set_transform(lambda batch: {"x": [noisy(x) for x in batch["x"]]})
    return DataLoader(rows, BATCH, shuffle=True, num_workers=workers)


def streamed() -> Any:
    return table().to_iterable_dataset(num_shards=SHARDS)


@row("datasets, streaming, shuffle buffer", tensor=column)
def _(workers: int, folder: Path) -> Any:
    rows = streamed().shuffle(seed=1, buffer_size=10).map(lambda row: {"x": noisy(row["x"]).tolist()})
    return DataLoader(rows.with_format("torch"), BATCH, num_workers=workers)


@row("datasets, streaming, interleaved", tensor=column)
def _(workers: int, folder: Path) -> Any:
    import datasets

    both = datasets.interleave_datasets([streamed(), streamed()], probabilities=[0.6, 0.4], seed=3)
    return DataLoader(both.take(TRAIN_SAMPLES).with_format("torch"), BATCH, num_workers=workers)


@row("datasets, streaming, random map", tensor=column)
def _(workers: int, folder: Path) -> Any:
    rows = streamed().map(lambda row: {"x": noisy(row["x"]).tolist()})
    return DataLoader(rows.with_format("torch"), BATCH, num_workers=workers)


def from_a_clock() -> Iterator[dict[str, Any]]:
    """Rows of a generator function that seeds a local generator by the clock."""
    hidden = random.Random(time.time_ns())
    for x in values().tolist():
        yield {"x": [value + hidden.random() for value in x]}


@row("datasets, streaming, hidden generator", tensor=column)
def _(workers: int, folder: Path) -> Any:
    import datasets

    return DataLoader(datasets.IterableDataset.from_generator(from_a_clock).with_format("torch"), BATCH)


# -- torchdata --------------------------------------------------------------------------------------------------------


class Noisy(Dataset[Tensor]):
    def __len__(self) -> int:
        return TRAIN_SAMPLES

    def __getitem__(self, index: int) -> Tensor:
        return noisy(values()[index])


@row("torchdata, StatefulDataLoader")
def _(workers: int, folder: Path) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Noisy(), BATCH, shuffle=True, num_workers=workers)


def nodes(sampler: Any, read: Callable[[int], Tensor]) -> Any:
    """Batches of what a sampler draws."""
    from torchdata.nodes import Batcher, Mapper, SamplerWrapper

    return Mapper(Batcher(Mapper(SamplerWrapper(sampler), read), BATCH), torch.stack)


@row("torchdata, nodes")
def _(workers: int, folder: Path) -> Any:
    from torchdata.nodes import Loader

    return Loader(nodes(RandomSampler(range(TRAIN_SAMPLES)), Noisy().__getitem__))


@row("torchdata, nodes, generator of its own")
def _(workers: int, folder: Path) -> Any:
    from torchdata.nodes import Loader

    sampler = RandomSampler(range(TRAIN_SAMPLES), generator=torch.Generator().manual_seed(3))
    return Loader(nodes(sampler, Noisy().__getitem__))


@row("torchdata, nodes, replacement")
def _(workers: int, folder: Path) -> Any:
    from torchdata.nodes import Loader

    return Loader(nodes(RandomSampler(range(TRAIN_SAMPLES), replacement=True), Noisy().__getitem__))


@row("torchdata, nodes, weighted")
def _(workers: int, folder: Path) -> Any:
    from torchdata.nodes import Batcher, IterableWrapper, Loader, Mapper, MultiNodeWeightedSampler

    sources = {name: IterableWrapper(values().tolist()) for name in "ab"}
    mixed = MultiNodeWeightedSampler(sources, {"a": 0.7, "b": 0.3}, seed=5)
    return Loader(Mapper(Batcher(Mapper(mixed, noisy), 8), torch.stack))


@row("torchdata, nodes, threads ahead")
def _(workers: int, folder: Path) -> Any:
    from torchdata.nodes import Loader, ParallelMapper, Prefetcher

    order = torch.utils.data.SequentialSampler(range(TRAIN_SAMPLES))
    read = ParallelMapper(nodes(order, values().__getitem__), torch.neg, num_workers=2, method="thread")
    return Loader(Prefetcher(read, prefetch_factor=3))


# -- webdataset -------------------------------------------------------------------------------------------------------


def shards(folder: Path) -> str:
    """The address of the shards, written if they are not there."""
    folder.mkdir(exist_ok=True)
    share = TRAIN_SAMPLES // SHARDS
    for shard in range(SHARDS):
        path = folder / f"{shard}.tar"
        if path.exists():
            continue
        with tarfile.open(path, "w") as archive:
            for number in range(shard * share, (shard + 1) * share):
                data = json.dumps(values()[number].tolist()).encode()
                member = tarfile.TarInfo(f"{number}.json")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return f"{folder}/{{0..{SHARDS - 1}}}.tar"


def web(folder: Path, *, shuffle: dict[str, Any], **settings: Any) -> Any:
    import webdataset

    rows = webdataset.WebDataset(shards(folder / "shards"), shardshuffle=SHARDS, empty_check=False, **settings)
    return rows.shuffle(10, **shuffle).decode().map(lambda row: noisy(row["json"]))


@row("webdataset, shuffle without seed")
def _(workers: int, folder: Path) -> Any:
    return DataLoader(web(folder, shuffle={}, seed=3), BATCH, num_workers=workers)


@row("webdataset, shards without seed")
def _(workers: int, folder: Path) -> Any:
    return DataLoader(web(folder, shuffle={"seed": 7}), BATCH, num_workers=workers)


@row("webdataset, seeds")
def _(workers: int, folder: Path) -> Any:
    return DataLoader(web(folder, shuffle={"seed": 7}, seed=3), BATCH, num_workers=workers)


@row("webdataset, WebLoader, seeds", tensor=lambda batch: batch[0])
def _(workers: int, folder: Path) -> Any:
    import webdataset

    rows = web(folder, shuffle={"seed": 7}, seed=3).map(lambda x: (x,)).batched(2)
    return (
        webdataset.WebLoader(rows, batch_size=None, num_workers=workers).unbatched().shuffle(9, seed=2).batched(BATCH)
    )


# -- transforms -------------------------------------------------------------------------------------------------------


class Transformed(Dataset[Tensor]):
    def __init__(self, transform: Callable[[Tensor], Tensor]) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return TRAIN_SAMPLES

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(values()[index])


class Jitter:
    def __init__(self) -> None:
        self.rng = numpy.random.default_rng(0)

    def __call__(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.from_numpy(self.rng.normal(size=INPUTS)).float()


@row("NumPy Generator as an attribute")
def _(workers: int, folder: Path) -> Any:
    return DataLoader(Transformed(Jitter()), BATCH, shuffle=True, num_workers=workers)


@row("NumPy Generator in a closure")
def _(workers: int, folder: Path) -> Any:
    rng = numpy.random.default_rng(0)
    add = Transformed(lambda x: x + 0.1 * torch.from_numpy(rng.normal(size=INPUTS)).float())
    return DataLoader(add, BATCH, shuffle=True, num_workers=workers)


def augmentation() -> Any:
    """Random transforms of MONAI, each of which holds a stream of its own."""
    from monai.transforms import Compose, RandFlip, RandGaussianNoise, RandScaleIntensity

    return Compose(
        [RandFlip(prob=0.5, spatial_axis=0), RandGaussianNoise(prob=0.8, std=0.1), RandScaleIntensity(0.3, prob=0.7)]
    )


def images() -> list[Tensor]:
    return [x[None] for x in values()]


def plain(batch: Any) -> Tensor:
    """Vectors without metadata."""
    return torch.as_tensor(batch).as_subclass(Tensor)[:, 0]  # type: ignore[no-any-return]


@row("MONAI, Dataset", tensor=plain)
def _(workers: int, folder: Path) -> Any:
    from monai.data import DataLoader, Dataset

    return DataLoader(Dataset(images(), augmentation()), batch_size=BATCH, shuffle=True, num_workers=workers)


@row("MONAI, CacheDataset", tensor=plain)
def _(workers: int, folder: Path) -> Any:
    from monai.data import CacheDataset, DataLoader

    rows = CacheDataset(images(), augmentation(), progress=False)
    return DataLoader(rows, batch_size=BATCH, shuffle=True, num_workers=workers)


@row("MONAI, PersistentDataset", tensor=plain)
def _(workers: int, folder: Path) -> Any:
    from monai.data import DataLoader, PersistentDataset

    rows = PersistentDataset(images(), augmentation(), cache_dir=folder / "cache")
    return DataLoader(rows, batch_size=BATCH, shuffle=True, num_workers=workers)


@row("albumentations")
def _(workers: int, folder: Path) -> Any:
    import albumentations

    compose = albumentations.Compose([albumentations.HorizontalFlip(p=0.5), albumentations.GaussNoise(p=0.8)])

    def augment(x: Tensor) -> Tensor:
        image = numpy.tile(x.numpy().reshape(2, 3, 1), (4, 4, 3))
        return torch.from_numpy(compose(image=image)["image"][:1, :INPUTS, 0].copy()).reshape(INPUTS)

    return DataLoader(Transformed(augment), BATCH, shuffle=True, num_workers=workers)


# -- loaders of the user's own ----------------------------------------------------------------------------------------


class Hidden(IterableDataset[Tensor]):
    """Draws from a local variable that nobody finds, seeded by the clock."""

    def __iter__(self) -> Iterator[Tensor]:
        hidden = numpy.random.default_rng()
        for x in values():
            yield x + float(hidden.normal())


class HiddenStateful(Hidden):
    """The same with a state, which says where it stands and not what it draws."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[Tensor]:
        hidden = numpy.random.default_rng()
        while self.at < TRAIN_SAMPLES:
            self.at += 1
            yield values()[self.at - 1] + float(hidden.normal())
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


@row("hidden generator")
def _(workers: int, folder: Path) -> Any:
    return DataLoader(Hidden(), BATCH, num_workers=workers)


@row("hidden generator, state_dict")
def _(workers: int, folder: Path) -> Any:
    return DataLoader(HiddenStateful(), BATCH)


class Batches:
    """A loader of a user's own with a state. It shuffles within a buffer, which the state may leave out."""

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole
        self.at, self.buffer = 0, []  # type: tuple[int, list[int]]

    def __iter__(self) -> Iterator[Tensor]:
        while self.at < TRAIN_SAMPLES or self.buffer:
            while len(self.buffer) < 3 * BATCH and self.at < TRAIN_SAMPLES:
                self.buffer.append(self.at)
                self.at += 1
            drawn = [self.buffer.pop(int(torch.randint(len(self.buffer), ()))) for _ in range(BATCH)]
            yield torch.stack([noisy(values()[index]) for index in drawn])
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at} | ({"buffer": self.buffer} if self.whole else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at, self.buffer = state["at"], state.get("buffer", [])


@row("loader with a whole state")
def _(workers: int, folder: Path) -> Any:
    return Batches(whole=True)


@row("loader with a state without its buffer")
def _(workers: int, folder: Path) -> Any:
    return Batches(whole=False)
