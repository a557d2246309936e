"""The planner: every node has one fate, and every fate but the first has a reason."""

from __future__ import annotations

import models
import numpy as np
import pytest
from conversion import FORMATS, planned, units
from hypothesis import HealthCheck, given, settings
from models import weight
from strategies import graphs

from quantcli.errors import UnsupportedError, UsageError
from quantcli.quant import PerAxis, PerTensor

PLANS = {
    "full-integer": ("full-integer",),
    "int8-only": ("int8-only",),
    "int8-only-float-allowed": ("int8-only", "fallback=float"),
    "int8-only-as-qdq": ("int8-only", "format=qdq"),
}
CONV = "(float[1,3,8,8] x) => (float y) { "
often = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def fates(plan):
    """The names of the nodes, once for each fate that they have."""
    inside = [n for u in plan.units for n in (u.node, *u.absorbed, *u.members[:-1])]
    return [*inside, *plan.skipped, *plan.untouched]


@pytest.mark.parametrize("arguments", PLANS.values(), ids=PLANS)
@given(model=graphs())
@often
def test_every_node_has_exactly_one_fate(arguments, model):
    assert sorted(fates(planned(model, *arguments))) == sorted(n.name for n in model.graph.node)


@pytest.mark.parametrize("arguments", PLANS.values(), ids=PLANS)
@given(model=graphs())
@often
def test_whatever_stays_float_has_a_reason(arguments, model):
    assert all(planned(model, *arguments).skipped.values())


@pytest.mark.parametrize("arguments", PLANS.values(), ids=PLANS)
@given(model=graphs())
@often
def test_every_tensor_of_a_unit_and_of_an_integer_boundary_has_a_spec(arguments, model):
    plan = planned(model, *arguments)
    read = {t for u in plan.units for _, t in u.inputs}
    made = {t for u in plan.units if not u.float_result for t in (u.outputs or (u.output,)) if t}
    boundary = {v.name for v in (*model.graph.input, *model.graph.output)} if arguments[0] == "int8-only" else set()
    assert plan.activations.keys() == read | made | boundary


@pytest.mark.parametrize("arguments", PLANS.values(), ids=PLANS)
@given(model=graphs())
@often
def test_groups_do_not_overlap_and_hold_planned_tensors_only(arguments, model):
    plan = planned(model, *arguments)
    grouped = [t for g in plan.groups for t in g]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) | plan.fixed.keys() <= plan.activations.keys()


@pytest.mark.parametrize("arguments", PLANS.values(), ids=PLANS)
@given(model=graphs())
@often
def test_a_table_is_of_operators_that_end_in_the_one_that_it_is_named_after(arguments, model):
    tables = [u for u in planned(model, *arguments).units if u.lowering == "table"]
    assert all(u.members[-1:] == (u.node,) for u in tables)


@given(model=graphs(most=6))
@settings(max_examples=15, deadline=None, suppress_health_check=[*HealthCheck])
def test_the_ledger_of_a_conversion_has_every_node_of_the_user_once(bench, model):
    model.graph.node.sort(key=lambda n: int(n.name[1:]))
    converted = bench.convert(model, "full-integer", feeds=positive(model))
    assert sorted(converted.ledger) == sorted(n.name for n in model.graph.node)
    assert sum(converted.result.report["coverage"].values()) == len(model.graph.node)


def positive(model):
    """Feeds that no quotient of a few operators turns into something that is not finite."""
    return models.samples(
        model, 3, ranges={n: models.Fed(f.shape, 0.5, 1.5) for n, f in models.graph_inputs(model).items()}
    )


# ---- what stays float, and why ---------------------------------------------------------------------------------------


def test_an_operator_without_a_linear_neighbour_stays_float():
    plan = planned(models.text("(float[1,4] x, float[1,4] z) => (float[1,4] y) { [a] y = Add(x, z) }"), "full-integer")
    assert "no integer operator beside it" in plan.skipped["a"]


def test_arithmetic_behind_the_last_product_stays_float():
    model = models.text(
        "(float[1,4] x) => (float[1,4] y) { [m] a = MatMul(x, w) [n] b = MatMul(x, w) [s] y = Add(a, b) }",
        w=weight(4, 4),
    )
    plan = planned(model, "full-integer")
    assert "nothing after it multiplies matrices" in plan.skipped["s"]
    assert units(plan).keys() == {"m", "n"}


def test_arithmetic_between_products_is_integer():
    model = models.text(
        "(float[1,4] x) => (float[1,4] y) { a = MatMul(x, w) b = MatMul(x, w) [s] c = Add(a, b) y = MatMul(c, w) }",
        w=weight(4, 4),
    )
    assert "s" in units(planned(model, "full-integer"))


def test_data_movement_behind_the_last_product_is_integer():
    model = models.text(
        "(float[2,4] x) => (float[4,2] y) { [m] a = MatMul(x, w) [t] y = Transpose(a) }", w=weight(4, 4)
    )
    assert units(planned(model, "full-integer")).keys() == {"m", "t"}


