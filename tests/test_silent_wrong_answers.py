"""What other tools got wrong without a word, one law for each; the numbers are those of our list of user problems."""

from __future__ import annotations

import contextlib

import models
import numpy as np
import pytest
from conversion import FORMATS, computed_in_float, optimized, run, run_session, session
from integer_reference import F32
from models import Fed, weight
from onnx import TensorProto, checker, helper, numpy_helper

from quantcli import metrics
from quantcli.errors import ModelError, UnsupportedError, UsageError

in_both_formats = pytest.mark.parametrize("output_format", FORMATS)
IMAGE = "(float[1,3,5,5] x) => (float y) "
ROWS = "(float[4,6] x) => (float y) "


def error(converted, feed=None, *, optimize=True):
    """The largest error of each output against the float model."""
    fed = feed or converted.feeds[0]
    expected, found = run(converted.float_model, fed), converted.run(fed, optimize=optimize)
    assert list(found) == list(expected)
    return {n: float(np.abs(found[n] - real).max()) for n, real in expected.items()}


def step(converted, name="y"):
    """The step of a tensor; of a float output, 1/255 of what it spans."""
    if name in converted.grids:
        return float(converted.grids[name].scale)
    return float(np.ptp(run(converted.float_model, converted.feeds[0])[name])) / 255


def sqnr_db(converted):
    return min(o["sqnr_db"] for o in converted.result.report["verification"]["outputs"].values())


def loads_and_is_faithful(converted, least=25.0):
    checker.check_model(converted.model)
    assert sqnr_db(converted) > least


# ---- biases and weights ----------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize(("clamp", "high"), [("Relu(a)", np.inf), ("Clip(a, zero, six)", 6)])
def test_s03_a_clamp_holds_for_values_that_were_never_seen(bench, output_format, optimize, clamp, high):
    limits = {"zero": 0.0, "six": 6.0} if "six" in clamp else {}
    model = models.text(IMAGE + f"{{ a = Conv(x, w) y = {clamp} }}", w=weight(4, 3, 3, 3, spread=0.1), **limits)
    converted = bench.as_format(model, output_format)
    assert 0 < run(model, converted.feeds[0])["y"].max() < 3
    found = converted.run({"x": converted.feeds[0]["x"] * 1000}, optimize=optimize)["y"]
    assert found.min() >= 0
    assert found.max() <= high


SCALED = {
    "conv": (IMAGE + "{ y = Conv(x, w) }", weight(3, 3, 3, 3, scaled=0), 0),
    "gemm": (ROWS + "{ y = Gemm(x, w) }", weight(6, 6, scaled=1), 1),
    "gemm-trans-b": (ROWS + "{ y = Gemm<transB = 1>(x, w) }", weight(6, 6, scaled=0), 0),
    "matmul": (ROWS + "{ y = MatMul(x, w) }", weight(6, 6, scaled=1), 1),
    "matmul-3d": ("(float[2,4,6] x) => (float y) { y = MatMul(x, w) }", weight(6, 6, scaled=1), 1),
}


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


# ---- names, shared and implicit constants ----------------------------------------------------------------------------


@in_both_formats
def test_s06_new_names_take_no_name_of_the_user(bench, output_format):
    taken = ["b0", "b_quantized", "x_quantized", "x_scale", "w_quantized", "y_quantized", "x_QuantizeLinear"]
    body = "".join(f"{new} = Conv(x, w, b) " if i == 0 else f"{new} = Conv({old}, v, b) "
                   for i, (old, new) in enumerate(zip(["x", *taken], [*taken, "y"], strict=True)))  # fmt: skip
    model = models.text(IMAGE + f"{{ {body} }}", w=weight(3, 3, 1, 1), v=weight(3, 3, 1, 1, seed=1), b=weight(3))
    converted = bench.as_format(model, output_format)
    values = [o for n in converted.model.graph.node for o in n.output] + list(converted.constants)
    assert len(values) == len(set(values))
    loads_and_is_faithful(converted, 20)


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


BRANCHES = (
    "then_branch = t () => (float[6,6] p) { p = MatMul(m, w) }, else_branch = e () => (float[6,6] q) { q = Add(m, w) }"
)


def branching():
    source = f"(float[6,6] x, bool c) => (float y) {{ m = MatMul(x, w) y = If(c) <{BRANCHES}> }}"
    model = models.text(source, w=weight(6, 6))
    return model, [{**feed, "c": np.asarray(i % 2 == 0)} for i, feed in enumerate(models.samples(model))]


@in_both_formats
def test_s08_a_constant_that_a_branch_reads_stays_for_it(bench, output_format):
    model, feeds = branching()
    converted = bench.as_format(model, output_format, feeds=feeds)
    for feed in feeds[:2]:
        assert error(converted, feed)["y"] < 0.05 * np.ptp(run(model, feed)["y"])


def test_s09_control_flow_is_in_the_coverage_with_its_reason(bench):
    model, feeds = branching()
    converted = bench.convert(model, "full-integer", feeds=feeds)
    assert [e.fate for e in converted.ledger.values()] == ["integer", "float"]
    assert list(converted.floats().values()) == ["control flow: its bodies stay float"]
    with pytest.raises(UnsupportedError, match="1 of 2 operators"):
        bench.convert(model, feeds=feeds)


