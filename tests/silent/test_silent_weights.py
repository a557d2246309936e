"""Weights and biases: overflow, axes, types, sharing, where they come from."""

from __future__ import annotations

import models
import numpy as np
import pytest
from conversion import run
from integer_reference import F32
from laws import (
    ALSO,
    IMAGE,
    LEAST_DB,
    ROWS,
    SCALED,
    TALL,
    WIDE,
    as_form,
    error,
    in_all_forms,
    in_both_formats,
    in_integer_forms,
    in_wide_forms,
    large,
    loads_and_is_faithful,
    step,
    where_weights_are_stored,
)
from models import Fed, weight
from onnx import TensorProto, helper, numpy_helper

from quantcli import metrics, options
from quantcli.errors import UnsupportedError


@in_both_formats
@pytest.mark.parametrize("channels", [[0, 1], [0]], ids=["all", "one"])
@pytest.mark.parametrize("optimize", [False, True])
def test_s01_a_bias_on_tiny_weights_does_not_overflow(bench, output_format, channels, optimize):
    w = weight(2, 3, 3, 3)
    w[channels] = 1e-10
    model = models.text(IMAGE + "{ y = Conv(x, w, b) }", w=w, b=np.asarray([5, -4.5], F32))
    feeds = models.samples(model, ranges={"x": Fed((1, 3, 5, 5), -64, 64)})
    converted = bench.as_format(model, output_format, feeds=feeds)
    biases = [a.astype(np.int64) for a in converted.constants.values() if a.dtype == np.int32]
    assert max(np.abs(b).max() for b in biases) < 2**31 - 1
    found = converted.run(feeds[0], optimize=optimize)["y"][:, channels]
    expected = run(model, feeds[0])["y"][:, channels]
    assert np.abs(found - expected).max() < step(converted)


@in_both_formats
@pytest.mark.parametrize("shape", [(1,), (1, 5), ()], ids=str)
def test_s02_a_bias_of_one_value_or_row_is_added_to_every_column(bench, output_format, shape):
    model = models.text(ROWS + "{ y = Gemm(x, w, b) }", w=weight(6, 5), b=weight(*shape) + 2)
    loads_and_is_faithful(bench.as_format(model, output_format), 30)


@in_both_formats
@pytest.mark.parametrize("case", SCALED)
def test_s04_every_output_channel_has_its_own_scale(bench, case, output_format):
    source, w, axis = SCALED[case]
    converted = bench.as_format(models.text(source, w=w), output_format)
    rest = tuple(a for a in range(w.ndim) if a != axis)
    np.testing.assert_allclose(converted.grids["w"].scale, np.abs(w).max(axis=rest) / 127, rtol=1e-6)
    assert converted.axes["w"] == axis
    (stored,) = [a for a in converted.constants.values() if a.dtype == np.int8 and a.ndim > 1]
    shape = [-1 if a == axis else 1 for a in range(w.ndim)]
    scale = converted.grids["w"].scale.reshape(shape)
    assert (np.abs(stored * scale - w) <= scale * 0.5001).all()


@pytest.mark.parametrize("case", SCALED)
def test_s04_the_axis_is_written(bench, case):
    source, w, axis = SCALED[case]
    converted = bench.convert(models.text(source, w=w), "full-integer")
    constants = converted.constants
    (dequantize,) = [n for n in converted.nodes("DequantizeLinear") if constants.get(n.input[0], w).dtype == np.int8]
    assert {a.name: a.i for a in dequantize.attribute} == {"axis": axis}


@in_both_formats
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("case", SCALED)
def test_s05_weights_are_int8_beside_uint8_activations(bench, case, granularity, output_format):
    source, w, _ = SCALED[case]
    converted = bench.as_format(models.text(source, w=w), output_format, f"scheme.weights.granularity={granularity}")
    assert [a.dtype for a in converted.constants.values() if a.shape == w.shape] == [np.int8]
    assert converted.grids["w"].scale.ndim == (granularity == "per-channel")
    loads_and_is_faithful(converted)


