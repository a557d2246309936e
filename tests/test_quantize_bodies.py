"""Bodies of If, Loop and Scan are converted like models of their own, on the samples that reach them."""

from __future__ import annotations

import conversion
import flow
import models
import numpy as np
import pytest
from onnx import checker, helper, numpy_helper

from quantcli import metrics
from quantcli.errors import UnsupportedError, UsageError

LEAST = {"full-integer": 22.0, "dynamic-range": 25.0, "weight-only-int8": 30.0, "float16": 50.0, "none": 90.0}
every_flow = pytest.mark.parametrize("kind", flow.MODELS)


@every_flow
@pytest.mark.parametrize("mode", LEAST)
def test_every_mode_computes_what_float_computes(bench, kind, mode):
    model = flow.MODELS[kind]()
    made = bench.convert(model, mode, feeds=flow.both_ways(model))
    checker.check_model(made.model)
    expected = conversion.run(model, made.feeds[0])
    assert {n: x.shape for n, x in made.run(made.feeds[0]).items()} == {n: x.shape for n, x in expected.items()}
    for feed in made.feeds:
        reference = conversion.run(model, feed)
        for optimize in (False, True):
            found = made.run(feed, optimize=optimize)
            assert min(metrics.sqnr_db(reference[n], found[n]) for n in reference) > LEAST[mode]


@every_flow
@pytest.mark.parametrize("mode", ["full-integer", "dynamic-range", "weight-only-int8"])
def test_the_file_shrinks(bench, kind, mode):
    model = flow.MODELS[kind]()
    made = bench.convert(model, mode, feeds=flow.both_ways(model))
    assert made.result.report["sizes"]["ratio"] < 0.45


@every_flow
def test_operators_of_bodies_are_integer_and_listed_by_name(bench, kind):
    model = flow.MODELS[kind]()
    made = bench.convert(model, "full-integer", feeds=flow.both_ways(model))
    products = [e for e in made.ledger.values() if e.op_type == "MatMul"]
    assert len(products) == (4 if kind == "If" else 2)
    assert {e.fate for e in products} == {"integer"}
    assert made.ledger["flow"].fate == "untouched"
    assert "bodies" in made.ledger["flow"].reason
    assert made.result.report["coverage"]["integer"] >= len(products)


@every_flow
def test_tensors_of_bodies_have_encodings(bench, kind):
    model = flow.MODELS[kind]()
    made = bench.convert(model, "full-integer", feeds=flow.both_ways(model))
    assert {"w1a", "w1b"} <= made.grids.keys()
    stored = {t.name: t for body in flow.inner(made.model).values() for t in body.initializer}
    kinds = {n: numpy_helper.to_array(t).dtype for n, t in stored.items() if numpy_helper.to_array(t).size > 999}
    assert set(kinds.values()) == {np.dtype(np.int8)}


@pytest.mark.parametrize("mode", ["full-integer", "16x8"])
def test_a_branch_that_no_sample_takes_stays_float_but_its_weights_do_not(bench, mode):
    model = flow.branches()
    feeds = [{**feed, "c": np.asarray(1, np.bool_)} for feed in models.samples(model, count=4)]
    options = () if mode == "full-integer" else ("fallback=float",)
    made = bench.convert(model, mode, *options, feeds=feeds)
    fates = {name: e.fate for name, e in made.ledger.items() if e.op_type == "MatMul"}
    assert fates["p_first"] == fates["p_second"] == "integer"
    assert {fates["q_first"], fates["q_second"]} <= {"stored", "integer"}
    assert any("never taken" in w for w in made.result.report["warnings"])
    assert made.result.report["sizes"]["ratio"] < 0.45
    other = {**feeds[0], "c": np.asarray(0, np.bool_)}
    expected = conversion.run(model, other)["y"]
    assert metrics.sqnr_db(expected, made.run(other)["y"]) > 25