def test_data_movement_into_a_product_is_integer():
    model = models.text(
        "(float[4,2] x) => (float[2,4] y) { [t] a = Transpose(x) [m] y = MatMul(a, w) }", w=weight(4, 4)
    )
    assert units(planned(model, "full-integer")).keys() == {"t", "m"}


def test_data_movement_that_someone_else_reads_too_is_not_worth_it():
    model = models.text(
        "(float[4,2] x) => (float[2,4] y, float[2,4] z) { [t] a = Transpose(x) [m] y = MatMul(a, w) z = Relu(a) }",
        w=weight(4, 4),
    )
    assert "no integer operator beside it" in planned(model, "full-integer").skipped["t"]


def test_a_max_pool_is_integer_beside_a_conv():
    body = "[c] a = Conv(x, w) [p] b = MaxPool<kernel_shape=[2, 2]>(a) [d] y = Conv(b, v) }"
    model = models.text(CONV + body, w=weight(4, 3, 3, 3), v=weight(4, 4, 1, 1))
    assert "p" in units(planned(model, "full-integer"))


def test_a_max_pool_away_from_convs_stays_float():
    body = "[c] a = MatMul(x, w) [p] b = MaxPool<kernel_shape=[2, 2]>(a) [d] y = Conv(b, v) }"
    model = models.text(CONV + body, w=weight(8, 8), v=weight(4, 3, 1, 1))
    assert "outside a channels-last region" in planned(model, "full-integer").skipped["p"]


def test_an_operator_of_another_domain_stays_float():
    model = models.text(
        "(float[1,4] x) => (float[1,4] y) { [f] y = com.microsoft.QuickGelu(x) }", domains=["com.microsoft"]
    )
    assert "com.microsoft:QuickGelu has no rule" in planned(model).skipped["f"]


def test_an_unknown_operator_stays_float():
    model = models.text('(float[1,2,4] x) => (float[1,2,4] y) { [e] y = Einsum<equation = "abc->abc">(x) }')
    assert "Einsum has no rule in the op table" in planned(model).skipped["e"]


def test_control_flow_stays_float():
    branches = (
        "then_branch = t () => (float[1,4] a) { a = Relu(x) }, else_branch = e () => (float[1,4] b) { b = Neg(x) }"
    )
    model = models.text(f"(float[1,4] x, bool c) => (float[1,4] y) {{ [i] y = If(c) <{branches}> }}")
    assert "control flow" in planned(model).skipped["i"]


@pytest.mark.parametrize("mode", ["int8-only", "full-integer"])
def test_operators_on_integers_of_the_user_are_untouched(mode):
    model = models.text("(int64[4] i, int64[4] j) => (int64[4] y) { [a] s = Add(i, j) [m] y = Mul(s, i) }")
    plan = planned(model, mode)
    assert plan.untouched == {"a", "m"}
    assert not plan.skipped


def test_reading_a_shape_asks_for_no_integers_where_float_is_allowed():
    model = models.text(
        "(float[2,3,4] x) => (float y) { [s] k = Shape(x) [r] a = Reshape(x, k) [m] y = MatMul(a, w) }", w=weight(4, 4)
    )
    assert planned(model, "full-integer").untouched == {"s"}


def test_half_precision_is_not_float32():
    model = models.text("(float16[1,4] x) => (float16[1,4] y) { [r] y = Relu(x) }")
    assert planned(model).skipped.keys() == {"r"}


# ---- what the user asks for ------------------------------------------------------------------------------------------


def three_products():
    model = models.text(
        "(float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) b = MatMul(a, v) y = MatMul(b, u) }",
        w=weight(4, 4), v=weight(4, 4, seed=1), u=weight(4, 4, seed=2),
    )  # fmt: skip
    for node, name in zip(model.graph.node, ("/a/first", "/a/second", "/c/third"), strict=True):
        node.name = name
    return model


@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("/a/second", {"/a/second"}),
        ("/a/*", {"/a/first", "/a/second"}),
        ("re:ir[sd]", {"/a/first", "/c/third"}),
        ("op:MatMul", {"/a/first", "/a/second", "/c/third"}),
        ("tensor:b", {"/a/second"}),
        ("tensor:x", {"/a/first"}),
    ],
)
@pytest.mark.parametrize("output_format", FORMATS)
def test_a_pattern_keeps_its_nodes_float(bench, pattern, kept, output_format):
    converted = bench.as_format(three_products(), output_format, keep_float=(pattern,))
    assert converted.floats() == dict.fromkeys(kept, "kept float as asked")


@pytest.mark.parametrize("pattern", ["nope", "op:Nope", "re:nope", "tensor:nope", "re:("])
def test_a_pattern_that_matches_nothing_is_an_error(bench, pattern):
    with pytest.raises(UsageError, match=r"matches nothing|no regular expression"):
        bench.convert(three_products(), keep_float=(pattern,))


def test_a_near_miss_is_suggested(bench):
    with pytest.raises(UsageError, match="did you mean '/a/second'"):
        bench.convert(three_products(), keep_float=("/a/secnd",))


