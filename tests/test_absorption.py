"""What an operator swallows: a clamp that its output range expresses, the bias behind a MatMul."""

from __future__ import annotations

import models
import numpy as np
import pytest
from checks import ROUNDED_ALONG_A_CHAIN, check_steps
from conversion import planned, units
from models import weight

INF = float("inf")
TENSOR = "(float[1,4,5,5] x, float[1,4,5,5] z) => (float y) "
W = weight(4, 4, 1, 1)


def absorbed(body, mode="int8-only", *settings, **arrays):
    """The nodes that the operator named ``n`` swallows, and the clamp that they leave it."""
    unit = units(planned(models.text(TENSOR + body, w=W, **arrays), mode, *settings))["n"]
    return unit.absorbed, unit.clamp


def test_a_relu_behind_a_conv_is_absorbed():
    assert absorbed("{ [n] a = Conv(x, w) [r] y = Relu(a) }") == (("r",), (0.0, INF))


@pytest.mark.parametrize(
    "source",
    [
        "Conv(x, w)",
        "Add(x, z)",
        "Mul(x, z)",
        "Sub(x, z)",
        "MatMul(x, z)",
        "AveragePool<kernel_shape = [2, 2]>(x)",
        "GlobalAveragePool(x)",
    ],
)
def test_a_clamp_is_absorbed_by_whatever_rescales(source):
    assert absorbed(f"{{ [n] a = {source} [r] y = Relu(a) }}")[0] == ("r",)


@pytest.mark.parametrize(
    "source", ["MaxPool<kernel_shape = [2, 2]>(x)", "Concat<axis = 1>(x, z)", "Transpose(x)", "Max(x, z)", "Softmax(x)"]
)
def test_a_clamp_is_not_absorbed_by_what_keeps_a_grid(source):
    assert absorbed(f"{{ [n] a = {source} [r] y = Relu(a) }}")[0] == ()


def test_a_clamp_of_several_readers_is_not_absorbed():
    assert absorbed("{ [n] a = Conv(x, w) [r] b = Relu(a) [s] y = Add(a, b) }")[0] == ()


def test_a_clamp_behind_an_output_of_the_graph_is_not_absorbed():
    model = models.text("(float[1,4,5,5] x) => (float y, float a) { [n] a = Conv(x, w) y = Relu(a) }", w=W)
    assert units(planned(model))["n"].absorbed == ()


def test_a_result_that_a_branch_reads_is_not_clamped():
    then, otherwise = "t () => (float[1,4,5,5] b) { b = Neg(a) }", "e () => (float[1,4,5,5] d) { d = Abs(a) }"
    branches = f"then_branch = {then}, else_branch = {otherwise}"
    body = f"{{ [n] a = Conv(x, w) [r] r = Relu(a) [i] i = If(c) <{branches}> y = Add(r, i) }}"
    model = models.text("(float[1,4,5,5] x, bool c) => (float y) " + body, w=W)
    assert units(planned(model))["n"].absorbed == ()


@pytest.mark.parametrize(
    ("low", "high", "clamp"),
    [
        (0, 6, (0, 6)),
        (-1, 1, (-1, 1)),
        (-2, 0, (-2, 0)),
        (None, 6, (-INF, 6)),
        (0, None, (0, INF)),
        (None, None, (-INF, INF)),
        (1, 6, None),
        (-6, -1, None),
        (0, 0, None),
    ],
)
def test_a_clip_is_absorbed_if_its_limits_hold_zero(low, high, clamp):
    limits = {n: np.asarray(v, np.float32) for n, v in (("low", low), ("high", high)) if v is not None}
    operands = ", ".join(n if n in limits else '""' for n in ("low", "high"))
    model = models.text(TENSOR + f"{{ [n] a = Conv(x, w) [c] y = Clip(a, {operands}) }}", w=W, **limits)
    unit = units(planned(model))["n"]
    assert (unit.absorbed, unit.clamp) == ((("c",) if clamp else ()), clamp)


def test_a_clip_with_computed_limits_is_not_absorbed():
    assert absorbed("{ [l] l = ReduceMin<keepdims = 0>(z) [n] a = Conv(x, w) [c] y = Clip(a, l) }")[0] == ()


def test_one_clamp_is_absorbed_not_two():
    assert absorbed("{ [n] a = Conv(x, w) [r] b = Relu(a) [s] y = Relu(b) }")[0] == ("r",)


def test_other_functions_are_not_absorbed():
    assert absorbed("{ [n] a = Conv(x, w) [r] y = LeakyRelu(a) }")[0] == ()


def test_a_clamp_behind_arithmetic_with_a_constant_belongs_to_its_region():
    plan = planned(models.text(TENSOR + "{ [n] a = Add(x, c) [r] y = Relu(a) }", c=2.0))
    assert units(plan)["r"].members == ("n", "r")


def test_a_clamp_is_absorbed_where_activations_are_symmetric_too():
    symmetric = "scheme.activations.symmetric=true"  # the grid does not express it: the lowering clamps
    assert absorbed("{ [n] a = Conv(x, w) [r] y = Relu(a) }", "int8-only", symmetric)[0] == ("r",)


