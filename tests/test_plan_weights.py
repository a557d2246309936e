"""Which weights are stored in integers, in which form each reader gets at them, and why not."""

from __future__ import annotations

import models
import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from quantcli import api, graph, modes, runtime
from quantcli.dynamic_cost import Shape, pays
from quantcli.errors import UnsupportedError
from quantcli.passes.plan_weights import PlanWeights
from quantcli.quant import PerAxis, PerBlock, PerTensor
from quantcli.state import State

BIG = (256, 256)  # quantizing activations at run time pays for it with a single row


def planned(model, mode="dynamic-range", *, keep=(), settings=(), **options):
    """Return plan and ledger of a model as it stands."""
    made = ir.from_proto(model)
    graph.name_everything(made)
    runtime.annotate(made)
    asked = [f"exclude={list(keep)}"] if keep else []
    recipe = modes.resolve(mode, None, (*asked, *settings))
    chosen = {**next(s.options for s in recipe.passes if s.name == "plan_weights"), **options}
    done = PlanWeights(**chosen)(State(made, made, recipe), lambda *_: None)
    return done.plan, done.report.ledger


def product(*weight, rows="M", op="MatMul", **attributes):
    """Return a model of one product with a constant on the right."""
    depth = weight[-1] if attributes.get("transB") else weight[-2]
    return models.operator(op, [(rows, depth), models.weight(*weight)], attributes)


def forms(plan):
    return {u.node: u.form for w in plan.stored for u in w.uses}


@pytest.mark.parametrize(("elements", "fates"), [(1023, {"float"}), (1024, {"stored"})])
def test_weights_under_1024_elements_stay_float(elements, fates):
    plan, ledger = planned(models.operator("Conv", [(1, elements, 4, 4), models.weight(1, elements, 1, 1)]))
    assert {e.fate for e in ledger.values()} == fates
    assert len(plan.stored) == (fates == {"stored"})


def test_the_reason_says_how_many_elements():
    _, ledger = planned(models.operator("Conv", [(1, 16, 8, 8), models.weight(3, 16, 3, 3)]))
    assert ledger["tested"].reason == "weight of 432 elements is under 1024"


def test_the_threshold_is_an_option():
    plan, _ = planned(models.operator("Conv", [(1, 16, 8, 8), models.weight(3, 16, 3, 3)]), smallest=432)
    assert len(plan.stored) == 1


def test_a_product_that_pays_is_dynamic():
    plan, ledger = planned(product(*BIG))
    assert forms(plan) == {"tested": "dynamic"}
    assert ledger["tested"].fate == "integer"


def test_a_product_that_does_not_pay_is_folded_with_the_reason():
    plan, ledger = planned(product(64, 64))
    assert forms(plan) == {"tested": "folded"}
    assert ledger["tested"].fate == "stored"
    assert "slower than float" in ledger["tested"].reason
    assert "64 x 64" in ledger["tested"].reason


def test_known_rows_count():
    plan, _ = planned(product(64, 64, rows=32))
    assert forms(plan) == {"tested": "dynamic"}


@pytest.mark.parametrize(
    ("rows", "depth", "width", "expected"),
    [(0, 64, 64, False), (1, 64, 172, False), (0, 640, 128, True), (0, 128, 640, True), (32, 64, 64, True),
     (1, 128, 257, True), (0, 128, 128, False), (4, 128, 128, True), (256, 8, 128, False)],
)  # fmt: skip
def test_the_cost_rule_follows_the_measurements(rows, depth, width, expected):
    assert pays(Shape(rows, depth, width)) == expected


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (models.operator("MatMul", [models.weight(*BIG), (256, 4)]), "left operand"),
        (models.operator("MatMul", [(2, 3, 256), models.weight(2, *BIG)]), "rank 2, not 3"),
        (models.operator("MatMul", [(256,), models.weight(*BIG)]), "vector"),
        (models.operator("Gemm", [("M", 256), models.weight(*BIG)], {"alpha": 0.5}), "alpha"),
        (models.operator("Gemm", [(256, 4), models.weight(*BIG)], {"transA": 1}), "transA"),
    ],
)
def test_what_no_kernel_takes_is_folded_with_the_reason(model, said):
    for mode in ("dynamic-range", "weight-only-int4"):
        plan, ledger = planned(model, mode)
        assert forms(plan) == {"tested": "folded"}
        assert said in ledger["tested"].reason