@in_both_formats
def test_s10_a_name_to_keep_float_is_the_users_own(bench, output_format):
    model = models.text(ROWS + "{ a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, w, b) }", w=weight(6, 6), b=weight(6))
    for node, name in zip(model.graph.node, ("/Gemm", "/Relu", "/Gemm_1"), strict=True):
        node.name = name
    converted = bench.as_format(model, output_format, keep_float=("/Gemm",))
    assert converted.ledger["/Gemm"].fate == "float"
    assert converted.ledger["/Gemm_1"].fate == "integer"
    assert [n.op_type for n in converted.model.graph.node if n.name == "/Gemm"] == ["Gemm"]
    with pytest.raises(UsageError) as refusal:
        bench.as_format(model, output_format, keep_float=("nope",))
    assert refusal.value.exit_code == 2


def test_s10_a_name_that_preparation_folds_away_may_be_given(bench):
    model = models.text(IMAGE + "{ [c] a = Conv(x, w) [s] y = Mul(a, k) }", w=weight(4, 3, 3, 3), k=2.0)
    assert bench.convert(model, "full-integer", keep_float=("s",)).ledger["s"].fate == "folded"


@pytest.mark.parametrize("op", ["Add(a, b)", "MatMul(a, b)", "Concat<axis = 0>(a, b)"])
def test_s10_what_is_kept_float_is_computed_in_float(bench, op):
    model = models.text(
        f"(float[6,6] x) => (float y) {{ a = MatMul(x, w) b = MatMul(x, v) [kept] c = {op} y = MatMul(c, w) }}",
        w=weight(6, 6), v=weight(6, 6, seed=1),
    )  # fmt: skip
    converted = bench.convert(model, "full-integer", keep_float=("kept",))
    assert op.partition("(")[0].partition("<")[0] in computed_in_float(optimized(converted.model, bench.folder))


# ---- calibration -----------------------------------------------------------------------------------------------------


@in_both_formats
def test_s13_an_extreme_of_the_first_sample_is_remembered(bench, output_format):
    model = models.text(ROWS + "{ a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }", w=np.eye(6, dtype=F32))
    feeds = models.samples(model, 3)
    feeds[0]["x"][0, 0] = 77
    converted = bench.as_format(model, output_format, feeds=feeds)
    assert converted.result.report["ranges"]["x"][1] == 77
    assert converted.result.report["ranges"]["r"][1] == 77


def arrangements():
    """The same 24 rows as other samples: by batch, in another order, of mixed lengths."""
    rows = np.random.default_rng(3).normal(0, 1, (24, 6)).astype(F32)
    ends = [3, 4, 11, 24]
    return {
        "one-by-one": [{"x": rows[i : i + 1]} for i in range(24)],
        "by-two": [{"x": rows[i : i + 2]} for i in range(0, 24, 2)],
        "by-eight": [{"x": rows[i : i + 8]} for i in range(0, 24, 8)],
        "backwards": [{"x": rows[i : i + 1]} for i in reversed(range(24))],
        "mixed-lengths": [{"x": rows[a:b]} for a, b in zip([0, *ends], ends, strict=False)],
    }


@in_both_formats
def test_s15_encodings_do_not_depend_on_how_samples_are_batched(bench, output_format):
    model = models.text(
        "(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }", w=weight(6, 6)
    )
    found = [bench.as_format(model, output_format, feeds=f).result.encodings for f in arrangements().values()]
    assert all(f["encodings"] == found[0]["encodings"] for f in found)


def test_s16_a_tensor_that_is_an_input_is_not_overwritten_by_the_next_sample(bench):
    model = models.text(
        "(float[2,6] x) => (float[2,6] z, float[2,6] y) { z = Identity(x) a = MatMul(x, w) y = Relu(a) }",
        w=np.eye(6, dtype=F32),
    )

    def reusing_one_buffer():
        buffer = np.zeros((2, 6), F32)
        for value in (50, 1, -20, 2):
            buffer[:] = value
            yield {"x": buffer}

    converted = bench.convert(model, feeds=reusing_one_buffer)
    assert converted.result.report["ranges"]["x"] == [-20, 50]
    assert converted.result.report["ranges"]["z"] == [-20, 50]


def test_s17_a_mask_of_the_most_negative_number_leaves_finite_scales(bench):
    model = models.text(
        "(float[4,6] x, bool[4,6] c) => (float y) { a = MatMul(x, w) m = Where(c, a, low) y = Softmax(m) }",
        w=weight(6, 6), low=np.asarray(-3.4e38, F32),
    )  # fmt: skip
    feeds = [{**f, "c": np.arange(24).reshape(4, 6) % 3 != 0} for f in models.samples(model)]
    converted = bench.convert(model, "full-integer", feeds=feeds)
    assert all(np.isfinite(g.scale).all() for g in converted.grids.values())
    assert error(converted, feeds[0])["y"] < 0.02


@in_both_formats
@pytest.mark.parametrize("value", [0.0, 1e-42], ids=["zero", "subnormal"])
def test_s18_a_dead_channel_has_a_sound_scale(bench, output_format, value):
    w = weight(4, 3, 3, 3)
    w[0] = value
    model = models.text(IMAGE + "{ y = Conv(x, w, b) }", w=w, b=np.asarray([1, 0.5, -1, 2], F32))
    converted = bench.as_format(model, output_format)
    scale = converted.grids["w"].scale
    assert np.isfinite(scale).all()
    assert (scale > np.finfo(F32).tiny).all()
    assert error(converted)["y"] < 1.5 * step(converted) + 0.02


