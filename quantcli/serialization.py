"""What a model becomes in bytes: one file, or one for its graph and one for its weights. Opens no file.

Weights are never copied all at once: they are written one by one, and stand elsewhere while a graph becomes bytes.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping
    from typing import Protocol

    import numpy.typing as npt

    class Message(Protocol):
        """A message of protobuf."""

        def SerializeToString(self, *, deterministic: bool) -> bytes:  # noqa: N802 - protobuf's name
            """Return its bytes."""
            ...


ALIGNMENT: Final = 4096  # bytes; offsets shall be multiples of a page (onnx.proto, TensorProto.external_data)
SMALLEST_APART: Final = 4096  # bytes; shapes, axes and scales stay in the graph, where shape inference finds them
_STREAMED: Final = 1 << 20  # bytes of a constant that is written by itself
_CHUNK: Final = 1 << 24
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # numbers of fields: ModelProto.graph, GraphProto.initializer, TensorProto's


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: bytes that are at hand, and tensors, whose bytes are looked up when they are written."""

    parts: tuple[bytes | ir.TensorProtocol, ...]

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return sum(len(part) if isinstance(part, bytes) else int(part.nbytes) for part in self.parts)

    def write_to(self, stream: IO[bytes]) -> None:
        """Write them, holding one tensor at a time."""
        for part in self.parts:
            data = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else raw(part)
            for start in range(0, data.size, _CHUNK):
                stream.write(data[start : start + _CHUNK].data)


