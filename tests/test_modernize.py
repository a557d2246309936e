"""Operators that ONNX dropped but onnxruntime still runs are written in others that compute the same."""

from __future__ import annotations

import conversion
import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcli import graph, metrics, modes
from quantcli.passes.modernize import Modernize
from quantcli.state import State

OLD = {  # operator, attributes
    "Affine": ("Affine", {"alpha": 1.5, "beta": -0.5}),
    "Affine of one": ("Affine", {"beta": 2.0}),
    "ImageScaler": ("ImageScaler", {"scale": 0.5, "bias": [0.1, -0.2, 0.3]}),
    "ImageScaler of one": ("ImageScaler", {"bias": [1.0, 2.0, 3.0]}),
    "Crop": ("Crop", {"border": [1, 2, 1, 1]}),
    "Crop at one side": ("Crop", {"border": [0, 0, 3, 0]}),
    "Crop to a size": ("Crop", {"border": [1, 2, 0, 0], "scale": [3, 4]}),
    "ScaledTanh": ("ScaledTanh", {"alpha": 1.7, "beta": 0.6}),
    "ParametricSoftplus": ("ParametricSoftplus", {"alpha": 0.7, "beta": 1.3}),
    "Scale": ("Scale", {"scale": 0.25}),
    "normalization": ("MeanVarianceNormalization", {}),
    "normalization across channels": ("MeanVarianceNormalization", {"across_channels": 1}),
    "normalization of means": ("MeanVarianceNormalization", {"normalize_variance": 0}),
    "normalization of means across channels": (
        "MeanVarianceNormalization",
        {"across_channels": 1, "normalize_variance": 0},
    ),
}
SHAPE = (2, 3, 7, 8)


def old_model(op_type, attributes, opset=7, *, inputs=("x",), arrays=None, tail=()):
    """Return a model of an operator that the helpers for tests cannot infer: onnx does not know it."""
    node = helper.make_node(op_type, inputs, ["y"], name="old", **attributes)
    made = helper.make_graph(
        [node, *tail],
        "tested",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(tail[-1].output[0] if tail else "y", TensorProto.FLOAT, list("nchw"))],
        [numpy_helper.from_array(a, n) for n, a in (arrays or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


def modernized(model):
    before = ir.from_proto(model)
    graph.name_everything(before)
    return Modernize()(State(before, before, modes.resolve("none")), lambda _done, _total: None)


def samples(count=2):
    return [{"x": np.random.default_rng(seed).normal(0, 1, SHAPE).astype(np.float32)} for seed in range(count)]


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize(("op_type", "attributes"), OLD.values(), ids=OLD)
def test_the_new_operators_compute_the_same(op_type, attributes, opset):
    if op_type == "MeanVarianceNormalization" and opset == 9:
        attributes = {}  # that of opset 9 is defined, and left alone
    model = old_model(op_type, attributes, opset)
    after = ir.to_proto(modernized(model).model)
    for feed in samples():
        expected, found = conversion.run(model, feed), conversion.run(after, feed)
        np.testing.assert_allclose(found["y"], expected["y"], rtol=2e-6, atol=1e-6, strict=True)


@pytest.mark.parametrize(("op_type", "attributes"), OLD.values(), ids=OLD)
def test_onnx_defines_what_is_left_and_names_stay(op_type, attributes):
    state = modernized(old_model(op_type, attributes))
    after = ir.to_proto(state.model)
    onnx.checker.check_model(after)
    assert "old" in [n.name for n in after.graph.node]
    assert state.report.notes == (f"1 {op_type} written in operators that ONNX defines",)


@pytest.mark.parametrize("mode", ["full-integer", "int8-only", "16x8", "dynamic-range", "none"])
@pytest.mark.parametrize("name", ["Affine", "ImageScaler", "Crop", "Scale", "ScaledTanh"])
def test_a_model_of_old_operators_is_quantized(bench, name, mode):
    op_type, attributes = OLD[name]
    conv = helper.make_node("Conv", ["y", "w"], ["z"], name="conv")
    model = old_model(op_type, attributes, arrays={"w": models.weight(4, 3, 3, 3)}, tail=[conv])
    made = bench.convert(model, mode, feeds=samples(4))
    for feed in made.feeds:
        assert metrics.sqnr_db(conversion.run(model, feed)["z"], made.run(feed)["z"]) > 30
    if mode in ("full-integer", "int8-only", "16x8"):
        assert made.fates("Conv") == {"integer"}


@pytest.mark.parametrize("axes", [None, [1, 3]])
def test_a_dynamic_slice_of_constants_becomes_a_slice(axes):
    arrays = {"s": models.ints(0, 1), "e": models.ints(2, -1)}
    arrays |= {"a": models.ints(*axes)} if axes else {}
    model = old_model("DynamicSlice", {}, inputs=("x", *arrays), arrays=arrays)
    after = ir.to_proto(modernized(model).model)
    assert [n.op_type for n in after.graph.node] == ["Slice"]
    (feed,) = samples(1)
    np.testing.assert_array_equal(conversion.run(after, feed)["y"], conversion.run(model, feed)["y"])


def test_a_dynamic_slice_of_computed_ends_stays():
    ends = [helper.make_node("Shape", ["x"], ["e"], name="shape")]
    model = old_model("DynamicSlice", {}, inputs=("x", "s", "e"), arrays={"s": models.ints(0, 0, 0, 1)})
    model.graph.node.insert(0, ends[0])
    assert [n.op_type for n in modernized(model).model.graph] == ["Shape", "DynamicSlice"]


def test_newer_models_are_left_alone():
    model = ir.from_proto(models.text("(float[1,3] x) => (float y) { y = Relu(x) }", opset=17))
    state = State(model, model, modes.resolve("none"))
    assert Modernize()(state, lambda _done, _total: None) is state
