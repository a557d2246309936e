"""onnxruntime behind one door: same results whatever way weights take, types for every tensor, errors in one line."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import text, weight
from onnx import numpy_helper

from quantcli import files, graph, runtime
from quantcli.errors import ModelError
from quantcli.runtime import TensorInfo

X = np.array([[1, -2, 3]], np.float32)
CHAIN = "(float[1,3] x) => (float[1,3] y) { a = Relu(x) b = Neg(a) y = Abs(b) }"
CONV = "(float[n,2,8,8] x) => (float[n,4,8,8] y) { a = Conv<pads = [1, 1, 1, 1]>(x, w) y = Relu(a) }"
W = weight(4, 2, 3, 3)


def model_of(source, /, **arrays):
    return ir.from_proto(text(source, **arrays))


def run(model, **feed):
    return {n: a.tolist() for n, a in runtime.load(model).run(feed).items()}


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_results_come_by_name():
    assert run(model_of(CHAIN), x=X) == {"y": [[1, 0, 3]]}


def test_what_the_model_does_not_read_is_left_out():
    assert run(model_of(CHAIN), x=X, label=X) == {"y": [[1, 0, 3]]}


def test_other_tensors_can_be_returned():
    found = runtime.load(model_of(CHAIN), outputs=["b", "a"]).run({"x": X})
    assert {n: a.tolist() for n, a in found.items()} == {"b": [[-1, 0, -3]], "a": [[1, 0, 3]]}


def test_returning_other_tensors_leaves_the_model_alone():
    model = model_of(CHAIN)
    runtime.load(model, outputs=["a"])
    assert [o.name for o in model.graph.outputs] == ["y"]


def test_inputs_and_outputs_are_described():
    session = runtime.load(model_of("(float[n,3] x, int64 i) => (bool[n,3] y) { y = Cast<to = 9>(x) }"))
    assert session.inputs == (
        TensorInfo("x", np.dtype("float32"), ("n", 3)),
        TensorInfo("i", np.dtype("int64"), ()),
    )
    assert session.outputs == (TensorInfo("y", np.dtype("bool"), ("n", 3)),)


def test_the_same_feed_gives_the_same_bits():
    session = runtime.load(model_of(CONV, w=W))
    feed = {"x": weight(3, 2, 8, 8)}
    assert np.array_equal(session.run(feed)["y"], session.run(feed)["y"])


def test_samples_may_differ_in_size():
    session = runtime.load(model_of(CONV, w=W))
    assert [session.run({"x": weight(n, 2, 8, 8)})["y"].shape[0] for n in (1, 3, 2)] == [1, 3, 2]


def test_the_optimized_model_is_kept_where_asked(tmp_path):
    runtime.load(model_of(CHAIN), keep=tmp_path / "kept.onnx")
    assert onnx.load(tmp_path / "kept.onnx").graph.node


def test_operators_are_counted_after_optimization():
    model = model_of("(float[n,3] x) => (float[n,2] y) { a = MatMul(x, w) y = Add(a, b) }", w=weight(3, 2), b=weight(2))
    assert runtime.optimized_operators(model) == {"Gemm": 1}


def test_a_constant_expression_is_evaluated():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = Neg(k) }", k=X)
    model.graph.inputs.clear()
    assert runtime.evaluate(model)["y"].tolist() == [[-1, 2, -3]]


def test_at_least_one_thread_is_usable():
    assert runtime.usable_threads() >= 1


# ---- constants -------------------------------------------------------------------------------------------------------

DTYPES = [
    "float32",
    "float16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "bool",
]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
CAST = "(float[64] x) => (float[64] y) { c = Cast<to = 1>(k) y = Add(x, c) }"
ZEROS = np.zeros(64, np.float32)


def constants(dtype):
    return (np.arange(64) % 2).astype(dtype)


@each_dtype
def test_constants_by_reference_give_the_same_result(monkeypatch, dtype):
    model = model_of(CAST, k=constants(dtype))
    monkeypatch.setattr(runtime, "BY_REFERENCE_BYTES", 1)
    assert run(model, x=ZEROS)["y"] == constants(dtype).tolist()


def test_large_constants_by_reference_give_the_same_bits(monkeypatch):
    model = model_of("(float[n,128] x) => (float[n,256] y) { y = MatMul(x, w) }", w=weight(128, 256))
    feed = {"x": weight(5, 128)}
    by_reference = runtime.load(model).run(feed)["y"]
    monkeypatch.setattr(runtime, "BY_REFERENCE_BYTES", 1 << 40)
    assert np.array_equal(by_reference, runtime.load(model).run(feed)["y"])


def test_loading_leaves_the_constants_of_the_model_alone(monkeypatch):
    monkeypatch.setattr(runtime, "BY_REFERENCE_BYTES", 1)
    model = model_of(CONV, w=W)
    before = model.graph.initializers["w"].const_value
    runtime.load(model)
    assert model.graph.initializers["w"].const_value is before


def test_a_failed_load_leaves_the_constants_of_the_model_alone(monkeypatch):
    monkeypatch.setattr(runtime, "BY_REFERENCE_BYTES", 1)
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = MatMul(x, k) }", k=weight(3, 3))
    graph.set_initializer(model.graph.initializers["k"], weight(2, 3))
    with pytest.raises(ModelError):
        runtime.load(model)
    assert model.graph.initializers["k"].const_value.numpy().shape == (2, 3)


def test_constants_by_reference_outlive_the_model(monkeypatch):
    monkeypatch.setattr(runtime, "BY_REFERENCE_BYTES", 1)
    session = runtime.load(model_of(CAST, k=constants("float32")))
    gc.collect()
    assert session.run({"x": ZEROS})["y"].tolist() == constants("float32").tolist()


def saved_apart(folder, proto):
    """Save a model whose every constant lies in a file beside it, and load it."""
    onnx.save(proto, folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    return files.load_model(folder / "m.onnx")


@each_dtype
def test_constants_beside_the_file_are_read(tmp_path, dtype):
    model = saved_apart(tmp_path, text(CAST, k=constants(dtype)))
    assert run(model, x=ZEROS)["y"] == constants(dtype).tolist()


def test_constants_of_a_subgraph_beside_the_file_are_read(tmp_path):
    proto = text("""(float[1,3] x, bool c) => (float[1,3] y) { y = If (c) <
      then_branch = t () => (float[1,3] p) <float[1,3] k = {1, 2, 3}> { p = Add(x, k) },
      else_branch = e () => (float[1,3] q) { q = Neg(x) }> }""")
    (constant,) = [k for a in proto.graph.node[0].attribute for k in a.g.initializer]
    constant.CopyFrom(numpy_helper.from_array(np.array([[1, 2, 3]], np.float32), "k"))  # raw, so that it is put apart
    assert run(saved_apart(tmp_path, proto), x=X, c=np.array(1, bool))["y"] == [[2, 0, 6]]


# ---- types -----------------------------------------------------------------------------------------------------------


def test_every_tensor_is_described_although_the_model_says_nothing():
    source = "(float[n,3] x) => (int64[m] y) { a = Neg(x) b = Less(a, k) c = Cast<to = 7>(b) y = Reshape(c, s) }"
    found = runtime.describe(model_of(source, k=np.float32(0), s=np.array([-1])))
    assert {n: (i.dtype.name, i.shape) for n, i in found.items() if n in "abc"} == {
        "a": ("float32", ("n", 3)),
        "b": ("bool", ("n", 3)),
        "c": ("int64", ("n", 3)),
    }


def test_inputs_outputs_and_constants_are_described():
    found = runtime.describe(model_of(CONV, w=W))
    assert {n: i.shape for n, i in found.items()} == {
        "x": ("n", 2, 8, 8), "w": (4, 2, 3, 3), "a": ("n", 4, 8, 8), "y": ("n", 4, 8, 8)
    }  # fmt: skip


def test_every_output_of_a_node_is_described():
    found = runtime.describe(
        model_of("(float[1,4] x) => (float[1,2] y) { y, b = Split<axis = 1, num_outputs = 2>(x) }")
    )
    assert found["b"] == TensorInfo("b", np.dtype("float32"), (1, 2))


def test_what_is_no_tensor_has_no_type():
    source = "(float[1,3] x) => (float[1,3] y) { s = SequenceConstruct(x, x) y = SequenceAt(s, i) }"
    assert runtime.describe(model_of(source, i=np.array(0)))["s"].dtype is None


def test_describing_leaves_the_model_alone():
    model = model_of(CHAIN)
    runtime.describe(model)
    assert [o.name for o in model.graph.outputs] == ["y"]


def test_a_model_without_nodes_is_described():
    found = runtime.describe(model_of("(float[1,3] x) => (float[1,3] x) { }"))
    assert found["x"].shape == (1, 3)


def test_types_are_written_onto_the_graph():
    model = model_of("(float[n,3] x) => (bool[n,3] y) { a = Neg(x) y = Cast<to = 9>(a) }")
    runtime.annotate(model)
    (a,) = model.graph[0].outputs
    assert (a.type, a.shape) == (ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 3]))


@pytest.mark.parametrize(("dtype", "expected"), [("float32", True), ("float16", False), (None, False)])
def test_only_float32_is_float32(dtype, expected):
    assert TensorInfo("x", np.dtype(dtype) if dtype else None, ()).is_float32 is expected


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_refused_is_a_model_error():
    with pytest.raises(ModelError, match=r"onnxruntime does not load the model: .*Banana"):
        runtime.load(ir.from_proto(text("(float[1] x) => (float[1] y) { y = other.Banana(x) }", domains=["other"])))


def test_a_model_that_fails_is_a_model_error():
    model = model_of("(float[n,3] x, float[m,3] z) => (float[k,3] y) { y = Add(x, z) }")
    with pytest.raises(ModelError, match="onnxruntime could not run the model: "):
        runtime.load(model).run({"x": weight(2, 3), "z": weight(5, 3)})


def test_a_feed_of_a_wrong_type_is_a_model_error():
    with pytest.raises(ModelError, match="could not run"):
        runtime.load(model_of(CHAIN)).run({"x": X.astype(np.int64)})


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_floats_are_fed_in_the_type_that_the_model_takes(dtype):
    session = runtime.load(model_of(CHAIN))
    fed = X.astype(dtype)
    np.testing.assert_equal(session.run({"x": fed}), session.run({"x": fed.astype(np.float32)}))


def test_a_missing_feed_is_a_model_error():
    with pytest.raises(ModelError, match="could not run"):
        runtime.load(model_of(CHAIN)).run({})


def test_the_message_of_a_refusal_is_one_line_without_paths():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = MatMul(x, k) }", k=weight(3, 3))
    graph.set_initializer(model.graph.initializers["k"], weight(2, 3))
    with pytest.raises(ModelError) as caught:
        runtime.load(model)
    assert not any(found in caught.value.message for found in ("\n", ".cc:", "[ONNXRuntimeError]"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : no such op", "FAIL: no such op"),
        ("[ONNXRuntimeError] : 10 : INVALID_GRAPH : bad", "INVALID_GRAPH: bad"),
        ("a\n  b\tc", "a b c"),
        ("/onnxruntime_src/core/a.cc:123 Run failed", "Run failed"),
        ("at /onnxruntime_src/include/b.h:7 Check: x", "at Check: x"),
        ("plain", "plain"),
        ("", ""),
        ("x" * 1000, "x" * 400),
    ],
)
def test_one_line_says_what_matters(message, expected):
    assert runtime.one_line(ValueError(message)) == expected