@in_both_formats
@pytest.mark.parametrize("spread", [1, 1e-3])
def test_s18_an_activation_that_is_always_zero_has_a_sound_scale(bench, output_format, spread):
    b = weight(6, spread=spread)
    model = models.text(ROWS + "{ a = MatMul(x, w) r = Relu(a) y = Gemm(r, w, b) }", w=np.eye(6, dtype=F32), b=b)
    feeds = models.samples(model, ranges={"x": Fed((4, 6), -3, -1)})
    converted = bench.as_format(model, output_format, feeds=feeds)
    scale = float(converted.grids["r"].scale)
    assert np.isfinite(scale)
    assert scale > 0
    assert error(converted)["y"] < 0.05 * np.ptp(b)


def test_s18_a_tensor_that_takes_no_finite_value_is_listed(bench):
    model = models.text(
        ROWS + "{ a = MatMul(x, w) l = Log(a) b = MatMul(l, w) y = Where(c, x, b) }",
        w=np.eye(6, dtype=F32), c=np.ones(1, bool),
    )  # fmt: skip
    feeds = models.samples(model, ranges={"x": Fed((4, 6), -3, -1)})
    converted = bench.convert(model, "full-integer", feeds=feeds)
    assert any("never calibrated" in w for w in converted.result.report["warnings"])
    assert error(converted)["y"] < 0.05


# ---- versions, names, the boundary -----------------------------------------------------------------------------------

OLD = {
    "upsample-9": (9, '(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Upsample<mode = "nearest">(a, s) }'),
    "upsample-linear-9": (9, '(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Upsample<mode = "linear">(a, s) }'),
    "resize-10": (10, "(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Resize(a, s) }"),
    "conv-12": (12, "(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Mul(a, s2) }"),
    "relu-7": (7, "(float[1,3,4,4] x) => (float y) { a = Conv(x, w) y = Clip<min = 0.0, max = 6.0>(a) }"),
}


@in_both_formats
@pytest.mark.parametrize("case", OLD)
def test_s20_old_opsets_are_converted_not_renumbered(bench, case, output_format):
    opset, source = OLD[case]
    arrays = {"w": weight(3, 3, 1, 1), "s": np.asarray([1, 1, 2, 2], F32), "s2": np.asarray(3, F32)}
    used = {n: a for n, a in arrays.items() if f" {n})" in source}
    converted = bench.as_format(models.text(source, opset=opset, **used), output_format)
    if output_format == "qdq":
        checker.check_model(converted.model, full_check=True)
    loads_and_is_faithful(converted)


@in_both_formats
@pytest.mark.parametrize("names", [["", "", "", ""], ["n", "n", "n", "n"], ["n", "n_1", "n", ""]], ids=str)
def test_s21_names_are_unique_whatever_they_were(bench, output_format, names):
    body = "{ a = MatMul(x, w) b = MatMul(a, w) c = MatMul(a, w) y = Add(b, c) }"
    model = models.text(ROWS + body, w=weight(6, 6))
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    converted = bench.as_format(model, output_format)
    written = [n.name for n in converted.model.graph.node]
    assert all(written)
    assert len(written) == len(set(written))
    assert len(converted.ledger) == 4
    loads_and_is_faithful(converted, 20)


@in_both_formats
@pytest.mark.parametrize("value", [0.0, 1.5, -2.5])
def test_s22_a_pad_fills_with_its_value(bench, output_format, value):
    model = models.text(
        "(float[1,3,5,5] x) => (float y) { a = Conv(x, w) p = Pad(a, pads, value) y = Conv(p, v) }",
        w=weight(4, 3, 1, 1) * 2, v=weight(4, 4, 1, 1), pads=models.ints(0, 0, 1, 1, 0, 0, 1, 1), value=value,
    )  # fmt: skip
    loads_and_is_faithful(bench.as_format(model, output_format))


def test_s22_a_pad_of_minus_infinity_before_a_max_pool_never_wins(bench):
    model = models.text(
        "(float[1,3,5,5] x) => (float y) { p = Pad(x, pads, low) y = MaxPool<kernel_shape = [3, 3]>(p) }",
        pads=models.ints(0, 0, 1, 1, 0, 0, 1, 1), low=np.asarray(-np.inf, F32),
    )  # fmt: skip
    converted = bench.convert(model)
    assert error(converted)["y"] < step(converted)


@in_both_formats
def test_s23_an_operator_that_stays_float_has_no_fixed_range(bench, output_format):
    model = models.text(ROWS + "{ a = MatMul(x, w) y = Softmax(a) }", w=weight(6, 6))
    converted = bench.as_format(model, output_format, keep_float=("op:Softmax",), output_type="float32")
    assert "y" not in converted.grids
    assert converted.model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


