"""Models in float16, float64 and bfloat16 are quantized like float32 ones, and keep their types at the boundary."""

from __future__ import annotations

import conversion
import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantcli import api, errors, graph, metrics, modes, widening

WORDS = {"float16": "float16", "float64": "double", "float32": "float"}  # of ONNX text
TYPES = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT}
NET = """({t}[batch,3,8,8] x) => ({t}[batch,5] y) {{
    c = Conv<pads=[1,1,1,1]>(x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm<transB=1>(f, v, vb)
}}"""
INTEGER = ("int8-only", "full-integer", "16x8")
LEAST_DB = {"weight-only-int4": 12.0, "16x8": 40.0, "float16": 50.0, "none": 50.0}


def net(dtype, opset=17):
    arrays = {
        "w": models.weight(16, 3, 3, 3), "b": models.weight(16), "v": models.weight(5, 16), "vb": models.weight(5)
    }  # fmt: skip
    return models.text(NET.format(t=WORDS[dtype]), opset=opset, **{n: a.astype(dtype) for n, a in arrays.items()})


def feeds(dtype, count=4, shape=(1, 3, 8, 8)):
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0, 1, shape).astype(dtype)} for _ in range(count)]


def boundary(model):
    return {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}


def worst_db(made):
    compared = metrics.Comparison()
    for feed in made.feeds:
        expected, found = conversion.run(made.float_model, feed), made.run(feed)
        for name, real in expected.items():
            compared = compared.add(real, found[name])
    return compared.sqnr_db


# ---- whole modes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", modes.names())
def test_a_float16_model_converts_in_every_mode(bench, mode):
    settings = ["passes.plan_weights.smallest=16"] if "plan_weights" in passes_of(mode) else []
    if mode.startswith("weight-only"):
        settings += ["passes.plan_weights.must_gain=false"]
    made = bench.convert(net("float16"), mode, *settings, feeds=feeds(np.float16))
    assert worst_db(made) >= LEAST_DB.get(mode, 20.0)
    assert any(n.startswith("float16 widened to float32: ") for n in made.result.report["notes"])


def passes_of(mode):
    return [step.name for step in modes.resolve(mode).passes]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("mode", ["full-integer", "16x8", "dynamic-range", "float16", "none"])
def test_the_boundary_keeps_its_types(bench, mode, dtype):
    made = bench.convert(net(dtype), mode, feeds=feeds(dtype))
    assert boundary(made.model) == {"x": TYPES[dtype], "y": TYPES[dtype]}


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_integers_at_the_boundary_leave_no_float_tensor(bench, dtype):
    made = bench.convert(net(dtype), "int8-only", feeds=feeds(dtype))
    assert boundary(made.model) == {"x": TensorProto.INT8, "y": TensorProto.INT8}
    assert set(conversion.tensor_types(made.model).values()) == {"tensor(int8)", "tensor(uint8)"}


@pytest.mark.parametrize("mode", INTEGER)
def test_a_float16_model_gets_the_kernels_of_a_float32_one(bench, mode):
    half, single = (bench.convert(net(t), mode, feeds=feeds(t)) for t in ("float16", "float32"))
    assert half.fates() == single.fates()
    assert {e.node: (e.fate, e.kernel) for e in half.ledger.values()} == {
        e.node: (e.fate, e.kernel) for e in single.ledger.values()
    }
    assert "integer" in half.fates("Conv")


def test_float16_is_stored_as_float16_again(bench):
    original = net("float16")
    made = bench.convert(original, "float16", "passes.emit_float16.compute=float16", feeds=feeds(np.float16))
    assert {t.data_type for t in made.model.graph.initializer} == {TensorProto.FLOAT16}
    assert not made.nodes("Cast")
    assert boundary(made.model) == boundary(original)


def test_weights_of_a_float16_model_are_not_stored_twice_as_large(bench):
    made = bench.convert(net("float16"), "float16", feeds=feeds(np.float16))
    before, after = ({t.name: t.ByteSize() for t in m.graph.initializer} for m in (made.float_model, made.model))
    assert sum(after.values()) < 1.2 * sum(before.values())
    assert worst_db(made) >= 60


@pytest.mark.parametrize("mode", ["none", "dynamic-range", "weight-only-int8"])
def test_what_stays_float_is_stored_as_before(bench, mode):
    """Only the second product has enough weights to be stored smaller."""
    arrays = {n: models.weight(*s).astype("f2") for n, s in {"w": (24, 24), "v": (24, 64)}.items()}
    model = models.text("(float16[1,24] x) => (float16 y) { a = MatMul(x, w)\n y = MatMul(a, v) }", opset=17, **arrays)
    made = bench.convert(model, mode, feeds=feeds(np.float16, shape=(1, 24)))
    stored = [t for t in made.model.graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert [tuple(t.dims) for t in stored] == [(24, 24), (24, 64)][: 2 if mode == "none" else 1]
    np.testing.assert_array_equal(numpy_helper.to_array(stored[0]), arrays["w"])
    assert worst_db(made) > 20


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64, np.uint8])
def test_a_float16_input_is_calibrated_on_whatever_numbers(bench, given):
    fed = [{"x": np.abs(f["x"] * 8).astype(given)} for f in feeds(np.float32)]
    bench_model = net("float16")
    onnx.save(bench_model, bench.folder / "half.onnx")
    result = api.convert(
        bench.folder / "half.onnx", mode="full-integer", representative_dataset=fed, output=bench.folder / "o.onnx"
    )
    assert result.report["verification"]["outputs"]["y"]["sqnr_db"] > 20