@in_both_formats
def test_s07_a_weight_that_two_operators_share_is_stored_once(bench, output_format):
    model = models.text(IMAGE + "{ a = Conv(x, w, b) y = Conv(a, w, b) }", w=weight(3, 3, 1, 1), b=weight(3))
    converted = bench.as_format(model, output_format)
    assert len([a for a in converted.constants.values() if a.shape == (3, 3, 1, 1)]) == 1
    loads_and_is_faithful(converted)


@in_both_formats
def test_s07_a_shared_weight_with_two_scales_is_right_for_both(bench, output_format):
    model = models.text(
        IMAGE + "{ a = Conv(x, w, small) y = Conv(a, w, large) }",
        w=weight(3, 3, 1, 1, spread=1e-7), small=np.zeros(3, F32), large=np.full(3, 50, F32),
    )  # fmt: skip
    converted = bench.as_format(model, output_format)
    assert error(converted)["y"] <= step(converted) + 1e-6


@pytest.mark.parametrize("second", ["w", "v"], ids=["shared", "of-its-own"])
def test_s07_rounding_for_one_reader_of_a_weight_does_not_harm_the_other(bench, second):
    source = f"(float[8,3,5,5] x) => (float a, float y) {{ a = Conv(x, w) r = Relu(a) y = Conv(r, {second}) }}"
    arrays = {n: weight(3, 3, 3, 3, seed=2) for n in {"w", second}}
    model = models.text(source, **arrays)
    squares = []
    for settings in ((), ("passes.gptq=on",)):
        converted = bench.convert(model, "full-integer", *settings)
        errors = [converted.run(f)["a"] - run(model, f)["a"] for f in converted.feeds]
        squares.append(float(np.square(errors).sum()))
    nearest, optimized_for_each = squares
    assert optimized_for_each <= nearest


@in_both_formats
def test_s07_tied_embeddings_are_right_at_both_ends(bench, output_format):
    table = weight(9, 6)
    model = models.text(
        "(int64[2,4] i) => (float[2,4,9] y) { e = Gather(t, i) a = MatMul(e, w) u = Transpose(t) y = MatMul(a, u) }",
        t=table, w=weight(6, 6),
    )  # fmt: skip
    feeds = models.samples(model, ranges={"i": Fed((2, 4), 0, 8, "int64")})
    loads_and_is_faithful(bench.as_format(model, output_format, feeds=feeds))


FILTER = weight(4, 3, 3, 3)
SOURCES = {  # the nodes that make the weight w
    "constant": [("Constant", [], "w", {"value": numpy_helper.from_array(FILTER)})],
    "cast": [
        ("Constant", [], "half", {"value": numpy_helper.from_array(FILTER.astype(np.float16))}),
        ("Cast", ["half"], "w", {"to": TensorProto.FLOAT}),
    ],
    "identity": [
        ("Constant", [], "same", {"value": numpy_helper.from_array(FILTER)}),
        ("Identity", ["same"], "w", {}),
    ],
}


@in_both_formats
@pytest.mark.parametrize("source", SOURCES)
def test_s47_a_weight_from_a_node_is_a_weight(bench, output_format, source):
    nodes = [helper.make_node(op, inputs, [made], **attributes) for op, inputs, made, attributes in SOURCES[source]]
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    converted = bench.as_format(models.graph([*nodes, conv], {"x": Fed((1, 3, 5, 5))}, ["y"], {}), output_format)
    assert converted.fates("Conv") == {"integer"}
    assert [a.dtype for a in converted.constants.values() if a.shape == FILTER.shape] == [np.int8]
    loads_and_is_faithful(converted)


@pytest.mark.parametrize("form", WIDE)
@pytest.mark.parametrize("channels", [[0, 1], [0]], ids=["all", "one"])
def test_s01_a_bias_on_tiny_weights_does_not_overflow_in_16_bits(bench, form, channels):
    w = weight(2, 3, 3, 3)
    w[channels] = 1e-10
    model = models.text(IMAGE + "{ y = Conv(x, w, b) }", w=w, b=np.asarray([5, -4.5], F32))
    feeds = models.samples(model, ranges={"x": Fed((1, 3, 5, 5), -64, 64)})
    made = as_form(bench, model, form, feeds=feeds)
    found, expected = made.run(feeds[0])["y"][:, channels], run(model, feeds[0])["y"][:, channels]
    assert np.abs(found - expected).max() < 1.01 * step(made)


