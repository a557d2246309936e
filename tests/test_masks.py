"""Attention masks: a number that stands for minus infinity defines no range, in whatever way it is written."""

from __future__ import annotations

import math

import models
import numpy as np
import onnx_ir as ir
import pytest
from conversion import run
from models import weight

from quantcli import graph, masks
from quantcli.errors import UnsupportedError

LEAST_DB = 25.0
F32 = np.float32
LOWEST = float(np.finfo(F32).min)
CAUSAL = np.tril(np.ones((8, 8), bool))[None, None]
WEIGHTS = {
    "wq": weight(32, 32, spread=0.25), "wk": weight(32, 32, seed=1, spread=0.25),
    "wv": weight(32, 32, seed=2), "wo": weight(32, 16, seed=3), "heads": models.ints(1, 8, 4, 8),
    "whole": models.ints(1, 8, 32), "factor": F32(8**-0.5),
}  # fmt: skip

WRITTEN = {
    "nothing": ("c = Identity(b)", "", {}),
    "constant": ("c = Add(b, mask)", "", {"mask": None}),
    "constant before the factor": ("d = Add(a, mask) c = Mul(d, factor)", "", {"mask": None}),
    "selected": ("c = Where(causal, b, low)", "", {"causal": CAUSAL, "low": None}),
    "selected constants": (
        "mask = Where(causal, zero, low) c = Add(b, mask)", "", {"causal": CAUSAL, "low": None, "zero": 0}
    ),
    "fed": ("c = Add(b, m)", "float[1,1,8,8] m", {}),
    "computed": (
        "u = Unsqueeze(m, axes) off = Sub(one, u) mask = Mul(off, low) c = Add(b, mask)", "float[1,8] m",
        {"axes": models.ints(1, 2), "one": 1, "low": None},
    ),
}  # fmt: skip
LOWS = {"-1e4": -1e4, "-1e9": -1e9, "lowest": LOWEST, "-inf": -math.inf}
MODES = ("full-integer", "int8-only", "16x8")
CASES = [
    (kind, low) for kind in WRITTEN for low in LOWS if (kind, low) != ("computed", "-inf")
]  # 0 * -inf is no number


def attention(kind, low):
    body, fed, constants = WRITTEN[kind]
    inputs = ", ".join(filter(None, ["float[1,8,32] x", fed]))
    values = {"low": F32(LOWS[low]), "mask": np.where(CAUSAL, 0, LOWS[low]).astype(F32)}
    arrays = {n: values[n] if v is None else v for n, v in constants.items()}
    source = f"""({inputs}) => (float y, float p) {{
        q0 = MatMul(x, wq) q1 = Reshape(q0, heads) q = Transpose<perm = [0, 2, 1, 3]>(q1)
        k0 = MatMul(x, wk) k1 = Reshape(k0, heads) k = Transpose<perm = [0, 2, 3, 1]>(k1)
        v0 = MatMul(x, wv) v1 = Reshape(v0, heads) v = Transpose<perm = [0, 2, 1, 3]>(v1)
        a = MatMul(q, k) {"" if "d = Add(a" in body else "b = Mul(a, factor)"} {body} p = Softmax<axis = -1>(c)
        o = MatMul(p, v) o1 = Transpose<perm = [0, 2, 1, 3]>(o) o2 = Reshape(o1, whole) y = MatMul(o2, wo) }}"""
    return models.text(source, opset=17, **WEIGHTS, **arrays)


def feeds(kind, low, count=12):
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        feed = {"x": rng.normal(0, 1, (1, 8, 32)).astype(F32)}
        kept = (np.arange(8) < rng.integers(3, 9))[None]
        if kind == "fed":
            feed["m"] = np.where(kept & CAUSAL, 0, LOWS[low]).astype(F32)
        elif kind == "computed":
            feed["m"] = kept.astype(F32)
        found.append(feed)
    return found


@pytest.mark.parametrize(("kind", "low"), CASES)
@pytest.mark.parametrize("mode", MODES)
def test_a_mask_costs_no_accuracy(kind, low, mode, bench):
    made, given = attention(kind, low), feeds(kind, low)
    converted = bench.convert(made, mode, feeds=given)
    qualities = converted.result.report["verification"]["outputs"]
    assert qualities["y"]["sqnr_db"] >= LEAST_DB
    for params in converted.result.state.encodings.tensors.values():
        assert np.isfinite(params.scale)
        assert 0 < params.scale < 1  # of float scores about 10; a mask in the range would give 40 at the least
    for feed in given[:4]:
        expected, got = run(made, feed)["p"], converted.run(feed)["p"]
        clear = np.diff(np.sort(expected, axis=-1)[..., -2:], axis=-1)[..., 0] > 0.1  # else 8 bits may see a tie
        np.testing.assert_array_equal(got.argmax(-1)[clear], expected.argmax(-1)[clear])
        assert got[expected == 0].max(initial=0) < 1 / 256