@in_both_formats
def test_s24_every_output_is_there_also_one_that_is_read_inside(bench, output_format):
    model = models.text(
        "(float[1,3,5,5] x) => (float a, float y, float a2) { a = Conv(x, w) y = Conv(a, v) a2 = Identity(a) }",
        w=weight(3, 3, 1, 1), v=weight(3, 3, 1, 1, seed=1),
    )  # fmt: skip
    converted = bench.as_format(model, output_format)
    assert [o.name for o in converted.model.graph.output] == ["a", "y", "a2"]
    assert converted.grids.keys() >= {"a", "y"}
    loads_and_is_faithful(converted)


@in_both_formats
def test_s24_an_output_declared_with_another_rank_is_converted_or_refused(bench, output_format):
    source = "(float[1,3,5,5] x) => (float a, float y) { a = Conv(x, w) y = Conv(a, v) }"
    model = models.text(source, w=weight(3, 3, 1, 1), v=weight(3, 3, 1, 1, seed=1))
    del model.graph.output[0].type.tensor_type.shape.dim[:]  # a scalar, it says; onnxruntime loads it with a warning
    with contextlib.suppress(ModelError):
        assert sqnr_db(bench.as_format(model, output_format)) > 25


# ---- the runtime's optimizer -----------------------------------------------------------------------------------------


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


# ---- what was asked for ----------------------------------------------------------------------------------------------

IO = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}
BOUNDARIES = {
    "linear": "{ y = MatMul(x, w) }",
    "float-first": "{ [f] a = LogSoftmax(x) y = MatMul(a, w) }",
    "float-last": "{ a = MatMul(x, w) [f] y = LogSoftmax(a) }",
    "float-only": "{ [f] a = LogSoftmax(x) b = Shape(w) y = Add(a, a) }",
    "passed-on": "{ y = Identity(x) a = MatMul(x, w) }",
}


@pytest.mark.parametrize("case", BOUNDARIES)
@pytest.mark.parametrize("mode", ["full-integer", "int8-only"])
@pytest.mark.parametrize("inputs", IO)
@pytest.mark.parametrize("outputs", IO)
def test_s40_the_boundary_has_the_types_that_were_asked_for(bench, case, mode, inputs, outputs):
    model = models.text("(float[4,6] x) => (float[4,6] y) " + BOUNDARIES[case], w=weight(6, 6))
    converted = bench.convert(model, mode, "fallback=float", input_type=inputs, output_type=outputs)
    assert [i.type.tensor_type.elem_type for i in converted.model.graph.input] == [IO[inputs]]
    assert [o.type.tensor_type.elem_type for o in converted.model.graph.output] == [IO[outputs]]
    assert error(converted)["y"] < 0.05 * np.ptp(run(model, converted.feeds[0])["y"])


@in_both_formats
def test_s41_samples_are_matched_by_name(bench, output_format):
    model = models.text(
        "(float[4,6] small, float[4,6] large) => (float y) { a = MatMul(small, w) b = MatMul(large, w) y = Add(a, b) }",
        w=np.eye(6, dtype=F32),
    )
    ranges = {"small": Fed((4, 6), -1, 1), "large": Fed((4, 6), -100, 100)}
    feeds = [dict(reversed(f.items())) for f in models.samples(model, ranges=ranges)]
    converted = bench.as_format(model, output_format, feeds=feeds)
    assert converted.result.report["ranges"]["small"][1] <= 1
    assert converted.result.report["ranges"]["large"][1] > 90


@in_both_formats
def test_s42_a_softmax_sums_to_one(bench, output_format):
    model = models.text(
        ROWS + "{ a = MatMul(x, w) s = Softmax(a) y = MatMul(s, k) }", w=weight(6, 6), k=np.eye(6, dtype=F32)
    )
    converted = bench.as_format(model, output_format)
    grid = converted.grids["s"]
    assert (float(grid.scale), int(grid.zero_point)) == (1 / 256, 0)
    assert np.abs(converted.run(converted.feeds[0])["y"].sum(axis=-1) - 1).max() < 0.02


@in_both_formats
def test_s43_a_quantized_model_is_not_quantized_again(bench, output_format):
    converted = bench.as_format(models.text(ROWS + "{ y = MatMul(x, w) }", w=weight(6, 6)), output_format)
    with pytest.raises(ModelError, match="already quantized"):
        bench.convert(converted.model, feeds=converted.feeds)


@in_both_formats
def test_s44_free_dimensions_stay_free(bench, output_format):
    model = models.text(
        "(float[N,T,6] x) => (float[N,T,6] y) { a = MatMul(x, w) s = Add(a, b) r = Relu(s) y = MatMul(r, w) }",
        w=weight(6, 6), b=weight(6),
    )  # fmt: skip
    feeds = [f for n, t in ((1, 7), (2, 3), (1, 1)) for f in models.samples(model, 3, N=n, T=t)]
    converted = bench.as_format(model, output_format, feeds=feeds)
    for values in (converted.model.graph.input, converted.model.graph.output):
        assert [d.dim_param or d.dim_value for d in values[0].type.tensor_type.shape.dim] == ["N", "T", 6]
    for feed in models.samples(model, 1, seed=5, N=3, T=11) + models.samples(model, 1, seed=6, N=1, T=2):
        assert converted.run(feed)["y"].shape == feed["x"].shape


