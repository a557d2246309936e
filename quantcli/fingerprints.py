"""The sha256 of a model by its content: wherever it lies, however its weights are split over files. Keeps nothing."""

from __future__ import annotations

import hashlib
import io
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from quantcli import custom_ops, files, serialization

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer


def fingerprint(model: ir.Model) -> str:
    """Return the hex digest of everything that a session of the model computes with.

    It is that of the model in one file, weights and all, and of the libraries of custom operators that it carries.
    Types and shapes of what its operators make do not count: they follow from the rest, whether a file says them or
    not. Nor do names of tensors inside attributes, which nobody reads.
    """
    sink = _Sink()
    bare = _without_types(model)
    with _without_names(bare):
        serialization.whole(bare).write_to(sink)
    for library in custom_ops.libraries(model):
        sink.write(files.sha256(Path(library)).encode())
    return sink.digest.hexdigest()


def _without_types(model: ir.Model) -> ir.Model:
    copy = model.clone()
    for node in copy.graph.all_nodes():
        for value in node.outputs:
            value.type = value.shape = None
    return copy


@contextmanager
def _without_names(model: ir.Model) -> Iterator[None]:
    """Take the names off the tensors in attributes for as long; they may be shared with other models."""
    attributes = [a for node in model.graph.all_nodes() for a in node.attributes.values()]
    found = [a.as_tensor() for a in attributes if a.type == ir.AttributeType.TENSOR and not a.is_ref()]
    tensors = [tensor for tensor in found if tensor.name]
    names = [tensor.name for tensor in tensors]
    for tensor in tensors:
        tensor.name = None
    try:
        yield
    finally:
        for tensor, name in zip(tensors, names, strict=True):
            tensor.name = name


class _Sink(io.BytesIO):
    """A stream that keeps nothing but the digest of what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.sha256()

    def write(self, data: ReadableBuffer, /) -> int:
        self.digest.update(data)
        return memoryview(data).nbytes
