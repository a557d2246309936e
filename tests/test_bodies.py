"""A body becomes a model of its own and goes back."""

from __future__ import annotations

import flow
import models
import numpy as np
import onnx_ir as ir
import pytest
from conversion import run
from onnx import checker

from quantcli import bodies, custom_ops, graph, runtime


def loaded(model):
    made = ir.from_proto(model)
    graph.name_everything(made)
    runtime.annotate(made)
    return made, next(n for n in made.graph if n.name == "flow")


def branch(node, attribute):
    return next(b for b in bodies.bodies_of(node) if b.attribute == attribute)


@pytest.mark.parametrize("kind", flow.MODELS)
def test_a_body_is_a_model_that_loads(kind):
    made, node = loaded(flow.MODELS[kind]())
    for body in bodies.bodies_of(node):
        alone = bodies.as_model(body, made)
        names = [v.name for v in alone.graph.inputs]
        assert names == [*(v.name for v in body.graph.inputs), *(v.name for v in body.captured)]
        assert [o.name for o in runtime.load(alone).outputs] == [v.name for v in body.graph.outputs]


@pytest.mark.parametrize("kind", flow.MODELS)
def test_a_body_that_goes_back_computes_the_same(kind):
    model = flow.MODELS[kind]()
    made, node = loaded(model)
    names = graph.Names(made)
    for body in bodies.bodies_of(node):
        bodies.put_back(body, bodies.as_model(body, made), names, made)
    after = ir.to_proto(made)
    checker.check_model(after)
    for feed in flow.both_ways(model, count=2):
        for name, real in run(model, feed).items():
            np.testing.assert_array_equal(run(after, feed)[name], real)


def test_constants_from_around_come_along_and_are_read_from_there_again():
    made, node = loaded(flow.branches(outer=True))
    body = branch(node, "then_branch")
    alone = bodies.as_model(body, made)
    assert "w1a" in alone.graph.initializers
    bodies.put_back(body, alone, graph.Names(made), made)
    assert "w1a" not in body.graph.initializers
    assert len(graph.consumers(made.graph.initializers["w1a"])) == 2


def test_what_is_new_in_a_body_takes_no_name_of_the_model():
    made, node = loaded(flow.branches())
    body = branch(node, "then_branch")
    alone = bodies.as_model(body, made)
    extra = graph.add_initializer(alone.graph, "q", np.zeros(3, np.float32))  # a tensor of the other branch
    assert extra.name == "q"
    bodies.put_back(body, alone, graph.Names(made), made)
    assert "q" not in body.graph.initializers
    assert "q_1" in body.graph.initializers


def test_a_body_finds_the_custom_operators_of_its_model(tmp_path):
    made, node = loaded(flow.loop())
    custom_ops.attach(made, [tmp_path / "operators.so"])
    (body,) = bodies.bodies_of(node)
    assert custom_ops.libraries(bodies.as_model(body, made)) == custom_ops.libraries(made) != ()


def test_an_operator_without_bodies_has_none():
    made = ir.from_proto(models.text("(float[2] x) => (float[2] y) { y = Relu(x) }"))
    assert bodies.bodies_of(next(iter(made.graph))) == []


def test_equal_constants_of_two_bodies_become_one():
    made, node = loaded(flow.branches(outer=False))
    first, second = (branch(node, name).graph for name in ("then_branch", "else_branch"))
    for was, now in zip(("w1a", "w1b"), ("w5a", "w5b"), strict=True):
        second.initializers[now].const_value = first.initializers[was].const_value
    bodies.share_equal(made, graph.Names(made))
    assert not first.initializers
    assert not second.initializers
    assert len(made.graph.initializers) == 2
    checker.check_model(ir.to_proto(made))
