"""The encodings file: AIMET's schema 2.0.0, sorted, with the numbers of the model exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli.dtypes import INT4, INT8, UINT8
from quantcli.encodings import Encodings, to_json
from quantcli.quant import PerAxis, PerBlock, PerTensor, QuantParams, QuantSpec

scales = st.floats(2.0**-60, 2.0**100, width=32)


def params(scale, zero_point, dtype=UINT8, granularity=PerTensor()):  # noqa: B008 - frozen
    spec = QuantSpec(dtype, symmetric=False, granularity=granularity)
    return QuantParams(spec, np.asarray(scale, np.float32), np.asarray(zero_point, dtype.storage))


GRID = params(0.5, 64)
OTHER = params(0.25, 3)


def entry(grid):
    (found,) = json.loads(json.dumps(to_json({"x": grid}, {})))["encodings"]
    return found


# ---- the document ----------------------------------------------------------------------------------------------------


def test_version_is_that_of_the_schema():
    assert to_json({}, {})["version"] == "2.0.0"


def test_a_tensor_is_one_flat_entry():
    assert entry(GRID) == {"name": "x", "output_dtype": "uint8", "y_scale": 0.5, "y_zero_point": 64}


def test_a_channel_axis_is_said():
    grid = params([0.5, 0.25], [0, 0], INT8, PerAxis(1))
    expected = {"name": "x", "output_dtype": "int8", "y_scale": [0.5, 0.25], "y_zero_point": [0, 0], "axis": 1}
    assert entry(grid) == expected


def test_axis_zero_is_said():
    assert entry(params([0.5], [0], INT8, PerAxis(0)))["axis"] == 0


def test_a_block_size_is_said():
    found = entry(params([[0.5], [0.25]], [[0], [0]], INT4, PerBlock(1, 32)))
    assert (found["axis"], found["block_size"], found["y_scale"]) == (1, 32, [[0.5], [0.25]])


def test_zero_points_have_the_sign_of_onnx():
    assert entry(params(0.5, -64, INT8))["y_zero_point"] == -64


def test_entries_are_sorted_by_name():
    names = [e["name"] for e in to_json({"b": GRID, "a": GRID, "B": GRID}, {})["encodings"]]
    assert names == ["B", "a", "b"]


def test_the_order_of_assignment_leaves_no_trace():
    assert json.dumps(to_json({"b": GRID, "a": OTHER}, {})) == json.dumps(to_json({"a": OTHER, "b": GRID}, {}))


def test_provenance_stands_in_its_own_block():
    assert to_json({}, {"mode": "int8-only"})["quantcli"] == {"mode": "int8-only"}


@settings(max_examples=60, deadline=None)
@given(scales)
def test_scales_come_back_exactly(scale):
    assert np.float32(entry(params(scale, 0))["y_scale"]) == np.float32(scale)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(scales, st.integers(-128, 127)), min_size=1, max_size=5))
def test_channels_come_back_exactly(channels):
    scale, zero = (np.array(a, t) for a, t in zip(zip(*channels, strict=True), ("float32", "int8"), strict=True))
    found = entry(params(scale, zero, INT8, PerAxis(0)))
    assert np.array_equal(np.array(found["y_scale"], np.float32), scale)
    assert np.array_equal(np.array(found["y_zero_point"], np.int8), zero)


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_an_edge_reads_with_the_parameters_of_its_tensor():
    assert Encodings({"x": GRID}).of_edge("conv", 0, "x") is GRID


def test_an_edge_may_have_parameters_of_its_own():
    assert Encodings({"x": GRID}, {("conv", 0): OTHER}).of_edge("conv", 0, "x") is OTHER


def test_an_override_belongs_to_one_input_alone():
    assert Encodings({"x": GRID}, {("mul", 0): OTHER}).of_edge("mul", 1, "x") is GRID


def test_an_unknown_tensor_has_no_parameters():
    with pytest.raises(KeyError):
        Encodings().of_edge("conv", 0, "x")


def test_more_tensors_replace_those_of_the_same_name():
    more = Encodings({"x": GRID, "y": GRID}).with_tensors({"x": OTHER})
    assert more.tensors == {"x": OTHER, "y": GRID}


def test_more_tensors_keep_the_edges():
    edges = {("mul", 0): OTHER}
    assert Encodings({}, edges).with_tensors({"x": GRID}).edges == edges