@where_weights_are_stored
def test_s04_every_output_channel_has_its_own_scale_where_stored(bench, form):
    w = weight(96, 96, spread=0.1, scaled=1)
    for source, array in (("MatMul(x, w)", w), ("Gemm<transB = 1>(x, w)", w.T.copy())):
        made = as_form(bench, models.text(TALL + f"{{ y = {source} }}", w=array), form)
        for feed in made.feeds[:2]:
            expected, found = run(made.float_model, feed)["y"], made.run(feed)["y"]
            assert min(metrics.sqnr_db(expected[:, c], found[:, c]) for c in range(96)) > LEAST_DB[form] - 6


@where_weights_are_stored
def test_s07_a_weight_of_two_operators_is_stored_once_in_any_mode(bench, form):
    body = "{ a = MatMul(x, w) r = Relu(a) b = Gemm<transB = 1>(r, w) c = MatMul(b, w) y = Add(a, c) }"
    made = as_form(bench, models.text(TALL + body, w=large()), form, least=LEAST_DB[form] - 6)
    assert sum(a.size >= 96 * 96 for a in made.constants.values()) == 1


@where_weights_are_stored
def test_s07_a_weight_that_is_also_added_is_right_for_both(bench, form):
    body = "{ a = MatMul(x, w) b = MatMul(x, v) c = Add(a, w) y = Sub(c, b) }"
    model = models.text("(float[96,96] x) => (float y) " + body, w=large(), v=large(1))
    as_form(bench, model, form)


MATRIX = large()
MADE_BY = {
    "constant": [("Constant", [], "w", {"value": numpy_helper.from_array(MATRIX)})],
    "cast": [
        ("Constant", [], "half", {"value": numpy_helper.from_array(MATRIX.astype(np.float16))}),
        ("Cast", ["half"], "w", {"to": TensorProto.FLOAT}),
    ],
    "transpose": [
        ("Constant", [], "turned", {"value": numpy_helper.from_array(MATRIX.T.copy())}),
        ("Transpose", ["turned"], "w", {}),
    ],
}


@where_weights_are_stored
@pytest.mark.parametrize("source", MADE_BY)
def test_s47_a_weight_from_a_node_is_stored_too(bench, form, source):
    nodes = [helper.make_node(op, inputs, [made], **attributes) for op, inputs, made, attributes in MADE_BY[source]]
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = as_form(bench, models.graph([*nodes, product], {"x": Fed((40, 96))}, ["y"], {}), form)
    assert "float" not in made.fates("MatMul")
    assert [a for a in made.constants.values() if a.size >= 96 * 96 and a.dtype == F32] == []


ODD = {"33x33": (33, 33, False), "35x31": (35, 31, True), "1025x1": (1025, 1, False), "300x7": (300, 7, True)}


@where_weights_are_stored
@pytest.mark.parametrize("case", ODD)
def test_s34_blocks_that_do_not_fill_are_right(bench, form, case):
    depth, width, turned = ODD[case]
    op = "Gemm<transB = 1>(x, w)" if turned else "MatMul(x, w)"
    w = large(shape=(width, depth) if turned else (depth, width))
    made = as_form(bench, models.text(f"(float[40,{depth}] x) => (float y) {{ y = {op} }}", w=w), form)
    assert made.fates() & {"stored", "integer"}


@in_integer_forms
@pytest.mark.parametrize("body", ["Gemm(x, w, b)", "Gemm<transB = 1>(x, w, b)"])
def test_s01_the_bias_of_a_product_of_tiny_weights_does_not_overflow(bench, form, body):
    model = models.text(ROWS + f"{{ y = {body} }}", w=np.full((6, 6), 1e-10, F32), b=np.linspace(-5, 4.5, 6, dtype=F32))
    made = as_form(bench, model, form, feeds=models.samples(model, ranges={"x": Fed((4, 6), -64, 64)}))
    stored = [a.astype(np.int64) for a in made.constants.values() if a.dtype == np.int32 and a.size == 6]
    assert all(np.abs(b).max() < 2**31 - 1 for b in stored)
    assert max(error(made, optimize=o)["y"] for o in (False, True)) < 1.01 * step(made)


