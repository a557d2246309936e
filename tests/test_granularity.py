"""Granularities are compared by what conversions store, each operator by itself and the model as a whole."""

from __future__ import annotations

import models
import numpy as np
import onnx
import pytest

from quantcli import affine, dtypes, granularity
from quantcli.errors import UnsupportedError
from quantcli.granularity import SETTINGS, Setting
from quantcli.metrics import sqnr_db
from quantcli.options import Options, resolved
from quantcli.quant import PerAxis, PerBlock, PerTensor, QuantSpec

TENSOR, CHANNEL, BLOCK = Setting(8, "per-tensor"), Setting(8, "per-channel"), Setting(8, "per-block", 32)
SPREAD = np.repeat(np.array([1, 4, 16], np.float32), [64, 64, 128])
W = models.weight(128, 256) * SPREAD
W[:32] *= 8
V = models.weight(256, 8, seed=1)
K = models.weight(4, 3, 3, 3)


def products():
    return models.text("(float[N,128] x) => (float[N,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }", w=W, v=V)


def convolution():
    return models.text("(float[1,3,8,8] x) => (float[1,4,6,6] y) { y = Conv(x, k) }", k=K)


def feeds(shape):
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(6)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    onnx.save(products(), path)
    return granularity.compare(path, representative_dataset=feeds((4, 128)), samples=24, options=Options(threads=1))


def operator(found, op_type="MatMul"):
    return next(o for o in found.operators if o.op_type == op_type)


@pytest.mark.parametrize(
    ("setting", "grouping"),
    [
        (TENSOR, PerTensor()),
        (CHANNEL, PerAxis(1)),
        (BLOCK, PerBlock(0, 32)),
        (Setting(4, "per-channel"), PerAxis(1)),
        (Setting(4, "per-block", 128), PerBlock(0, 128)),
    ],
)
def test_weights_lose_what_their_rounding_takes(setting, grouping, found):
    loss = operator(found).losses[setting]
    spec = QuantSpec(
        dtypes.BY_NAME[f"int{setting.bits}"], symmetric=True, granularity=grouping, narrow_range=not setting.block
    )
    rounded = affine.fake_quantize(W, affine.weight_params(W, spec))
    assert loss.mse == pytest.approx(float(np.square(W.astype(np.float64) - rounded).mean()))
    assert loss.weight_sqnr_db == pytest.approx(sqnr_db(W, rounded))


def test_an_operator_is_run_with_its_own_weights_rounded_alone(found):
    spec = QuantSpec(dtypes.INT8, symmetric=True, granularity=PerTensor(), narrow_range=True)
    x = np.concatenate([f["x"] for f in feeds((4, 128))])
    r = np.maximum(x @ W, 0)
    rounded = affine.fake_quantize(V, affine.weight_params(V, spec))
    assert found.operators[1].losses[TENSOR].output_sqnr_db == pytest.approx(sqnr_db(r @ V, r @ rounded), abs=0.05)


def test_the_outputs_are_those_with_all_weights_rounded(found):
    spec = QuantSpec(dtypes.INT8, symmetric=True, granularity=PerTensor(), narrow_range=True)
    w, v = (affine.fake_quantize(a, affine.weight_params(a, spec)) for a in (W, V))
    x = np.concatenate([f["x"] for f in feeds((4, 128))])
    expected = sqnr_db(np.maximum(x @ W, 0) @ V, np.maximum(x @ w, 0) @ v)
    assert found.outputs["y"][TENSOR] == pytest.approx(expected, abs=0.05)
    assert found.model[TENSOR].output_sqnr_db == found.outputs["y"][TENSOR]


def test_finer_granularity_loses_less(found):
    for bits in (8, 4):
        of = {s.name: found.model[s] for s in SETTINGS if s.bits == bits}
        assert of["per-channel"].mse < of["per-tensor"].mse
        assert of["per-block 32"].mse < of["per-block 64"].mse <= of["per-block 128"].mse
        assert of["per-channel"].output_sqnr_db > of["per-tensor"].output_sqnr_db


def test_fewer_bits_lose_more(found):
    assert all(found.model[s].mse < 0.02 * found.model[Setting(4, s.granularity, s.block)].mse for s in SETTINGS[:5])


def test_a_convolution_is_never_stored_in_blocks(tmp_path):
    onnx.save(convolution(), tmp_path / "m.onnx")
    found = granularity.compare(tmp_path / "m.onnx", representative_dataset=feeds((1, 3, 8, 8)))
    losses = operator(found, "Conv").losses
    assert {s for s in SETTINGS if losses[s] is None} == {s for s in SETTINGS if s.block}
    for bits in (8, 4):
        assert found.model[Setting(bits, "per-block", 32)] == found.model[Setting(bits, "per-channel")]


def test_without_data_the_samples_are_made_up_and_that_is_said(tmp_path):
    onnx.save(convolution(), tmp_path / "m.onnx")
    found = granularity.compare(tmp_path / "m.onnx")
    assert not found.real
    assert found.samples > 0


def test_at_most_so_many_samples_are_run(tmp_path):
    onnx.save(convolution(), tmp_path / "m.onnx")
    found = granularity.compare(tmp_path / "m.onnx", representative_dataset=feeds((1, 3, 8, 8)), samples=2)
    assert (found.samples, found.real) == (2, True)


def test_recurrent_weights_count_together(tmp_path):
    model = models.text(
        "(float[5,1,32] x) => (float[5,1,1,16] y) { y = LSTM<hidden_size = 16>(x, w, r) }",
        w=models.weight(1, 64, 32), r=models.weight(1, 64, 16),
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    lstm = operator(granularity.compare(tmp_path / "m.onnx", representative_dataset=feeds((5, 1, 32))), "LSTM")
    assert lstm.losses[TENSOR].output_sqnr_db > 20


def test_a_model_without_weights_has_nothing_to_compare(tmp_path):
    onnx.save(models.text("(float[2,3] x) => (float[2,3] y) { y = Tanh(x) }"), tmp_path / "m.onnx")
    found = granularity.compare(tmp_path / "m.onnx")
    assert found.operators == ()
    assert found.model[TENSOR].mse == 0


@pytest.mark.parametrize("mode", ["int8-only", "full-integer", "16x8"])
def test_blocks_are_refused_where_products_are_of_integers(mode):
    with pytest.raises(UnsupportedError) as caught:
        resolved(mode, Options(settings=("scheme.weights.granularity=per-block",)))
    assert "blocks of inputs need products in float" in (caught.value.hint or "")


@pytest.mark.parametrize("mode", ["dynamic-range", "weight-only-int8", "weight-only-int4"])
@pytest.mark.parametrize("kind", ["per-tensor", "per-channel", "per-block"])
def test_products_in_float_take_each_granularity(mode, kind):
    assert resolved(mode, Options(settings=(f"scheme.weights.granularity={kind}",))).scheme.weights.granularity == kind