@in_both_formats
def test_s45_every_integer_tensor_has_an_encoding_and_no_other(bench, output_format):
    model = models.text(
        "(float[1,3,6,6] x) => (float y) { a = Conv(x, w, b) r = Relu(a) p = MaxPool<kernel_shape = [2, 2]>(r)"
        " c = Conv(p, v) d = Add(c, p) e = Conv(d, v) s = Sigmoid(e) m = Mul(e, s) f = Flatten(m) y = Gemm(f, g) }",
        w=weight(4, 3, 3, 3), b=weight(4), v=weight(4, 4, 1, 1), g=weight(36, 3),
    )  # fmt: skip
    converted = bench.as_format(model, output_format)
    state = converted.result.state
    planned = {t for u in state.plan.units for t in (*(t for _, t in u.inputs), *(u.outputs or (u.output,)))}
    constants = {n for u in state.plan.units for n in (u.weight, u.bias) if n}
    assert converted.grids.keys() == planned | constants
    assert {"x", "r", "w", "b", "v", "g"} <= converted.grids.keys()
    assert not converted.grids.keys() & {"a"}


@pytest.mark.parametrize("score", ["Sigmoid(a)", "Abs(a)"])
def test_s46_a_join_of_boxes_and_scores_keeps_both_or_warns(bench, score):
    model = models.text(
        f"(float[4,6] x) => (float y) {{ a = MatMul(x, w) s = {score} b = MatMul(x, v) y = Concat<axis = 0>(b, s) }}",
        w=weight(6, 6), v=weight(6, 6) * 640,
    )  # fmt: skip
    converted = bench.convert(model)
    assert any("joins" in w and "--float" in w for w in converted.result.report["warnings"])
    boxes = np.abs(converted.run(converted.feeds[0])["y"] - run(model, converted.feeds[0])["y"])[:4]
    assert boxes.max() < 2 * step(converted) + 0.02 * np.ptp(run(model, converted.feeds[0])["y"])


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


@in_both_formats
def test_s48_a_tensor_that_many_read_is_quantized_once(bench, output_format):
    body = "{ a = MatMul(x, w) b = MatMul(a, w) c = MatMul(a, v) d = Add(b, c) e = Add(d, a) y = MatMul(e, w) }"
    converted = bench.as_format(models.text(ROWS + body, w=weight(6, 6), v=weight(6, 6, seed=1)), output_format)
    sources = [n.input[0] for n in converted.nodes("QuantizeLinear")]
    assert len(sources) == len(set(sources)) == (7 if output_format == "qdq" else 0)
    names = [e["name"] for e in converted.result.encodings["encodings"]]
    assert len(names) == len(set(names))


def test_s49_zero_is_exact_and_ties_go_to_even(bench):
    model = models.text(ROWS + "{ y = MatMul(x, w) }", w=np.eye(6, dtype=F32))
    converted = bench.convert(model, "full-integer", feeds=models.samples(model, ranges={"x": Fed((4, 6), -1, 3)}))
    grid = converted.grids["x"]
    scale = float(grid.scale)
    (quantize,) = [n for n in converted.nodes("QuantizeLinear") if n.input[0] == "x"]
    ties = np.asarray([0.0, -0.0, scale / 2, -scale / 2, 1.5 * scale, -1.5 * scale], F32)
    x = np.tile(ties, (4, 1))
    integers = run(converted.model, {"x": x}, outputs=[quantize.output[0]])[quantize.output[0]]
    np.testing.assert_array_equal(integers[0].astype(int) - int(grid.zero_point), [0, 0, 0, 0, 2, -2])
    assert (converted.run({"x": np.zeros((4, 6), F32)})["y"] == 0).all()


@in_both_formats
@pytest.mark.parametrize("limits", [(0.2, 5), (-6, -1), (-0.5, 3.5)], ids=str)
def test_s49_every_range_holds_zero(bench, output_format, limits):
    model = models.text(ROWS + "{ y = MatMul(x, w) }", w=weight(6, 6))
    converted = bench.as_format(model, output_format, feeds=models.samples(model, ranges={"x": Fed((4, 6), *limits)}))
    grid = converted.grids["x"]
    low, high = np.iinfo(grid.zero_point.dtype).min, np.iinfo(grid.zero_point.dtype).max
    assert low <= int(grid.zero_point) <= high
    assert (int(grid.zero_point) == low) == (limits[0] > 0)
    assert (int(grid.zero_point) == high) == (limits[1] < 0)


# ---- stored weights, float16, 16-bit activations ---------------------------------------------------------------------

STORING = ("dynamic-range", "weight-only-int8", "weight-only-int4")
HALF = "passes.emit_float16.compute=float16"
FORMS = {m: (m,) for m in ("none", *STORING, "float16", "16x8")} | {
    "float16-computed": ("float16", HALF),
    "weight-only-int4-all": ("weight-only-int4", "passes.plan_weights.eight_bit_below=0"),
    "16x8-as-qdq": ("16x8", "format=qdq"),
}
LEAST_DB = {
    "none": 100, "dynamic-range": 28, "weight-only-int8": 30, "weight-only-int4": 12, "weight-only-int4-all": 12,
    "float16": 60, "float16-computed": 50, "16x8": 35, "16x8-as-qdq": 35,
}  # fmt: skip
WIDE = ("16x8", "16x8-as-qdq")
LARGE = (96, 96)  # of a weight that is stored, and has a kernel in every mode
TALL = "(float[40,96] x) => (float y) "