BIASES = {"one": (1,), "scalar": (), "row": (1, 96), "column": (40, 1), "matrix": (40, 96), "channels": (96,)}


@in_all_forms
@pytest.mark.parametrize("shape", BIASES.values(), ids=BIASES)
def test_s02_a_bias_of_any_shape_is_added_where_it_belongs(bench, form, shape):
    model = models.text(TALL + "{ y = Gemm(x, w, b) }", w=large(), b=weight(*shape) * 4)
    as_form(bench, model, form, *ALSO.get(form, ()))


def every_channel_is_exact(made, axis, least):
    """No channel of the output is worse than another, for all that it may be a thousandth as large."""
    for feed in made.feeds[:2]:
        expected = np.moveaxis(run(made.float_model, feed)["y"], axis, 0)
        for optimize in (False, True):
            found = np.moveaxis(made.run(feed, optimize=optimize)["y"], axis, 0)
            assert min(metrics.sqnr_db(e, f) for e, f in zip(expected, found, strict=True)) > least


SQUARE = {  # source, weight, axis of its output channels, axis of those in the result
    "conv": ("(float[1,64,5,5] x) => (float y) { y = Conv(x, w) }", (64, 64, 1, 1), 0, 1),
    "conv-groups": ("(float[1,64,5,5] x) => (float y) { y = Conv<group = 4>(x, w) }", (64, 16, 3, 3), 0, 1),
    "conv-transpose": ("(float[1,64,5,5] x) => (float y) { y = ConvTranspose(x, w) }", (64, 64, 1, 1), 1, 1),
    "conv-transpose-groups": ("(float[1,64,5,5] x) => (float y) { y = ConvTranspose<group = 4>(x, w) }",
                              (64, 16, 3, 3), 1, 1),
    "gemm": ("(float[40,64] x) => (float y) { y = Gemm(x, w) }", (64, 64), 1, 1),
    "gemm-trans-b": ("(float[40,64] x) => (float y) { y = Gemm<transB = 1>(x, w) }", (64, 64), 0, 1),
    "matmul": ("(float[40,64] x) => (float y) { y = MatMul(x, w) }", (64, 64), 1, 1),
    "matmul-3d": ("(float[2,40,64] x) => (float y) { y = MatMul(x, w) }", (64, 64), 1, 2),
}  # fmt: skip


@where_weights_are_stored
@pytest.mark.parametrize("case", SQUARE)
def test_s04_channels_of_any_operator_have_scales_of_their_own_where_stored(bench, form, case):
    source, shape, axis, across = SQUARE[case]
    w = weight(*shape, spread=0.1, scaled=axis)
    made = as_form(bench, models.text(source, w=w), form, *ALSO.get(form, ()))
    every_channel_is_exact(made, across, LEAST_DB[form] - 6)


@in_integer_forms
@pytest.mark.parametrize("case", SQUARE)
def test_s04_what_has_no_integer_form_stays_float_and_the_rest_has_its_axis(bench, form, case):
    source, shape, axis, _ = SQUARE[case]
    w = weight(*shape, spread=0.1, scaled=axis)
    source = source.replace(") => (float y) {", ") => (float y) { [z] k = Sigmoid(x)").replace("(x, w)", "(k, w)")
    made = as_form(bench, models.text(source, w=w), form, *ALSO.get(form, ()))
    if "transpose" in case:
        assert made.fates("ConvTranspose") <= {"float", "stored"}
        assert made.axes.get("w", axis) == axis
        return
    rest = tuple(a for a in range(w.ndim) if a != axis)
    np.testing.assert_allclose(made.grids["w"].scale, np.abs(w).max(axis=rest) / 127, rtol=1e-6)
    assert made.axes["w"] == axis


@in_wide_forms
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("case", SCALED)
def test_s05_weights_are_int8_beside_int16_activations(bench, case, granularity, form):
    source, w, _ = SCALED[case]
    model = models.text(source, w=w)
    made = as_form(bench, model, form, f"scheme.weights.granularity={granularity}", least=20)
    (entry,) = [e for e in made.result.encodings["encodings"] if e["name"] == "w"]
    assert entry["output_dtype"] == "int8"
    assert made.grids["w"].scale.ndim == (granularity == "per-channel")
    assert [a for a in made.constants.values() if a.dtype == F32 and a.shape == w.shape] == []