@pytest.mark.parametrize("mode", ["int8-only", "16x8"])
def test_what_is_cut_is_told(mode, bench):
    converted = bench.convert(attention("constant", "-1e9"), mode, feeds=feeds("constant", "-1e9"))
    (note,) = [n for n in converted.result.report["notes"] if "Softmax" in n]
    assert "'mask' at -" in note
    assert "instead of -1e+09" in note


def test_a_mask_that_something_else_reads_keeps_its_range(bench):
    source = """(float[1,4,8] x) => (float y, float z) { a = MatMul(x, w) c = Add(a, mask) p = Softmax<axis = -1>(c)
        y = MatMul(p, w2) z = Relu(c) }"""
    mask = np.where(np.tril(np.ones((4, 8), bool)), 0, -100).astype(F32)
    converted = bench.convert(models.text(source, w=weight(8, 8), w2=weight(8, 4), mask=mask), "int8-only")
    grid = converted.grids["mask"]
    assert -grid.scale * int(grid.zero_point) == pytest.approx(-100, rel=0.02)


def test_rows_that_are_masked_as_a_whole_are_not_seen():
    scores = np.array([[3, -1e9, 1], [-1e9, -1e9, -1e9]], F32)
    np.testing.assert_allclose(masks.visible(scores, -1).ravel(), [3, 3 - masks.DEPTH - math.log(3), 1], rtol=1e-6)


def test_visible_values_are_left_as_they_are():
    scores = np.random.default_rng(0).normal(0, 2, (2, 3, 5)).astype(F32)
    np.testing.assert_array_equal(np.sort(masks.visible(scores, 1).ravel()), np.sort(scores.ravel()))


def test_hidden_values_weigh_nothing_together():
    row = np.full(512, -1e9, F32)
    row[7] = 2.0
    raised = masks.visible(row[None], -1).ravel().astype(np.float64)
    weights = np.exp(raised - raised.max())
    assert weights.sum() - 1 <= math.exp(-masks.DEPTH) * 1.001


def floors_of(body, ranges, **arrays):
    model = ir.from_proto(models.text(f"(float[2,4] x, float[2,4] z) => (float y) {{ {body} }}", **arrays))
    graph.name_everything(model)
    return masks.floors(list(model.graph), ranges, lambda v: ranges.get(v.name, (0, 0))[1])


def test_an_operand_of_a_sum_may_be_lower_by_what_the_other_may_add():
    found = floors_of("c = Add(x, z) y = Softmax(c)", {"c": (-12.0, 5.0), "x": (-3.0, 5.0), "z": (-9e9, 0.0)})
    assert found == {"c": -12.0, "x": -12.0, "z": -17.0}


def test_a_tensor_with_two_readers_has_the_lower_floor():
    ranges = {"c": (-12.0, 5.0), "d": (-20.0, 5.0)}
    body = "c = Add(x, k) d = Add(x, k) p = Softmax(c) q = Softmax(d) y = MatMul(p, w)"
    assert floors_of(body.replace("y = MatMul(p, w)", "y = Add(p, q)"), ranges, k=0)["x"] == -20.0


def test_a_tensor_with_a_reader_that_sees_all_has_none():
    assert "x" not in floors_of("c = Add(x, z) p = Softmax(c) y = Add(p, x)", {"c": (-12.0, 5.0)})


def test_a_refused_mask_is_no_silent_float(bench):
    """A mask cast from a boolean computed of floats has no integer form; the mode says so."""
    source = """(float[1,4,8] x, float[1,8] m) => (float y) { a = MatMul(x, w) t = Cast<to = 9>(m) c = Where(t, a, low)
        p = Softmax<axis = -1>(c) y = MatMul(p, w2) }"""
    made = models.text(source, w=weight(8, 8), w2=weight(8, 4), low=F32(-1e9))
    given = [{"x": f["x"], "m": np.ones((1, 8), F32)} for f in models.samples(made, 4)]
    with pytest.raises(UnsupportedError, match="operators cannot be integer"):
        bench.convert(made, "int8-only", feeds=given)
