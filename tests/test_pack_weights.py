"""Weights of 4 bits: on their grid in every form, half the bytes, computed by the same integer kernels."""

from __future__ import annotations

import conversion
import models
import numpy as np
import onnx
import pytest

from quantcli import api
from quantcli.errors import UnsupportedError

FOUR = "scheme.weights.dtype=int4"


def model(inputs=4):
    return models.text(
        "(float[1,4,6,6] x) => (float[1,5] y) "
        "{ a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, v, c) }",
        w=models.weight(6, inputs, 3, 3), b=models.weight(6), v=models.weight(6, 5), c=models.weight(5),
    )  # fmt: skip


@pytest.fixture(params=["qdq", "integer"])
def made(bench, request):
    return bench.as_format(model(), request.param, FOUR, nearest=False)


def test_every_weight_is_stored_in_4_bits_without_the_lowest_integer(made):
    found = [onnx.numpy_helper.to_array(i) for i in four_bit(made)]
    assert sorted(a.size for a in found) == [30, 6 * 4 * 9]
    assert all(a.astype(int).min() >= -7 and a.astype(int).max() <= 7 for a in found)


def test_two_integers_share_a_byte(made):
    assert sorted(len(i.raw_data) for i in four_bit(made)) == [15, 6 * 4 * 9 // 2]


def test_the_encodings_say_int4(made):
    params = made.result.state.quantized.params
    assert {params[n].spec.dtype.name for n in ("w", "v")} == {"int4"}


def test_the_runtime_computes_with_integer_kernels(made, tmp_path):
    loaded = conversion.optimized(made.model, tmp_path).graph
    types = {n.op_type for n in loaded.node}
    assert {"QLinearConv", "QGemm"} <= types
    assert not types & {"Conv", "Gemm", "ConvInteger"}
    assert all(i.data_type != onnx.TensorProto.INT4 for i in loaded.initializer)


def test_no_product_saturates_anywhere(made):
    assert not any("may saturate" in n for n in made.result.report["notes"])


def test_what_is_run_is_what_the_integers_say(bench):
    """The same integers, stored in 8 bits, give the same outputs."""
    narrow = bench.as_format(model(), "integer", FOUR)
    eight = bench.as_format(model(), "integer", FOUR, "passes.pack_weights=off")
    for feed in models.samples(model(), 4):
        for name, array in narrow.run(feed).items():
            np.testing.assert_array_equal(array, eight.run(feed)[name])


def test_weights_of_8_bits_stay_as_they_are(bench):
    assert not four_bit(bench.as_format(model(), "integer"))


def test_a_wide_model_keeps_bytes_and_the_4_bit_grid(bench):
    made = bench.convert(model(), "16x8", FOUR, "fallback=float")
    state = made.result.state
    assert {p.spec.dtype.name for p in state.encodings.edges.values()} == {"int4"}


def test_an_old_model_is_brought_to_the_opset_of_4_bits(bench):
    old = model()
    old.opset_import[0].version = 13
    made = bench.as_format(old, "integer", FOUR)
    assert made.model.opset_import[0].version >= 21
    assert four_bit(made)


def test_asymmetric_weights_of_4_bits_are_refused(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    asked = api.Options(settings=("scheme.weights.dtype=uint4",), random_data=4)
    with pytest.raises(UnsupportedError, match="uint4"):
        api.convert(path, mode="full-integer", output=tmp_path / "o.onnx", options=asked)


def four_bit(made):
    return [i for i in made.model.graph.initializer if i.data_type == onnx.TensorProto.INT4]
