"""The emitted graph: valid whatever names the user has, every tensor stored once, every zero point said."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import conversion
import models
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcli.metrics import Comparison

FORMATS = conversion.FORMATS
PLAIN = ("passes.equalize=off",)  # beside conversion.NEAREST: the weights of the file are those of the user, rounded


@pytest.fixture(params=FORMATS)
def form(request) -> str:
    return request.param


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def close(made: conversion.Converted, db: float = 20.0) -> bool:
    """Tell whether the quantized model computes what the float model computes."""
    sums = Comparison()
    for feed in made.feeds:
        expected, found = conversion.run(made.float_model, feed), made.run(feed)
        for name, x in expected.items():
            sums = sums.add(x, found[name])
    return sums.sqnr_db > db


def emitted(bench: conversion.Bench, model: onnx.ModelProto, form: str, **options: object) -> conversion.Converted:
    return bench.as_format(model, form, *PLAIN, **options)


def renamed(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    """Return the model with other names of tensors."""
    for node in model.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = names.get(value.name, value.name)
    return model


def two_layers(**arrays: np.ndarray) -> onnx.ModelProto:
    arrays = arrays or {"w": models.weight(4, 4), "b": models.weight(4), "v": models.weight(4, 4, seed=1)}
    return models.text(
        "(float[1, 4] x) => (float[1, 4] y) { a = Gemm(x, w, b)  r = Relu(a)  y = MatMul(r, v) }", **arrays
    )


# ---- names -------------------------------------------------------------------------------------------------------

CLASHES = [
    {"a": "x_quantized", "r": "x_dequantized"},
    {"a": "b_quantized", "r": "w_scale"},
    {"a": "zero_points", "r": "half_range"},
    {"a": "x_QuantizeLinear", "r": "r_quantized_1"},
    {"b": "b0", "a": "b0_quantized", "r": "b0_bias"},
    {"a": "1", "r": "2", "x": "3", "y": "4"},
    {"a": "net/a", "r": "net/b/", "x": "in put", "y": "aus:gang;1", "w": "größe"},
    {"a": "n" * 300, "r": "n" * 299 + "m"},
]


@pytest.mark.parametrize("names", CLASHES, ids=lambda n: " ".join(n.values())[:40])
def test_names_of_the_user_never_clash_with_ours(bench, form, names):
    made = emitted(bench, renamed(two_layers(), names), form)
    nodes = [n.name for n in made.model.graph.node]
    tensors = [o for n in made.model.graph.node for o in n.output if o]
    every = [*tensors, *(t.name for t in made.model.graph.initializer), *(v.name for v in made.model.graph.input)]
    assert all(count == 1 for count in Counter(nodes).values())
    assert all(count == 1 for count in Counter(every).values())
    assert close(made)


@pytest.mark.parametrize("name", ["", "same"])
def test_nodes_may_have_no_name_or_all_the_same(bench, form, name):
    model = two_layers()
    for node in model.graph.node:
        node.name = name
    made = emitted(bench, model, form)
    names = [n.name for n in made.model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert close(replace(made, float_model=two_layers()))  # onnxruntime itself refuses two nodes of one name


def test_encodings_have_the_names_of_the_user_whatever_they_are(bench, form):
    names = {"a": "net/a", "r": "net/r", "x": "in put", "y": "aus:gang;1", "w": "größe"}
    made = emitted(bench, renamed(two_layers(), names), form)
    assert set(made.grids) == {"in put", "net/r", "aus:gang;1", "größe", "b", "v"}


# ---- every tensor once -------------------------------------------------------------------------------------------


def test_a_weight_of_two_layers_is_stored_once(bench, form):
    model = models.text(
        "(float[1, 8] x) => (float[1, 8] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, w) }", w=models.weight(8, 8)
    )
    made = emitted(bench, model, form)
    assert sum(a.dtype == np.int8 and a.ndim == 2 for a in constants(made.model).values()) == 1
    assert close(made)


def test_a_bias_of_two_layers_is_right_for_both(bench, form):
    """The same real bias has other integers behind each layer: scale s_in * s_w."""
    model = models.text(
        "(float[1, 4] x) => (float[1, 4] y) { a = Gemm(x, w, b0)  r = Relu(a)  y = Gemm(r, v, b0) }",
        w=models.weight(4, 4), v=models.weight(4, 4, seed=1, spread=5.0), b0=models.weight(4, spread=2.0),
    )  # fmt: skip
    made = emitted(bench, model, form)
    assert sum(a.dtype == np.int32 and a.shape == (4,) and a.any() for a in constants(made.model).values()) == 2
    assert close(made, 25)


def test_no_float_weight_is_left_in_the_file(bench, form):
    made = emitted(bench, two_layers(), form)
    assert max(a.size for a in constants(made.model).values() if a.dtype == np.float32) <= 4


def test_unused_tensors_of_the_user_are_dropped(bench, form):
    model = two_layers()
    model.graph.initializer.append(models.initializer("spare", models.weight(64, 64)))
    made = emitted(bench, model, form)
    assert not any("spare" in name for name in constants(made.model))


# ---- numbers are said, not left out ------------------------------------------------------------------------------


def test_every_q_and_dq_has_an_explicit_zero_point_of_the_right_type(bench):
    made = emitted(bench, two_layers(), "qdq")
    arrays = constants(made.model)
    pairs = [n for n in made.model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert len(node.input) == 3
        assert arrays[node.input[1]].shape == arrays[node.input[2]].shape
        if node.input[0] in arrays:
            assert arrays[node.input[2]].dtype == arrays[node.input[0]].dtype


def test_activations_are_uint8_and_weights_int8(bench):
    made = emitted(bench, two_layers(), "qdq")
    arrays = constants(made.model)
    kinds = {
        (n.input[0] in arrays, arrays[n.input[2]].dtype.name)
        for n in made.model.graph.node
        if n.op_type == "DequantizeLinear"
    }
    assert kinds == {(False, "uint8"), (True, "int8"), (True, "int32")}


def test_scales_of_activations_have_rank_0_and_those_of_channels_an_axis(bench):
    made = emitted(bench, two_layers(), "qdq")
    arrays = constants(made.model)
    for node in made.model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            rank = arrays[node.input[1]].ndim
            assert (rank == 1) == any(a.name == "axis" for a in node.attribute), node.name
            assert rank == int(node.input[0] in arrays)


def test_the_scale_of_a_bias_is_the_product_of_the_scales_in_the_file(bench):
    made = emitted(bench, two_layers(), "qdq")
    arrays, makers = constants(made.model), {o: n for n in made.model.graph.node for o in n.output}
    gemm = next(n for n in made.model.graph.node if n.op_type == "Gemm")
    x, w, b = (arrays[makers[name].input[1]] for name in gemm.input)
    np.testing.assert_array_equal(b, x * w)


def test_a_layer_without_bias_gets_one_of_zeros(bench, form):
    made = emitted(bench, two_layers(), form)
    (bias,) = [made.result.state.quantized.biases[u.node] for u in made.result.state.plan.linear_units()][1:]
    assert not constants(made.model)[bias].any()


# ---- graphs that are not chains ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "(float[1, 4] x) => (float[1, 4] y) { a = MatMul(x, w)  y = Add(a, a) }",
        "(float[1, 4] x) => (float[1, 4] y) { a = MatMul(x, w)  y = Mul(a, a) }",
        "(float[1, 4] x) => (float[1, 4] y) { a = MatMul(x, w)  b = Relu(a)  y = Add(a, b) }",
        "(float[1, 4] x) => (float[1, 4] y) { a = MatMul(x, w)  y = Sub(a, x) }",
        "(float[1, 4] x) => (float[1, 8] y) { a = MatMul(x, w)  y = Concat<axis = 1>(a, a) }",
        "(float[1, 4] x) => (float[1, 4] y) { a = MatMul(x, w)  y = Concat<axis = 1>(a) }",
        "(float[1, 4] x) => (float[1, 4] y) { a = MatMul(x, w)  t = Transpose(a)  u = Transpose(t)  y = MatMul(u, w) }",
    ],
    ids=["a+a", "a*a", "a+relu(a)", "a-x", "a|a", "a|", "moved"],
)
def test_a_tensor_may_be_read_more_than_once(bench, form, source):
    assert close(emitted(bench, models.text(source, w=models.weight(4, 4)), form))


def test_an_output_may_be_read_inside_too(bench, form):
    model = models.text(
        "(float[1, 4] x) => (float[1, 4] early, float[1, 4] late) { early = MatMul(x, w)  late = MatMul(early, w) }",
        w=models.weight(4, 4),
    )
    made = emitted(bench, model, form)
    assert [o.name for o in made.model.graph.output] == ["early", "late"]
    assert {"early", "late"} <= set(made.grids)
    assert close(made)


def test_an_input_may_be_an_output(bench, form):
    model = models.text(
        "(float[1, 4] x) => (float[1, 4] same, float[1, 4] y) { same = Identity(x)  y = MatMul(x, w) }",
        w=models.weight(4, 4),
    )
    made = emitted(bench, model, form)
    assert [o.name for o in made.model.graph.output] == ["same", "y"]
    assert close(made)


def test_an_output_may_be_moved_data(bench, form):
    model = models.text(
        "(float[1, 4] x) => (float[2, 2] y) { a = MatMul(x, w)  y = Reshape(a, shape) }",
        w=models.weight(4, 4), shape=models.ints(2, 2),
    )  # fmt: skip
    assert close(emitted(bench, model, form))


def test_two_outputs_may_be_the_same_tensor_under_two_names(bench, form):
    model = models.text(
        "(float[1, 4] x) => (float[1, 4] p, float[1, 4] q) { a = MatMul(x, w)  p = Identity(a)  q = Identity(a) }",
        w=models.weight(4, 4),
    )
    made = emitted(bench, model, form)
    assert [o.name for o in made.model.graph.output] == ["p", "q"]
    assert close(made)


def test_a_weight_may_come_from_a_constant_node(bench, form):
    model = two_layers()
    (tensor,) = [t for t in model.graph.initializer if t.name == "w"]
    model.graph.initializer.remove(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    made = emitted(bench, model, form)
    assert "w" in made.grids
    assert close(made)


def test_a_weight_may_stand_among_the_inputs(bench, form):
    """Before IR 4 every initializer was a graph input too; its value is a constant for us, and is no input any more."""
    model = two_layers()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    made = emitted(bench, model, form, feeds=models.samples(two_layers()))
    assert [v.name for v in made.model.graph.input] == ["x"]
    assert close(made)


def test_several_results_of_one_operator_are_all_integer(bench):
    model = models.text(
        """(float[1, 8] x) => (float[1, 4] p, float[1, 4] q) {
             a = MatMul(x, w)  p, q = Split<axis = 1, num_outputs = 2>(a)
           }""",
        w=models.weight(8, 8),
    )
    made = emitted(bench, model, "integer")
    assert conversion.float_tensors(made.model) == set()
    assert close(made)


def test_nothing_to_quantize_is_a_model_too_and_is_said(bench):
    model = models.text("(float[1, 4] x) => (float[1, 4] y) { y = Erf(x) }")
    made = bench.convert(model, "full-integer")
    assert made.result.report["warnings"] == ["no operator became integer; the output computes in float"]
    assert made.result.encodings["encodings"] == []
    assert close(made, 200)


# ---- what the ledger says of it -----------------------------------------------------------------------------------


def test_the_ledger_names_the_operator_that_was_written(bench, form):
    made = emitted(bench, two_layers(), form)
    kernels = {e.node: e.kernel for e in made.ledger.values() if e.fate == "integer"}
    if form == "integer":
        assert kernels == {"Gemm_0": "QGemm", "MatMul_2": "QGemm"}
    else:
        assert kernels == {"Gemm_0": "Gemm between DQ and Q", "MatMul_2": "MatMul between DQ and Q"}


def test_every_kernel_that_the_ledger_names_is_in_the_file(bench):
    made = emitted(bench, two_layers(), "integer")
    assert {e.kernel for e in made.ledger.values() if e.kernel} <= {n.op_type for n in made.model.graph.node}


# ---- the float parts ----------------------------------------------------------------------------------------------


def test_a_float_operator_keeps_its_name_its_attributes_and_its_domain(bench):
    model = models.text(
        """(float[1, 4] x) => (float[1, 4] y) {
             a = MatMul(x, w)  l = LayerNormalization<axis = -1, epsilon = 0.001>(a, s)  y = MatMul(l, w)
           }""",
        w=models.weight(4, 4), s=models.weight(4),
    )  # fmt: skip
    model.graph.node[1].name = "the norm"
    made = emitted(bench, model, "qdq")
    (norm,) = made.nodes("LayerNormalization")
    assert norm.name == "the norm"
    assert {a.name: helper.get_attribute_value(a) for a in norm.attribute}["epsilon"] == pytest.approx(0.001)
    assert close(made)


def test_a_float_operator_between_integer_ones_reads_and_gives_real_numbers(bench):
    model = models.text(
        "(float[1, 4] x) => (float[1, 4] y) { a = MatMul(x, w)  e = Exp(a)  y = MatMul(e, w) }", w=models.weight(4, 4)
    )
    made = emitted(bench, model, "qdq", keep_float=("op:Exp",))
    makers = {o: n.op_type for n in made.model.graph.node for o in n.output}
    readers = {i: n.op_type for n in made.model.graph.node for i in n.input}
    (exp,) = made.nodes("Exp")
    assert makers[exp.input[0]] == "MatMul"  # of integers; nobody else reads its result
    assert readers[exp.output[0]] == "QuantizeLinear"
    assert close(made)


@pytest.mark.parametrize(
    "kept",
    [
        "Conv(a, v)",
        "Relu(Conv(a, v))",
        "Clip(Conv(a, v), zero, six)",
        "Relu(ConvTranspose(a, v))",
    ],
)
def test_the_weight_of_an_operator_kept_float_is_not_rounded_by_the_runtime(bench, kept):
    """Between DQ and Q onnxruntime would round it per tensor: channels of small weights would be lost."""
    scales = np.float32([1000, 100, 10, 1]).reshape(4, 1, 1, 1)
    inner = "ConvTranspose" if "Transpose" in kept else "Conv"
    weight = models.weight(4, 4, 3, 3) * (scales if inner == "Conv" else scales.reshape(1, 4, 1, 1))
    wrapped = {"Relu": "r = Relu(t)", "Clip": "r = Clip(t, zero, six)"}.get(kept.partition("(")[0], "r = Identity(t)")
    model = models.text(
        f"(float[1,3,9,9] x) => (float y) {{ a = Conv(x, w) [t] t = {inner}(a, v) {wrapped} y = Conv(r, w2) }}",
        w=models.weight(4, 3, 3, 3), v=weight, w2=models.weight(2, 4, 3, 3), zero=0.0, six=6000.0,
    )  # fmt: skip
    made = bench.convert(model, "full-integer", keep_float=("t",))
    target = bench.folder / "optimized.onnx"
    conversion.session(made.model, keep=target)
    after = onnx.load(target).graph
    weights = {a.name: a.data_type for a in after.initializer}
    readers = [n for n in after.node if n.op_type in (inner, "FusedConv")]  # the other convolutions are QLinearConv
    assert [weights[n.input[1]] for n in readers] == [onnx.TensorProto.FLOAT]


def test_a_subgraph_reads_what_it_read_before(bench):
    """The branches read a tensor and a weight of the outer graph; both must still be there, as real numbers."""
    branches = {}
    for name, op_type in (("then_branch", "Add"), ("else_branch", "Sub")):
        node = helper.make_node(op_type, ["a", "w"], [f"{name}_out"])
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [4, 4])
        branches[name] = helper.make_graph([node], name, [], [output])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("If", ["which"], ["c"], **branches),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4]),
        helper.make_tensor_value_info("which", TensorProto.BOOL, []),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])
    made_graph = helper.make_graph(nodes, "g", inputs, [output], [models.initializer("w", models.weight(4, 4))])
    model = helper.make_model(made_graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    feeds = [{"x": models.weight(4, 4, seed=i), "which": np.asarray(i % 2 == 0)} for i in range(6)]
    made = emitted(bench, model, "qdq", feeds=feeds)
    assert made.nodes("If")
    assert close(made)