def constants(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Yield every initializer with its tensor, those of bodies too."""
    for part in graph.all_graphs(model):
        for value in part.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


def constant_bytes(model: ir.Model) -> int:
    """Return the size of all initializers; one that two graphs hold counts twice."""
    return sum(int(tensor.nbytes) for _, tensor in constants(model))


def floats(model: ir.Model) -> int:
    """Return the number of elements of all floating-point initializers."""
    return sum(int(tensor.size) for _, tensor in constants(model) if tensor.dtype.is_floating_point())


def elements(model: ir.Model) -> int:
    """Return the number of elements of all initializers."""
    return sum(int(tensor.size) for _, tensor in constants(model))


def whole(model: ir.Model) -> Content:
    """Return a model in one file; the same model gives the same bytes.

    Large constants of the main graph are its last entries: each is written as protobuf encodes a field, a tag with its
    number and kind, the length, and the bytes, so that they never stand in memory together.
    """
    out = {v: t for v, t in constants(model) if t.nbytes >= _STREAMED and v.graph is model.graph and _has_bytes(t)}
    with standing_in(_inside(model) | {v: elsewhere(graph.name_of(v), t, "") for v, t in out.items()}):
        proto = ir.to_proto(model)
    if not out:
        return Content((_bytes_of(proto),))
    entries: list[bytes | ir.TensorProtocol] = []
    tensors = {graph.name_of(v): t for v, t in out.items()}
    for entry in [e for e in proto.graph.initializer if e.name in tensors]:
        proto.graph.initializer.remove(entry)
        entry.ClearField("external_data")
        entry.ClearField("data_location")
        tensor = tensors[entry.name]
        head = _bytes_of(entry) + _field(_RAW_DATA, int(tensor.nbytes))
        entries += [_field(_INITIALIZER, len(head) + int(tensor.nbytes)) + head, tensor]
    small = _bytes_of(proto.graph)
    proto.ClearField("graph")
    length = Content((small, *entries)).size
    return Content((_bytes_of(proto) + _field(_GRAPH, length) + small, *entries))


def apart(model: ir.Model, location: str) -> tuple[Content, Content]:
    """Return the graph of a model, and the weights that it looks for in a file called ``location`` beside it."""
    placed = _inside(model)
    parts: list[bytes | ir.TensorProtocol] = []
    end = 0
    for value, tensor in [(v, t) for v, t in constants(model) if t.nbytes >= SMALLEST_APART and _has_bytes(t)]:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        placed[value] = elsewhere(graph.name_of(value), tensor, location, offset)
        parts += [bytes(offset - end), tensor]
        end = offset + int(tensor.nbytes)
    return Content((_serialized(model, placed),)), Content(tuple(parts))


@dataclass(frozen=True, slots=True)
class Parted:
    """A model in bytes, apart from its large constants.

    Attributes:
        graph: The bytes.
        folder: Where data files lie that it names; empty where it names none.
        given: Constants of the main graph that lie elsewhere, by name.
    """

    graph: bytes
    folder: str
    given: Mapping[str, ir.TensorProtocol]


def parted(model: ir.Model, smallest: int, types: Container[ir.DataType], *, sorted_for_memory: bool = False) -> Parted:
    """Return a model without its large constants, for a session to map or to be given.

    Those in files of the folder that has most of them are named, the others given: a session knows one folder.

    Args:
        model: The model.
        smallest: Bytes of the smallest constant that stays out.
        types: Types that may be given.
        sorted_for_memory: Whether operators of constants shall stand before all others.
    """
    large = {v: t for v, t in constants(model) if t.nbytes >= smallest and not _is_fed(v)}
    folder = _fullest(large.values())
    named = {v: t for v, t in large.items() if isinstance(t, ir.ExternalTensor) and str(t.base_dir) == folder}
    given = {
        value: tensor
        for value, tensor in large.items()
        if value not in named and value.graph is model.graph and tensor.dtype in types
    }
    stand_ins = _inside(model)
    stand_ins |= {v: elsewhere(graph.name_of(v), t, str(t.location), t.offset or 0) for v, t in named.items()}
    stand_ins |= {v: elsewhere(graph.name_of(v), t, "in-memory") for v, t in given.items()}
    with standing_in(stand_ins):
        proto = ir.to_proto(model)
    if sorted_for_memory:
        nodes = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[index] for index in _constants_first(model))
    return Parted(_bytes_of(proto), folder, {graph.name_of(v): t for v, t in given.items()})


def _constants_first(model: ir.Model) -> list[int]:
    """Return the order of the operators in which those of constants stand before all others.

    onnxruntime orders operators from the results backwards, and of what one reads, it makes last what stands first in
    the file: so a weight is made right before it is read. In another place, all weights may be made at the beginning.
    """
    known = {v for v in model.graph.initializers.values() if graph.is_constant(v)}
    first: list[int] = []
    others: list[int] = []
    for index, node in enumerate(model.graph):
        bodies = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        constant = bool(node.inputs) and all(v is None or v in known for v in node.inputs) and not bodies
        (first if constant else others).append(index)
        known.update(node.outputs if constant else ())
    return [*first, *others]


def _is_fed(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_graph_output()


def _fullest(tensors: Iterable[ir.TensorProtocol]) -> str:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        if isinstance(tensor, ir.ExternalTensor):
            sizes[str(tensor.base_dir)] = sizes.get(str(tensor.base_dir), 0) + int(tensor.nbytes)
    return max(sizes, key=lambda folder: sizes[folder], default="")


def elsewhere(name: str, tensor: ir.TensorProtocol, location: str, offset: int = 0) -> ir.ExternalTensor:
    """Return a stand-in for a tensor, which says in which file it lies."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(location, offset, int(tensor.nbytes), tensor.dtype, shape=shape, name=name)


@contextmanager
def standing_in(stand_ins: Mapping[ir.Value, ir.TensorProtocol]) -> Iterator[None]:
    """Give constants other tensors for as long as a model is serialized."""
    kept = {value: value.const_value for value in stand_ins}
    for value, tensor in stand_ins.items():
        value.const_value = tensor
    try:
        yield
    finally:
        for value, old in kept.items():
            value.const_value = old


def raw(tensor: ir.TensorProtocol) -> npt.NDArray[np.uint8]:
    """Return the bytes of a tensor as they stand in a file, little endian; not copied where memory holds them so."""
    if isinstance(tensor, ir.PackedTensor):
        return tensor.numpy_packed().reshape(-1)
    if tensor.dtype.bitwidth < 8 or sys.byteorder == "big":
        return np.frombuffer(tensor.tobytes(), np.uint8)
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


def _inside(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    """Return, for what lies in data files, tensors that are written into the graph."""
    return {value: ir.Tensor(tensor.numpy(), name=value.name) for value, tensor in graph.external_constants(model)}


def _serialized(model: ir.Model, stand_ins: Mapping[ir.Value, ir.TensorProtocol]) -> bytes:
    with standing_in(stand_ins):
        return _bytes_of(ir.to_proto(model))


def _bytes_of(proto: Message) -> bytes:
    return proto.SerializeToString(deterministic=True)


def _field(number: int, length: int) -> bytes:
    """Return the beginning of a field of protobuf that is so many bytes long: its tag and its length, as varints."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(number: int) -> bytes:
    """Return a number as seven bits in each byte, the lowest first; all but the last byte have the eighth bit set."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes((*found, number))


def _has_bytes(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING
