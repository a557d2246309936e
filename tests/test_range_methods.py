"""Methods of calibration are compared by the passes themselves, tensor by tensor and at the outputs."""

from __future__ import annotations

import models
import numpy as np
import onnx
import pytest

from quantcli import affine, api, plugins, range_methods
from quantcli.errors import UsageError
from quantcli.metrics import sqnr_db
from quantcli.options import Options

EIGHT = affine.EIGHT_BIT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m")
    source = "(float[4,16] x) => (float[4,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
    onnx.save(models.text(source, w=models.weight(16, 16), v=models.weight(16, 8)), folder / "m.onnx")
    return folder


@pytest.fixture(scope="module")
def feeds():
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_t(3, size=(4, 16)).astype(np.float32)} for _ in range(40)]


@pytest.fixture(scope="module")
def found(folder, feeds):
    return range_methods.compare(
        folder / "m.onnx", representative_dataset=feeds, samples=40, options=Options(threads=1)
    )


def test_every_method_chooses_a_range_for_every_tensor(found):
    assert {"x", "r"} <= set(found.tensors)
    assert all(set(by) == set(plugins.CALIBRATORS) for by in found.tensors.values())
    assert set(found.outputs["y"]) == set(plugins.CALIBRATORS)


def test_the_extremes_are_what_was_seen(found, feeds):
    seen = np.concatenate([f["x"] for f in feeds])
    chosen = found.tensors["x"]["minmax"]
    step = (chosen.high - chosen.low) / 255
    assert abs(chosen.low - seen.min()) <= step
    assert abs(chosen.high - seen.max()) <= step


def test_a_tensor_is_rounded_to_the_range(found, feeds):
    seen = np.concatenate([f["x"] for f in feeds])
    for method in ("minmax", "percentile", "mse"):
        chosen = found.tensors["x"][method]
        params = affine.choose_params(chosen.low, chosen.high, EIGHT)
        assert chosen.sqnr_db == pytest.approx(sqnr_db(seen, affine.fake_quantize(seen, params)), abs=0.1)


def test_methods_that_cut_choose_narrower_ranges(found):
    by = found.tensors["x"]
    assert by["entropy"].high - by["entropy"].low < by["minmax"].high - by["minmax"].low


def test_the_outputs_are_those_of_a_conversion(found, folder, feeds):
    for method in ("minmax", "entropy"):
        options = Options(
            threads=1, calibrator=method, cache=False, samples=40,
            settings=("passes.gptq=off", "passes.bias_correction=off"),
        )  # fmt: skip
        made = api.convert(
            folder / "m.onnx",
            mode="full-integer",
            representative_dataset=feeds,
            output=folder / "o.onnx",
            options=options,
        )
        assert found.outputs["y"][method] == made.report["verification"]["outputs"]["y"]["sqnr_db"]


def test_without_samples_there_is_nothing_to_compare(folder):
    with pytest.raises(UsageError, match="ranges are chosen by samples"):
        range_methods.compare(folder / "m.onnx")
