"""Edits of a graph keep its meaning, its interface and the uniqueness of its names."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from models import text, weight

from quantcli import graph, runtime, submodel

X = np.array([[1, -2, 3]], np.float32)
FLOAT = ir.TensorType(ir.DataType.FLOAT)
ANY = ir.TypeAndShape(FLOAT, None)

CHAIN = "(float[1,3] x) => (float[1,3] y) { a = Relu(x) b = Neg(a) y = Abs(b) }"
BRANCHING = """(float[1,3] x, bool c) => (float[1,3] y, float[1,3] z) {
  a = Relu(x)
  y = If (c) <
    then_branch = then () => (float[1,3] p) { p = Add(a, k) },
    else_branch = else () => (float[1,3] q) { r = Sub(a, k) q = Neg(r) }
  >
  z = Neg(x)
}"""


def model_of(source, /, **arrays):
    return ir.from_proto(text(source, **arrays))


def branching():
    model = model_of(BRANCHING, k=X)
    graph.name_everything(model)
    return model


def node(model, op_type):
    (found,) = [n for n in model.graph.all_nodes() if n.op_type == op_type]
    return found


def value(model, name):
    return graph.named_values(model.graph)[name]


def run(model, **feed):
    return {n: a.tolist() for n, a in runtime.load(model).run(feed).items()}


def operators(model):
    return [n.op_type for n in model.graph]


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_all_graphs_are_the_main_one_and_those_of_its_nodes():
    assert [g.name for g in graph.all_graphs(branching())] == ["tested", "then", "else"]


def test_the_opset_is_that_of_the_onnx_domain():
    assert graph.opset(ir.from_proto(text(CHAIN, opset=17, domains=["com.microsoft"]))) == 17


@pytest.mark.parametrize(
    ("op_types", "expected"), [((), True), (("Relu",), True), (("Neg", "Relu"), True), (("Neg",), False)]
)
def test_onnx_operators_are_told_by_type(op_types, expected):
    assert graph.is_onnx(node(model_of(CHAIN), "Relu"), *op_types) is expected


def test_operators_of_other_domains_are_no_onnx_operators():
    foreign = ir.Node("com.microsoft", "Relu", [])
    assert (graph.is_onnx(foreign, "Relu"), graph.describe_op(foreign)) == (False, "com.microsoft:Relu")


def test_an_initializer_is_constant():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = Add(x, k) }", k=X)
    assert graph.constant(value(model, "k")).tolist() == X.tolist()


def test_what_can_be_fed_is_not_constant():
    proto = text("(float[1,3] x, float[1,3] k) => (float[1,3] y) { y = Add(x, k) }", k=X)
    k = value(ir.from_proto(proto), "k")
    assert (graph.is_constant(k), graph.constant(k)) == (False, None)


@pytest.mark.parametrize("name", ["x", "a"])
def test_what_is_fed_or_computed_is_not_constant(name):
    found = value(model_of(CHAIN), name)
    assert (graph.is_constant(found), graph.constant(found)) == (False, None)


def test_consumers_are_every_use_with_its_index():
    model = model_of("(float[1,3] x) => (float[1,3] y) { a = Relu(x) b = Mul(a, a) y = Sub(b, a) }")
    uses = [(n.op_type, index) for n, index in graph.consumers(value(model, "a"))]
    assert sorted(uses) == [("Mul", 0), ("Mul", 1), ("Sub", 1)]


def test_consumers_in_subgraphs_count():
    assert {n.op_type for n, _ in graph.consumers(value(branching(), "a"))} == {"Add", "Sub"}


def test_the_only_consumer_is_found():
    model = model_of(CHAIN)
    assert graph.only_consumer(value(model, "a")) is node(model, "Neg")


@pytest.mark.parametrize(
    "source",
    [
        "(float[1,3] x) => (float[1,3] y) { a = Relu(x) y = Add(a, a) }",
        "(float[1,3] x) => (float[1,3] y, float[1,3] z) { a = Relu(x) y = Neg(a) z = Abs(a) }",
        "(float[1,3] x) => (float[1,3] a, float[1,3] y) { a = Relu(x) y = Neg(a) }",
        """(float[1,3] x, bool c) => (float[1,3] y) { a = Relu(x) y = If (c) <
          then_branch = t () => (float[1,3] p) { p = Neg(a) },
          else_branch = e () => (float[1,3] q) { q = Identity(x) }> }""",
    ],
    ids=["read-twice", "two-readers", "graph-output", "read-in-a-subgraph"],
)
def test_a_value_that_others_need_has_no_only_consumer(source):
    assert graph.only_consumer(value(model_of(source), "a")) is None


def test_an_absent_input_is_none():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = Clip(x, , k) }", k=np.float32(1))
    assert [graph.input_at(node(model, "Clip"), i) is None for i in (0, 1, 2, 3, None)] == [
        False,
        True,
        False,
        True,
        True,
    ]


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["x", "k", "a", "p", "r", "z", "If_1", "Sub_3"])
def test_a_new_name_is_that_of_nothing_in_the_model(taken):
    assert graph.Names(branching()).new(taken) == f"{taken}_1"


def test_a_free_name_is_given_as_it_is():
    assert graph.Names(branching()).new("free") == "free"


def test_a_name_is_given_once():
    names = graph.Names(branching())
    assert [names.new("n") for _ in range(3)] == ["n", "n_1", "n_2"]


def test_every_node_gets_a_name():
    model = branching()
    assert [n.name for n in model.graph.all_nodes()] == ["Relu_0", "If_1", "Add_2", "Sub_3", "Neg_4", "Neg_5"]


def test_names_of_the_user_are_kept():
    proto = text(CHAIN)
    proto.graph.node[1].name = "mine"
    model = ir.from_proto(proto)
    graph.name_everything(model)
    assert [n.name for n in model.graph] == ["Relu_0", "mine", "Abs_2"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("n", "n", "n"), ["n", "n_1", "n_2"]),
        (("n", "n", "n_1"), ["n", "n_2", "n_1"]),
        (("", "Relu_0", ""), ["Relu_0_1", "Relu_0", "Abs_2"]),
    ],
)
def test_names_become_unique(given, expected):
    proto = text(CHAIN)
    for made, name in zip(proto.graph.node, given, strict=True):
        made.name = name
    model = ir.from_proto(proto)
    graph.name_everything(model)
    assert [n.name for n in model.graph] == expected


def test_naming_twice_changes_nothing():
    model = branching()
    once = [n.name for n in model.graph.all_nodes()]
    graph.name_everything(model)
    assert [n.name for n in model.graph.all_nodes()] == once


# ---- edits -----------------------------------------------------------------------------------------------------------


def test_an_added_initializer_is_read():
    model = model_of(CHAIN)
    made = graph.add_initializer(model.graph, "k", X)
    node(model, "Neg").replace_input_with(0, made)
    assert run(model, x=X)["y"] == [[1, 2, 3]]


def test_an_initializer_is_given_another_array():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = Add(x, k) }", k=X)
    graph.set_initializer(value(model, "k"), -X)
    assert run(model, x=X)["y"] == [[0, 0, 0]]


def replaced(source, old, op_type, **options):
    """Replace a value by another operator of the model's input."""
    model = model_of(source)
    made = ir.Node("", op_type, [model.graph.inputs[0]], outputs=[ir.Value(name="made")])
    model.graph.insert_before(model.graph[0], made)
    graph.replace_value(value(model, old), made.outputs[0], **options)
    graph.remove_unused(model)
    return model


def test_a_replaced_value_is_read_by_nobody():
    assert run(replaced(CHAIN, "b", "Neg"), x=X)["y"] == [[1, 2, 3]]


def test_the_new_value_takes_over_the_name():
    assert "b" in {o.name for n in replaced(CHAIN, "b", "Neg").graph for o in n.outputs}


def test_the_new_value_may_keep_its_own_name():
    assert "made" in {o.name for n in replaced(CHAIN, "b", "Neg", keep_name=False).graph for o in n.outputs}


@pytest.mark.parametrize("keep", [True, False])
def test_a_replaced_graph_output_keeps_its_name(keep):
    assert run(replaced(CHAIN, "y", "Neg", keep_name=keep), x=X) == {"y": [[-1, 2, -3]]}


def test_a_replaced_graph_output_keeps_type_and_shape():
    (output,) = replaced(CHAIN, "y", "Neg").graph.outputs
    assert (output.type, output.shape) == (FLOAT, ir.Shape([1, 3]))


def test_a_replaced_value_is_replaced_in_subgraphs():
    found = run(replaced(BRANCHING.replace("k)", "x)"), "a", "Neg"), x=X, c=np.array(1, bool))
    assert found["y"] == [[0, 0, 0]]


def test_outputs_keep_their_order():
    source = "(float[1,3] x) => (float[1,3] y, float[1,3] z) { y = Relu(x) z = Abs(x) }"
    assert list(run(replaced(source, "y", "Neg"), x=X)) == ["y", "z"]