# ---- biases ----------------------------------------------------------------------------------------------------------

ROWS = "(float[3,6] x, float[3,4] z) => (float y) "


def bias(body, **arrays):
    unit = units(planned(models.text(ROWS + body, w=weight(6, 4), **arrays)))["n"]
    return unit.absorbed, unit.bias, unit.output


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1,), (), (1, 1)])
@pytest.mark.parametrize("operands", ["a, b", "b, a"])
def test_a_sum_per_column_is_the_bias_of_a_matmul(operands, shape):
    assert bias(f"{{ [n] a = MatMul(x, w) [s] y = Add({operands}) }}", b=weight(*shape)) == (("s",), "b", "y")


@pytest.mark.parametrize("shape", [(3, 1), (3, 4), (1, 3, 4), (2, 1, 4)])
def test_another_sum_is_no_bias(shape):
    assert bias("{ [n] a = MatMul(x, w) [s] y = Add(a, b) }", b=weight(*shape))[:2] == ((), None)


def test_the_sum_with_an_activation_is_no_bias():
    assert bias("{ [n] a = MatMul(x, w) [s] y = Add(a, z) }")[:2] == ((), None)


def test_a_bias_and_a_clamp_are_absorbed_together():
    assert bias("{ [n] a = MatMul(x, w) [s] c = Add(a, b) [r] y = Relu(c) }", b=weight(4)) == (("s", "r"), "b", "y")


def test_a_product_of_activations_has_no_bias():
    source = "(float[3,6] x, float[6,4] z) => (float y) { [n] a = MatMul(x, z) [s] y = Add(a, b) }"
    assert units(planned(models.text(source, b=weight(4))))["n"].absorbed == ()


def test_a_one_wide_matmul_does_not_take_a_sum_that_widens_it():
    source = "(float[3,6] x) => (float y) { [n] a = MatMul(x, w) [s] y = Add(a, b) }"
    assert units(planned(models.text(source, w=weight(6, 1), b=weight(4))))["n"].absorbed == ()


# ---- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["qdq", "integer"])
def test_an_absorbed_clamp_holds_beyond_what_was_calibrated(bench, output_format):
    model = models.text(
        "(float[1,4,5,5] x) => (float[1,4,5,5] y) { a = Conv(x, w) y = Clip(a, low, high) }", w=W, low=-0.25, high=0.5
    )
    converted = bench.as_format(model, output_format)
    assert converted.fates() == {"integer", "absorbed"}
    for optimize in (False, True):
        found = converted.run({"x": converted.feeds[0]["x"] * 100}, optimize=optimize)["y"]
        step = 0.75 / 255
        assert found.min() == pytest.approx(-0.25, abs=step)
        assert found.max() == pytest.approx(0.5, abs=step)


def test_the_grid_of_an_absorbed_relu_wastes_nothing_on_negatives(bench):
    model = models.text("(float[1,4,5,5] x) => (float[1,4,5,5] y) { a = Conv(x, w) y = Relu(a) }", w=W)
    assert int(bench.convert(model).grids["y"].zero_point) == -128


WIDER = {
    "a-join-with-negatives": "r = Relu(a) n = Conv(x, v) y = Concat<axis = 1>(r, n)",
    "a-join-with-more": "r = Clip(a, zero, small) n = Conv(x, v) s = Relu(n) y = Concat<axis = 1>(r, s)",
    "a-join-behind-data-movement": (
        "r = Relu(a) t = Transpose<perm = [0, 1, 3, 2]>(r) n = Conv(x, v) y = Concat<axis = 1>(t, n)"
    ),
    "a-minimum": "r = Relu(a) n = Conv(x, v) y = Min(r, n)",
    "a-maximum": "r = Clip(a, zero, small) n = Conv(x, v) y = Max(r, n)",
    "a-pad-below": "r = Relu(a) y = Pad(r, pads, below)",
    "a-pad-above": "r = Clip(a, zero, small) y = Pad(r, pads, above)",
}
CONSTANTS = {
    "w": W,
    "v": weight(4, 4, 1, 1, seed=1),
    "zero": 0.0,
    "small": 0.25,
    "pads": models.ints(0, 0, 1, 1, 0, 0, 1, 1),
    "below": -2.0,
    "above": 3.0,
}


@pytest.mark.parametrize("output_format", ["qdq", "integer"])
@pytest.mark.parametrize("case", WIDER)
def test_an_absorbed_clamp_holds_on_a_grid_that_reaches_beyond_it(bench, case, output_format):
    body = f"a = Conv(x, w) {WIDER[case]}"
    used = {n: c for n, c in CONSTANTS.items() if f" {n})" in body or f" {n}," in body}
    eye = np.eye(7 if "pad" in case else 5, dtype=np.float32)
    model = models.text(f"(float[1,4,5,5] x) => (float z) {{ {body} z = MatMul(y, eye) }}", eye=eye, **used)
    check_steps(bench.as_format(model, output_format), ROUNDED_ALONG_A_CHAIN)