def test_a_weight_that_both_branches_read_is_stored_once(bench):
    model = flow.branches(outer=True)
    made = bench.convert(model, "dynamic-range", feeds=flow.both_ways(model))
    large = [t.name for g in (made.model.graph, *flow.inner(made.model).values()) for t in g.initializer
             if numpy_helper.to_array(t).size == flow.WIDTH**2]  # fmt: skip
    assert len(large) == 2  # w1a and w1b, which both networks have
    assert made.result.report["sizes"]["ratio"] < 0.4


def test_a_weight_that_a_body_and_the_main_graph_read_is_right_for_both(bench):
    nodes, constants = flow.dense("x", "p", 1, inside=("w1a",))
    yes = helper.make_graph(nodes, "yes", [], [flow.value("p")], constants)
    no = helper.make_graph([helper.make_node("Neg", ["x"], ["q"])], "no", [], [flow.value("q")])
    made = [
        helper.make_node("MatMul", ["x", "w1a"], ["early"], name="early"),
        helper.make_node("If", ["c"], ["late"], name="flow", then_branch=yes, else_branch=no),
        helper.make_node("Add", ["early", "late"], ["y"], name="sum"),
    ]
    inputs = {"c": models.Fed((), 0, 1, "bool"), "x": models.Fed((flow.ROWS, flow.WIDTH))}
    model = models.graph(made, inputs, ["y"], {"w1a": models.weight(flow.WIDTH, flow.WIDTH, seed=1, spread=0.1)})
    for mode in ("full-integer", "dynamic-range", "weight-only-int8"):
        converted = bench.convert(model, mode, feeds=flow.both_ways(model))
        assert "w1a" in {n.rpartition("/")[2] for n in converted.grids}
        for feed in converted.feeds:
            expected = conversion.run(model, feed)["y"]
            assert metrics.sqnr_db(expected, converted.run(feed)["y"]) > 25, mode


def test_a_body_inside_a_body_is_converted_too(bench):
    inside = flow.branches()
    branch = helper.make_graph(list(inside.graph.node), "outer_yes", [], [flow.value("y")])
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["a"])], "outer_no", [], [flow.value("a")])
    node = helper.make_node("If", ["d"], ["out"], name="around", then_branch=branch, else_branch=other)
    inputs = {n: models.Fed((), 0, 1, "bool") for n in "cd"} | {"x": models.Fed((flow.ROWS, flow.WIDTH))}
    model = models.graph([node], inputs, ["out"], {})
    feeds = [{**f, "c": np.asarray(i % 2 == 0), "d": np.asarray(i < 6)} for i, f in enumerate(models.samples(model, 8))]
    made = bench.convert(model, "full-integer", feeds=feeds)
    assert {e.fate for e in made.ledger.values() if e.op_type == "MatMul"} == {"integer"}
    for feed in feeds:
        expected = conversion.run(model, feed)["out"]
        assert metrics.sqnr_db(expected, made.run(feed)["out"]) > 25


def test_bodies_with_the_same_names_are_told_apart(bench):
    model = flow.branches()
    for attribute in model.graph.node[0].attribute:
        for node in attribute.g.node:
            node.name = node.name.replace("q_", "p_")
            node.input[:] = [n.replace("q", "p") for n in node.input]
            node.output[:] = [n.replace("q", "p") for n in node.output]
        attribute.g.output[0].name = "p"
        for index, tensor in enumerate(attribute.g.initializer):
            was, tensor.name = tensor.name, f"w{index}"
            for node in attribute.g.node:
                node.input[:] = [tensor.name if n == was else n for n in node.input]
    made = bench.convert(model, "full-integer", feeds=flow.both_ways(model))
    assert len([e for e in made.ledger.values() if e.op_type == "MatMul" and e.fate == "integer"]) == 4
    for feed in made.feeds:
        expected = conversion.run(model, feed)["y"]
        assert metrics.sqnr_db(expected, made.run(feed)["y"]) > 25


@pytest.mark.parametrize("pattern", ["p_first", "tensor:p_h", "re:p_f"])
def test_an_operator_of_a_body_may_be_kept_float(bench, pattern):
    model = flow.branches()
    made = bench.convert(model, "full-integer", feeds=flow.both_ways(model), keep_float=(pattern,))
    assert made.ledger["p_first"].fate == "float"
    assert made.ledger["q_first"].fate == "integer"


