"""A convolution of one tap between two transpositions is a matrix product."""

from __future__ import annotations

import models
import numpy as np
import onnx_ir as ir
import pytest
from conversion import run

from quantcli import graph, modes
from quantcli.passes.pointwise_products import PointwiseProducts
from quantcli.state import State

RANKS = {
    3: ("2,5,8", "0,2,1", "0,2,1"),
    4: ("2,5,3,8", "0,3,1,2", "0,2,3,1"),
    5: ("2,3,2,2,8", "0,4,1,2,3", "0,2,3,4,1"),
}


def net(rank=3, attributes="", *, bias=True, group=1, taps=1):
    shape, there, back = RANKS[rank]
    constants = {"w": models.weight(6, 8 // group, *[taps] * (rank - 2)), **({"b": models.weight(6)} if bias else {})}
    return models.text(
        f"(float[{shape}] x) => (float y) {{ t = Transpose<perm = [{there}]>(x)"
        f" [conv] c = Conv<group = {group}{attributes}>(t, w{', b' if bias else ''})"
        f" y = Transpose<perm = [{back}]>(c) }}",
        **constants,
    )


def rewritten(model):
    made = ir.from_proto(model)
    graph.name_everything(made)
    state = PointwiseProducts()(State(made, made, modes.resolve("full-integer")), lambda *_: None)
    return ir.to_proto(state.model), state.report.ledger


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_the_same(rank, bias):
    model = net(rank, bias=bias)
    after, ledger = rewritten(model)
    assert [n.op_type for n in after.graph.node] == (["MatMul", "Add"] if bias else ["MatMul"])
    assert after.graph.node[0].name == "conv"
    assert {e.fate for e in ledger.values()} == {"folded"}
    for feed in models.samples(model, 2):
        np.testing.assert_allclose(run(after, feed)["y"], run(model, feed)["y"], atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        net(attributes=", strides = [2]"),
        net(attributes=", pads = [1, 1]"),
        net(group=2),
        net(taps=3),
        models.text(
            "(float[2,5,8] x) => (float y) { t = Transpose<perm = [0,2,1]>(x) c = Conv(t, w)"
            " y = Transpose<perm = [2,1,0]>(c) }",
            w=models.weight(6, 8, 1),
        ),
        models.text(
            "(float[2,5,8] x) => (float y, float z) { t = Transpose<perm = [0,2,1]>(x) c = Conv(t, w)"
            " y = Transpose<perm = [0,2,1]>(c) z = Relu(c) }",
            w=models.weight(6, 8, 1),
        ),
        models.text(
            "(float[2,5,8] x, float[6,8,1] v) => (float y) { t = Transpose<perm = [0,2,1]>(x) c = Conv(t, v)"
            " y = Transpose<perm = [0,2,1]>(c) }"
        ),
    ],
    ids=["strides", "pads", "groups", "taps", "another turn", "read elsewhere", "computed weight"],
)
def test_what_is_something_else_stays(model):
    after, ledger = rewritten(model)
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in model.graph.node]
    assert not ledger


def test_a_transposition_that_others_read_stays_for_them():
    model = models.text(
        "(float[2,5,8] x) => (float y, float z) { t = Transpose<perm = [0,2,1]>(x) c = Conv(t, w)"
        " y = Transpose<perm = [0,2,1]>(c) z = Relu(t) }",
        w=models.weight(6, 8, 1),
    )
    after, _ = rewritten(model)
    assert sorted(n.op_type for n in after.graph.node) == ["MatMul", "Relu", "Transpose"]
    feed = models.samples(model, 1)[0]
    for name, real in run(model, feed).items():
        np.testing.assert_allclose(run(after, feed)[name], real, atol=1e-5)


def test_the_user_finds_the_convolution_by_its_name(bench):
    model = net()
    made = bench.convert(model, "full-integer")
    assert made.ledger["conv"].fate == "integer"
    kept = bench.convert(model, "full-integer", keep_float=("conv",))
    assert kept.ledger["conv"].fate == "float"
