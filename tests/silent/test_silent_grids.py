"""Scales and zero points: clamps, padding, fixed ranges, joins, exact zero."""

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
    STATIC_DB,
    TALL,
    WIDE,
    as_form,
    error,
    in_all_forms,
    in_both_formats,
    in_integer_forms,
    in_storing_forms,
    in_wide_forms,
    large,
    loads_and_is_faithful,
    step,
)
from models import Fed, weight
from onnx import TensorProto


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
def test_s42_a_softmax_sums_to_one(bench, output_format):
    model = models.text(
        ROWS + "{ a = MatMul(x, w) s = Softmax(a) y = MatMul(s, k) }", w=weight(6, 6), k=np.eye(6, dtype=F32)
    )
    converted = bench.as_format(model, output_format)
    grid = converted.grids["s"]
    assert (float(grid.scale), int(grid.zero_point)) == (1 / 256, 0)
    assert np.abs(converted.run(converted.feeds[0])["y"].sum(axis=-1) - 1).max() < 0.02


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


@pytest.mark.parametrize("form", WIDE)
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize(("clamp", "high"), [("Relu(a)", np.inf), ("Clip(a, zero, six)", 6)])
def test_s03_a_clamp_holds_for_values_that_were_never_seen_in_16_bits(bench, form, optimize, clamp, high):
    limits = {"zero": 0.0, "six": 6.0} if "six" in clamp else {}
    model = models.text(IMAGE + f"{{ a = Conv(x, w) y = {clamp} }}", w=weight(4, 3, 3, 3, spread=0.1), **limits)
    made = as_form(bench, model, form)
    found = made.run({"x": made.feeds[0]["x"] * 1000}, optimize=optimize)["y"]
    assert 0 <= found.min() <= found.max() <= high


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


@in_integer_forms
@pytest.mark.parametrize("value", [1.5, -9.0, 0.0])
def test_s22_borders_hold_the_value_whatever_the_types_of_the_boundary(bench, form, value):
    model = models.text(
        "(float[1,3,5,5] x) => (float y) { p = Pad(x, pads, value) y = Conv(p, v) }",
        v=np.eye(3, dtype=F32).reshape(3, 3, 1, 1), pads=models.ints(0, 0, 1, 1, 0, 0, 1, 1), value=value,
    )  # fmt: skip
    made = as_form(bench, model, form, feeds=models.samples(model, ranges={"x": Fed((1, 3, 5, 5), 0.5, 3)}))
    for optimize in (False, True):
        found = made.run(made.feeds[0], optimize=optimize)["y"]
        border = np.concatenate([found[..., 0, :].ravel(), found[..., -1].ravel()])
        assert np.abs(border - value).max() <= step(made)


@in_integer_forms
def test_s22_a_pad_that_never_wins_is_no_part_of_any_range(bench, form):
    model = models.text(
        "(float[1,3,5,5] x) => (float y) { a = Conv(x, w) p = Pad(a, pads, low)"
        " m = MaxPool<kernel_shape = [3, 3]>(p) y = Conv(m, w) }",
        pads=models.ints(0, 0, 1, 1, 0, 0, 1, 1), low=np.asarray(-np.inf, F32), w=weight(3, 3, 1, 1),
    )  # fmt: skip
    made = as_form(bench, model, form, *ALSO.get(form, ()))
    assert all(np.isfinite(g.scale).all() and g.scale.max() < 1 for g in made.grids.values())


@in_wide_forms
def test_s23_an_operator_that_stays_float_has_no_fixed_range_in_16_bits(bench, form):
    model = models.text(
        ROWS + "{ a = MatMul(x, w) s = Softmax(a) y = MatMul(s, v) }", w=weight(6, 6), v=weight(6, 6) * 9
    )
    made = as_form(bench, model, form, *ALSO[form], keep_float=("op:Softmax", "tensor:y"))
    assert not {"s", "y"} & made.grids.keys()


@in_integer_forms
def test_s42_the_outputs_of_a_last_softmax_sum_to_one(bench, form):
    model = models.text("(float[40,8] x) => (float y) { a = MatMul(x, w) y = Softmax(a) }", w=weight(8, 8, spread=2))
    made = as_form(bench, model, form)
    for optimize in (False, True):
        for feed in made.feeds:
            sums = made.run(feed, optimize=optimize)["y"].sum(axis=-1)
            assert np.abs(sums - 1).max() < 0.02


@in_storing_forms
def test_s42_the_outputs_of_a_softmax_behind_stored_weights_sum_to_one(bench, form):
    model = models.text(TALL + "{ a = MatMul(x, w) y = Softmax(a) }", w=large(spread=0.3))
    made = as_form(bench, model, form, least=LEAST_DB[form] - 8)
    assert max(np.abs(made.run(f)["y"].sum(axis=-1) - 1).max() for f in made.feeds) < 1e-5


