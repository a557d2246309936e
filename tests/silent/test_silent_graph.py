"""Names, bodies, unknown operators, outputs and free dimensions."""

from __future__ import annotations

import contextlib

import models
import numpy as np
import pytest
from conversion import run
from laws import (
    ALSO,
    IMAGE,
    LEAST_DB,
    ROWS,
    STATIC_DB,
    TALL,
    as_form,
    error,
    in_all_forms,
    in_both_formats,
    in_every_form,
    in_integer_forms,
    in_storing_forms,
    in_wide_forms,
    large,
    loads_and_is_faithful,
    sqnr_db,
)
from models import weight
from onnx import helper

from quantcli import metrics
from quantcli.errors import ModelError, UnsupportedError


@in_both_formats
def test_s06_new_names_take_no_name_of_the_user(bench, output_format):
    taken = ["b0", "b_quantized", "x_quantized", "x_scale", "w_quantized", "y_quantized", "x_QuantizeLinear"]
    body = "".join(f"{new} = Conv(x, w, b) " if i == 0 else f"{new} = Conv({old}, v, b) "
                   for i, (old, new) in enumerate(zip(["x", *taken], [*taken, "y"], strict=True)))  # fmt: skip
    model = models.text(IMAGE + f"{{ {body} }}", w=weight(3, 3, 1, 1), v=weight(3, 3, 1, 1, seed=1), b=weight(3))
    converted = bench.as_format(model, output_format)
    values = [o for n in converted.model.graph.node for o in n.output] + list(converted.constants)
    assert len(values) == len(set(values))
    loads_and_is_faithful(converted, 20)


BRANCHES = (
    "then_branch = t () => (float[6,6] p) { p = MatMul(m, w) }, else_branch = e () => (float[6,6] q) { q = Add(m, w) }"
)


def branching():
    source = f"(float[6,6] x, bool c) => (float y) {{ m = MatMul(x, w) y = If(c) <{BRANCHES}> }}"
    model = models.text(source, w=weight(6, 6))
    return model, [{**feed, "c": np.asarray(i % 2 == 0)} for i, feed in enumerate(models.samples(model))]


@in_both_formats
def test_s08_a_constant_that_a_branch_reads_stays_for_it(bench, output_format):
    model, feeds = branching()
    converted = bench.as_format(model, output_format, feeds=feeds)
    for feed in feeds[:2]:
        assert error(converted, feed)["y"] < 0.05 * np.ptp(run(model, feed)["y"])


def test_s09_control_flow_is_in_the_coverage_with_its_reason(bench):
    model, feeds = branching()
    converted = bench.convert(model, "full-integer", feeds=feeds)
    assert converted.fates("MatMul") == {"integer"}
    assert all(e.reason for e in converted.ledger.values() if e.fate != "integer")
    with pytest.raises(UnsupportedError, match="1 of 2 operators"):
        bench.convert(model, feeds=feeds)


@in_both_formats
@pytest.mark.parametrize("names", [["", "", "", ""], ["n", "n", "n", "n"], ["n", "n_1", "n", ""]], ids=str)
def test_s21_names_are_unique_whatever_they_were(bench, output_format, names):
    body = "{ a = MatMul(x, w) b = MatMul(a, w) c = MatMul(a, w) y = Add(b, c) }"
    model = models.text(ROWS + body, w=weight(6, 6))
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    converted = bench.as_format(model, output_format)
    written = [n.name for n in converted.model.graph.node]
    assert all(written)
    assert len(written) == len(set(written))
    assert len(converted.ledger) == 4
    loads_and_is_faithful(converted, 20)


@in_both_formats
def test_s24_every_output_is_there_also_one_that_is_read_inside(bench, output_format):
    model = models.text(
        "(float[1,3,5,5] x) => (float a, float y, float a2) { a = Conv(x, w) y = Conv(a, v) a2 = Identity(a) }",
        w=weight(3, 3, 1, 1), v=weight(3, 3, 1, 1, seed=1),
    )  # fmt: skip
    converted = bench.as_format(model, output_format)
    assert [o.name for o in converted.model.graph.output] == ["a", "y", "a2"]
    assert converted.grids.keys() >= {"a", "y"}
    loads_and_is_faithful(converted)


@in_both_formats
def test_s24_an_output_declared_with_another_rank_is_converted_or_refused(bench, output_format):
    source = "(float[1,3,5,5] x) => (float a, float y) { a = Conv(x, w) y = Conv(a, v) }"
    model = models.text(source, w=weight(3, 3, 1, 1), v=weight(3, 3, 1, 1, seed=1))
    del model.graph.output[0].type.tensor_type.shape.dim[:]  # a scalar, it says; onnxruntime loads it with a warning
    with contextlib.suppress(ModelError):
        assert sqnr_db(bench.as_format(model, output_format)) > 25


