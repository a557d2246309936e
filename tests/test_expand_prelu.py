"""PRelu in faster operators: the same numbers, in float and in integers."""

from __future__ import annotations

import models
import numpy as np
import onnx_ir as ir
import pytest
from conversion import run

from quantcli import graph, modes
from quantcli.passes.expand_prelu import ExpandPrelu
from quantcli.state import State

SLOPES = {
    "small": [0.25, -0.5, 0.0, 1.0],
    "large": [1.0, 1.5, 3.0, 2.0],
    "mixed": [0.25, 1.5, -2.0, 1.0],
}


def net(slopes):
    return models.text("(float[2,4,5,5] x) => (float y) { y = PRelu(x, a) }", a=np.float32(slopes).reshape(4, 1, 1))


def nothing(done, total):
    del done, total


def expanded(model):
    made = ir.from_proto(model)
    graph.name_everything(made)
    state = State(made, made, modes.resolve("dynamic-range"))
    return ir.to_proto(ExpandPrelu()(state, nothing).model)


@pytest.mark.parametrize("kind", SLOPES)
def test_every_number_is_the_same(kind):
    model = net(SLOPES[kind])
    other = expanded(model)
    assert "PRelu" not in [n.op_type for n in other.graph.node]
    for feed in models.samples(model, count=3):
        assert np.array_equal(run(model, feed)["y"], run(other, feed)["y"])


@pytest.mark.parametrize(("kind", "op_type"), [("small", "Max"), ("large", "Min"), ("mixed", "Add")])
def test_the_spelling_depends_on_the_slopes(kind, op_type):
    assert [n.op_type for n in expanded(net(SLOPES[kind])).graph.node][-1] == op_type


def test_computed_slopes_stay():
    model = models.text("(float[2,4] x, float[4] a) => (float y) { y = PRelu(x, a) }")
    assert [n.op_type for n in expanded(model).graph.node] == ["PRelu"]


def test_names_of_tensors_and_outputs_stay():
    assert [o.name for o in expanded(net(SLOPES["mixed"])).graph.output] == ["y"]


@pytest.mark.parametrize("kind", SLOPES)
@pytest.mark.parametrize("mode", ["int8-only", "16x8"])
def test_its_integers_are_those_of_the_prelu(bench, mode, kind):
    fast, plain = (bench.convert(net(SLOPES[kind]), mode, *off) for off in ((), ("passes.expand_prelu=off",)))
    feed = fast.feeds[0]
    assert np.array_equal(fast.run(feed)["y"], plain.run(feed)["y"])
