"""Models become bytes with one constant in memory at a time, and the bytes are those of the model."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import text, weight
from onnx import numpy_helper

from quantcli import serialization

TWO = text(
    "(float[n,64] x) => (float[n,32] y) { a = MatMul(x, v) y = MatMul(a, w) }", v=weight(64, 48), w=weight(48, 32)
)
TYPES = ["float32", "float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool"]


def written(content):
    stream = io.BytesIO()
    content.write_to(stream)
    return stream.getvalue()


def apart_and_loaded(folder, model, monkeypatch, smallest=1):
    monkeypatch.setattr(serialization, "SMALLEST_APART", smallest)
    graph, weights = serialization.apart(model, "m.data")
    (folder / "m.onnx").write_bytes(written(graph))
    (folder / "m.data").write_bytes(written(weights))
    return onnx.load(folder / "m.onnx")


def constants(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def of_every_type():
    """Return a model with a constant of each type, a 4-bit one of an odd number of elements, and text."""
    model = ir.from_proto(TWO)
    rng = np.random.default_rng(0)
    tensors = [ir.Tensor(rng.integers(0, 2, (5, 7)).astype(t), name=f"c_{t}") for t in TYPES]
    tensors += [ir.PackedTensor(np.arange(8, dtype=np.uint8), ir.DataType.INT4, shape=ir.Shape([3, 5]), name="c_int4")]
    tensors += [
        ir.StringTensor([b"some", b"text"], shape=ir.Shape([2]), name="c_text"),
        ir.Tensor(np.empty((0, 3), np.float32), name="c_0"),
    ]
    for tensor in tensors:
        model.graph.register_initializer(
            ir.Value(name=tensor.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=tensor.shape)
        )
    return model


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert np.array_equal(found[name], array), name


@pytest.fixture
def streamed(monkeypatch):
    monkeypatch.setattr(serialization, "_STREAMED", 1)


def test_a_small_model_is_what_protobuf_writes():
    model = ir.from_proto(TWO)
    assert written(serialization.whole(model)) == ir.to_proto(model).SerializeToString(deterministic=True)


def test_a_model_written_constant_by_constant_is_the_model(streamed):
    model = of_every_type()
    found = onnx.ModelProto.FromString(written(serialization.whole(model)))
    assert_same(constants(found), constants(ir.to_proto(model)))
    assert [n.op_type for n in found.graph.node] == ["MatMul", "MatMul"]
    assert (found.ir_version, found.opset_import[0].version) == (TWO.ir_version, TWO.opset_import[0].version)


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, 100_000])
def test_constants_of_any_length_are_written(streamed, size):
    proto = text("(float[n] x) => (float[n] y) { y = Add(x, k) }", k=np.arange(size, dtype=np.float32))
    found = onnx.ModelProto.FromString(written(serialization.whole(ir.from_proto(proto))))
    assert_same(constants(found), constants(proto))


def test_a_model_written_constant_by_constant_passes_the_checker(streamed):
    onnx.checker.check_model(onnx.ModelProto.FromString(written(serialization.whole(ir.from_proto(TWO)))))


@pytest.mark.parametrize("parts", [serialization.whole, lambda m: serialization.apart(m, "m.data")[1]])
def test_the_size_is_that_of_the_bytes(streamed, parts):
    content = parts(of_every_type())
    assert content.size == len(written(content)) > 18_000


def test_constants_apart_are_the_same(tmp_path, monkeypatch):
    model = of_every_type()
    assert_same(constants(apart_and_loaded(tmp_path, model, monkeypatch)), constants(ir.to_proto(model)))


def test_constants_apart_begin_at_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "SMALLEST_APART", 1)
    graph, weights = serialization.apart(of_every_type(), "m.data")
    proto = onnx.ModelProto.FromString(written(graph))
    places = [{e.key: e.value for e in t.external_data} for t in proto.graph.initializer if t.external_data]
    assert len(places) == len(TYPES) + 3  # and those of TWO, and the one of 4 bits
    assert {p["location"] for p in places} == {"m.data"}
    assert all(int(p["offset"]) % 4096 == 0 for p in places)
    assert max(int(p["offset"]) + int(p["length"]) for p in places) == weights.size


def test_small_constants_and_text_stay_in_the_graph():
    graph, _ = serialization.apart(of_every_type(), "m.data")
    inside = {t.name for t in onnx.ModelProto.FromString(written(graph)).graph.initializer if not t.external_data}
    assert inside == {*(f"c_{t}" for t in TYPES), "c_int4", "c_text", "c_0"}


def test_constants_of_bodies_lie_apart_too(tmp_path, monkeypatch):
    proto = text("""(float[1,3] x, bool c) => (float[1,3] y) { y = If (c) <
      then_branch = t () => (float[1,3] p) <float[1,3] k = {1, 2, 3}> { p = Add(x, k) },
      else_branch = e () => (float[1,3] q) <float[1,3] k = {4, 5, 6}> { q = Mul(x, k) }> }""")
    loaded = apart_and_loaded(tmp_path, ir.from_proto(proto), monkeypatch)
    bodies = [numpy_helper.to_array(a.g.initializer[0]).tolist() for a in loaded.graph.node[0].attribute]
    assert sorted(bodies) == [[[1, 2, 3]], [[4, 5, 6]]]
    assert (tmp_path / "m.data").stat().st_size == 4096 + 12


def test_writing_leaves_the_model_as_it_is(tmp_path, monkeypatch):
    model = of_every_type()
    before = {v.name: v.const_value for v in model.graph.initializers.values()}
    apart_and_loaded(tmp_path, model, monkeypatch)
    assert {v.name: v.const_value for v in model.graph.initializers.values()} == before


def test_large_constants_are_left_out_for_a_session():
    parts = serialization.parted(ir.from_proto(TWO), 1, {ir.DataType.FLOAT})
    assert (len(parts.graph) < 1000, parts.folder, list(parts.given)) == (True, "", ["v", "w"])


def test_constants_of_other_types_stay_in_the_graph():
    assert not serialization.parted(ir.from_proto(TWO), 1, {ir.DataType.INT8}).given


def test_constants_in_the_fullest_folder_are_named_and_the_others_given(tmp_path):
    folders = []
    for name in ("v", "w"):
        (tmp_path / name).mkdir()
        proto = onnx.ModelProto.FromString(TWO.SerializeToString())
        onnx.save(proto, tmp_path / name / "m.onnx", save_as_external_data=True, location="d", size_threshold=0)
        folders.append(ir.load(tmp_path / name / "m.onnx"))
    first, second = folders
    first.graph.initializers["w"].const_value = second.graph.initializers["w"].const_value
    parts = serialization.parted(first, 1, {ir.DataType.FLOAT})
    assert (parts.folder, list(parts.given)) == (str(tmp_path / "v"), ["w"])


def test_operators_of_constants_stand_first_where_memory_is_short():
    source = """(float[1,3] x, bool b) => (float[1,3] y) { a = Neg(x) c = Cast<to = 1>(k) d = Mul(c, c) e = Add(a, d)
        f = If (t) < then_branch = g () => (float[1,3] p) { p = Neg(e) },
                     else_branch = h () => (float[1,3] q) { q = Abs(e) }> y = Add(f, c) }"""
    model = ir.from_proto(text(source, k=np.array([[1, 2, 3]], np.int8), t=np.array(1, bool)))
    orders = [
        [n.op_type for n in onnx.ModelProto.FromString(parts.graph).graph.node]
        for parts in (serialization.parted(model, 1 << 30, (), sorted_for_memory=s) for s in (False, True))
    ]
    assert orders == [
        ["Neg", "Cast", "Mul", "Add", "If", "Add"],
        ["Cast", "Mul", "Neg", "Add", "If", "Add"],
    ]