@in_both_formats
def test_s44_free_dimensions_stay_free(bench, output_format):
    model = models.text(
        "(float[N,T,6] x) => (float[N,T,6] y) { a = MatMul(x, w) s = Add(a, b) r = Relu(s) y = MatMul(r, w) }",
        w=weight(6, 6), b=weight(6),
    )  # fmt: skip
    feeds = [f for n, t in ((1, 7), (2, 3), (1, 1)) for f in models.samples(model, 3, N=n, T=t)]
    converted = bench.as_format(model, output_format, feeds=feeds)
    for values in (converted.model.graph.input, converted.model.graph.output):
        assert [d.dim_param or d.dim_value for d in values[0].type.tensor_type.shape.dim] == ["N", "T", 6]
    for feed in models.samples(model, 1, seed=5, N=3, T=11) + models.samples(model, 1, seed=6, N=1, T=2):
        assert converted.run(feed)["y"].shape == feed["x"].shape


@in_every_form
def test_s06_new_names_take_no_name_of_the_user_in_any_mode(bench, form):
    taken = ["q1", "q2", "q3", "h0", "h1", "c0", "w_scale", "w_quantized", "x_float16", "y_float16", "x_quantized"]
    body = "".join(f"[{new}] {new} = MatMul({old}, w) " for old, new in zip(["x", *taken], [*taken, "y"], strict=True))
    made = as_form(bench, models.text(TALL + f"{{ {body} }}", w=large()), form, least=5)
    values = [o for n in made.model.graph.node for o in n.output] + list(made.constants)
    assert len(values) == len(set(values))


@in_storing_forms
def test_s06_new_names_take_no_name_of_a_body(bench, form):
    bodies = (
        "then_branch = t () => (float[40,96] p) { q1 = Relu(m) q2 = MatMul(q1, w) h0 = Neg(q2) c0 = Neg(h0)"
        " q3 = Identity(c0) p = MatMul(q3, v) }, else_branch = e () => (float[40,96] q) { q = Add(m, m) }"
    )
    model = models.text(
        f"(float[40,96] x, bool c) => (float y) {{ m = MatMul(x, w) y = If(c) <{bodies}> }}", w=large(), v=large(1)
    )
    feeds = [{**f, "c": np.asarray(i % 2 == 0)} for i, f in enumerate(models.samples(model))]
    as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 6)


@in_storing_forms
@pytest.mark.parametrize("outer", ["MatMul(x, w)", "Add(x, w)", "Gemm<transB = 1>(x, w)"])
def test_s08_a_weight_that_a_branch_reads_too_is_right_for_both(bench, form, outer):
    bodies = (
        "then_branch = t () => (float[96,96] p) { p = MatMul(m, w) }, "
        "else_branch = e () => (float[96,96] q) { q = Add(m, w) }"
    )
    model = models.text(
        f"(float[96,96] x, bool c) => (float y) {{ m = {outer} k = MatMul(x, v) n = If(c) <{bodies}> y = Add(n, k) }}",
        w=large(), v=large(1),
    )  # fmt: skip
    feeds = [{**f, "c": np.asarray(i % 2 == 0)} for i, f in enumerate(models.samples(model))]
    as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 6)


@in_storing_forms
def test_s09_a_loop_and_a_branch_inside_it_are_right(bench, form):
    branch = (
        "If(odd) <then_branch = t () => (float[40,96] p) { p = MatMul(h, w) }, "
        "else_branch = e () => (float[40,96] q) <float[1] own = {0.5}> { q = Mul(h, own) }>"
    )
    body = (
        f"body = b (int64 i, bool going, float[40,96] h) => (bool on, float[40,96] k) "
        f"{{ on = Identity(going) two = Mod(i, n) odd = Cast<to = 9>(two) k = {branch} }}"
    )
    model = models.text(
        f"(float[40,96] x) => (float[40,96] y) {{ s = MatMul(x, v) y = Loop(n, yes, s) <{body}> }}",
        n=np.asarray(2), yes=np.ones((), bool), w=large(), v=large(1),
    )  # fmt: skip
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    assert len(made.ledger) >= len(made.float_model.graph.node)
    assert all(e.reason for e in made.ledger.values() if e.fate == "float")


@in_every_form
@pytest.mark.parametrize("names", [["", "", ""], ["n_1", "n", ""]], ids=str)
def test_s21_no_two_operators_have_one_name_in_any_mode(bench, form, names):
    model = models.text(TALL + "{ a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }", w=large(), v=large(1))
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    written = [n.name for n in made.model.graph.node if n.name]
    assert len(written) == len(set(written))
    assert len(made.ledger) == 3


