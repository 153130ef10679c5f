"""Load weights into a model from a run, a checkpoint or safetensors files. Independent of any trainer.

The kind of a location is decided by its content, never by its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from resumable.errors import CheckpointError, ConfigError, CorruptCheckpointError, NoCheckpointError, RunMismatchError
from resumable.run.checkpoint import Checkpoint
from resumable.run.run import Run
from resumable.run.target import parse_target, unknown_selector
from resumable.state.loading.result import Loaded
from resumable.store.layout import CHECKPOINTS, MANIFEST, RUN_FILE, CheckpointName
from resumable.store.storage.open import local_path, open_storage
from resumable.store.storage.user_file import File, join, split
from resumable.utils import pickles
from resumable.utils.location import location
from resumable.utils.messages import listed, quoted
from resumable.weights import proof as proofs
from resumable.weights.files import COPY_AGAIN, INDEX, SINGLE, Options, open_files, parse_small, refused_program
from resumable.weights.proof import GOLDEN_FILE, PROOF, ProvedWeights

if TYPE_CHECKING:
    from torch import nn

    from resumable.state.loading.sources import StoredFiles

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".bin.index.json")
_SHOWN = 8


def load_weights(
    model: nn.Module,
    url: str | os.PathLike[str],
    *,
    name: str | None = None,
    strict: bool = True,
    rename: Mapping[str, str] | None = None,
    skip: Iterable[str] = (),
    storage_options: Options = None,
) -> Loaded:
    """Copy weights and buffers into `model`, in place.

    The model's parameters stay the same objects, with their dtypes and devices: values are converted. All names and
    shapes are compared before the first value is written.

    Args:
        model: The module to fill. Wrappers such as DDP and `torch.compile` are unwrapped.
        url: A run (`RUN`, `RUN@best`, `RUN@latest`, `RUN@finite`, `RUN@STEP`), a checkpoint's folder, a `.safetensors`
            file, or a folder in Hugging Face's layout (one file, or shards with an index). A path or any fsspec URL.
            An export's `proof.json` in the folder verifies every tensor that is read.
        name: The object of a run to load, such as an EMA; by default its only module, or `model`.
        strict: Raise for every name and shape that does not match. If false, what matches is loaded, and the rest is
            returned and logged.
        rename: Maps prefixes of stored keys to prefixes of the model's names; the first that matches wins.
        skip: Patterns (`head.*`) of the model's names that stay as they are.
        storage_options: Options for fsspec.

    Returns:
        The number of tensors that were loaded, and the names that did not match.

    Raises:
        RunMismatchError: A name or shape does not match; nothing was changed.
        NoCheckpointError: There are no weights at `url`.
        CorruptCheckpointError: The weights are damaged; the values of the model are undefined.
        CheckpointError: The file is of another kind, such as a pickle, which is never opened.
        ConfigError: An argument is of the wrong type, or the URL's protocol is unknown.
        StorageError: The storage failed.
    """
    from resumable.state.loading.arguments import check_location, check_model
    from resumable.state.loading.into_model import load_into_model

    check_location(url, model)
    check_model(model)
    found = _found(str(url), storage_options)
    if isinstance(found, Checkpoint):
        return found.load_into(model, name=name, strict=strict, rename=rename, skip=skip)
    if name is not None:
        raise RunMismatchError(
            f"name: {name!r}, but {found.where} holds the weights of one model, and no objects by name",
            "leave `name` out; it selects an object of a run",
        )
    try:
        return Loaded.report(load_into_model(model, found, strict=strict, rename=rename, skip=skip), found.where)
    except (RunMismatchError, ConfigError):
        raise
    except ValueError as error:
        raise CorruptCheckpointError(f"{found.where}: {quoted(error)}", COPY_AGAIN) from error


def _found(url: str, options: Options) -> Checkpoint | StoredFiles:
    run_url, selector = parse_target(url)
    if selector is not None and _is_run(_names_in(run_url, options)):
        return Run(run_url, storage_options=options).select(selector)
    if url.endswith((".safetensors", ".index.json")):  # the name decides only the order
        return open_files(url, options) or _folder(url, options) or _nothing(url, options)
    return _folder(url, options) or open_files(url, options) or _nothing(url, options)


def _folder(url: str, options: Options) -> Checkpoint | StoredFiles | None:
    names = _names_in(url, options)
    if _is_run(names):
        return Run(url, storage_options=options).latest()
    if MANIFEST in names:
        return _checkpoint(url, options)
    proof = _proof(url, options) if PROOF in names else None
    for name in (SINGLE, INDEX):  # in the order of Hugging Face's own libraries
        if name in names:
            return open_files(join(url, name), options, proof)
    if proof is not None:
        raise CorruptCheckpointError(
            f"{location(url)}: its {PROOF} describes weights, but neither {SINGLE} nor {INDEX} exists",
            "copy the whole folder again",
        )
    return None


def _proof(url: str, options: Options) -> ProvedWeights:
    """Return the part of an exported model's proof that describes its weights."""
    file = File.existing(join(url, PROOF), options)
    where = location(url)
    try:
        proof = proofs.parse(b"") if file is None else parse_small(file, proofs.parse, max_bytes=proofs.MAX_BYTES)
    except (CheckpointError, ValueError) as error:
        raised = error if isinstance(error, CheckpointError) else proofs.damaged(error)
        hint = f"{raised.hint}; a file of weights that is named itself is read without a proof"
        raise type(raised)(f"{where}: {raised.message}", hint) from error
    if proof.format != "safetensors":
        raise refused_program(f"{where}: an exported program ({proof.format}), which has no files of weights")
    return proof.weights


def _names_in(url: str, options: Options) -> set[str]:
    return {entry.name for entry in open_storage(url, options, probe=False).list("")}


def _is_run(names: set[str]) -> bool:
    return RUN_FILE in names or CHECKPOINTS in names


def _checkpoint(url: str, options: Options) -> Checkpoint:
    path = local_path(url)
    checkpoints, name = split(url if path is None else os.path.realpath(path))
    run, folder = split(checkpoints)
    parsed_name = CheckpointName.parse(name)
    if parsed_name is None or folder != CHECKPOINTS:
        raise CheckpointError(
            f"{location(url)}: a checkpoint outside of its run, whose other checkpoints may hold its files",
            f"keep it in RUN/{CHECKPOINTS}/, or name one of its .safetensors files",
        )
    return Run(run, storage_options=options).folder(parsed_name)


def _nothing(url: str, options: Options) -> StoredFiles:
    names = sorted(_names_in(url, options))
    if not names and (unknown := unknown_selector(url)):
        raise unknown
    pickled = [name for name in names if name.endswith(_PICKLES)]
    if pickled:
        raise pickles.pickle_error(join(location(url), pickled[0]))
    shown = listed(map(quoted, names), most=_SHOWN)
    raise NoCheckpointError(
        f"{location(url)}: no weights here; expected a run ({RUN_FILE}, {CHECKPOINTS}/), a checkpoint ({MANIFEST}), "
        f"{SINGLE}, {INDEX}, or a .safetensors file of this name; found {shown or 'nothing'}",
        _hint(url, names),
    )


def _hint(url: str, names: Sequence[str]) -> str:
    loadable = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json"))]
    others = [name for name in loadable if name != GOLDEN_FILE]  # an input and outputs, no weights
    if others:
        return f"name one of the files: {join(location(url), others[0])}"
    return "check the path or URL"
