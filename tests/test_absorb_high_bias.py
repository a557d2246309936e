"""High biases move behind the activation where the function stays and the range gets narrower; nowhere else."""

from __future__ import annotations

import dataclasses

import models
import numpy as np
import pytest

from quantcli import runtime
from quantcli.metrics import Comparison
from quantcli.passes.absorb_high_bias import AbsorbHighBias

CONV = "(float[1,4,8,8] x) => (float[1,3,8,8] y) {{ a = Conv(x, w, b) {between} y = Conv<{how}>(r, v, u) }}"
HIGH = np.array([60, 0, 1, 0, -1, 55], np.float32)  # the inputs of a channel add up to a few units


def network(between="r = Relu(a)", how="pads = [0, 0, 0, 0]", bias=HIGH, size=1, **arrays):
    return models.text(
        CONV.format(between=between, how=how), w=models.weight(6, 4, 1, 1), b=bias, v=models.weight(3, 6, size, size),
        u=models.weight(3), **arrays,
    )  # fmt: skip


def absorbed(state):
    return AbsorbHighBias()(state, lambda _done, _total: None)


def prepared(bench, model):
    return bench.as_format(model, "qdq", "passes.equalize=off", "passes.smooth=off").result.state


def closest(state, found):
    before, after = (runtime.load(s.model) for s in (state, found))
    return min(
        Comparison().add(array, after.run(feed)[name]).sqnr_db
        for feed in state.data
        for name, array in before.run(feed).items()
    )


RANGES = {
    "Relu": network(),
    "nothing between": network("r = Identity(a)"),
    "LeakyRelu": network("r = LeakyRelu(a)"),
    "Clip": network("r = Clip(a, zero, top)", zero=0, top=100),
    "MaxPool": network("m = Relu(a) r = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(m)"),
    "AveragePool": network("m = Relu(a) r = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(m)"),
    "depthwise": models.text(
        "(float[1,4,8,8] x) => (float[1,6,6,6] y) { a = Conv(x, w, b) r = Relu(a) y = Conv<group = 6>(r, v) }",
        w=models.weight(6, 4, 1, 1), b=HIGH, v=models.weight(6, 1, 3, 3),
    ),
    "Gemm": models.text(
        "(float[1,4] x) => (float[1,3] y) { a = Gemm<transB = 1>(x, w, b) r = Relu(a) y = Gemm(r, v) }",
        w=models.weight(6, 4), b=HIGH, v=models.weight(6, 3),
    ),
    "MatMul": models.text(
        "(float[1,4] x) => (float[1,3] y)"
        " { m = MatMul(x, w) a = Add(m, b) r = Relu(a) n = MatMul(r, v) y = Add(u, n) }",
        w=models.weight(4, 6), b=HIGH, v=models.weight(6, 3), u=models.weight(3),
    ),
    "Concat": models.text(
        "(float[1,4,8,8] x) => (float[1,3,8,8] y) { a = Conv(x, w, b) r = Relu(a) c = Conv(x, k) s = Relu(c)"
        " t = Concat<axis = 1>(r, s) y = Conv(t, v) }",
        w=models.weight(6, 4, 1, 1), b=HIGH, k=models.weight(2, 4, 1, 1), v=models.weight(3, 8, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", RANGES.values(), ids=RANGES)
def test_the_range_is_narrower_and_the_function_stays(bench, model):
    state = prepared(bench, model)
    found = absorbed(state)
    assert found.report.equalized, found.report.notes
    assert closest(state, found) > 100
    highs = []
    for s in (state, found):
        session = runtime.load(s.model, outputs=[found.report.equalized[-1]])
        highs.append(max(float(array.max()) for feed in s.data for array in session.run(feed).values()))
    assert highs[1] < highs[0] / 2


def test_the_quantized_model_gains(bench):
    off, on = (
        bench.as_format(network(), "integer", f"passes.absorb_high_bias={switch}").result.state
        for switch in ("off", "on")
    )
    outputs = [s.report.verification.outputs["y"].sqnr_db for s in (off, on)]
    assert outputs[1] > outputs[0] + 6


LEFT = {
    "a padding reader": network(how="pads = [1, 1, 1, 1]", size=3),
    "a reader that pads by itself": network(how='auto_pad = "SAME_UPPER"', size=3),
    "averages of padded zeros": network(
        "m = Relu(a) r = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(m)"
    ),
    "a Clip that cuts the high channels off": network("r = Clip(a, zero, top)", zero=0, top=50),
    "no high bias": network(bias=np.zeros(6, np.float32)),
    "a slope that turns negative values": network("r = LeakyRelu<alpha = -0.1>(a)"),
    "a product without a bias": models.text(
        "(float[1,4] x) => (float[1,3] y) { m = MatMul(x, w) a = Add(m, b) r = Relu(a) y = MatMul(r, v) }",
        w=models.weight(4, 6), b=HIGH, v=models.weight(6, 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", LEFT.values(), ids=LEFT)
def test_what_would_change_the_function_is_left_alone(bench, model):
    state = prepared(bench, model)
    found = absorbed(state)
    assert found.model is state.model
    assert not found.report.equalized


def normalized(gamma=0.5):
    """A convolution whose BatchNormalization gives two channels a high bias."""
    ones = np.ones(6, np.float32)
    return models.text(
        "(float[1,4,8,8] x) => (float[1,3,8,8] y)"
        " { a = Conv(x, w) n = BatchNormalization(a, g, b, m, s) r = Relu(n) y = Conv(r, v, u) }",
        w=models.weight(6, 4, 1, 1), g=gamma * ones, b=HIGH, m=0 * ones, s=ones, v=models.weight(3, 6, 1, 1),
        u=models.weight(3),
    )  # fmt: skip


def made_up(state):
    return dataclasses.replace(state, data=dataclasses.replace(state.data, synthetic=True))


def test_folding_records_what_batch_normalization_said(bench):
    state = prepared(bench, normalized())
    np.testing.assert_allclose(state.normal["n"].mean, HIGH)
    np.testing.assert_allclose(state.normal["n"].deviation, 0.5)


def test_made_up_samples_are_believed_only_as_far_as_batch_normalization(bench):
    narrow, wide = (made_up(prepared(bench, normalized(gamma))) for gamma in (0.5, 10.0))
    bias = {
        name: np.asarray(absorbed(s).model.graph.node(0).inputs[2].const_value.numpy())
        for name, s in (("narrow", narrow), ("wide", wide))
    }
    assert HIGH[0] - 1.5 >= HIGH[0] - bias["narrow"][0] > 40  # beta - 3 |gamma| = 58.5
    assert HIGH[0] - bias["wide"][0] <= 30 + 1e-4  # beta - 3 |gamma| = 30


def test_made_up_samples_alone_shift_nothing_before_an_activation(bench):
    state = made_up(prepared(bench, network()))
    assert absorbed(state).model is state.model


def test_equalization_scales_what_is_known_of_channels(bench):
    plain = prepared(bench, normalized())
    equal = bench.as_format(normalized(), "qdq", "passes.equalize=on").result.state
    factors = equal.normal["n"].deviation / plain.normal["n"].deviation
    assert factors.max() > 1.0
    np.testing.assert_allclose(equal.normal["n"].mean, plain.normal["n"].mean * factors)


def test_the_same_model_comes_out_each_time(bench):
    state = prepared(bench, network())
    first, second = (absorbed(state).model for _ in range(2))
    for a, b in zip(first.graph.initializers.values(), second.graph.initializers.values(), strict=True):
        np.testing.assert_array_equal(a.const_value.numpy(), b.const_value.numpy())