@in_every_form
def test_s24_every_output_is_there_in_any_mode(bench, form):
    model = models.text(
        "(float[40,96] x) => (float a, float y, float b, float z)"
        " { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) z = Identity(y) }", w=large(), v=large(1),
    )  # fmt: skip
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    assert [o.name for o in made.model.graph.output] == ["a", "y", "b", "z"]


@in_storing_forms
def test_s24_a_weight_that_is_an_output_is_given_as_it_is(bench, form):
    model = models.text("(float[40,96] x) => (float[96,96] w, float y) { a = MatMul(x, w) y = MatMul(a, v) }",
                        w=large(), v=large(1))  # fmt: skip
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    np.testing.assert_array_equal(made.run(made.feeds[0])["w"], large())


@in_storing_forms
def test_s44_free_dimensions_stay_free_in_any_mode(bench, form):
    model = models.text(
        "(float[N,T,96] x) => (float[N,T,96] y) { a = MatMul(x, w) s = Add(a, b) r = Relu(s) y = MatMul(r, v) }",
        w=large(), v=large(1), b=weight(96),
    )  # fmt: skip
    feeds = [f for n, t in ((1, 7), (2, 3), (1, 1)) for f in models.samples(model, 2, N=n, T=t)]
    made = as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 6)
    for values in (made.model.graph.input, made.model.graph.output):
        assert [d.dim_param or d.dim_value for d in values[0].type.tensor_type.shape.dim] == ["N", "T", 96]
    for feed in models.samples(model, 1, seed=5, N=3, T=33) + models.samples(model, 1, seed=6, N=1, T=1):
        assert metrics.sqnr_db(run(model, feed)["y"], made.run(feed)["y"]) > LEAST_DB[form] - 8


@in_wide_forms
@pytest.mark.parametrize("outer", ["MatMul(x, w)", "Add(x, w)", "Gemm<transB = 1>(x, w)"])
def test_s08_a_weight_that_a_branch_reads_too_is_right_for_both_in_16_bits(bench, form, outer):
    bodies = (
        "then_branch = t () => (float[96,96] p) { p = MatMul(m, w) }, "
        "else_branch = e () => (float[96,96] q) { q = Add(m, w) }"
    )
    model = models.text(
        f"(float[96,96] x, bool c) => (float y) {{ m = {outer} k = MatMul(x, v) n = If(c) <{bodies}> y = Add(n, k) }}",
        w=large(), v=large(1),
    )  # fmt: skip
    feeds = [{**f, "c": np.asarray(i % 2 == 0)} for i, f in enumerate(models.samples(model))]
    as_form(bench, model, form, *ALSO[form], feeds=feeds)


LOOP = (
    "y = Loop(n, yes, s) <body = b (int64 i, bool going, float[40,96] h) => (bool on, float[40,96] k)"
    " { on = Identity(going) k = MatMul(h, w) }>"
)
SCAN = (
    "y, steps = Scan <num_scan_inputs = 1, body = b (float[96] h, float[96] r) => (float[96] k, float[96] made)"
    " { t = Unsqueeze(h, axis) p = MatMul(t, w) q = Squeeze(p, axis) k = Add(q, r) made = Identity(k) }>(first, s)"
)
ROUNDS = {
    "loop": (LOOP, "float[40,96] y", {"n": np.asarray(3), "yes": np.ones((), bool)}),
    "scan": (SCAN, "float[96] y", {"axis": models.ints(0), "first": np.zeros(96, np.float32)}),
}


@in_all_forms
@pytest.mark.parametrize("kind", ROUNDS)
def test_s09_no_operator_of_a_body_is_float_without_a_word(bench, form, kind):
    body, output, arrays = ROUNDS[kind]
    model = models.text(f"(float[40,96] x) => ({output}) {{ s = MatMul(x, v) {body} }}",
                        w=large(), v=large(1), **arrays)  # fmt: skip
    made = as_form(bench, model, form, *ALSO.get(form, ()), least=LEAST_DB.get(form, STATIC_DB) - 8)
    entries = [e for e in made.ledger.values() if e.op_type.lower() == kind]
    assert entries
    assert all(e.fate != "float" or e.reason for e in made.ledger.values())


UNKNOWN = "(float[40,96] x) => (float[40,96] y) "  # shapes that nothing infers


