"""AWQ keeps the weights of loud channels exact: less is lost of the products, the float function stays."""

from __future__ import annotations

import models
import numpy as np
import onnx
import pytest

from quantcli import api

LOUD = np.where(np.arange(64) % 16 == 0, 30.0, 1.0).astype(np.float32)
FOLDED = "(float[N,64] x) => (float[N,64] y) { n = LayerNormalization(x, g) y = MatMul(n, w) }"
BARE = "(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }"
TIED = """(int64[N] i, float[N,64] x) => (float[N,64] e, float[N,80] y) {
  e = Gather(t, i) n = LayerNormalization(x, g) y = MatMul(n, u)
}"""
SMALL = "passes.plan_weights.eight_bit_below=0"


@pytest.fixture(scope="module")
def feeds():
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(16, 64)).astype(np.float32)} for _ in range(12)]


def folded():
    return models.text(FOLDED, g=LOUD, w=models.weight(64, 64))


def bare(feeds):
    return models.text(BARE, w=models.weight(64, 64)), [{"x": f["x"] * LOUD} for f in feeds]


def converted(bench, model, feeds, *settings, mode="weight-only-int4"):
    return bench.convert(model, mode, SMALL, *settings, feeds=feeds)


def sqnr(made):
    return made.result.state.report.verification.outputs["y"].sqnr_db


def test_it_pays_folded_into_what_is_before(bench, feeds):
    off, on = (converted(bench, folded(), feeds, f"passes.awq={s}") for s in ("off", "on"))
    assert sqnr(on) > sqnr(off) + 2
    assert not on.nodes("Mul")
    assert "awq rescaled 1 of 1 activations" in on.result.state.report.notes


def test_it_pays_by_a_product_of_its_own(bench, feeds):
    model, loud = bare(feeds)
    off, on = (converted(bench, model, loud, f"passes.awq={s}") for s in ("off", "on"))
    assert sqnr(on) > sqnr(off) + 2
    (added,) = on.nodes("Mul")
    assert on.ledger[added.name].reason == "evens out channels for the rounding of the weights behind it"


def test_a_product_of_its_own_must_gain_more(bench, feeds):
    model, loud = bare(feeds)
    assert not converted(bench, model, loud, "passes.awq.insert=0.99").nodes("Mul")


def test_the_weights_are_as_many_bits_as_before(bench, feeds):
    for made in (converted(bench, folded(), feeds, f"passes.awq={s}") for s in ("off", "on")):
        (weight,) = [t for t in made.model.graph.initializer if t.name == "w"]
        assert weight.data_type == onnx.TensorProto.INT4


def test_a_gemm_with_a_turned_weight_is_rescaled_too(bench, feeds):
    source = FOLDED.replace("MatMul(n, w)", "Gemm<transB = 1>(n, w)")
    model = models.text(source, g=LOUD, w=models.weight(64, 64).T.copy())
    off, on = (converted(bench, model, feeds, f"passes.awq={s}") for s in ("off", "on"))
    assert sqnr(on) > sqnr(off) + 2


@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel", "per-block"])
def test_each_granularity_of_weights_is_taken(granularity, bench, feeds):
    setting = f"scheme.weights.granularity={granularity}"
    off, on = (converted(bench, folded(), feeds, f"passes.awq={s}", setting) for s in ("off", "on"))
    assert sqnr(on) >= sqnr(off)


@pytest.mark.parametrize("random_data", [None, 4])
def test_without_real_samples_it_is_left_out_and_said(random_data, tmp_path):
    onnx.save(folded(), tmp_path / "m.onnx")
    asked = api.Options(random_data=random_data, settings=(SMALL, "passes.awq=on"))
    result = api.convert(tmp_path / "m.onnx", mode="weight-only-int4", output=tmp_path / "o.onnx", options=asked)
    assert any(n.startswith("awq was left out") for n in result.state.report.notes)


def test_a_tied_embedding_stays_one(bench, feeds):
    table = models.weight(80, 64)
    model = models.text(TIED, t=table, u=table.T.copy(), g=LOUD)
    rows = [{"i": np.arange(16), **f} for f in feeds]
    settings = (
        "passes.plan_weights.eight_bit_tables=false",
        "scheme.weights.dtype=int8",
        "scheme.weights.granularity=per-channel",
    )
    sizes = [
        converted(bench, model, rows, f"passes.awq={s}", *settings).result.report["sizes"]["quantized_bytes"]
        for s in ("off", "on")
    ]
    assert sizes[1] < sizes[0] + 100  # the recipe in the file says more


def test_even_channels_are_left_alone(bench, feeds):
    model = models.text(FOLDED, g=np.ones(64, np.float32), w=models.weight(64, 64))
    made = converted(bench, model, feeds, "passes.awq.gain=0.3")
    assert "awq rescaled 0 of 1 activations" in made.result.state.report.notes
    np.testing.assert_array_equal(made.constants["g"], np.ones(64))


def test_eight_bits_take_it_where_it_is_switched_on(bench, feeds):
    made = bench.convert(folded(), "weight-only-int8", "passes.awq=on", feeds=feeds)
    assert any(n.startswith("awq rescaled") for n in made.result.state.report.notes)


def test_the_same_twice(bench, feeds):
    first, second = (converted(bench, folded(), feeds).model.SerializeToString() for _ in range(2))
    assert first == second
