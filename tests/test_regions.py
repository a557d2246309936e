"""Pointwise regions: operators that together are a function of one variable, with one way in and one way out."""

from __future__ import annotations

import models
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from models import weight
from strategies import graphs

from quantcli import graph, runtime
from quantcli.regions import find_regions, is_region_worth

often = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
IMAGE = "(float[1,4,5,5] x, float[1,4,5,5] z) => (float y) "


def found(body, header=IMAGE, *, claimed=(), **arrays):
    """The regions of a graph, each as source and members in one word, then the channel axis."""
    return [(f"{r.source.name}>{''.join(graph.node_name(m) for m in r.members)}", r.channel)
            for r in regions(models.text(header + body, **arrays), claimed)]  # fmt: skip


def regions(model, claimed=()):
    made = ir.from_proto(model)
    graph.name_everything(made)
    return find_regions(list(made.graph), runtime.annotate(made), claimed=claimed)


@pytest.mark.parametrize(
    ("body", "members"),
    [
        ("{ [a] s = Sigmoid(x) [b] y = Mul(x, s) }", "x>ab"),
        ("{ [a] s = Sigmoid(x) [b] y = Mul(s, x) }", "x>ab"),
        ("{ [a] y = Add(x, x) }", "x>a"),
        ("{ [a] r = Relu(x) [b] y = Add(x, r) }", "x>ab"),
        ("{ [a] s = Sub(k, x) [b] d = Div(s, k) [c] m = Max(d, k) [d] y = Pow(m, k) }", "x>abcd"),
        ("{ [a] r = Relu(x) [b] n = Neg(x) [c] p = Relu(n) [d] m = Mul(p, k) [e] y = Sub(r, m) }", "x>abcde"),
    ],
)
def test_a_function_of_one_variable_is_one_region(body, members):
    assert found(body, k=0.5) == [(members, None)]


def test_a_function_of_two_variables_is_none():
    assert found("{ [a] y = Add(x, z) }") == []


def test_each_variable_has_its_own():
    assert found("{ [a] s = Sigmoid(x) [b] t = Tanh(z) y = Mul(s, t) }") == [("x>a", None), ("z>b", None)]


def test_a_region_ends_at_the_first_tensor_that_others_read():
    body = "{ [a] r = Relu(x) [b] n = Neg(r) [c] e = Exp(n) [d] y = MatMul(e, r) }"
    assert found(body) == [("x>a", None), ("r>bc", None)]


def test_a_region_ends_at_an_output_of_the_graph():
    header = "(float[1,4,5,5] x) => (float r, float y) "
    assert found("{ [a] r = Relu(x) [b] y = Neg(r) }", header) == [("x>a", None), ("r>b", None)]


def test_two_readers_outside_leave_two_regions():
    header = "(float[1,4,5,5] x) => (float r, float a, float y) "
    body = "{ [a] r = Relu(x) [b] a = Abs(x) [c] y = Add(r, a) }"
    assert found(body, header) == [("x>a", None), ("x>b", None)]


def test_a_function_that_two_others_read_is_a_region_of_its_own():
    header = "(float[1,4,5,5] x) => (float b, float c) "
    body = "{ [a] r = LeakyRelu(x) [b] b = Tanh(r) [c] c = Exp(r) }"
    assert found(body, header) == [("x>a", None), ("r>b", None), ("r>c", None)]


def test_a_branch_of_control_flow_is_a_reader():
    header = "(float[1,4,5,5] x, bool c) => (float y) "
    then, otherwise = "t () => (float[1,4,5,5] b) { b = Abs(r) }", "e () => (float[1,4,5,5] d) { d = Neg(r) }"
    branches = f"then_branch = {then}, else_branch = {otherwise}"
    body = f"{{ [a] r = Relu(x) [b] n = Neg(r) [i] i = If(c) <{branches}> y = MatMul(n, i) }}"
    assert found(body, header) == [("x>a", None), ("r>b", None)]


@pytest.mark.parametrize(
    ("shape", "channel"), [((4, 1, 1), 1), ((1, 4, 1, 1), 1), ((5,), 3), ((5, 1), 2), ((1,), None), ((), None)]
)
def test_constants_may_vary_along_one_axis(shape, channel):
    assert found("{ [a] m = Mul(x, c) [b] y = Tanh(m) }", c=weight(*shape)) == [("x>ab", channel)]


@pytest.mark.parametrize("shape", [(4, 5, 5), (4, 1, 5), (2, 4, 1, 1), (1, 1, 1, 1, 1), (2, 1, 1, 1, 1)])
def test_constants_that_vary_along_more_or_change_the_shape_are_outside(shape):
    assert found("{ [a] m = Mul(x, c) [b] y = Tanh(m) }", c=weight(*shape)) == [("m>b", None)]


def test_constants_along_two_axes_are_two_regions():
    body = "{ [a] m = Mul(x, c) [b] t = Tanh(m) [c] n = Mul(t, d) [d] y = Tanh(n) }"
    assert found(body, c=weight(4, 1, 1), d=weight(5)) == [("x>ab", 1), ("t>cd", 3)]


def test_a_free_dimension_does_not_match_constants():
    header = "(float[1,N,5,5] x) => (float y) "
    assert found("{ [a] m = Mul(x, c) [b] y = Tanh(m) }", header, c=weight(4, 1, 1)) == [("m>b", None)]


def test_computed_limits_are_a_second_variable():
    body = "{ [m] l = ReduceMin<keepdims = 0>(z) [a] c = Clip(x, l) [b] y = Tanh(c) }"
    assert found(body) == [("c>b", None)]


def test_claimed_nodes_are_no_members():
    assert found("{ [a] r = Relu(x) [b] y = Neg(r) }", claimed={"a"}) == [("r>b", None)]


def test_operators_of_other_domains_are_no_members():
    model = models.text(IMAGE + "{ [a] r = com.microsoft.QuickGelu(x) [b] y = Neg(r) }", domains=["com.microsoft"])
    assert [[graph.node_name(m) for m in r.members] for r in regions(model)] == [["b"]]


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub", "Max", "Min"])
def test_one_plain_operator_is_not_worth_a_table(op):
    (region,) = regions(models.text(IMAGE + f"{{ y = {op}(x, c) }}", c=2.0))
    assert not is_region_worth(region)


@pytest.mark.parametrize("op", ["Pow(x, c)", "Div(c, x)", "Relu(x)", "PRelu(x, c)"])
def test_one_operator_without_a_kernel_is(op):
    (region,) = regions(models.text(IMAGE + f"{{ y = {op} }}", c=2.0))
    assert is_region_worth(region)


@given(model=graphs())
@often
def test_a_region_has_one_way_in_and_one_way_out(model):
    taken = []
    for region in regions(model):
        members = set(region.members)
        made = {o for m in members for o in m.outputs}
        read = {v for m in members for v in m.inputs if v is not None and not graph.is_constant(v)}
        assert read - made == {region.source}
        for value in made - {region.result}:
            assert not value.is_graph_output()
            assert {reader for reader, _ in graph.consumers(value)} <= members
        taken += [graph.node_name(m) for m in members]
    assert len(taken) == len(set(taken))
