"""Reads TensorProto files (``input_0.pb``), as onnx's backend tests keep their samples.

The few fields of https://onnx.ai/onnx/api/classes.html#tensorproto that hold plain tensors, out of the protobuf wire
format; the data layer knows no onnx.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.data.files import reading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
_STRING: Final = 8
_BFLOAT16: Final = 16
_DIMS, _TYPE, _FLOATS, _INT32S, _STRINGS, _INT64S, _NAME, _RAW, _DOUBLES, _UINT64S = 1, 2, 4, 5, 6, 7, 8, 9, 10, 11
_LOCATION: Final = 14
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class _Fields:
    """What the message holds, by field number."""

    numbers: dict[int, list[int]] = field(default_factory=dict)
    chunks: dict[int, list[bytes]] = field(default_factory=dict)


def read_tensor(path: Path) -> tuple[str, np.ndarray]:
    """Return name and value of a TensorProto file; bfloat16 becomes float32, text an array of objects.

    Raises:
        DatasetError: It cannot be read, or is no plain tensor.
    """
    with reading(path, "a TensorProto (.pb) of numbers or text"):
        return _tensor(_parsed(path.read_bytes()))


def _tensor(fields: _Fields) -> tuple[str, np.ndarray]:
    kind = (fields.numbers.get(_TYPE) or [0])[-1]
    name = b"".join(fields.chunks.get(_NAME, [])[-1:]).decode()
    shape = tuple(_signed(n) for n in _varints(fields, _DIMS))
    if (fields.numbers.get(_LOCATION) or [0])[-1]:
        raise ValueError("its values lie in another file")
    if kind == _STRING:
        return name, np.array([s.decode() for s in fields.chunks.get(_STRINGS, [])], object).reshape(shape)
    if kind != _BFLOAT16 and kind not in _DTYPES:
        raise ValueError(f"element type {kind} is no plain number, and sequences are no tensors")
    stored = np.dtype("uint16" if kind == _BFLOAT16 else _DTYPES[kind])
    flat = _values(fields, stored)
    if flat.size != math.prod(shape):
        raise ValueError(f"{flat.size} values for shape {list(shape)}")
    if kind == _BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return name, flat.reshape(shape)


def _values(fields: _Fields, dtype: np.dtype) -> np.ndarray:
    if _RAW in fields.chunks:
        return np.frombuffer(b"".join(fields.chunks[_RAW]), dtype.newbyteorder("<")).astype(dtype)
    if dtype == np.float32:
        return np.frombuffer(b"".join(fields.chunks.get(_FLOATS, [])), "<f4").astype(dtype)
    if dtype == np.float64:
        return np.frombuffer(b"".join(fields.chunks.get(_DOUBLES, [])), "<f8").astype(dtype)
    if dtype == np.int64:
        return np.array([_signed(n) for n in _varints(fields, _INT64S)], np.int64)
    if dtype in (np.uint32, np.uint64):
        return np.array(_varints(fields, _UINT64S), np.uint64).astype(dtype)
    numbers = np.array([_signed(n) for n in _varints(fields, _INT32S)], np.int64)
    return numbers.astype(np.uint16).view(np.float16) if dtype == np.float16 else numbers.astype(dtype)


def _varints(fields: _Fields, number: int) -> list[int]:
    """Return a repeated field of integers, packed or not."""
    found = list(fields.numbers.get(number, []))
    for chunk in fields.chunks.get(number, []):
        position = 0
        while position < len(chunk):
            value, position = _varint(chunk, position)
            found.append(value)
    return found


def _parsed(data: bytes) -> _Fields:
    fields = _Fields()
    for number, kind, value in _entries(data):
        if isinstance(value, int):
            fields.numbers.setdefault(number, []).append(value)
        else:
            fields.chunks.setdefault(number, []).append(value)
        if kind not in (_VARINT, _FIXED64, _LENGTH, _FIXED32):
            raise ValueError(f"wire type {kind}")
    if _TYPE not in fields.numbers:
        raise ValueError("no element type")
    return fields


def _entries(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, kind, value
            continue
        size, position = _varint(data, position) if kind == _LENGTH else (8 if kind == _FIXED64 else 4, position)
        if position + size > len(data):
            raise EOFError("it is cut short")
        yield number, kind, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise struct.error("not a protobuf message")
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
