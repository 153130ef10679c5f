"""The peers, each in the form that its own documentation recommends; knows no clock."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import torch

from tests.bench.ours import Resumable
from tests.bench.states import Training, flat


class Contestant(Protocol):
    """Saves a training into a folder of its own, again and again."""

    def save(self) -> None:
        """Return as soon as training may go on."""

    def busy(self) -> bool:
        """Whether what was saved is not durable yet."""

    def wait(self) -> None:
        """Return when it is."""

    def settle(self) -> float:
        """Do what must happen before weights may change; seconds that training waits for it."""

    def tidy(self) -> None:
        """Remove what was saved, but for the last; never while it is timed."""

    def close(self) -> None:
        """Wait, and let go of memory and processes."""


class Blocking:
    """Someone who has written everything when `save` returns. Keeps the newest in `folder`."""

    suffix = ""

    def __init__(self, training: Training, folder: Path) -> None:
        self._training, self._folder, self._number = training, folder, 0
        folder.mkdir(parents=True)

    def save(self) -> None:
        self._number += 1
        self._write(self._training.state(), self._folder / f"{self._number:06d}{self.suffix}")

    def busy(self) -> bool:
        return False

    def wait(self) -> None:
        pass

    def settle(self) -> float:
        return 0.0

    def tidy(self) -> None:
        for path in sorted(self._folder.iterdir())[:-1]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        self.wait()

    def _write(self, state: Mapping[str, Any], path: Path) -> None:
        raise NotImplementedError


class TorchSave(Blocking):
    """A temporary file, fsync, rename, fsync of the folder: torch.save as it should be used."""

    suffix = ".pt"

    def _write(self, state: Mapping[str, Any], path: Path) -> None:
        _torch_save(state, path)


class Safetensors(Blocking):
    """`save_file`, which renames by itself, and the two fsyncs that it leaves out."""

    suffix = ".safetensors"

    def _write(self, state: Mapping[str, Any], path: Path) -> None:
        from safetensors.torch import save_file

        save_file(flat(state), path)
        _sync(path)
        _sync(path.parent)


class DcpSave(Blocking):
    """`torch.distributed.checkpoint.save` with its own writer, a folder for each save; it calls fsync by default."""

    def _write(self, state: Mapping[str, Any], path: Path) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.save(dict(state), storage_writer=dcp.FileSystemWriter(path))


class DcpThread(Blocking):
    """`async_save` in a thread, with one `DefaultStager` kept for all saves, which keeps its buffers."""

    shared_memory = False
    kind = "THREAD"

    def __init__(self, training: Training, folder: Path) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().__init__(training, folder)
        # Pinned memory, streams and copies that do not block need an accelerator: torch refuses them here.
        self._stager = DefaultStager(StagingOptions(False, self.shared_memory, False, False))
        self._future: Future[Any] | None = None

    def busy(self) -> bool:
        return self._future is not None and not self._future.done()

    def wait(self) -> None:
        if self._future is not None:
            self._future.result()

    def close(self) -> None:
        super().close()
        self._stager.close()

    def _write(self, state: Mapping[str, Any], path: Path) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        self._future = dcp.async_save(
            dict(state),
            storage_writer=dcp.FileSystemWriter(path),
            async_stager=self._stager,
            async_checkpointer_type=AsyncCheckpointerType[self.kind],
        )


class DcpProcess(DcpThread):
    """`async_save` in a process of its own, staged in shared memory; wants a process group, here of one."""

    shared_memory = True
    kind = "PROCESS"

    def __init__(self, training: Training, folder: Path) -> None:
        super().__init__(training, folder)
        meeting = f"file://{folder.absolute()}/.meeting"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)

    def tidy(self) -> None:
        for path in sorted(path for path in self._folder.iterdir() if path.is_dir())[:-1]:
            shutil.rmtree(path)

    def close(self) -> None:
        super().close()
        torch.distributed.destroy_process_group()


class LightningAsync(Blocking):
    """Lightning's `AsyncCheckpointIO` around its own `TorchCheckpointIO`, which here also calls fsync."""

    suffix = ".ckpt"

    def __init__(self, training: Training, folder: Path) -> None:
        from pytorch_lightning.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

        super().__init__(training, folder)
        done = self._done = threading.Event()
        done.set()

        class Durable(TorchCheckpointIO):
            def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
                try:
                    super().save_checkpoint(checkpoint, path, storage_options)
                    _sync(Path(path))
                    _sync(Path(path).parent)
                finally:
                    done.set()

        self._io = AsyncCheckpointIO(Durable())

    def busy(self) -> bool:
        return not self._done.is_set()

    def wait(self) -> None:
        self._done.wait()

    def close(self) -> None:
        super().close()
        self._io.teardown()

    def _write(self, state: Mapping[str, Any], path: Path) -> None:
        self._done.clear()
        self._io.save_checkpoint(dict(state), path)


EAGER, OVERLAP = "resumable eager", "resumable overlap"
TORCH_SAVE, SAFETENSORS, DCP_SAVE = "torch.save + fsync", "safetensors + fsync", "DCP save"
DCP_THREAD, DCP_PROCESS, LIGHTNING = "DCP async_save thread", "DCP async_save process", "Lightning AsyncCheckpointIO"

CONTESTANTS: Mapping[str, Callable[[Training, Path], Contestant]] = {
    EAGER: lambda training, folder: Resumable(training, folder, mode="eager"),
    OVERLAP: lambda training, folder: Resumable(training, folder, mode="overlap"),
    TORCH_SAVE: TorchSave,
    SAFETENSORS: Safetensors,
    DCP_SAVE: DcpSave,
    DCP_THREAD: DcpThread,
    DCP_PROCESS: DcpProcess,
    LIGHTNING: LightningAsync,
}


def _torch_save(state: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