@pytest.mark.parametrize("mode", ["int8-only", "full-integer", "none"])
def test_what_numpy_cannot_say_is_float32_at_the_boundary(bench, mode):
    model = bfloat16(net("float32"))
    made = convert(bench, model, mode, feeds(np.float32))
    ends = TensorProto.INT8 if mode == "int8-only" else TensorProto.FLOAT
    assert boundary(onnx.load(made.output)) == {"x": ends, "y": ends}
    assert made.report["verification"]["outputs"]["y"]["sqnr_db"] > 20
    notes = " ".join(made.report["notes"])
    assert "bfloat16 widened to float32" in notes
    assert "x, y: float32 at the boundary" in notes
    assert "compared with it in float32" in notes


def test_a_float64_model_that_the_runtime_lacks_kernels_for_keeps_its_boundary(bench):
    model = models.text(
        "(double[1,2,4,4] x) => (double[1,2,9,9] y) { y = ConvTranspose<strides=[2,2]>(x, w) }",
        opset=17, w=models.weight(2, 2, 3, 3).astype(np.float64),
    )  # fmt: skip
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        conversion.session(model)
    made = convert(bench, model, "full-integer", feeds(np.float64, shape=(1, 2, 4, 4)))
    assert boundary(onnx.load(made.output)) == {"x": TensorProto.DOUBLE, "y": TensorProto.DOUBLE}
    assert made.report["verification"]["outputs"]["y"]["sqnr_db"] > 30


def test_a_model_that_loads_in_no_float_type_is_refused_with_the_runtimes_words(bench):
    model = models.text("(float16[1,3] x) => (float16[1,3] y) { y = Relu(x) }", opset=17)
    model.graph.node[0].op_type = "Relo"
    with pytest.raises(errors.ModelError, match="Relo"):
        convert(bench, model, "none", feeds(np.float16, shape=(1, 3)))


def convert(bench, model, mode, given):
    path = bench.folder / "other.onnx"
    onnx.save(model, path)
    return api.convert(path, mode=mode, representative_dataset=given, output=bench.folder / "made.onnx")