@pytest.mark.parametrize(("trans_b", "axis"), [(0, 1), (1, 0)])
def test_a_gemm_has_a_scale_per_output_channel(trans_b, axis):
    plan, _ = planned(product(*BIG, op="Gemm", transB=trans_b))
    assert plan.stored[0].spec.granularity == PerAxis(axis)


@pytest.mark.parametrize(("trans_b", "axis"), [(0, 0), (1, 1)])
def test_blocks_run_along_what_is_summed(trans_b, axis):
    plan, _ = planned(product(*BIG, op="Gemm", transB=trans_b), "weight-only-int4")
    assert plan.stored[0].spec.granularity == PerBlock(axis, 32)
    assert forms(plan) == {"tested": "blocked"}


@pytest.mark.parametrize("size", [16, 64, 256])
def test_the_block_size_is_an_option(size):
    plan, _ = planned(product(*BIG), "weight-only-int4", settings=(f"scheme.weights.block_size={size}",))
    assert plan.stored[0].spec.granularity == PerBlock(0, size)


def test_block_wise_weights_can_be_kept_from_the_kernel():
    plan, ledger = planned(product(*BIG), "weight-only-int8", fused=False)
    assert forms(plan) == {"tested": "folded"}
    assert "rounds activations" in ledger["tested"].reason


def test_the_ledger_says_the_accuracy_level():
    _, ledger = planned(product(*BIG), "weight-only-int4")
    assert ledger["tested"].kernel == (
        "MatMulNBits: int4 in blocks of 32; accuracy level 4, activations rounded to int8 per block"
    )


def test_small_weights_and_tables_have_8_bits_where_asked():
    model = models.text(
        "(int64[n] i) => (float[n, 32] y) { r = Gather(e, i)  y = MatMul(r, w) }",
        e=models.weight(512, 64), w=models.weight(64, 32),
    )  # fmt: skip
    plan, _ = planned(model, "weight-only-int4")
    assert {w.name: w.spec.dtype.name for w in plan.stored} == {"e": "int8", "w": "int8"}
    plan, _ = planned(model, "weight-only-int4", eight_bit_below=0, eight_bit_tables=False)
    assert {w.name: w.spec.dtype.name for w in plan.stored} == {"e": "int4", "w": "int4"}


def test_a_table_of_short_rows_stays_float():
    _, ledger = planned(models.operator("Gather", [models.weight(512, 4), models.ints(1, 2)]), "dynamic-range")
    assert "rows of 4" in ledger["tested"].reason


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_a_weight_that_two_operators_read_is_stored_once(op):
    model = models.text(
        f"(float[M, 256] x) => (float[M, 256] y) {{ a = MatMul(x, w)  y = {op}(a, w) }}", w=models.weight(*BIG)
    )
    plan, _ = planned(model)
    assert [len(w.uses) for w in plan.stored] == [2]
    assert set(forms(plan).values()) == {"dynamic"}


def test_readers_with_other_channels_fold_what_they_share():
    model = models.text(
        "(float[M, 256] x) => (float[M, 256] y) { a = MatMul(x, w)  y = Gemm <transB = 1> (a, w) }",
        w=models.weight(*BIG),
    )
    plan, ledger = planned(model)
    assert sorted(forms(plan).values()) == ["dynamic", "folded"]
    assert any("other output channels" in e.reason for e in ledger.values())


def test_a_weight_that_a_float_operator_reads_stays_float():
    model = models.text(
        "(float[256, 256] x) => (float[256, 256] y) { a = MatMul(x, w)  y = Add(a, w) }", w=models.weight(*BIG)
    )
    plan, ledger = planned(model)
    assert plan.stored == ()
    assert any("is also read by Add" in e.reason for e in ledger.values())


def test_a_tied_embedding_is_stored_once():
    table = models.weight(512, 256)
    model = models.text(
        "(int64[n] i) => (float[n, 512] y) { r = Gather(e, i)  y = MatMul(r, h) }", e=table, h=table.T.copy()
    )
    for mode in ("dynamic-range", "weight-only-int8", "weight-only-int4"):
        plan, _ = planned(model, mode)
        assert [(w.name, w.twin) for w in plan.stored] == [("e", ""), ("h", "e")]


def test_what_is_kept_float_keeps_its_weight():
    plan, ledger = planned(product(*BIG), keep=("tested",))
    assert plan.stored == ()
    assert (ledger["tested"].fate, ledger["tested"].reason) == ("float", "kept float as asked")


