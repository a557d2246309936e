"""A batch is taken apart where the model treats its samples as independent, and nowhere else."""

from __future__ import annotations

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantcli import api, batching, runtime
from quantcli.options import Options

MATRIX = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def session(body, inputs="float[n, 4] x", outputs="float[n, 3] y"):
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) <float[4, 3] w> {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(MATRIX, "w"))
    return runtime.load(ir.from_proto(model))


def batch(*shape):
    return {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize(
    ("body", "independent"),
    [
        ("y = MatMul(x, w)", True),
        ("m = MatMul(x, w) y = Softmax<axis = 1>(m)", True),
        ("m = MatMul(x, w) y = Softmax<axis = 0>(m)", False),
        ("z = Constant<value_int = 0>() m = MatMul(x, w) y = CumSum(m, z)", False),
        ("m = MatMul(x, w) y = ReduceMax<axes = [0], keepdims = 1>(m)", False),
        ("m = MatMul(x, w) y = ReduceMax<axes = [0], keepdims = 0>(m)", False),
    ],
)
def test_mixing_along_the_leading_axis_is_seen(body, independent):
    found = session(body, outputs="float[a, b] y" if "keepdims = 1" in body else "y")
    assert batching.are_independent(found, batch(5, 4)) is independent


def test_time_on_the_leading_axis_is_no_batch():
    rng = np.random.default_rng(0)
    node = onnx.helper.make_node("RNN", ["x", "w", "r"], ["y"], hidden_size=3)
    weights = [
        onnx.numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
        for n, s in (("w", (1, 3, 4)), ("r", (1, 3, 3)))
    ]
    info = onnx.helper.make_tensor_value_info
    ends = info("x", 1, ["n", 1, 4]), info("y", 1, ["n", 1, 1, 3])
    graph = onnx.helper.make_graph([node], "g", [ends[0]], [ends[1]], weights)
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    assert not batching.are_independent(runtime.load(ir.from_proto(model)), batch(5, 1, 4))


def test_a_model_that_refuses_a_single_sample_has_no_batch():
    found = session("s = Constant<value_ints = [5, 4]>() r = Reshape(x, s) y = MatMul(r, w)")
    assert not batching.are_independent(found, batch(5, 4))


def test_not_a_number_agrees_with_itself():
    found = session("l = Log(x) y = MatMul(l, w)")
    assert batching.are_independent(found, {"x": -np.ones((3, 4), np.float32)})


def test_a_conversion_does_not_depend_on_batches_or_order(tmp_path):
    """The same samples, whole or in batches and shuffled, give the same bytes."""
    model = models.text(
        "(float[n, 4] x) => (float[n, 3] y) { m = MatMul(x, w) y = Relu(m) }", w=models.weight(4, 3, spread=2)
    )
    onnx.save(model, tmp_path / "m.onnx")
    samples = batch(16, 4)["x"]
    made = set()
    for size, order in ((1, range(16)), (4, range(16)), (8, range(16)), (5, np.random.default_rng(1).permutation(16))):
        feeds = [{"x": samples[list(order)][i : i + size]} for i in range(0, 16, size)]
        asked = Options(threads=1, cache=False)
        api.convert(tmp_path / "m.onnx", representative_dataset=feeds, output=tmp_path / "q.onnx", options=asked)
        made.add((tmp_path / "q.onnx").read_bytes())
    assert len(made) == 1