def bfloat16(model):
    """Return a float32 model in bfloat16."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for tensor in copy.graph.initializer:
        array = numpy_helper.to_array(tensor)
        bits = (array.view(np.uint32) >> 16).astype(np.uint16)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, array.shape, bits.tobytes(), raw=True))
    return copy


# ---- wherever types come from ----------------------------------------------------------------------------------------

SOURCES = {  # a model for each place that names a float type, with its feeds
    "half storage behind a Cast": (
        "(float[2,4] x) => (float y) { k = Cast<to=1>(w)\n y = MatMul(x, k) }",
        {"w": models.weight(4, 3).astype("f2")},
    ),
    "a Constant": (
        "(float16[2,4] x) => (float16 y) { k = Constant<value = float16[4] {1, 2, 3, 4}>()\n y = Mul(x, k) }",
        {},
    ),
    "Casts inside": (
        (
            "(float[2,4] x) => (float y) { a = Cast<to=10>(x)\n b = Relu(a)\n c = Cast<to=11>(b)\n d = Sqrt(c)\n"
            " y = Cast<to=1>(d) }"
        ),
        {},
    ),
    "CastLike": ("(float[2,4] x, float16 k) => (float16 y) { a = CastLike(x, k)\n y = Relu(a) }", {}),
    "an output that is cast": ("(float16[2,4] x) => (float y, float16 z) { y = Cast<to=1>(x)\n z = Relu(x) }", {}),
    "an output that is its input": (
        "(float16[2,4] x) => (float16 x2, float16 y) { x2 = Identity(x)\n y = Relu(x) }",
        {},
    ),
    "ConstantOfShape": (
        (
            "(float16[2,4] x) => (float16 y) { s = Shape(x)\n"
            " k = ConstantOfShape<value = float16[1] {2}>(s)\n y = Mul(x, k) }"
        ),
        {},
    ),
    "EyeLike": ("(float16[4,4] x) => (float16 y) { e = EyeLike<dtype=10>(x)\n y = Mul(x, e) }", {}),
    "a branch": (
        (
            "(float16[2,4] x, bool more) => (float16 y) { y = If (more) <"
            "then_branch = yes () => (float16[2,4] p) { p = Mul(x, w) }, "
            "else_branch = no () => (float16[2,4] q) { k = Constant<value = float16[1] {3}>()\n q = Add(x, k) }> }"
        ),
        {"w": models.weight(4).astype("f2")},
    ),
    "a loop": (
        (
            "(float16[2,4] x, int64 n) => (float16 y) { t = Constant<value = bool {1}>()\n y = Loop (n, t, x) <"
            "body = turn (int64 i, bool go, float16[2,4] a) => (bool on, float16[2,4] b)"
            " { on = Identity(go)\n b = Add(a, w) }> }"
        ),
        {"w": models.weight(4).astype("f2")},
    ),
    "float64": (
        "(double[2,4] x) => (double y) { a = MatMul(x, w)\n y = Relu(a) }",
        {"w": models.weight(4, 3).astype("f8")},
    ),
    "sizes in float64": (
        (
            "(double[2,4] x, int64[6] s) => (double y) { n = Shape(s)\n d = Cast<to=11>(n)\n"
            " k = Constant<value = double[1] {0.7}>()\n m = Mul(d, k)\n f = Floor(m)\n i = Cast<to=7>(f)\n"
            " z = Constant<value = int64[1] {0}>()\n one = Constant<value = int64[1] {1}>()\n"
            " t = Slice(x, z, i, one)\n y = Mul(t, m) }"
        ),
        {},
    ),
    "a Range in float64": (
        (
            "(float[3] x, int64[7] s) => (float y) { n = Size(s)\n l = Cast<to=11>(n)\n"
            " z = Constant<value = double {0}>()\n"
            " step = Constant<value = double {0.1}>()\n r = Range(z, l, step)\n f = Cast<to=1>(r)\n g = ReduceSum(f)\n"
            " y = Mul(x, g) }"
        ),
        {},
    ),
}


@pytest.mark.parametrize("mode", ["none", "full-integer", "float16"])
@pytest.mark.parametrize(("source", "arrays"), SOURCES.values(), ids=SOURCES)
def test_every_source_of_a_type_is_widened(bench, source, arrays, mode):
    model = models.text(source, opset=17, **arrays)
    made = bench.convert(model, mode, feeds=fed_to(model))
    assert boundary(made.model) == boundary(model)
    for feed in made.feeds:
        expected, found = conversion.run(model, feed), made.run(feed)
        for name, real in expected.items():
            assert found[name].dtype == real.dtype
            assert found[name].shape == real.shape
            assert metrics.sqnr_db(real, found[name]) > (25 if mode == "full-integer" else 60)


def fed_to(model):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(3):
        feed = {}
        for value in model.graph.input:
            kind = value.type.tensor_type
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            shape = [d.dim_value for d in kind.shape.dim]
            drawn = np.abs(rng.normal(0, 1, shape)) + 0.1 if dtype.kind == "f" else np.full(shape, 1)
            feed[value.name] = np.asarray(drawn).astype(dtype)
        found.append(feed)
    return found


@pytest.mark.parametrize("name", ["sizes in float64", "a Range in float64"])
def test_arithmetic_on_sizes_stays_float64(name):
    source, arrays = SOURCES[name]
    model, _counted = widening.widened(ir.from_proto(models.text(source, opset=17, **arrays)))
    types = conversion.tensor_types(ir.to_proto(model))
    assert "tensor(double)" in types.values()
    assert types["y"] == "tensor(float)"


def test_a_function_that_is_handed_a_type_is_widened(bench):
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        tested (float[2,4] x) => (float[2,4] y) { a = own.turned<dtype=10>(x)
            y = Cast<to=1>(a) }
        <domain: "own", opset_import: ["": 17]>
        turned <dtype> (v) => (w) { c = Cast<to: int = @dtype>(v)
            k = Constant<value = float16[1] {2}>()
            w = Mul(c, k) }
    """)
    made = bench.convert(model, "none", feeds=feeds(np.float32, shape=(2, 4)))
    assert worst_db(made) > 60
    assert "tensor(float16)" not in conversion.tensor_types(made.model).values()


def test_a_float32_model_is_left_alone():
    model = ir.from_proto(net("float32"))
    assert widening.widened(model) == (model, {})


def test_a_cast_that_changes_nothing_is_folded(bench):
    model = models.text("(float[2,4] x) => (float y) { a = Cast<to=1>(x)\n b = MatMul(a, w)\n y = Cast<to=1>(b) }",
                        opset=17, w=models.weight(4, 3))  # fmt: skip
    made = bench.convert(model, "int8-only", feeds=feeds(np.float32, shape=(2, 4)))
    assert made.fates("Cast") == {"folded"}


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_finite_numbers_stay_finite_and_only_zero_becomes_zero():
    wide = np.array([1e300, -np.finfo(np.float64).max, 1e-300, -1e-300, 0.0, np.inf, -np.inf, np.nan, 0.1])
    found = widening.to_float32(wide)
    limits = np.finfo(np.float32)
    expected = [limits.max, -limits.max, limits.tiny, -limits.tiny, 0, np.inf, -np.inf, np.nan, np.float32(0.1)]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert found.dtype == np.float32


def test_every_float16_is_kept():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(widening.to_float32(every), every.astype(np.float32))


def test_the_count_is_that_of_the_tensors():
    model = ir.from_proto(net("float16"))
    graph.name_everything(model)
    _model, counted = widening.widened(model)
    assert counted == {"float16": 6}  # four constants, an input and an output