def test_nodes_that_nothing_reads_are_removed():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = Relu(x) a = Neg(x) b = Abs(a) }")
    graph.name_everything(model)
    assert sorted(graph.remove_unused(model)) == ["Abs_2", "Neg_1"]
    assert operators(model) == ["Relu"]


def test_nodes_with_one_read_output_stay():
    model = model_of("(float[1,4] x) => (float[1,2] y) { y, b = Split<axis = 1, num_outputs = 2>(x) }")
    assert graph.remove_unused(model) == []


def test_initializers_that_nothing_uses_are_removed():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = Add(x, k) a = Mul(x, j) }", k=X, j=X)
    graph.remove_unused(model)
    assert list(model.graph.initializers) == ["k"]


def test_initializers_that_are_outputs_stay():
    model = model_of("(float[1,3] x) => (float[1,3] y, float[1,3] k) { y = Relu(x) }", k=X)
    graph.remove_unused(model)
    assert list(model.graph.initializers) == ["k"]


def test_inputs_that_nothing_reads_stay():
    model = model_of("(float[1,3] x, float[1,3] unused) => (float[1,3] y) { y = Relu(x) }")
    graph.remove_unused(model)
    assert [i.name for i in model.graph.inputs] == ["x", "unused"]


def test_what_a_subgraph_reads_stays():
    model = branching()
    graph.remove_unused(model)
    assert (operators(model), list(model.graph.initializers)) == (["Relu", "If", "Neg"], ["k"])


def test_what_only_a_removed_subgraph_reads_is_removed():
    model = branching()
    model.graph.outputs.pop(0)
    graph.remove_unused(model)
    assert (operators(model), list(model.graph.initializers)) == (["Neg"], [])


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_any_tensor_can_be_an_output():
    assert run(submodel.with_outputs(model_of(CHAIN), ["b", "a"]), x=X) == {"b": [[-1, 0, -3]], "a": [[1, 0, 3]]}


def test_other_outputs_leave_the_model_alone():
    model = model_of(CHAIN)
    submodel.with_outputs(model, ["a"])
    assert ([o.name for o in model.graph.outputs], operators(model)) == (["y"], ["Relu", "Neg", "Abs"])


def test_other_outputs_leave_out_what_they_do_not_need():
    assert operators(submodel.with_outputs(model_of(CHAIN), ["a"])) == ["Relu"]


def test_a_part_computes_what_the_whole_does():
    model = model_of(CHAIN)
    part = submodel.sub_model(model, list(model.graph)[1:], {"a": ANY}, ["y"])
    assert run(part, a=X) == {"y": [[1, 2, 3]]}


def test_a_part_reads_what_it_is_given_alone():
    model = model_of(CHAIN)
    part = submodel.sub_model(model, list(model.graph)[1:], {"a": ANY, "x": ANY}, ["y"])
    assert [i.name for i in part.graph.inputs] == ["a"]


def test_a_part_has_the_outputs_asked_for():
    model = model_of(CHAIN)
    part = submodel.sub_model(model, list(model.graph)[1:], {"a": ANY}, ["y", "b"])
    assert list(run(part, a=X)) == ["y", "b"]


