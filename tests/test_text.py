"""String tensors pass through a conversion: fed, ignored by calibration, and compared with the float model's."""

from __future__ import annotations

import models
import numpy as np
import onnx
import pytest
from onnx import helper

from quantcli import api, modes
from quantcli.api import Options

NET = """(float[1,8] x, string[n] words) => (float[1,4] y, string[n] same, string label, int64[n] numbers) {
    y = Gemm<transB=1>(x, w, b)
    same = Identity(words)
    i = ArgMax<axis=1, keepdims=0>(y)
    label = ai.onnx.ml.LabelEncoder<keys_int64s=[0, 1, 2, 3], values_strings=["a", "b", "c", "d"]>(i)
    numbers = ai.onnx.ml.LabelEncoder<keys_strings=["cat", "dog"], values_int64s=[1, 2], default_int64=7>(words)
}"""
WORDS = np.array(["cat", "grün", ""])


@pytest.fixture
def path(tmp_path):
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3]> tested {NET}')
    made.graph.initializer.extend(
        models.initializer(n, a) for n, a in {"w": models.weight(4, 8), "b": models.weight(4)}.items()
    )
    onnx.save(made, tmp_path / "text.onnx")
    return tmp_path / "text.onnx"


def feeds(count=5):
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0, 1, (1, 8)).astype(np.float32), "words": WORDS} for _ in range(count)]


def converted(path, mode, data, **options):
    stored = mode.startswith("weight-only")
    settings = ("passes.plan_weights.smallest=16", "passes.plan_weights.must_gain=false") if stored else ()
    wanted = "float" if mode in ("int8-only", "16x8") else None
    asked = Options(settings=settings, fallback=wanted, **options)
    return api.convert(path, mode=mode, representative_dataset=data, output=path.parent / "out.onnx", options=asked)


@pytest.mark.parametrize("mode", modes.names())
def test_strings_pass_through_every_mode(path, mode):
    result = converted(path, mode, feeds())
    model = onnx.load(result.output)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert [kinds[n] for n in ("words", "same", "label")] == [onnx.TensorProto.STRING] * 3
    assert result.state.report.verification.outputs["y"].sqnr_db > 10
    assert not [w for w in result.report["warnings"] if "its text is" in w]


def test_strings_come_from_an_npz_file(path):
    stacked = {n: np.stack([f[n] for f in feeds()]) for n in ("x", "words")}
    np.savez(path.parent / "data.npz", **stacked)
    assert list(converted(path, "full-integer", path.parent / "data.npz").report["inputs"]) == ["x"]


def test_strings_come_from_files_of_one_sample(path):
    folder = path.parent / "samples"
    folder.mkdir()
    for number, feed in enumerate(feeds()):
        np.savez(folder / f"{number}.npz", **feed)
    assert converted(path, "full-integer", folder).report["verification"]["samples"] == 5


@pytest.mark.parametrize(("mode", "count"), [("full-integer", 3), ("none", None)])
def test_random_data_have_words(path, mode, count):
    result = converted(path, mode, None, random_data=count)
    (sample, *_others) = result.state.data
    assert all(isinstance(word, str) for word in sample["words"])


def test_a_label_that_quantization_changes_is_told(tmp_path):
    """Two scores are closer than a step of 8 bits, and the label is the larger one's."""
    near = models.text(
        "(float[1,2] x) => (float[1,2] y, int64[1] i) { y = Gemm(x, w)\n i = ArgMax<axis=1, keepdims=0>(y) }",
        opset=17,
        w=np.array([[1.0, 1.001], [0.5, 0.4999]], np.float32),
    )
    near.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    words = {"keys_int64s": [0, 1], "values_strings": ["a", "b"]}
    near.graph.node.append(helper.make_node("LabelEncoder", ["i"], ["label"], domain="ai.onnx.ml", **words))
    near.graph.output.append(helper.make_tensor_value_info("label", onnx.TensorProto.STRING, [1]))
    onnx.save(near, tmp_path / "near.onnx")
    given = [{"x": np.array([[k / 7, 1.0]], np.float32)} for k in range(-7, 8)]
    result = converted(tmp_path / "near.onnx", "full-integer", given)
    assert any(
        w.startswith("output 'label': its text is that of the float model on ") for w in result.report["warnings"]
    )
