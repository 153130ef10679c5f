"""Workers: which signals they survive, what they see, and that they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from resumable.data.addresses import PassAddress
from resumable.data.workers import CalmStart
from tests.data.kinds import Augmented, Bench, OwnIter, equal

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Telling(Augmented):
    def __getitem__(self, index: int) -> torch.Tensor:
        told = get_worker_info()
        assert told is not None
        assert told.dataset is self
        assert told.seed == torch.initial_seed()
        return torch.tensor([index, told.seed % 1000, os.getpid()])


def test_workers_let_the_signals_of_a_preemption_pass() -> None:
    bench = Bench(signals=SIGNALS)
    opened = bench.data.open(DataLoader(Augmented(400), 4, num_workers=2), PassAddress("b", 0, 0), set_epoch=0)
    first = next(opened)
    for worker in multiprocessing.active_children():
        for number in SIGNALS:
            os.kill(worker.pid or 0, number)
    rest = list(opened)
    assert equal([first, *rest], Bench().batches(DataLoader(Augmented(400), 4), loop="b")[0])


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_replayed_loader_let_them_pass_too(persistent: bool) -> None:
    loader = OwnIter(Augmented(400), 4, num_workers=1, persistent_workers=persistent)
    opened = Bench(signals=SIGNALS).data.open(loader, PassAddress("b", 0, 0), set_epoch=0)
    next(opened)
    (worker,) = multiprocessing.active_children()
    for number in SIGNALS:
        os.kill(worker.pid or 0, number)
    assert len(list(opened)) == 99
    assert loader.worker_init_fn is None


def _start_late(said: Any) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    said.send("the parent is gone")
    CalmStart(None, ())(0)
    said.send("the worker went on")


def test_a_worker_whose_parent_died_while_it_started_ends() -> None:
    context = multiprocessing.get_context("spawn")
    heard, said = context.Pipe(duplex=False)
    parent = os.fork()
    if parent == 0:
        context.Process(target=_start_late, args=(said,)).start()
        os._exit(0)
    os.waitpid(parent, 0)
    said.close()
    assert heard.recv() == "the parent is gone"
    with pytest.raises(EOFError):
        heard.recv()


def test_a_second_sigterm_ends_a_worker() -> None:
    bench = Bench(signals=SIGNALS)
    loader = DataLoader(Telling(400), 4, num_workers=1, persistent_workers=True)
    opened = bench.data.open(loader, PassAddress("b", 0, 0), set_epoch=0)
    pid = int(next(opened)[0, 2])
    (worker,) = [child for child in multiprocessing.active_children() if child.pid == pid]
    os.kill(pid, signal.SIGTERM)
    for _ in range(5):
        next(opened)  # the worker goes on with its work, so it has seen the first
    with pytest.raises(RuntimeError, match="DataLoader worker"):  # noqa: PT012  raised by torch wherever the program is
        os.kill(pid, signal.SIGTERM)
        worker.join(10)
        list(opened)
    worker.join(10)
    assert worker.exitcode == 128 + signal.SIGTERM


def test_worker_code_sees_the_users_dataset_and_a_seed_of_the_batch() -> None:
    whole = Bench().batches(DataLoader(Telling(), 4, num_workers=1))[0]
    other = Bench().batches(DataLoader(Telling(), 4, num_workers=2))[0]
    assert equal([batch[:, :2] for batch in whole], [batch[:, :2] for batch in other])
    assert len({int(batch[0, 1]) for batch in whole}) > 5


@pytest.mark.parametrize("persistent", [False, True])
def test_closing_ends_every_worker(persistent: bool) -> None:
    bench = Bench(signals=SIGNALS)
    loader = DataLoader(Augmented(), 4, num_workers=2, persistent_workers=persistent)
    opened = bench.data.open(loader, PassAddress("b", 0, 0), set_epoch=0)
    next(opened)
    workers = multiprocessing.active_children()
    bench.data.close()
    assert len(workers) >= 2
    assert not any(worker.is_alive() for worker in workers)


def test_the_handlers_and_the_mask_of_the_main_program_stay() -> None:
    before = [signal.getsignal(number) for number in SIGNALS], signal.pthread_sigmask(signal.SIG_BLOCK, [])
    Bench(signals=SIGNALS).batches(DataLoader(Augmented(), 4, num_workers=1), stop=2)
    after = [signal.getsignal(number) for number in SIGNALS], signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert before == after


def test_a_program_that_leaves_in_the_middle_of_a_pass_ends_at_once() -> None:
    script = """
        import signal
        from torch.utils.data import DataLoader
        from tests.data.kinds import Augmented, Bench
        from resumable.data.addresses import PassAddress
        bench = Bench(signals=(signal.SIGTERM,))
        loader = DataLoader(Augmented(400), 4, num_workers=2, persistent_workers=True)
        opened = bench.data.open(loader, PassAddress("b", 0, 0), set_epoch=0)
        next(opened)
        print("leaving", flush=True)
        raise SystemExit(75)
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (75, "leaving\n", "")
