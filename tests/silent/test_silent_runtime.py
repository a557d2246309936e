"""What the runtime and its optimizer make of a correct graph."""

from __future__ import annotations

import itertools

import models
import numpy as np
import pytest
from conversion import on_grid, optimized, run, run_session, session
from integer_reference import F32, qgemm, qlinear_conv, quantize_linear, requantize
from laws import (
    ALSO,
    FORMS,
    IMAGE,
    ROWS,
    SCALED,
    WIDE,
    as_form,
    error,
    in_all_forms,
    in_both_formats,
    in_every_form,
    in_integer_forms,
    in_storing_forms,
    in_wide_forms,
    large,
    loads_and_is_faithful,
    step,
)
from models import weight
from onnx import numpy_helper
from op_cases import CASES, together

from quantcli import metrics


@in_both_formats
@pytest.mark.parametrize("mode", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
def test_s27_interpolation_rounds_instead_of_truncating(bench, output_format, mode):
    resize = f'Resize<mode = "linear", coordinate_transformation_mode = "{mode}">(a, "", s)'
    model = models.text(
        f"(float[1,4,3,3] x) => (float y) {{ a = Conv(x, w) b = {resize} y = Conv(b, w) }}",
        w=np.eye(4, dtype=F32).reshape(4, 4, 1, 1), s=np.asarray([1, 1, 2, 2], F32),
    )  # fmt: skip
    converted = bench.as_format(model, output_format)
    bias = np.mean([converted.run(f)["y"] - run(model, f)["y"] for f in converted.feeds]) / step(converted)
    assert abs(bias) < 0.1  # truncation would give half a step
    assert error(converted)["y"] < 2 * step(converted)


@in_both_formats
@pytest.mark.parametrize("optimize", [False, True])
def test_s28_alpha_belongs_to_the_product_and_beta_to_the_bias(bench, output_format, optimize):
    model = models.text(ROWS + "{ y = Gemm<alpha = 2.0, beta = -3.0>(x, w, b) }", w=weight(6, 5), b=weight(5))
    converted = bench.as_format(model, output_format)
    assert error(converted, optimize=optimize)["y"] < 2 * step(converted)


@in_both_formats
def test_s29_every_zero_point_is_written(bench, output_format):
    model = models.text(
        ROWS + "{ a = MatMul(x, w) b = Add(a, k) r = Reshape(c, s) y = MatMul(b, r) }",
        w=weight(6, 6), k=weight(4, 1), c=np.asarray([12, -45, 7, -3, 0, 1], F32) * F32(0.02), s=models.ints(6, 1),
    )  # fmt: skip
    converted = bench.as_format(model, output_format)
    nodes = [*converted.nodes("QuantizeLinear"), *converted.nodes("DequantizeLinear")]
    assert nodes or output_format == "integer"
    assert all(len(n.input) == 3 and n.input[2] for n in nodes)
    loads_and_is_faithful(converted)


@pytest.mark.parametrize("case", SCALED)
def test_s30_the_scale_of_a_bias_is_the_product_of_the_other_two(bench, case):
    source, w, _ = SCALED[case]
    converted = bench.convert(models.text(source, w=w), "full-integer")
    constants = converted.constants
    (bias,) = [n for n in converted.nodes("DequantizeLinear") if constants.get(n.input[0], w).dtype == np.int32]
    product = converted.grids["x"].scale * converted.grids["w"].scale
    np.testing.assert_array_equal(constants[bias.input[1]], product, strict=True)
    assert not constants[bias.input[2]].any()


@in_both_formats
def test_s32_a_concat_of_one_operand_is_that_operand(bench, output_format):
    body = "{ a = Conv(x, w) b = Concat<axis = 1>(a) c = Conv(b, v) d = Concat<axis = 1>(b, c) y = Conv(d, u) }"
    model = models.text(IMAGE + body, w=weight(3, 3, 1, 1), v=weight(3, 3, 1, 1, seed=1), u=weight(3, 6, 1, 1))
    loads_and_is_faithful(bench.as_format(model, output_format), 20)


@in_both_formats
def test_s32_a_softmax_of_unknown_rank_loads(bench, output_format):
    source = "(float[4,6] x, int64[R] s) => (float y) { a = MatMul(x, w) r = Reshape(a, s) y = Softmax(r) }"
    model = models.text(source, w=weight(6, 6))
    feeds = [{"x": f["x"], "s": models.ints(2, 2, 6)} for f in models.samples(model, R=3)]
    converted = bench.as_format(model, output_format, feeds=feeds)
    assert error(converted)["y"] < 0.02


GEMMS = ("alpha = 2.0, beta = -3.0", "alpha = 0.5, transB = 1", "beta = 0.0", "transA = 1")


@in_every_form
def test_s28_alpha_and_beta_are_those_of_the_user_in_any_mode(bench, form):
    outputs = ", ".join(f"float y{i}" for i in range(len(GEMMS)))
    body = " ".join(f"y{i} = Gemm<{factors}>(x, w{i}, b)" for i, factors in enumerate(GEMMS))
    weights = {f"w{i}": large(i) for i in range(len(GEMMS))}
    as_form(bench, models.text(f"(float[96,96] x) => ({outputs}) {{ {body} }}", b=weight(96), **weights), form)


def as_integers(bench, model, feeds, mode="int8-only"):
    """Convert with a uint8 boundary; return the conversion, and what it makes of the integers of a feed."""
    made = bench.convert(model, mode, feeds=feeds, input_type="uint8", output_type="uint8")

    def results(feed, *, optimize):
        integers = {n: quantize_linear(x, made.grids[n]) for n, x in feed.items()}
        return run(made.model, integers, optimize=optimize)["y"]

    return made, results


def check_product(bench, body, arrays, feeds, mode):
    """A Gemm or MatMul is the integer product of what is stored, bit for bit, optimized or not."""
    made, results = as_integers(bench, models.text(ROWS + body, **arrays), feeds, mode)
    (weights,) = [a for a in made.constants.values() if a.dtype == np.int8 and a.ndim == 2]
    biases = [a for a in made.constants.values() if a.dtype == np.int32]
    bias = biases[0] if biases else np.zeros(weights.shape[0 if "transB" in body else 1], np.int32)
    grids = tuple(made.grids[n] for n in ("x", "w", "y"))
    for feed in feeds:
        x = quantize_linear(feed["x"], grids[0])
        expected = qgemm(x, weights, bias, grids, trans_b="transB" in body)
        for optimize in (False, True):
            np.testing.assert_array_equal(results(feed, optimize=optimize), expected, strict=True)
    return made


SATURATING = np.array(list(itertools.product((-127, -81, -80, 127), repeat=3)), F32)  # 3 inputs of each of 64 outputs
PIXELS = np.array([[210, 198, 234], [255, 255, 255], [0, 255, 255], [255, 0, 0]], F32)
in_both_modes = pytest.mark.parametrize("mode", ["int8-only", "full-integer"])


@in_both_modes
@pytest.mark.parametrize("depth", [3, 6, 48])
def test_s25_pairs_of_products_beyond_16_bits_are_summed_exactly(bench, mode, depth):
    x, w = (np.tile(a, depth // 3) for a in (PIXELS, SATURATING))
    model = models.text(f"(float[4,{depth}] x) => (float y) {{ y = MatMul(x, w) }}", w=w.T.copy())
    made, results = as_integers(bench, model, [{"x": x}], mode)
    assert float(made.grids["x"].scale) == 1
    (stored,) = [a for a in made.constants.values() if a.dtype == np.int8 and a.ndim == 2]
    sums = x.astype(np.int64) @ stored.astype(np.int64)
    assert np.abs(sums).max() > 2**15
    grid_x, grid_w, grid_y = (made.grids[n] for n in ("x", "w", "y"))
    expected = requantize(sums, grid_x.scale, grid_w.scale, grid_y.scale, grid_y.zero_point, np.uint8)
    for optimize in (False, True):
        np.testing.assert_array_equal(results({"x": x}, optimize=optimize), expected)


@in_both_modes
@pytest.mark.parametrize("kernel", [1, 3])
def test_s25_pairs_of_products_of_a_convolution_are_summed_exactly(bench, mode, kernel):
    w = np.tile(SATURATING[:, :, None, None], (1, 1, kernel, kernel))
    x = np.tile(PIXELS.reshape(4, 3, 1, 1), (1, 1, 4, 4))
    model = models.text("(float[4,3,4,4] x) => (float y) { y = Conv(x, w) }", w=w)
    made, results = as_integers(bench, model, [{"x": x}], mode)
    stored = next(a for a in made.constants.values() if a.dtype == np.int8 and a.ndim == 4)
    grids = tuple(made.grids[n] for n in ("x", "w", "y"))
    expected = qlinear_conv(x.astype(np.uint8), stored, np.zeros(64, np.int32), grids)
    for optimize in (False, True):
        np.testing.assert_array_equal(results({"x": x}, optimize=optimize), expected)


CHAINED = {
    "add": "a{i} = Add(a{j}, k)",
    "conv": "a{i} = Conv(a{j}, w)",
    "add-conv": "b{i} = Conv(a{j}, w) a{i} = Add(b{i}, a0)",
    "pool": "b{i} = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(a{j})"
            " a{i} = Conv(b{i}, w)",
}  # fmt: skip


@in_both_modes
@pytest.mark.parametrize("link", CHAINED)
def test_s26_optimization_does_not_drift_along_a_chain(bench, mode, link):
    body = "a0 = Conv(x, w) " + " ".join(CHAINED[link].format(i=i, j=i - 1) for i in range(1, 9)) + " y = Conv(a8, w)"
    mixing = np.linalg.qr(weight(8, 8))[0].reshape(8, 8, 1, 1).astype(F32)
    arrays = {"w": mixing, "k": weight(8, 1, 1) / 8}
    model = models.text(f"(float[1,8,6,6] x) => (float y) {{ {body} }}",
                        **{n: a for n, a in arrays.items() if f", {n})" in body})  # fmt: skip
    feeds = models.samples(model, 6)
    _, results = as_integers(bench, model, feeds, mode)
    drift = np.stack([results(f, optimize=True).astype(int) - results(f, optimize=False) for f in feeds])
    assert np.abs(drift).max() <= 1
    assert abs(drift.mean()) < 0.05


def test_s27_the_middle_of_two_values_is_rounded(bench):
    model = models.text(
        '(float[1,1,1,3] x) => (float y) { a = Conv(x, w) y = Resize<mode = "linear">(a, "", s) }',
        w=np.ones((1, 1, 1, 1), F32), s=np.asarray([1, 1, 1, 2], F32),
    )  # fmt: skip
    feeds = [{"x": np.asarray(v, F32).reshape(1, 1, 1, 3)} for v in ([2, 7, 4], [0, 255, 255])]
    made, results = as_integers(bench, model, feeds, "full-integer")
    assert [float(made.grids[n].scale) for n in ("x", "y")] == [1, 1]
    for optimize in (False, True):
        np.testing.assert_array_equal(results(feeds[0], optimize=optimize).ravel(), [2, 3, 6, 6, 5, 4])


FACTORS = ("alpha = 2.0", "alpha = 2.0, beta = -3.0", "alpha = 0.5, transB = 1", "beta = 0.0")


@in_both_modes
@pytest.mark.parametrize("factors", FACTORS)
def test_s28_alpha_and_beta_are_in_what_is_stored(bench, mode, factors):
    model_feeds = models.samples(models.text(ROWS + "{ y = Relu(x) }"), 4)
    body = f"{{ y = Gemm<{factors}>(x, w, b) }}"
    made = check_product(bench, body, {"w": weight(6, 6), "b": weight(6)}, model_feeds, mode)
    assert error(made)["y"] < 2 * step(made)


@in_all_forms
def test_s29_negative_numbers_behind_a_reshape_stay_negative(bench, form):
    c = np.asarray([12, -45, 7, -3], F32) * F32(0.02)
    model = models.text(
        "(float[40,4] x) => (float y) { r = Reshape(c, s) a = MatMul(x, r) t = Transpose(r) y = Add(a, t) }",
        c=c, s=models.ints(4, 1),
    )  # fmt: skip
    feeds = [{"x": np.tile(np.eye(4, dtype=F32), (10, 1)) * k} for k in (1, -1)]
    made = as_form(bench, model, form, *ALSO.get(form, ()), feeds=feeds)
    found = made.run({"x": np.tile(np.eye(4, dtype=F32), (10, 1))})["y"]
    np.testing.assert_allclose(found[:4], c[:, None] + c, atol=0.02)


EXTREMES = np.where(np.random.default_rng(0).random((6, 6)) < 0.5, F32(-1), F32(1))


@in_both_modes
@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
@pytest.mark.parametrize("spread", [1.0, 40.0])
def test_s30_a_bias_beside_extreme_weights_is_exact(bench, mode, granularity, spread):
    feeds = models.samples(models.text(ROWS + "{ y = Relu(x) }"), 4)
    arrays = {"w": EXTREMES, "b": weight(6, spread=spread)}
    model = models.text(ROWS + "{ y = Gemm(x, w, b) }", **arrays)
    made = bench.convert(model, mode, f"scheme.weights.granularity={granularity}", feeds=feeds)
    (stored,) = [a for a in made.constants.values() if a.dtype == np.int32 and a.any()]
    scale = made.grids["x"].scale.astype(np.float64) * made.grids["w"].scale
    assert (np.abs(stored * scale - arrays["b"]) <= 0.501 * scale).all()
    assert max(error(made, f, optimize=o)["y"] for f in feeds for o in (False, True)) < 1.5 * step(made) + 0.02


@in_integer_forms
@pytest.mark.parametrize("types", [("int8", "uint8"), ("uint8", "int8"), ("float32", "int8")], ids="-".join)
@pytest.mark.parametrize(
    "body", ["t = Transpose(x) a = MatMul(w, t) y = Transpose(a)", "a = Transpose(x) y = Transpose(a)"]
)
def test_s31_types_may_differ_on_both_sides_of_a_transpose(bench, form, types, body):
    if form in WIDE:
        types = tuple("int16" if "int" in t else t for t in types)
    model = models.text(f"(float[6,6] x) => (float y) {{ {body} }}", **({"w": weight(6, 6)} if "w" in body else {}))
    for node in model.graph.node:
        node.name = ""
    made = as_form(bench, model, form, input_type=types[0], output_type=types[1])
    names = [n.name for n in made.model.graph.node]
    assert all(names)
    assert len(names) == len(set(names))
    session(optimized(made.model, bench.folder), optimize=False)


CONVOLUTIONS = {
    "plain": ("(float[1,32,9,9] x) => (float y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }", (32, 32, 3, 3)),
    "pointwise": ("(float[1,64,9,9] x) => (float y) { y = Conv(x, w) }", (64, 64, 1, 1)),
    "depthwise": ("(float[1,128,9,9] x) => (float y) { y = Conv<group = 128>(x, w) }", (128, 1, 3, 3)),
    "line": ("(float[1,32,40] x) => (float y) { y = Conv(x, w) }", (64, 32, 3)),
    "volume": ("(float[1,8,5,5,5] x) => (float y) { y = Conv(x, w) }", (16, 8, 3, 3, 3)),
    "transposed": ("(float[1,32,9,9] x) => (float y) { y = ConvTranspose(x, w) }", (32, 32, 2, 2)),
}


@in_storing_forms
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_s33_a_lone_convolution_loads_and_runs(bench, form, case):
    source, shape = CONVOLUTIONS[case]
    made = as_form(bench, models.text(source, w=weight(*shape, spread=0.1)), form, *ALSO.get(form, ()))
    assert form == "none" or not [a for a in made.constants.values() if a.dtype == F32 and a.size == np.prod(shape)]


def with_stored_weights(made):
    """The prepared float model with every weight and bias as it is stored, and real activations."""
    model, grids = made.prepared, made.grids
    for tensor in model.graph.initializer:
        if tensor.name in grids and grids[tensor.name].zero_point.dtype != np.int16:
            rounded = on_grid(numpy_helper.to_array(tensor), grids[tensor.name], made.axes[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    return model


WIDE_CASES = together({n: c for n, c in CASES.items() if c.refusal("wide") is None})


@in_wide_forms
@pytest.mark.parametrize("opset", WIDE_CASES)
def test_s50_16_bit_activations_lose_next_to_nothing_whatever_the_operator(bench, form, opset):
    model, feeds = WIDE_CASES[opset]
    made = bench.convert(model, *FORMS[form], *ALSO[form], feeds=feeds)
    assert made.fates("Conv", "Gemm", "MatMul", "Add", "Mul", "Softmax") <= {"integer", "absorbed"}
    reference = session(with_stored_weights(made), optimize=False)
    for feed in feeds[:2]:
        found = made.run(feed)
        for name, real in run_session(reference, feed).items():
            if name in made.grids:
                limit = 32767 * float(made.grids[name].scale)  # what lies beyond was not there before rounding weights
                assert metrics.sqnr_db(np.clip(real, -limit, limit), found[name]) > 60, name


def test_s50_the_ledger_says_what_the_16_bit_form_computes_in(bench):
    model = models.text(ROWS + "{ a = MatMul(x, w) y = Softmax(a) }", w=weight(6, 6))
    said = {form: bench.convert(model, *FORMS[form]) for form in WIDE}
    kernels = {form: [e.kernel for e in made.ledger.values()] for form, made in said.items()}
    assert all(k.endswith("in float") for k in kernels["16x8-as-qdq"])
    assert not any(k.endswith("in float") for k in kernels["16x8"])
    assert any("16-bit Q and DQ in float" in note for note in said["16x8-as-qdq"].result.report["notes"])