@in_all_forms
def test_s12_what_stands_beside_an_operator_that_we_do_not_know_is_still_quantized(bench, form):
    model = models.text(
        UNKNOWN + "{ a = MatMul(x, w) [unknown] b = com.microsoft.BiasGelu(a, k) y = MatMul(b, v) }",
        domains=["com.microsoft"], w=large(), v=large(1), k=weight(96),
    )  # fmt: skip
    made = as_form(bench, model, form, *ALSO.get(form, ()), least=LEAST_DB.get(form, STATIC_DB) - 6)
    entry = made.ledger["unknown"]
    assert entry.fate in ("float", "stored")
    assert entry.reason or entry.fate == "stored"
    assert made.fates("MatMul") <= ({"float"} if form == "none" else {"integer", "stored"})


@pytest.mark.parametrize("mode", ["int8-only", "16x8"])
def test_s12_an_operator_that_we_do_not_know_is_refused_by_name(bench, mode):
    model = models.text(
        UNKNOWN + "{ a = MatMul(x, w) [unknown] b = com.microsoft.BiasGelu(a, k) y = MatMul(b, v) }",
        domains=["com.microsoft"], w=large(), v=large(1), k=weight(96),
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="1 of 3 operators") as refusal:
        bench.convert(model, mode)
    (reason,) = refusal.value.reasons
    assert "'unknown'" in reason
    assert "BiasGelu has no rule" in reason


def test_s12_an_operator_that_the_runtime_does_not_know_is_named(bench):
    model = models.text(
        UNKNOWN + "{ a = MatMul(x, w) b = my.own.Thing(a) y = MatMul(b, v) }", domains=["my.own"], w=large(), v=large(1)
    )
    with pytest.raises(ModelError, match=r"Thing.*my\.own"):
        bench.convert(model, "full-integer")
    assert not (bench.folder / "quantized.onnx").exists()


@in_all_forms
def test_s12_a_function_of_the_models_own_is_computed_as_its_body_says(bench, form):
    model = models.text(
        UNKNOWN + "{ a = MatMul(x, w) b = my.own.Thing(a) y = MatMul(b, v) }", domains=["my.own"], w=large(), v=large(1)
    )
    body = [helper.make_node("Sigmoid", ["p"], ["s"]), helper.make_node("Mul", ["p", "s"], ["q"])]
    model.functions.append(helper.make_function("my.own", "Thing", ["p"], ["q"], body, [helper.make_opsetid("", 21)]))
    as_form(bench, model, form, *ALSO.get(form, ()), least=LEAST_DB.get(form, STATIC_DB) - 6)


@in_integer_forms
def test_s21_a_tensor_with_readers_of_two_kinds_has_names_of_its_own(bench, form):
    model = models.text(
        TALL + "{ a = MatMul(x, w) b = MatMul(a, w) c = LogSoftmax(a) d = MatMul(a, v) e = Add(b, d) y = Add(e, c) }",
        w=large(), v=large(1),
    )  # fmt: skip
    for node in model.graph.node:
        node.name = ""
    made = as_form(bench, model, form, *ALSO.get(form, ()), least=15)
    written = [n.name for n in made.model.graph.node]
    assert all(written)
    assert len(written) == len(set(written))


@in_wide_forms
def test_s24_every_output_is_there_in_16_bits_also_one_that_nothing_computes(bench, form):
    model = models.text(
        "(float[40,96] x) => (float x2, float a, float y, float a2)"
        " { x2 = Identity(x) a = MatMul(x, w) y = MatMul(a, v) a2 = Identity(a) }", w=large(), v=large(1),
    )  # fmt: skip
    made = as_form(bench, model, form)
    assert [o.name for o in made.model.graph.output] == ["x2", "a", "y", "a2"]
    assert {"a", "y"} <= made.grids.keys()


@in_wide_forms
def test_s44_free_dimensions_stay_free_in_16_bits(bench, form):
    model = models.text(
        "(float[N,T,96] x) => (float[N,T,96] y) { a = MatMul(x, w) s = Add(a, b) r = Relu(s) y = MatMul(r, v) }",
        w=large(), v=large(1), b=weight(96),
    )  # fmt: skip
    feeds = [f for n, t in ((1, 7), (2, 3), (1, 1)) for f in models.samples(model, 2, N=n, T=t)]
    made = as_form(bench, model, form, feeds=feeds)
    for values in (made.model.graph.input, made.model.graph.output):
        assert [d.dim_param or d.dim_value for d in values[0].type.tensor_type.shape.dim] == ["N", "T", 96]
    for feed in models.samples(model, 1, seed=5, N=3, T=33) + models.samples(model, 1, seed=6, N=1, T=1):
        assert metrics.sqnr_db(run(model, feed)["y"], made.run(feed)["y"]) > 15
