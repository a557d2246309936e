"""What ranges become: scales and zero points of tensors, of groups that share one, of weights; and warnings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import models
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli import graph, modes
from quantcli.errors import UnsupportedError
from quantcli.passes.assign import Assign
from quantcli.passes.make_plan import MakePlan
from quantcli.quant import QuantParams, TensorStats
from quantcli.state import State

if TYPE_CHECKING:
    from collections.abc import Mapping

CONV = "(float[N, 2, 4, 4] x) => (float[N, 3, 4, 4] y) { y = Conv<kernel_shape = [1, 1]>(x, w, b) }"
Range = tuple[float, float]


def quiet(_done: int, _total: int) -> None:
    """Take no note of the progress."""


def planned(source: str, mode: str, opset: int = 21, **arrays: object) -> State:
    model = ir.from_proto(models.text(source, opset=opset, **arrays))
    graph.name_everything(model)
    return MakePlan()(State(original=model, model=model, recipe=modes.resolve(mode)), quiet)


def assigned(source: str, ranges: Mapping[str, Range], mode: str = "int8-only", **arrays: object) -> State:
    """Assign after a calibration that saw these ranges; a tensor that is not named has seen -1 to 1."""
    state = planned(source, mode, **arrays)
    seen = {n: TensorStats(9, *ranges.get(n, (-1.0, 1.0))) for n in state.plan.activations if n not in arrays}
    return Assign()(replace(state, stats=seen), quiet)


def conv(mode: str = "int8-only", b: object = (0.1, 0.2, 0.3), w: object = None, **ranges: Range) -> State:
    weight = models.weight(3, 2, 1, 1) if w is None else np.asarray(w, np.float32)
    return assigned(CONV, ranges, mode, w=weight, b=np.asarray(b, np.float32))


def numbers(params: QuantParams) -> tuple[float, int]:
    return float(params.scale), int(params.zero_point)


# ---- activations -------------------------------------------------------------------------------------------------


def test_every_activation_of_the_plan_gets_parameters():
    state = conv()
    assert set(state.encodings.tensors) == set(state.plan.activations) == {"x", "y"}


def test_the_scale_is_the_range_over_255():
    assert numbers(conv(x=(-1.0, 254.0)).encodings.tensors["x"]) == (1.0, 1)


@pytest.mark.parametrize(("seen", "zero"), [((2.0, 6.0), 0), ((-6.0, -2.0), 255), ((0.0, 6.0), 0), ((-6.0, 0.0), 255)])
def test_zero_is_on_the_grid_even_where_it_was_not_seen(seen, zero):
    params = conv(x=seen).encodings.tensors["x"]
    assert int(params.zero_point) == zero
    assert params.scale == pytest.approx(6 / 255)


@settings(max_examples=40, deadline=None)
@given(st.floats(-(2.0**40), 2.0**40, width=32), st.floats(-(2.0**40), 2.0**40, width=32))
def test_any_range_gives_a_normal_scale_and_holds_what_was_seen(a, b):
    params = conv(x=(min(a, b), max(a, b))).encodings.tensors["x"]
    assert np.isfinite(params.scale)
    assert params.scale >= np.finfo(np.float32).tiny
    assert params.low - float(params.scale) <= min(a, b)
    assert max(a, b) <= params.high + float(params.scale)


def test_a_tensor_that_was_always_zero_gets_a_scale_on_whose_grid_the_bias_is_fine():
    state = conv(x=(0.0, 0.0))
    scale, zero = numbers(state.encodings.tensors["x"])
    step = scale * max(p.scale.max() for p in state.encodings.edges.values())
    bias = np.abs(graph.constant(graph.named_values(state.model.graph)["b"])).max()
    assert (scale > 0, zero) == (True, 0)
    assert step <= bias / 2**15


def test_the_ranges_are_reported_as_they_were_seen():
    assert conv(x=(-1.5, 3.0)).report.ranges["x"] == (-1.5, 3.0)


# ---- groups and fixed ranges ---------------------------------------------------------------------------------------


def test_data_movement_keeps_the_grid():
    source = """(float[N, 4] x) => (float[N, 4] y) {
      a = MatMul(x, w)  r = Reshape(a, shape)  t = Transpose<perm = [0, 2, 1]>(r)  f = Flatten(t)  y = MatMul(f, v)
    }"""
    state = assigned(
        source, {"a": (-1, 3), "r": (-1, 3), "t": (-1, 3), "f": (-1, 3)},
        w=models.weight(4, 4), v=models.weight(4, 4), shape=models.ints(-1, 2, 2),
    )  # fmt: skip
    params = state.encodings.tensors
    assert len({numbers(params[n]) for n in ("a", "r", "t", "f")}) == 1
    assert numbers(params["y"]) != numbers(params["a"])


def test_operands_of_a_join_take_the_grid_of_the_widest():
    source = """(float[N, 3] x) => (float[N, 6] y) {
      a = MatMul(x, w)  b = MatMul(x, v)  y = Concat<axis = 1>(a, b)
    }"""
    ranges = {"a": (-1.0, 1.0), "b": (-4.0, 2.0), "y": (-4.0, 2.0)}
    state = assigned(source, ranges, w=models.weight(3, 3), v=models.weight(3, 3, seed=1))
    found = [state.encodings.tensors[n] for n in ("a", "b", "y")]
    assert all(p.same_as(found[0]) for p in found)
    assert found[0].scale == pytest.approx(6 / 255)


@pytest.mark.parametrize(
    ("op_type", "expected"), [("Softmax", (1 / 256, 0)), ("Sigmoid", (1 / 256, 0)), ("Tanh", (1 / 128, 128))]
)
def test_a_result_with_a_known_range_has_its_fixed_grid_whatever_was_seen(op_type, expected):
    source = f"(float[N, 3] x) => (float[N, 3] y) {{ a = MatMul(x, w)  y = {op_type}(a) }}"
    state = assigned(source, {"y": (0.2, 0.3)}, w=models.weight(3, 3))
    assert numbers(state.encodings.tensors["y"]) == expected


@pytest.mark.parametrize(
    ("clamp", "seen", "expected"),
    [
        ("Clip(a, low, high)", (0.0, 6.0), (0.0, 6.0)),
        ("Clip(a, low, high)", (0.0, 3.0), (0.0, 3.0)),
        ("Relu(a)", (0.0, 40.0), (0.0, 40.0)),
    ],
)
def test_an_absorbed_clamp_ends_where_the_integers_end(clamp, seen, expected):
    source = f"(float[N, 3] x) => (float[N, 3] y) {{ a = MatMul(x, w)  y = {clamp} }}"
    state = assigned(source, {"y": seen}, w=models.weight(3, 3), low=0.0, high=6.0)
    params = state.encodings.tensors["y"]
    assert (params.low, params.high) == pytest.approx(expected)
    assert int(params.zero_point) == 0


def test_a_range_is_cut_at_an_absorbed_clamp():
    source = "(float[N, 3] x) => (float[N, 3] y) { a = MatMul(x, w)  y = Clip(a, low, high) }"
    state = assigned(source, {"y": (-3.0, 9.0)}, w=models.weight(3, 3), low=0.0, high=6.0)
    assert state.encodings.tensors["y"].high == pytest.approx(6.0)


# ---- weights -------------------------------------------------------------------------------------------------------


def test_weights_are_symmetric_and_narrow_with_a_scale_per_channel():
    weight = models.weight(3, 2, 1, 1, scaled=0)
    params = conv(w=weight).encodings.edges[("Conv_0", 1)]
    np.testing.assert_array_equal(params.scale, np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127))
    assert not params.zero_point.any()
    assert (params.spec.qmin, params.spec.qmax, params.axis) == (-127, 127, 0)


@pytest.mark.parametrize(("transposed", "axis"), [(0, 1), (1, 0)])
def test_the_channels_of_a_gemm_are_where_its_transposition_says(transposed, axis):
    source = f"(float[N, 4] x) => (float[N, 4] y) {{ y = Gemm<transB = {transposed}>(x, w) }}"
    state = assigned(source, {}, w=models.weight(4, 4, scaled=axis))
    params = state.encodings.edges[("Gemm_0", 1)]
    assert params.axis == axis
    assert params.scale[-1] > 100 * params.scale[0]


def test_a_channel_of_zeros_gets_a_scale_and_is_named():
    weight = models.weight(3, 2, 1, 1)
    weight[1] = 0
    state = conv(w=weight, b=(0, 0, 0))
    assert state.encodings.edges[("Conv_0", 1)].scale[1] > 0
    assert state.report.warnings == ("'Conv_0': 1 output channels have only zero weights (1)",)


@pytest.mark.parametrize("tiny", [1e-30, 1e-38, 1e-42])
def test_a_channel_of_tiny_weights_gets_a_normal_scale(tiny):
    weight = models.weight(3, 2, 1, 1)
    weight[1] = tiny
    scale = conv(w=weight, b=(0, 0, 0)).encodings.edges[("Conv_0", 1)].scale
    assert np.all(scale >= np.finfo(np.float32).tiny)


def test_a_weight_scale_is_widened_so_that_the_bias_stays_within_int32():
    weight = models.weight(3, 2, 1, 1)
    weight[2] = 1e-10
    state = conv(w=weight, b=(0.1, 0.1, 5.0), x=(-64.0, 64.0))
    scale = state.encodings.edges[("Conv_0", 1)].scale.astype(np.float64)
    steps = np.array([0.1, 0.1, 5.0]) / (scale * float(state.encodings.tensors["x"].scale))
    assert np.all(np.abs(steps) <= 2**30 * 1.001)
    (warning,) = state.report.warnings
    assert warning.startswith("'Conv_0': the bias of 1 channels (2) would overflow int32")


def test_a_bias_that_fits_widens_nothing():
    assert conv().report.warnings == ()
    assert (
        conv(b=(0.1, 0.2, 0.3)).encodings.edges[("Conv_0", 1)].same_as(conv(b=(0, 0, 0)).encodings.edges[("Conv_0", 1)])
    )


# ---- tensors that nobody has seen ----------------------------------------------------------------------------------


def unseen(mode: str) -> State:
    source = """(float[N, 3] x) => (float[N, 3] y) {
      a = MatMul(x, w)  b = MatMul(a, v)  c = MatMul(b, u)  y = MatMul(c, w)
    }"""
    state = planned(source, mode, w=models.weight(3, 3), v=models.weight(3, 3, seed=1), u=models.weight(3, 3, seed=2))
    seen = {n: TensorStats(9, -1, 1) for n in state.plan.activations if n != "b"}
    return Assign()(replace(state, stats=seen), quiet)


def test_operators_around_a_tensor_that_was_never_seen_stay_float_with_that_reason():
    state = unseen("full-integer")
    reasons = {e.node: e.reason for e in state.report.floats()}
    assert reasons.keys() == {"MatMul_1", "MatMul_2"}
    assert all("never calibrated: tensor 'b'" in r for r in reasons.values())


def test_the_others_stay_integer():
    assert {u.node for u in unseen("full-integer").plan.units} == {"MatMul_0", "MatMul_3"}


def test_a_tensor_that_was_never_seen_is_warned_of():
    assert any("tensor 'b'" in w for w in unseen("full-integer").report.warnings)


def test_int8_only_refuses_a_tensor_that_was_never_seen():
    with pytest.raises(UnsupportedError) as caught:
        unseen("int8-only")
    assert all("never calibrated: tensor 'b'" in r for r in caught.value.reasons)


# ---- joins that mix ranges -------------------------------------------------------------------------------------------

HEAD = """(float[N, 3] x) => (float[N, 6] y) {
  boxes = MatMul(x, w)  scores = MatMul(x, v)  y = Concat<axis = 1>(boxes, scores)
}"""


def head(widest: float) -> State:
    ranges = {"boxes": (0.0, widest), "scores": (0.0, 1.0), "y": (0.0, widest)}
    return assigned(HEAD, ranges, w=models.weight(3, 3), v=models.weight(3, 3, seed=1))


def test_a_join_of_unlike_ranges_is_warned_of_with_names_ratio_and_what_to_type():
    (warning,) = head(640.0).report.warnings
    for said in ("'boxes'", "'scores'", "a ratio of 640", "--float 'Concat_2'"):
        assert said in warning


def test_a_join_of_like_ranges_is_not_warned_of():
    assert head(9.0).report.warnings == ()
