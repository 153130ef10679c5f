"""Encode a tree of plain values and tensors as a JSON document and named tensors. Independent of objects and files.

Types are exact: a value that cannot be restored with its own type is refused, with its path.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from resumable.state.codec import container_documents, value_documents
from resumable.state.codec.advice import Advice, advice
from resumable.state.codec.document_writer import DocumentWriter, Writer
from resumable.state.codec.tree import Document, NamedValues, PartName, Path
from resumable.state.tensors.described import DescribedTensors, Description


@dataclass(frozen=True)
class Encoded:
    """A JSON document, the tensors that it refers to by key, and the stored key of each alias.

    `share` is the part of the values or of the text that one document may have, whichever is larger. `features` are
    those parts of the format in the document that not every reader knows.
    """

    document: Document
    tensors: DescribedTensors
    aliases: dict[str, str]
    share: float
    features: frozenset[str] = frozenset()


def encode(
    tree: object,
    *,
    key_of: Callable[[Path], str] | None,
    where: str,
    advice: Advice = advice,
    arrays: bool = True,
    inline: bool = False,
) -> Encoded:
    """Encode `tree` as a document that refers to the live tensors; none of them is copied.

    Args:
        tree: The value to encode; a value that is not a `Tree` is refused.
        key_of: Returns the key of the tensor at a path. With None, tensors are written into the document.
        where: The name of the tree, with which paths in messages begin.
        advice: Returns the hint for a value that cannot be stored.
        arrays: Write long lists of numbers as arrays. Versions 1 and 2 of the format had none.
        inline: Write small tensors of the host into the document, except aliases and tensors that have one.

    Raises:
        StateError: A value cannot be restored exactly; the error names the path of the first one.
    """
    begin = partial(DocumentWriter, _WRITERS, key_of, where, advice, arrays=arrays, inline=inline)
    writer = begin()
    document = writer.node(tree, (), 1)
    if writer.shared:  # the first of two aliases was written before the second was found
        writer = begin(shared=writer.shared)
        document = writer.node(tree, (), 1)
    tensors = DescribedTensors(writer.tensors, Description.of(writer.tensors))
    return Encoded(document, tensors, writer.aliases, writer.share, frozenset(writer.features))


_WRITERS: dict[type, Writer] = {
    int: value_documents.number,
    float: value_documents.number,
    complex: value_documents.imaginary,
    str: value_documents.text,
    bytes: value_documents.octets,
    list: container_documents.sequence,
    tuple: container_documents.fixed,
    dict: container_documents.mapping,
    collections.OrderedDict: container_documents.ordered,
    collections.deque: container_documents.queue,
    collections.defaultdict: container_documents.defaulting,
    NamedValues: container_documents.named,
    PartName: value_documents.part,
    collections.Counter: container_documents.counter,
    set: container_documents.unordered,
    frozenset: container_documents.frozen,
    np.ndarray: value_documents.array,
    Tensor: value_documents.tensor,
    torch.nn.Parameter: value_documents.parameter,
    torch.dtype: value_documents.dtype,
    torch.Size: value_documents.size,
    torch.device: value_documents.device,
}
_WRITERS.update(dict.fromkeys(set(np.sctypeDict.values()) - {np.object_, np.void}, value_documents.scalar))