in_every_form = pytest.mark.parametrize("form", FORMS)
in_storing_forms = pytest.mark.parametrize("form", [f for f in FORMS if f not in WIDE])
where_weights_are_stored = pytest.mark.parametrize("form", [f for f in FORMS if f not in (*WIDE, "none")])


def large(seed=0, spread=0.1, shape=LARGE):
    return weight(*shape, seed=seed, spread=spread)


def as_form(bench, model, form, *settings, **options):
    """Convert and check: it is valid, runs optimized or not, and agrees with the float model."""
    least, feeds = options.pop("least", LEAST_DB[form]), options.pop("feeds", None) or models.samples(model, 3)
    made = bench.convert(model, FORMS[form][0], *FORMS[form][1:], *settings, feeds=feeds, **options)
    checker.check_model(made.model, full_check=all(n.domain == "" for n in made.model.graph.node))
    before = session(model)
    for feed in feeds[:2]:
        for name, real in run_session(before, feed).items():
            for optimize in (False, True):
                found = made.run(feed, optimize=optimize)[name]
                assert found.shape == real.shape
                assert metrics.sqnr_db(real, found) >= least, name
    return made


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


@pytest.mark.parametrize("form", WIDE)
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize(("clamp", "high"), [("Relu(a)", np.inf), ("Clip(a, zero, six)", 6)])
def test_s03_a_clamp_holds_for_values_that_were_never_seen_in_16_bits(bench, form, optimize, clamp, high):
    limits = {"zero": 0.0, "six": 6.0} if "six" in clamp else {}
    model = models.text(IMAGE + f"{{ a = Conv(x, w) y = {clamp} }}", w=weight(4, 3, 3, 3, spread=0.1), **limits)
    made = as_form(bench, model, form)
    found = made.run({"x": made.feeds[0]["x"] * 1000}, optimize=optimize)["y"]
    assert 0 <= found.min() <= found.max() <= high


@where_weights_are_stored
def test_s04_every_output_channel_has_its_own_scale_where_stored(bench, form):
    w = weight(96, 96, spread=0.1, scaled=1)
    for source, array in (("MatMul(x, w)", w), ("Gemm<transB = 1>(x, w)", w.T.copy())):
        made = as_form(bench, models.text(TALL + f"{{ y = {source} }}", w=array), form)
        for feed in made.feeds[:2]:
            expected, found = run(made.float_model, feed)["y"], made.run(feed)["y"]
            assert min(metrics.sqnr_db(expected[:, c], found[:, c]) for c in range(96)) > LEAST_DB[form] - 6


@in_every_form
def test_s06_new_names_take_no_name_of_the_user_in_any_mode(bench, form):
    taken = ["q1", "q2", "q3", "h0", "h1", "c0", "w_scale", "w_quantized", "x_float16", "y_float16", "x_quantized"]
    body = "".join(f"[{new}] {new} = MatMul({old}, w) " for old, new in zip(["x", *taken], [*taken, "y"], strict=True))
    made = as_form(bench, models.text(TALL + f"{{ {body} }}", w=large()), form, least=5)
    values = [o for n in made.model.graph.node for o in n.output] + list(made.constants)
    assert len(values) == len(set(values))


@in_storing_forms
def test_s06_new_names_take_no_name_of_a_body(bench, form):
    bodies = (
        "then_branch = t () => (float[40,96] p) { q1 = Relu(m) q2 = MatMul(q1, w) h0 = Neg(q2) c0 = Neg(h0)"
        " q3 = Identity(c0) p = MatMul(q3, v) }, else_branch = e () => (float[40,96] q) { q = Add(m, m) }"
    )
    model = models.text(
        f"(float[40,96] x, bool c) => (float y) {{ m = MatMul(x, w) y = If(c) <{bodies}> }}", w=large(), v=large(1)
    )
    feeds = [{**f, "c": np.asarray(i % 2 == 0)} for i, f in enumerate(models.samples(model))]
    as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 6)


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


@in_storing_forms
@pytest.mark.parametrize("outer", ["MatMul(x, w)", "Add(x, w)", "Gemm<transB = 1>(x, w)"])
def test_s08_a_weight_that_a_branch_reads_too_is_right_for_both(bench, form, outer):
    bodies = (
        "then_branch = t () => (float[96,96] p) { p = MatMul(m, w) }, "
        "else_branch = e () => (float[96,96] q) { q = Add(m, w) }"
    )
    model = models.text(
        f"(float[96,96] x, bool c) => (float y) {{ m = {outer} k = MatMul(x, v) n = If(c) <{bodies}> y = Add(n, k) }}",
        w=large(), v=large(1),
    )  # fmt: skip
    feeds = [{**f, "c": np.asarray(i % 2 == 0)} for i, f in enumerate(models.samples(model))]
    as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 6)