@in_all_forms
def test_s07_a_module_that_is_called_twice_is_right_both_times(bench, form):
    model = models.text(
        "(float[1,32,6,6] x) => (float a, float y) { a = Conv(x, w, b) r = Relu(a) y = Conv(r, w, b) }",
        w=weight(32, 32, 1, 1, spread=0.2), b=weight(32),
    )  # fmt: skip
    made = as_form(bench, model, form, *ALSO.get(form, ()))
    assert sum(a.size == 32 * 32 for a in made.constants.values()) == 1


@where_weights_are_stored
def test_s07_a_table_that_is_turned_for_the_head_is_right_at_both_ends(bench, form):
    model = models.text(
        "(int64[2,20] i) => (float y) { e = Gather(t, i) a = MatMul(e, w) u = Transpose(t) y = MatMul(a, u) }",
        t=large(), w=large(1),
    )  # fmt: skip
    feeds = models.samples(model, 3, ranges={"i": Fed((2, 20), 0, 95, "int64")})
    as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 8)


@pytest.mark.parametrize("size", options.BLOCK_SIZES)
@pytest.mark.parametrize("dtype", ["int4", "int8", "uint4", "uint8"])
@pytest.mark.parametrize("depth", [200, 512])
def test_s34_blocks_of_every_size_are_right_and_not_zero(bench, size, dtype, depth):
    settings = (
        f"scheme.weights.block_size={size}", f"scheme.weights.dtype={dtype}", "passes.plan_weights.eight_bit_below=0",
        f"scheme.weights.symmetric={str(dtype.startswith('i')).lower()}",
    )  # fmt: skip
    w = weight(depth, 64, spread=0.1, scaled=1)
    model = models.text(f"(float[40,{depth}] x) => (float y) {{ y = MatMul(x, w) }}", w=w)
    made = as_form(bench, model, "weight-only-int4", *settings)
    (entry,) = made.result.encodings["encodings"]
    assert (entry["output_dtype"], entry["block_size"]) == (dtype, size)
    every_channel_is_exact(made, 1, LEAST_DB["weight-only-int4"] - 3)


def test_s34_a_block_size_without_a_kernel_is_refused(bench):
    model = models.text(TALL + "{ y = MatMul(x, w) }", w=large())
    with pytest.raises(UnsupportedError, match=r"block_size is 512; expected 16 \| 32"):
        bench.convert(model, "weight-only-int4", "scheme.weights.block_size=512")


@in_all_forms
@pytest.mark.parametrize("source", SOURCES)
def test_s47_a_filter_from_a_node_is_what_an_initializer_is(bench, form, source):
    nodes = [helper.make_node(op, inputs, [made], **attributes) for op, inputs, made, attributes in SOURCES[source]]
    nodes = [*nodes, helper.make_node("Conv", ["x", "w"], ["y"])]
    made = as_form(bench, models.graph(nodes, {"x": Fed((1, 3, 5, 5))}, ["y"], {}), form, *ALSO.get(form, ()))
    known = FILTER.astype(np.float16).astype(F32) if source == "cast" else FILTER
    plain = models.text(IMAGE + "{ y = Conv(x, w) }", w=known)
    again = as_form(bench, plain, form, *ALSO.get(form, ()))
    for feed in made.feeds[:2]:
        np.testing.assert_array_equal(made.run(feed)["y"], again.run(feed)["y"])


@pytest.mark.parametrize("form", ["none", "float16", "float16-computed"])
def test_s07_a_tied_table_is_stored_once(bench, form):
    model = models.text(
        "(int64[2,20] i) => (float y) { e = Gather(t, i) a = MatMul(e, w) u = Transpose(t) y = MatMul(a, u) }",
        t=large(),
        w=large(1),
    )
    feeds = models.samples(model, 3, ranges={"i": Fed((2, 20), 0, 95, "int64")})
    made = as_form(bench, model, form, feeds=feeds)
    assert sum(a.size == 96 * 96 for a in made.constants.values()) == 2