def test_a_weight_shared_with_what_is_kept_float_stays_float():
    model = models.text(
        "(float[M, 256] x) => (float[M, 256] y) { a = MatMul(x, w)  y = MatMul(a, w) }", w=models.weight(*BIG)
    )
    named = [*model.graph.node]
    named[0].name, named[1].name = "first", "second"
    plan, ledger = planned(model, keep=("first",))
    assert plan.stored == ()
    assert "shared with 'first'" in ledger["second"].reason


def test_a_weight_that_is_not_finite_stays_float():
    weight = models.weight(*BIG)
    weight[3, 4] = np.inf
    _, ledger = planned(models.operator("MatMul", [("M", 256), weight]))
    assert "NaN or infinite" in ledger["tested"].reason


def test_a_computed_weight_is_none():
    _, ledger = planned(models.operator("MatMul", [("M", 256), (256, 256)]))
    assert ledger["tested"].reason == "its weight is computed, not a constant"


def test_operators_without_floats_are_untouched():
    _, ledger = planned(models.operator("Add", [models.Fed((4,), 0, 9, "int64"), models.Fed((4,), 0, 9, "int64")]))
    assert ledger["tested"].fate == "untouched"


def lstm(inputs=128, hidden=128, directions=1, **attributes):
    kinds = {1: "forward", 2: "bidirectional"}
    arrays = [models.weight(directions, 4 * hidden, n, spread=0.1) for n in (inputs, hidden)]
    return models.operator(
        "LSTM", [(5, 1, inputs), *arrays], {"hidden_size": hidden, "direction": kinds[directions], **attributes}
    )


@pytest.mark.parametrize(("directions", "granularity"), [(1, PerAxis(1)), (2, PerBlock(2, 128))])
def test_an_lstm_is_recurrent_with_a_scale_per_gate(directions, granularity):
    plan, ledger = planned(lstm(directions=directions))
    assert {u.form for w in plan.stored for u in w.uses} == {"recurrent"}
    assert plan.stored[0].spec.granularity == granularity
    assert ledger["tested"].fate == "integer"


@pytest.mark.parametrize(
    ("model", "said"),
    [(lstm(32, 32), "slower than float"), (lstm(1, 128), "under 1024 elements")],
    ids=["small", "half"],
)
def test_an_lstm_that_cannot_be_recurrent_is_folded_with_the_reason(model, said):
    plan, ledger = planned(model)
    assert {u.form for w in plan.stored for u in w.uses} == {"folded"}
    assert said in ledger["tested"].reason


@pytest.mark.parametrize("op", ["GRU", "RNN"])
def test_other_recurrent_operators_are_folded(op):
    gates = {"GRU": 3, "RNN": 1}[op]
    arrays = [models.weight(1, gates * 64, n) for n in (64, 64)]
    plan, _ = planned(models.operator(op, [(5, 1, 64), *arrays], {"hidden_size": 64}))
    assert len(plan.stored) == 2
    assert forms(plan) == {"tested": "folded"}


@pytest.mark.parametrize("mode", ["weight-only-int8", "weight-only-int4"])
def test_a_model_of_convolutions_gains_nothing_from_weight_only_modes(mode, tmp_path):
    path = tmp_path / "conv.onnx"
    path.write_bytes(models.operator("Conv", [(1, 64, 8, 8), models.weight(64, 64, 3, 3)]).SerializeToString())
    with pytest.raises(UnsupportedError) as caught:
        api.convert(path, mode=mode, output=tmp_path / "q.onnx")
    assert caught.value.exit_code == 4
    assert any("tested" in reason and "MatMul, Gemm and Gather" in reason for reason in caught.value.reasons)
    assert not (tmp_path / "q.onnx").exists()


def test_a_weight_in_a_body_is_stored_and_the_holder_says_so():
    body = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"])], "body", [],
        [helper.make_tensor_value_info("z", 1, None)], [models.initializer("w", models.weight(64, 64))],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])], "other", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=body, else_branch=other)
    model = models.graph([node], {"c": models.Fed((), 0, 1, "bool"), "x": models.Fed((4, 64))}, ["y"], {})
    plan, ledger = planned(model)
    assert [(w.scope > 0, w.spec.granularity) for w in plan.stored] == [(True, PerAxis(1))]
    assert ledger["choice"].fate == "stored"


def test_a_whole_tensor_may_share_one_scale():
    plan, _ = planned(product(*BIG), settings=("scheme.weights.granularity=per-tensor",))
    assert plan.stored[0].spec.granularity == PerTensor()