@in_storing_forms
def test_s09_a_loop_and_a_branch_inside_it_are_right(bench, form):
    branch = (
        "If(odd) <then_branch = t () => (float[40,96] p) { p = MatMul(h, w) }, "
        "else_branch = e () => (float[40,96] q) <float[1] own = {0.5}> { q = Mul(h, own) }>"
    )
    body = (
        f"body = b (int64 i, bool going, float[40,96] h) => (bool on, float[40,96] k) "
        f"{{ on = Identity(going) two = Mod(i, n) odd = Cast<to = 9>(two) k = {branch} }}"
    )
    model = models.text(
        f"(float[40,96] x) => (float[40,96] y) {{ s = MatMul(x, v) y = Loop(n, yes, s) <{body}> }}",
        n=np.asarray(2), yes=np.ones((), bool), w=large(), v=large(1),
    )  # fmt: skip
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    assert len(made.ledger) == len(made.float_model.graph.node)
    assert all(e.reason for e in made.ledger.values() if e.fate == "float")


MASKS = {"lowest": -3.4e38, "infinity": -np.inf, "beyond-float16": -1e6}


@in_storing_forms
@pytest.mark.parametrize("mask", MASKS)
def test_s17_s35_a_mask_masks(bench, form, mask):
    model = models.text(
        "(float[40,96] x, bool[40,96] c) => (float y)"
        " { a = MatMul(x, w) m = Where(c, a, low) s = Softmax(m) y = MatMul(s, v) }",
        w=large(), v=large(1), low=np.asarray(MASKS[mask], F32),
    )  # fmt: skip
    feeds = [{**f, "c": np.arange(40 * 96).reshape(40, 96) % 3 != 0} for f in models.samples(model)]
    made = as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 8)
    shares = run(made.model, feeds[0], outputs=["s"])["s"]
    assert (shares[~feeds[0]["c"]] == 0).all()


@in_storing_forms
def test_s18_a_constant_input_gives_what_float_gives(bench, form):
    model = models.text(TALL + "{ a = MatMul(x, w) y = Gemm(a, v, b) }", w=large(), v=large(1), b=large(2, shape=(96,)))
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    before = session(model)
    for value in (0.0, 5.0, -3.0, 1e-30, *([1e30] if form != "float16-computed" else [])):
        fed = {"x": np.full((40, 96), value, F32)}
        for optimize in (False, True):
            found = made.run(fed, optimize=optimize)["y"]
            assert metrics.sqnr_db(run_session(before, fed)["y"], found) > LEAST_DB[form] - 10


DEAD = {  # which values, and what they are
    "a-channel-of-zeros": (np.s_[:, 3], 0.0),
    "a-block-of-zeros": (np.s_[32:64], 0.0),
    "only-zeros": (np.s_[:], 0.0),
    "a-subnormal-channel": (np.s_[:, 3], 1e-42),
    "only-tiny-values": (np.s_[:], 1e-30),
    "only-one-value": (np.s_[:], 0.25),
}


@where_weights_are_stored
@pytest.mark.parametrize("case", DEAD)
def test_s18_dead_weights_have_sound_scales(bench, form, case):
    w, (where, value) = large(), DEAD[case]
    w[where] = value
    model = models.text(TALL + "{ a = MatMul(x, w) y = Gemm(a, v, b) }", w=w, v=large(1), b=weight(96))
    for entry in as_form(bench, model, form).result.encodings["encodings"]:
        scale = np.asarray(entry["y_scale"], F32)
        assert np.isfinite(scale).all()
        assert (scale >= np.finfo(F32).tiny).all()


@where_weights_are_stored
def test_s18_zero_weights_stay_zero(bench, form):
    w = large()
    w[np.random.default_rng(0).random(w.shape) < 0.5] = 0
    made = as_form(bench, models.text(TALL + "{ y = MatMul(x, w) }", w=w), form)
    (product,) = [n for n in made.model.graph.node if n.op_type in ("MatMul", "MatMulInteger")]
    computed = {o for n in made.model.graph.node for o in n.output} & {product.input[1]}
    known = made.constants | (run(made.model, made.feeds[0], outputs=computed, optimize=False) if computed else {})
    assert (known[product.input[1]][w == 0] == 0).all()


OLDER = {
    "upsample-9": (9, '{ u = Upsample<mode = "nearest">(x, s) a = Conv(u, w) y = MatMul(a, v) }'),
    "clip-7": (7, "{ a = Conv(x, w) c = Clip<min = -1.0, max = 6.0>(a) y = MatMul(c, v) }"),
    "squeeze-12": (12, "{ a = Conv(x, w) b = Unsqueeze<axes = [0]>(a) c = Squeeze<axes = [0]>(b) y = MatMul(c, v) }"),
    "mean-17": (17, "{ a = Conv(x, w) m = ReduceMean<axes = [2], keepdims = 1>(a) d = Sub(a, m) y = MatMul(d, v) }"),
}


@in_every_form
@pytest.mark.parametrize("case", OLDER)
def test_s20_old_opsets_are_converted_not_renumbered_in_any_mode(bench, form, case):
    opset, body = OLDER[case]
    size = 20 if "Upsample" in body else 40
    arrays = {"w": weight(32, 3, 1, 1), "v": weight(40, 64, spread=0.2), "s": np.asarray([1, 1, 2, 2], F32)}
    used = {n: a for n, a in arrays.items() if n != "s" or "Upsample" in body}
    model = models.text(f"(float[1,3,{size},{size}] x) => (float y) {body}", opset=opset, **used)
    made = as_form(bench, model, form, "fallback=float") if form in WIDE else as_form(bench, model, form)
    (version,) = [o.version for o in made.model.opset_import if o.domain == ""]
    assert version >= opset
    assert made.model.ir_version >= model.ir_version


