"""What samples leave idle in a model: told where it begins, and only there."""

from __future__ import annotations

import flow
import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli import exercise
from quantcli.data import InputSpec, from_arrays


def found(model, feeds):
    specs = [InputSpec(n, x.dtype, x.shape) for n, x in feeds[0].items()]
    return exercise.exercised(ir.from_proto(model), from_arrays(feeds, specs))


def feeds(count=6, **change):
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 4)).astype(np.float32), **change} for _ in range(count)]


WEIGHT = np.eye(4, 3, dtype=np.float32)


def relu(bias):
    text = "(float[1,4] x) => (float[1,3] y) { m = MatMul(x, w) a = Add(m, b) r = Relu(a) n = Neg(r) y = Exp(n) }"
    return models.text(text, w=WEIGHT, b=np.float32(bias))


def test_a_dead_relu_is_told_once():
    (idle,) = found(relu([0, -100, -100]), feeds()).idle
    assert (idle.operator, idle.tensor, idle.zero, idle.still, idle.channels) == ("Relu", "r", 2, 0, 3)


def test_a_live_relu_is_not_told():
    assert found(relu([0, 0, 0]), feeds()).idle == ()


def test_a_relu_that_nothing_passes_is_a_constant_tensor():
    (idle,) = found(relu([-100, -100, -100]), feeds()).idle
    assert (idle.operator, idle.channels) == ("Relu", 0)


def test_a_clip_that_is_always_full_is_told():
    text = "(float[1,4] x) => (float[1,4] y) { a = Add(x, b) y = Clip(a, low, high) }"
    model = models.text(
        text,
        b=np.float32([0, 100, 0, 0]),
        low=np.float32(0),
        high=np.float32(6),
    )
    (idle,) = found(model, feeds()).idle
    assert (idle.operator, idle.zero, idle.still) == ("Clip", 0, 1)


def test_weights_of_zero_are_no_fault_of_the_samples():
    text = "(float[1,4] x) => (float[1,3] y) { y = MatMul(x, w) }"
    assert found(models.text(text, w=WEIGHT * np.float32([1, 0, 1])), feeds()).idle == ()


def test_what_a_constant_input_leads_to_is_not_told():
    assert found(relu([0, 0, 0]), [{"x": np.ones((1, 4), np.float32)}] * 3).idle == ()


def test_a_tensor_that_no_input_decides_is_not_told():
    body = "s = Shape(x) f = Cast<to = 1>(s) g = Exp(f) t = ReduceSum(g) y = Mul(x, t)"
    assert found(models.text(f"(float[1,4] x) => (float[1,4] y) {{ {body} }}"), feeds()).idle == ()


@pytest.mark.parametrize(
    ("conditions", "untaken"),
    [([True], [("flow", "else_branch")]), ([False], [("flow", "then_branch")]), ([True, False], [])],
)
def test_a_branch_that_no_sample_takes_is_told(conditions, untaken):
    model = flow.branches()
    samples = models.samples(model, count=4)
    fed = [{**feed, "c": np.asarray(conditions[i % len(conditions)])} for i, feed in enumerate(samples)]
    assert list(found(model, fed).untaken) == untaken


def test_one_sample_is_enough_to_be_still_in_place_but_not_over_places():
    text = "(float[1,2,4,4] x) => (float[1,2,4,4] y) { y = Relu(x) }"
    x = np.ones((1, 2, 4, 4), np.float32)
    x[:, 1] = -1
    x[:, :, 0, 0] = [3, -2]
    (idle,) = found(models.text(text), [{"x": x}]).idle
    assert (idle.zero, idle.channels) == (1, 2)


def test_sequences_have_their_channels_last():
    text = "(float[1,T,3] x) => (float[1,T,3] y) { y = Relu(x) }"
    fed = [{"x": np.float32([[[-i, i, 2 * i]] * (i + 1)])} for i in range(1, 5)]
    specs = [InputSpec("x", np.dtype("float32"), (1, "T", 3))]
    result = exercise.exercised(ir.from_proto(models.text(text)), from_arrays(fed, specs))
    assert [(i.zero, i.channels) for i in result.idle] == [(1, 3)]


def test_the_model_is_not_changed():
    model = ir.from_proto(relu([0, 0, 0]))
    before = ir.to_proto(model).SerializeToString()
    exercise.exercised(model, from_arrays(feeds(), [InputSpec("x", np.dtype("float32"), (1, 4))]))
    assert ir.to_proto(model).SerializeToString() == before