def test_control_flow_that_is_kept_float_is_left_alone(bench):
    model = flow.loop()
    made = bench.convert(model, "full-integer", feeds=models.samples(model), keep_float=("flow",))
    assert made.ledger["z_first"].fate == "float"
    assert made.ledger["z_first"].reason == "kept float as asked"
    assert made.result.report["sizes"]["ratio"] > 0.9


def test_a_pattern_that_no_body_knows_is_an_error(bench):
    model = flow.loop()
    with pytest.raises(UsageError, match="matches nothing"):
        bench.convert(model, "full-integer", feeds=models.samples(model), keep_float=("nowhere",))


def test_where_no_float_is_allowed_control_flow_is_refused(bench):
    model = flow.loop()
    with pytest.raises(UnsupportedError) as refusal:
        bench.convert(model, "int8-only", feeds=models.samples(model))
    assert any("control flow passes float tensors between graphs" in r for r in refusal.value.reasons)


def test_a_loop_that_never_turns_is_not_calibrated(bench):
    model = flow.loop(turns=0)
    made = bench.convert(model, "full-integer", feeds=models.samples(model))
    assert made.ledger["z_first"].fate in {"stored", "integer"}
    assert any("never taken" in w for w in made.result.report["warnings"])
    expected = conversion.run(model, made.feeds[0])
    np.testing.assert_array_equal(made.run(made.feeds[0])["y"], expected["y"])


def test_the_same_samples_in_another_order_give_the_same_bytes(bench):
    model = flow.branches()
    feeds = flow.both_ways(model)
    one = bench.convert(model, "full-integer", feeds=feeds).model.SerializeToString()
    assert bench.convert(model, "full-integer", feeds=feeds[::-1]).model.SerializeToString() == one


def test_a_constant_that_is_float_around_a_body_is_encoded_under_the_bodys_name(bench):
    nodes, constants = flow.dense("x", "p", 1, inside=("w1a",))
    yes = helper.make_graph(nodes, "yes", [], [flow.value("p", shape=(flow.ROWS, flow.WIDTH))], constants)
    no = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["q"])], "no", [], [flow.value("q", shape=(flow.ROWS, flow.WIDTH))]
    )
    made = [helper.make_node("If", ["c"], ["y"], name="flow", then_branch=yes, else_branch=no)]
    inputs = {"c": models.Fed((), 0, 1, "bool"), "x": models.Fed((flow.ROWS, flow.WIDTH))}
    model = models.graph(made, inputs, ["y"], {"w1a": models.weight(flow.WIDTH, flow.WIDTH, seed=1, spread=0.1)})
    model.graph.output.append(flow.value("w1a", shape=(flow.WIDTH, flow.WIDTH)))
    converted = bench.convert(model, "full-integer", feeds=flow.both_ways(model))
    assert "w1a" not in converted.grids
    assert "flow.then_branch/w1a" in converted.grids
    feed = converted.feeds[0]
    np.testing.assert_array_equal(converted.run(feed)["w1a"], conversion.run(model, feed)["w1a"])


def test_operators_of_bodies_with_nothing_to_gain_are_listed_too(bench):
    bodies = [
        helper.make_graph([helper.make_node(op, ["x"], [op], name=op)], op, [], [flow.value(op, shape=(4, 64))])
        for op in ("Neg", "Abs")
    ]
    made = [helper.make_node("If", ["c"], ["y"], name="flow", then_branch=bodies[0], else_branch=bodies[1])]
    inputs = {"c": models.Fed((), 0, 1, "bool"), "x": models.Fed((4, 64))}
    model = models.graph(made, inputs, ["y"], {})
    for mode in ("full-integer", "dynamic-range"):
        ledger = bench.convert(model, mode, feeds=flow.both_ways(model)).ledger
        assert {ledger[n].fate for n in ("Neg", "Abs")} == {"float"}
        assert all(ledger[n].reason for n in ("Neg", "Abs"))
