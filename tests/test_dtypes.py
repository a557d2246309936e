"""Each type has the range of its bits, the numpy type that holds it, and the number that ONNX gives it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from quantcli.dtypes import BY_NAME, INT8, UINT4

each_type = pytest.mark.parametrize("dtype", BY_NAME.values(), ids=BY_NAME)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("int4", -8, 7),
        ("uint4", 0, 15),
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("int16", -32768, 32767),
        ("uint16", 0, 65535),
        ("int32", -(2**31), 2**31 - 1),
        ("int64", -(2**63), 2**63 - 1),
    ],
)
def test_range_is_that_of_the_bits(name, low, high):
    assert (BY_NAME[name].qmin, BY_NAME[name].qmax) == (low, high)


@each_type
def test_storage_holds_the_range(dtype):
    storage = np.iinfo(dtype.storage)
    assert storage.min <= dtype.qmin < dtype.qmax <= storage.max


@each_type
def test_storage_is_the_smallest_numpy_type(dtype):
    assert np.dtype(dtype.storage).itemsize == max(dtype.bits // 8, 1)


@each_type
def test_onnx_number_is_that_of_tensor_proto(dtype):
    assert dtype.onnx == getattr(TensorProto, dtype.name.upper())


@each_type
def test_types_are_found_by_their_name(dtype):
    assert BY_NAME[dtype.name] is dtype


@each_type
def test_both_ends_of_the_range_are_held(dtype):
    assert dtype.holds(np.array([dtype.qmin, dtype.qmax], dtype.storage))


@pytest.mark.parametrize("outside", [-1, 16])
def test_one_beyond_the_range_is_not_held(outside):
    assert not UINT4.holds(np.array([3, outside]))


def test_floats_beyond_the_range_are_not_held():
    assert not INT8.holds(np.array([127.5]))


def test_an_empty_array_is_held():
    assert INT8.holds(np.array([], np.float32))
