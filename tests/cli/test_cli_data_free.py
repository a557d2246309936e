"""``--data-free`` makes samples for a model without data, and is the only source of samples then."""

from __future__ import annotations

import models
import onnx
import pytest

from quantcli.errors import UsageError

SOURCE = "(float[1,3,32,32] x) => (float[1,8,32,32] y) { a = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Relu(a) }"


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(models.text(SOURCE, w=models.weight(8, 3, 3, 3), b=models.weight(8)), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--random-data", "3"], "--random-data and --data-free exclude each other"),
        (["--representative-dataset", "d.npz"], "--representative-dataset and --data-free exclude each other"),
        (["--stats", "s.json"], "--stats and --data-free exclude each other"),
    ],
)
def test_other_kinds_of_samples_are_refused_beside_it(quant, model, arguments, said):
    outcome = quant("convert", str(model), "--data-free", *arguments)
    assert outcome.code == UsageError.exit_code
    assert said in outcome.err


def test_a_model_without_data_is_converted(quant, model):
    outcome = quant("convert", str(model), "--mode", "full-integer", "--data-free", "--samples", "4", "-o", "o.onnx")
    assert outcome.code == 0, outcome.err
    assert "calibrated without data, on 4 samples" in " ".join(outcome.out.split())
    assert "o.onnx" in outcome.files


def test_the_hint_for_missing_data_names_it(quant, model):
    assert "--data-free" in quant("convert", str(model), "--mode", "full-integer").err