@in_wide_forms
def test_s45_every_16_bit_tensor_has_an_encoding_and_no_other(bench, form):
    model = models.text(
        "(float[1,3,6,6] x) => (float y) { a = Conv(x, w, b) r = Relu(a) p = MaxPool<kernel_shape = [2, 2]>(r)"
        " c = Conv(p, v) d = Add(c, p) s = Sigmoid(d) m = Mul(d, s) f = Flatten(m) y = Gemm(f, g) }",
        w=weight(4, 3, 3, 3), b=weight(4), v=weight(4, 4, 1, 1), g=weight(36, 3),
    )  # fmt: skip
    made = as_form(bench, model, form)
    plan = made.result.state.plan
    planned = {t for u in plan.units for t in (*(t for _, t in u.inputs), *(u.outputs or (u.output,)))}
    constants = {n for u in plan.units for n in (u.weight, u.bias) if n}
    assert made.grids.keys() == planned | constants
    assert {"x", "r", "w", "b", "v", "g", "y"} <= made.grids.keys()


@in_all_forms
def test_s45_every_stored_integer_weight_has_an_encoding(bench, form):
    body = "{ a = MatMul(x, w) r = Relu(a) b = Gemm<transB = 1>(r, v) y = MatMul(b, w) }"
    made = as_form(
        bench, models.text(TALL + body, w=large(), v=large(1)), form, least=LEAST_DB.get(form, STATIC_DB) - 6
    )
    integer = [a for a in made.constants.values() if "int" in a.dtype.name and a.size >= 96 * 96]
    named = {e["name"] for e in made.result.encodings["encodings"]}
    assert len(integer) == len(named & {"w", "v"})


@in_wide_forms
def test_s46_a_join_of_boxes_and_scores_keeps_both_in_16_bits(bench, form):
    model = models.text(
        ROWS + "{ a = MatMul(x, w) s = Sigmoid(a) b = MatMul(x, v) y = Concat<axis = 0>(b, s) }",
        w=weight(6, 6), v=weight(6, 6) * 640,
    )  # fmt: skip
    made = as_form(bench, model, form)
    for feed in made.feeds:
        scores = np.abs(made.run(feed)["y"] - run(model, feed)["y"])[4:]
        assert scores.max() < 0.05


@in_both_formats
def test_s46_scores_that_are_kept_float_stay_exact_beside_boxes(bench, output_format):
    model = models.text(
        ROWS + "{ a = MatMul(x, w) s = Sigmoid(a) b = MatMul(x, v) [join] y = Concat<axis = 0>(b, s) }",
        w=weight(6, 6), v=weight(6, 6) * 640,
    )  # fmt: skip
    converted = bench.as_format(model, output_format, keep_float=("join",), output_type="float32")
    for feed in converted.feeds:
        scores = np.abs(converted.run(feed)["y"] - run(model, feed)["y"])[4:]
        assert scores.max() < 0.02


@in_wide_forms
def test_s48_a_tensor_that_many_read_is_quantized_once_in_16_bits(bench, form):
    body = "{ a = MatMul(x, w) b = MatMul(a, w) c = MatMul(a, v) d = Add(b, c) e = Add(d, a) y = MatMul(e, w) }"
    made = as_form(bench, models.text(ROWS + body, w=weight(6, 6), v=weight(6, 6, seed=1)), form)
    sources = [n.input[0] for n in made.nodes("QuantizeLinear")]
    assert sources
    assert form == "16x8" or len(sources) == len(set(sources))
    names = [e["name"] for e in made.result.encodings["encodings"]]
    assert len(names) == len(set(names))


@in_wide_forms
@pytest.mark.parametrize("limits", [(0.2, 5), (-6, -1), (-0.5, 3.5)], ids=str)
def test_s49_every_16_bit_range_holds_zero_in_its_middle(bench, form, limits):
    model = models.text(ROWS + "{ y = MatMul(x, w) }", w=weight(6, 6))
    made = as_form(bench, model, form, feeds=models.samples(model, ranges={"x": Fed((4, 6), *limits)}))
    assert all(int(g.zero_point) == 0 for n, g in made.grids.items() if n in ("x", "y"))
    most = max(map(abs, limits))
    assert float(made.grids["x"].scale) * 32767 == pytest.approx(most, rel=0.05)


@pytest.mark.parametrize("form", ["integer", "16x8", "16x8-as-qdq"])
def test_s22_a_pad_with_the_lowest_number_never_wins(bench, form):
    model = models.text(
        "(float[1,3,5,5] x) => (float y) { a = Conv(x, w) p = Pad(a, pads, low)"
        " m = MaxPool<kernel_shape = [3, 3]>(p) y = Conv(m, w) }",
        pads=models.ints(0, 0, 1, 1, 0, 0, 1, 1),
        low=np.asarray(-3.4e38, F32),
        w=weight(3, 3, 1, 1),
    )
    as_form(bench, model, form, *ALSO.get(form, ()))
