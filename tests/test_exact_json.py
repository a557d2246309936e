"""What was observed survives JSON bit for bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quantcli.equalization import ChannelStats
from quantcli.exact_json import from_json, to_json
from quantcli.quant import NOTHING_SEEN, Histogram, TensorStats
from quantcli.report import FeedStats

ANY_FLOAT = st.floats(allow_nan=False)


def round_trip(value: object) -> object:
    return from_json(json.loads(json.dumps(to_json(value), allow_nan=False)))


def bits(number: float) -> bytes:
    return np.float64(number).tobytes()


@given(st.floats())
def test_a_float_keeps_every_bit(number):
    found = round_trip(number)
    assert bits(found) == bits(number) or (math.isnan(found) and math.isnan(number))


@given(arrays.arrays(st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]), arrays.array_shapes()))
def test_an_array_keeps_type_shape_and_bits(array):
    found = round_trip(array)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    nan = np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)
    assert found[~nan].tobytes() == array[~nan].tobytes()


def test_an_empty_array_keeps_its_shape():
    assert round_trip(np.zeros((0, 3), np.float32)).shape == (0, 3)


@given(
    st.builds(
        TensorStats,
        st.integers(0, 2**60),
        ANY_FLOAT,
        ANY_FLOAT,
        st.integers(0, 9),
        st.integers(0, 2**31),
        st.integers(-(2**280), 2**280),
        st.integers(-(2**280), 2**280),
        st.none() | st.builds(
            Histogram,
            st.integers(-149, 120),
            st.integers(-(2**53), 2**53),
            st.lists(st.integers(0, 2**62), min_size=1, max_size=9).map(lambda c: np.array(c, np.int64)),
        ),
    )
)  # fmt: skip
def test_statistics_of_a_tensor_survive(stats):
    assert round_trip(stats) == stats


def test_nothing_seen_survives():
    assert round_trip(NOTHING_SEEN) == NOTHING_SEEN


def test_statistics_of_channels_and_feeds_survive():
    channels = ChannelStats(*(np.arange(3.0) * k for k in (-1, 1, 2)))
    found = round_trip(channels)
    assert [getattr(found, n).tolist() for n in ("low", "high", "square")] == [
        getattr(channels, n).tolist() for n in ("low", "high", "square")
    ]
    feed = FeedStats(5, -1.5, 2.5, 0.1, math.inf)
    assert round_trip(feed) == feed


def test_lists_and_mappings_hold_values():
    value = {"a": [1, None, {"b": np.float64(0.1)}], "c": "text"}
    assert round_trip(value) == value


def test_a_default_is_not_written():
    assert set(to_json(TensorStats(1, 0.0, 1.0))) == {"is", "count", "min", "max"}


def test_a_zero_that_is_no_default_keeps_its_sign():
    assert bits(round_trip(TensorStats(1, -0.0, 0.0)).min) == bits(-0.0)


@pytest.mark.parametrize(
    "written",
    [{"is": "Unknown"}, {"is": "TensorStats", "count": 1}, {"array": "float32", "shape": [2], "values": [1]},
     {"array": "object", "shape": [1], "values": [1]}, {"array": "nonsense", "shape": [], "values": []},
     {"float": "x"}, {}, {"entries": 3}, {"is": "FeedStats", "mean": 1, "more": 2},
     {"array": "uint8", "shape": [1], "values": [300]}],
    ids=str,
)  # fmt: skip
def test_what_was_not_written_here_is_refused(written):
    with pytest.raises(ValueError, match=r"no observation|reshape"):
        from_json(written)


@pytest.mark.parametrize("value", [object(), b"bytes", np.float32(1), {1, 2}], ids=lambda v: type(v).__name__)
def test_an_unknown_type_is_refused(value):
    with pytest.raises(TypeError, match="cannot be written down"):
        to_json(value)