def test_what_a_kept_operator_would_have_absorbed_is_planned_alone():
    body = "[c] a = Conv(x, w) [r] y = Relu(a) }"
    plan = planned(models.text(CONV + body, w=weight(4, 3, 3, 3)), kept={"c": "asked"})
    assert plan.skipped == {"c": "asked"}
    assert units(plan).keys() == {"r"}


def test_a_kept_bias_is_not_absorbed():
    model = models.text(
        "(float[2,4] x) => (float[2,4] y) { [m] a = MatMul(x, w) [s] y = Add(a, b) }", w=weight(4, 4), b=weight(4)
    )
    plan = planned(model, kept={"s": "asked"})
    assert plan.skipped == {"s": "asked"}
    assert units(plan)["m"].output == "a"


def test_a_refusal_lists_every_reason(bench):
    model = models.text(
        "(float[2,4] x) => (float y) { [l] a = LogSoftmax(x) [s] y = ReduceSum(a, i) }", i=models.ints(0)
    )
    with pytest.raises(UnsupportedError) as error:
        bench.convert(model)
    assert len(error.value.reasons) == 2
    assert all(any(name in r for r in error.value.reasons) for name in ("'l'", "'s'"))


# ---- specs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "shape", "axis"),
    [
        ("[n] y = Conv(x, w)", (4, 3, 3, 3), 0),
        ("a = Flatten(x) [n] y = Gemm(a, w)", (192, 5), 1),
        ("a = Flatten(x) [n] y = Gemm<transB = 1>(a, w)", (5, 192), 0),
        ("[n] y = MatMul(x, w)", (8, 5), 1),
    ],
)
def test_weights_are_quantized_along_their_output_channels(body, shape, axis):
    model = models.text(f"{CONV} {body} }}", w=weight(*shape))
    assert planned(model).weights["n"].granularity == PerAxis(axis)
    per_tensor = planned(model, "int8-only", "scheme.weights.granularity=per-tensor")
    assert per_tensor.weights["n"].granularity == PerTensor()


def test_weights_are_symmetric_int8_and_activations_asymmetric_uint8():
    plan = planned(models.text(f"{CONV} [n] y = Conv(x, w) }}", w=weight(4, 3, 3, 3)))
    spec = plan.weights["n"]
    assert (spec.dtype.name, spec.symmetric, spec.qmin) == ("int8", True, -127)
    assert {(s.dtype.name, s.symmetric) for s in plan.activations.values()} == {("uint8", False)}


def test_a_tensor_that_was_never_seen_leaves_its_operators_float(bench):
    model = models.text(
        "(float[2,4] x) => (float[2,4] y) { [m] a = MatMul(x, w) [l] b = Log(a) [n] y = MatMul(b, w) }",
        w=np.eye(4, dtype=np.float32),
    )
    feeds = models.samples(model, ranges={"x": models.Fed((2, 4), -2, -1)})  # every logarithm is NaN
    converted = bench.convert(model, "full-integer", feeds=feeds)
    assert "never calibrated" in converted.floats()["n"]


def test_the_gates_of_a_spelled_out_recurrent_cell_stay_float():
    model = models.text(
        "(float[1,8] x, float[1,8] h) => (float[1,8] y) {"
        " [m] a = MatMul(x, w) [n] b = MatMul(h, w) [s] c = Add(a, b) [p] i, g = Split<axis = 1, num_outputs = 2>(c)"
        " [q] u = Sigmoid(i) [t] v = Tanh(g) [k] z = Mul(u, v) [o] y = MatMul(z, e) }",
        w=weight(8, 16), e=weight(8, 8),
    )  # fmt: skip
    found = units(planned(model, "full-integer"))
    assert found.keys() == {"m", "n", "o"}
    assert found["m"].float_result
    assert found["n"].float_result


def test_data_movement_between_integer_operators_stays_integer():
    model = models.text(
        "(float[1,8] x) => (float[1,8] y) { [m] a = MatMul(x, w) [p] i, g = Split<axis = 1, num_outputs = 2>(a)"
        " [n] b = MatMul(i, e) [o] c = MatMul(g, e) y = Tanh(b) z = Tanh(c) }",
        w=weight(8, 16), e=weight(8, 8),
    )  # fmt: skip
    assert units(planned(model, "full-integer")).keys() >= {"m", "p", "n", "o"}


@pytest.mark.parametrize("arguments", PLANS.values(), ids=PLANS)
def test_what_an_operator_that_stays_float_had_absorbed_has_one_fate(arguments):
    """Found by a random graph: a Relu behind a Div of two activations."""
    source = """(float[1,4,4,4] a, float[1,4,4,4] b) => (float[1,4,4,4] y) {
      [n0] q = Div(a, b) [n1] c = Conv<kernel_shape = [1, 1]>(a, w) [n2] y = Relu(q) }"""
    model = models.text(source, w=models.weight(4, 4, 1, 1))
    assert sorted(fates(planned(model, *arguments))) == ["n0", "n1", "n2"]