def test_constants_come_along_with_a_part():
    model = model_of("(float[1,3] x) => (float[1,3] y) { a = Relu(x) y = Add(a, k) }", k=X)
    part = submodel.sub_model(model, [node(model, "Add")], {"a": ANY}, ["y"])
    assert run(part, a=X) == {"y": [[2, -4, 6]]}


def test_absent_inputs_stay_absent_in_a_part():
    model = model_of("(float[1,3] x) => (float[1,3] y) { a = Relu(x) y = Clip(a, , k) }", k=np.float32(2))
    part = submodel.sub_model(model, [node(model, "Clip")], {"a": ANY}, ["y"])
    assert run(part, a=X) == {"y": [[1, -2, 2]]}


def test_attributes_come_along_with_a_part():
    model = model_of("(float[1,3] x) => (float[3,1] y) { a = Relu(x) y = Transpose<perm = [1, 0]>(a) }")
    part = submodel.sub_model(model, [node(model, "Transpose")], {"a": ANY}, ["y"])
    assert run(part, a=X) == {"y": [[1], [-2], [3]]}


def test_a_part_leaves_the_model_alone():
    model = model_of(CHAIN)
    submodel.sub_model(model, list(model.graph)[1:], {"a": ANY}, ["y"])
    assert run(model, x=X) == {"y": [[1, 0, 3]]}


def test_changing_a_constant_of_a_part_leaves_the_model_alone():
    model = model_of("(float[1,3] x) => (float[1,3] y) { a = Relu(x) y = Add(a, k) }", k=X)
    part = submodel.sub_model(model, [node(model, "Add")], {"a": ANY}, ["y"])
    graph.set_initializer(part.graph.initializers["k"], 0 * X)
    assert run(model, x=0 * X) == {"y": X.tolist()}


@pytest.mark.parametrize(("c", "expected"), [(True, [[2, -4, 6]]), (False, [[0, 0, 0]])])
def test_what_only_a_subgraph_reads_comes_along_with_a_part(c, expected):
    model = branching()
    condition = ir.TypeAndShape(ir.TensorType(ir.DataType.BOOL), ir.Shape([]))
    part = submodel.sub_model(model, [node(model, "If")], {"a": ANY, "c": condition}, ["y"])
    assert run(part, a=X, c=np.array(c)) == {"y": expected}


def test_types_are_written_where_they_lack():
    model = model_of(CHAIN)
    graph.annotate(model, {"a": ir.TypeAndShape(FLOAT, ir.Shape([1, 3]))})
    assert (value(model, "a").type, value(model, "a").shape, value(model, "b").type) == (FLOAT, ir.Shape([1, 3]), None)


def test_types_of_inputs_and_outputs_stay():
    model = model_of("(float[n,3] x) => (float[m,3] y) { y = Relu(x) }")
    graph.annotate(model, {n: ir.TypeAndShape(FLOAT, ir.Shape([1, 3])) for n in "xy"})
    assert [v.shape for v in (value(model, "x"), value(model, "y"))] == [ir.Shape(["n", 3]), ir.Shape(["m", 3])]


# ---- constants of a node ---------------------------------------------------------------------------------------------


def test_an_own_constant_keeps_its_name():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = Add(x, k) }", k=X)
    graph.set_own_constant(node(model, "Add"), 1, -X, graph.Names(model))
    assert (run(model, x=X), list(model.graph.initializers)) == ({"y": [[0, 0, 0]]}, ["k"])


def test_a_shared_constant_stays_for_the_others():
    model = model_of("(float[1,3] x) => (float[1,3] y, float[1,3] z) { y = Add(x, k) z = Mul(x, k) }", k=X)
    graph.set_own_constant(node(model, "Add"), 1, -X, graph.Names(model))
    assert run(model, x=X) == {"y": [[0, 0, 0]], "z": [[1, 4, 9]]}


def test_a_constant_of_another_shape_is_a_new_one():
    model = model_of("(float[1,3] x) => (float[1,3] y) { y = Add(x, k) }", k=X)
    graph.set_own_constant(node(model, "Add"), 1, weight(3), graph.Names(model))
    assert node(model, "Add").inputs[1].shape == ir.Shape([3])