@in_every_form
@pytest.mark.parametrize("names", [["", "", ""], ["n_1", "n", ""]], ids=str)
def test_s21_no_two_operators_have_one_name_in_any_mode(bench, form, names):
    model = models.text(TALL + "{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }", w=large(), v=large(1))
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    written = [n.name for n in made.model.graph.node if n.name]
    assert len(written) == len(set(written))
    assert len(made.ledger) == 3


@in_every_form
def test_s24_every_output_is_there_in_any_mode(bench, form):
    model = models.text(
        "(float[40,96] x) => (float a, float y, float b, float z)"
        " { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) z = Identity(y) }", w=large(), v=large(1),
    )  # fmt: skip
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    assert [o.name for o in made.model.graph.output] == ["a", "y", "b", "z"]


@in_storing_forms
def test_s24_a_weight_that_is_an_output_is_given_as_it_is(bench, form):
    model = models.text("(float[40,96] x) => (float[96,96] w, float y) { a = MatMul(x, w) y = MatMul(a, v) }",
                        w=large(), v=large(1))  # fmt: skip
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    np.testing.assert_array_equal(made.run(made.feeds[0])["w"], large())


GEMMS = ("alpha = 2.0, beta = -3.0", "alpha = 0.5, transB = 1", "beta = 0.0", "transA = 1")


@in_every_form
def test_s28_alpha_and_beta_are_those_of_the_user_in_any_mode(bench, form):
    outputs = ", ".join(f"float y{i}" for i in range(len(GEMMS)))
    body = " ".join(f"y{i} = Gemm<{factors}>(x, w{i}, b)" for i, factors in enumerate(GEMMS))
    weights = {f"w{i}": large(i) for i in range(len(GEMMS))}
    as_form(bench, models.text(f"(float[96,96] x) => ({outputs}) {{ {body} }}", b=weight(96), **weights), form)


@where_weights_are_stored
def test_s36_scales_and_positions_keep_their_types(bench, form):
    model = models.text(
        "(float[1,32,8,8] x) => (float y) {"
        ' a = Conv(x, w) r = Resize<mode = "linear">(a, "", s) t = Range(zero, eight, one) g = Sqrt(t)'
        " h = ReduceSum(g) u = Mul(r, h) f = Flatten(u) y = MatMul(f, v) }",
        w=weight(32, 32, 1, 1, spread=0.2), s=np.asarray([1, 1, 0.5, 0.5], F32), v=weight(512, 16, spread=0.1),
        zero=0.0, eight=8.0, one=1.0,
    )  # fmt: skip
    as_form(bench, model, form, least=LEAST_DB[form] - 4)


@where_weights_are_stored
def test_s43_what_we_wrote_is_not_quantized_again(bench, form):
    model = models.text(TALL + "{ a = MatMul(x, w) y = MatMul(a, v) }", w=large(), v=large(1))
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    if form.startswith("float16"):
        return  # its Casts are constants like any other
    with pytest.raises(ModelError, match="already quantized"):
        bench.convert(made.model, "full-integer", feeds=made.feeds)


@in_storing_forms
def test_s44_free_dimensions_stay_free_in_any_mode(bench, form):
    model = models.text(
        "(float[N,T,96] x) => (float[N,T,96] y) { a = MatMul(x, w) s = Add(a, b) r = Relu(s) y = MatMul(r, v) }",
        w=large(), v=large(1), b=weight(96),
    )  # fmt: skip
    feeds = [f for n, t in ((1, 7), (2, 3), (1, 1)) for f in models.samples(model, 2, N=n, T=t)]
    made = as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 6)
    for values in (made.model.graph.input, made.model.graph.output):
        assert [d.dim_param or d.dim_value for d in values[0].type.tensor_type.shape.dim] == ["N", "T", 96]
    for feed in models.samples(model, 1, seed=5, N=3, T=33) + models.samples(model, 1, seed=6, N=1, T=1):
        assert metrics.sqnr_db(run(model, feed)["y"], made.run(feed)["y"]) > LEAST_DB[form] - 8


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


@pytest.mark.parametrize("form", WIDE)
def test_s49_zero_is_exact_and_ties_go_to_even_in_16_bits(bench, form):
    model = models.text(ROWS + "{ y = MatMul(x, w) }", w=np.eye(6, dtype=F32))
    made = as_form(bench, model, form, feeds=models.samples(model, ranges={"x": Fed((4, 6), -1, 3)}))
    grid = made.grids["x"]
    assert (int(grid.zero_point), grid.zero_point.dtype) == (0, np.int16)
    scale = float(grid.scale)
    (quantize,) = [n for n in made.nodes("QuantizeLinear") if n.input[0] == "x"]
    x = np.tile(np.asarray([0.0, -0.0, scale / 2, -scale / 2, 1.5 * scale, -1.5 * scale], F32), (4, 1))
    integers = run(made.model, {"x": x}, outputs=[quantize.output[0]])[quantize.output[0]]
    np.testing.assert_array_equal(integers[0], [0, 0, 0, 0, 2, -2])
    assert (made.run({"x": np.zeros((4, 6), F32)})["y"] == 0).all()
