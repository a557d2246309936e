"""``--float`` patterns name nodes by operator, glob, regular expression or tensor; one that names none is an error."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from models import text, weight
from onnx import helper

from quantcli import graph, patterns
from quantcli.errors import UsageError
from quantcli.report import FOLDED, Entry

NODES = {"features/0/conv": "Conv", "features/0/relu": "Relu", "features/1/conv": "Conv", "head[0]": "Conv"}


@pytest.fixture
def model():
    source = "(float[1,2,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w) b = Relu(a) c = Conv(b, w) y = Conv(c, v) }"
    proto = text(source, w=weight(2, 2, 1, 1), v=weight(2, 2, 1, 1))
    for node, name in zip(proto.graph.node, NODES, strict=True):
        node.name = name
    return ir.from_proto(proto)


def match(model, pattern, folded=()):
    listed = {name: Entry(name, "Dropout", FOLDED) for name in folded}
    return patterns.match_all([pattern], model, listed)[pattern]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("op:Relu", {"features/0/relu"}),
        ("op:Conv", {"features/0/conv", "features/1/conv", "head[0]"}),
        ("features/0/conv", {"features/0/conv"}),
        ("features/*", {"features/0/conv", "features/0/relu", "features/1/conv"}),
        ("*/conv", {"features/0/conv", "features/1/conv"}),
        ("features/?/relu", {"features/0/relu"}),
        ("*", set(NODES)),
        ("head[0]", {"head[0]"}),
        ("re:relu$", {"features/0/relu"}),
        ("re:^features/[01]/conv", {"features/0/conv", "features/1/conv"}),
        ("re:1|head", {"features/1/conv", "head[0]"}),
        ("tensor:b", {"features/0/relu"}),
        ("tensor:y", {"head[0]"}),
        ("tensor:x", {"features/0/conv"}),
        ("tensor:w", {"features/0/conv", "features/1/conv"}),
    ],
)
def test_a_pattern_names_nodes(model, pattern, expected):
    assert match(model, pattern) == expected


def test_every_pattern_has_its_own_nodes(model):
    found = patterns.match_all(["op:Relu", "head*"], model)
    assert found == {"op:Relu": {"features/0/relu"}, "head*": {"head[0]"}}


def test_no_patterns_name_nothing(model):
    assert patterns.match_all([], model) == {}


def test_operators_of_other_domains_are_named_with_their_domain():
    node = helper.make_node("FusedConv", ["x"], ["y"], name="fused", domain="com.microsoft")
    value = helper.make_tensor_value_info
    model = ir.from_proto(helper.make_model(helper.make_graph([node], "g", [value("x", 1, [1])], [value("y", 1, [1])])))
    assert match(model, "op:com.microsoft:FusedConv") == {"fused"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("op:relu", "--float 'op:relu' matches nothing in the model; did you mean 'Relu'?"),
        ("op:Softmax", "--float 'op:Softmax' matches nothing in the model"),
        ("features/0/cnov", "did you mean 'features/0/conv'"),
        ("FEATURES/*", "--float 'FEATURES/*' matches nothing"),
        ("re:^banana", "--float 're:^banana' matches nothing"),
        ("tensor:banana", "--float 'tensor:banana' matches nothing"),
        ("", "--float '' matches nothing"),
        ("re:(", "--float 're:(' is no regular expression: "),
    ],
)
def test_a_pattern_that_names_nothing_is_an_error(model, pattern, expected):
    with pytest.raises(UsageError) as caught:
        match(model, pattern)
    assert expected in caught.value.message


def test_one_pattern_that_names_nothing_is_enough(model):
    with pytest.raises(UsageError, match="banana"):
        patterns.match_all(["op:Conv", "banana"], model)


def test_a_node_that_was_folded_away_may_be_named(model):
    assert match(model, "features/0/bn", folded=["features/0/bn"]) == set()


def test_a_pattern_may_name_folded_nodes_beside_others(model):
    assert match(model, "features/0/*", folded=["features/0/bn"]) == {"features/0/conv", "features/0/relu"}


def test_only_nodes_of_the_model_are_returned(model):
    nodes = {graph.node_name(n) for n in model.graph}
    assert match(model, "*", folded=["gone"]) == nodes
