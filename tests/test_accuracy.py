"""Top-1 of the float and the quantized model on labelled samples."""

from __future__ import annotations

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantcli import accuracy, api, runtime
from quantcli.data import InputSpec, open_dataset
from quantcli.errors import DatasetError

CLASSES = 5


def classifier():
    rows = "(float[N,8] x) => (float[N,5] y) { h = MatMul(x, w)  y = Softmax<axis = 1>(h) }"
    return models.text(rows, w=models.weight(8, CLASSES, spread=2))


def folder_with(tmp_path, labels):
    x = np.random.default_rng(0).normal(size=(40, 1, 8)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, labels=labels)
    (tmp_path / "data.yaml").write_text("inputs: {x: {npz: a.npz}}\nlabels: {npz: a.npz}")
    onnx.save(classifier(), tmp_path / "m.onnx")
    return x


@pytest.fixture
def labelled(tmp_path):
    """A classifier whose samples are labelled with what it says, but for every fourth one."""
    x = folder_with(tmp_path, np.zeros(40, np.int64))
    session = runtime.load(ir.from_proto(classifier()))
    found = np.array([int(session.run({"x": row})["y"].argmax()) for row in x])
    found[::4] = (found[::4] + 1) % CLASSES
    folder_with(tmp_path, found)
    return tmp_path


def test_both_models_are_scored_over_all_samples(labelled):
    result = api.convert(labelled / "m.onnx", representative_dataset=labelled / "data.yaml", output=labelled / "q.onnx")
    top1 = result.report["verification"]["top1"]
    assert (top1["output"], top1["samples"], top1["float_top1"]) == ("y", 40, 0.75)
    assert top1["quantized_top1"] == pytest.approx(0.75, abs=0.06)


def test_without_labels_nothing_is_scored(labelled):
    (labelled / "data.yaml").write_text("inputs: {x: {npz: a.npz}}")
    result = api.convert(labelled / "m.onnx", representative_dataset=labelled / "data.yaml", output=labelled / "q.onnx")
    assert "top1" not in result.report["verification"]


def test_a_plan_is_not_scored(labelled, monkeypatch):
    monkeypatch.setattr(accuracy, "_classes", None)
    asked = api.Options(dry_run=True)
    data = labelled / "data.yaml"
    assert api.convert(labelled / "m.onnx", mode="float16", representative_dataset=data, options=asked).state.quantized


def test_a_label_beyond_the_classes_is_refused_before_any_work(tmp_path):
    folder_with(tmp_path, np.full(40, CLASSES))
    with pytest.raises(DatasetError, match="label 5, expected 0 to 4"):
        api.convert(tmp_path / "m.onnx", representative_dataset=tmp_path / "data.yaml", output=tmp_path / "q.onnx")


def test_labels_without_a_classifier_are_refused(tmp_path):
    folder_with(tmp_path, np.zeros(40, np.int64))
    session = runtime.load(
        ir.from_proto(models.text("(float[1,8] x) => (float[1,2,4] y) { y = Reshape(x, s) }", s=models.ints(1, 2, 4)))
    )
    data = open_dataset(tmp_path / "data.yaml", [InputSpec("x", np.dtype("float32"), (1, 8))])
    with pytest.raises(DatasetError, match="no output is one score for each class"):
        accuracy.with_fitting_labels(session, data)


@pytest.mark.parametrize(
    ("results", "output"),
    [
        ({"y": np.zeros((1, 10), np.float32)}, "y"),
        ({"y": np.zeros((1, 10, 1, 1), np.float32)}, "y"),
        ({"boxes": np.zeros((1, 20, 4), np.float32), "scores": np.zeros((1, 10), np.float32)}, "scores"),
        ({"index": np.zeros((1,), np.int64)}, "index"),
        ({"index": np.zeros((), np.int64), "y": np.zeros((1, 3), np.float32)}, "y"),
        ({"y": np.zeros((8,), np.float32)}, None),
        ({"y": np.zeros((8, 1), np.float32)}, None),
        ({"y": np.zeros((1, 1), np.float32)}, None),
        ({"y": np.zeros((), np.float32)}, None),
        ({"y": np.zeros((2, 10), np.float32)}, None),
    ],
)
def test_the_output_that_tells_the_class(results, output):
    assert accuracy.class_output(results) == output
