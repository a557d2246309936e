"""The face that people know from ``tf.lite.TFLiteConverter``: set attributes, call convert, get bytes."""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING

import conversion
import models
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import quantcli
from quantcli import Converter, modes
from quantcli.errors import DatasetError, ModelError, QuantError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = modes.sample_folder()


@pytest.fixture
def source(tmp_path) -> Path:
    """A model with two inputs whose ranges differ a hundredfold, and whose names are in no alphabetical order."""
    made = models.text(
        """(float[N, 3] wide, float[N, 3] narrow) => (float[N, 4] y) {
             a = MatMul(wide, one)  b = MatMul(narrow, two)  c = Add(a, b)  y = Relu(c)
           }""",
        one=models.weight(3, 4), two=models.weight(3, 4, seed=1),
    )  # fmt: skip
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def by_name():
    rng = np.random.default_rng(0)
    for _ in range(5):
        wide, narrow = rng.uniform(-100, 100, (1, 3)), rng.uniform(-1, 1, (1, 3))
        yield {"narrow": narrow.astype(np.float32), "wide": wide.astype(np.float32)}


def by_order():
    for feed in by_name():
        yield [feed["wide"], feed["narrow"]]


@pytest.fixture
def converter(source) -> Converter:
    made = Converter.from_onnx(source)
    made.representative_dataset = by_name
    return made


def types(data: bytes) -> list[int]:
    graph = onnx.load_from_string(data).graph
    return [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)]


def test_convert_returns_a_model_that_loads(converter):
    conversion.session(onnx.load_from_string(converter.convert()))


def test_convert_without_an_output_leaves_no_file(converter, source, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    converter.convert()
    assert sorted(p.name for p in tmp_path.rglob("*")) == [source.name, "scratch"]


def test_convert_with_an_output_writes_what_it_returns_with_its_documents(converter, tmp_path):
    data = converter.convert(tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx").read_bytes() == data
    assert {"o.encodings.json", "o.report.json"} <= {p.name for p in tmp_path.iterdir()}


def test_an_output_may_be_text(converter, tmp_path):
    data = converter.convert(str(tmp_path / "o.onnx"))
    assert (tmp_path / "o.onnx").read_bytes() == data


def test_the_bytes_are_the_same_with_and_without_an_output(converter, tmp_path):
    assert converter.convert() == converter.convert(tmp_path / "o.onnx")


def test_the_bytes_are_those_of_the_function(converter, source, tmp_path):
    result = quantcli.convert(source, representative_dataset=by_name, output=tmp_path / "o.onnx")
    assert converter.convert() == result.output.read_bytes()


def test_int8_only_is_the_default_with_an_int8_boundary(converter):
    assert converter.mode == "int8-only"
    assert types(converter.convert()) == [TensorProto.INT8] * 3


@pytest.mark.parametrize(("name", "number"), [("float32", TensorProto.FLOAT), ("uint8", TensorProto.UINT8)])
def test_the_types_of_the_boundary_are_those_that_were_set(converter, name, number):
    converter.inference_input_type = converter.inference_output_type = name
    assert types(converter.convert()) == [number] * 3


def test_inputs_and_outputs_may_differ(converter):
    converter.inference_input_type = "uint8"
    converter.inference_output_type = "float32"
    assert types(converter.convert()) == [TensorProto.UINT8, TensorProto.UINT8, TensorProto.FLOAT]


def test_the_mode_can_be_set(converter):
    converter.mode = "full-integer"
    data = converter.convert()
    assert types(data) == [TensorProto.FLOAT] * 3
    assert "QuantizeLinear" in {n.op_type for n in onnx.load_from_string(data).graph.node}


def test_a_function_may_yield_lists_in_input_order(converter):
    named = converter.convert()
    converter.representative_dataset = by_order
    assert converter.convert() == named


def test_lists_are_warned_of(converter, tmp_path):
    converter.representative_dataset = by_order
    converter.convert(tmp_path / "o.onnx")
    (warning,) = json.loads((tmp_path / "o.report.json").read_text())["warnings"]
    assert "matched with the inputs by order: 'wide', 'narrow'" in warning


def test_samples_are_matched_by_name(converter, tmp_path):
    converter.convert(tmp_path / "o.onnx")
    scales = {e["name"]: e["y_scale"] for e in json.loads((tmp_path / "o.encodings.json").read_text())["encodings"]}
    assert scales["wide"] > 50 * scales["narrow"]


def test_a_converter_converts_as_often_as_it_is_asked(converter):
    assert converter.convert() == converter.convert()


def test_a_generator_that_can_be_run_only_once_is_not_misread(converter):
    """All its samples count, the first one too; there is nothing left of it for a second conversion."""
    whole = converter.convert()
    used = by_name()
    converter.representative_dataset = lambda: used
    assert converter.convert() == whole
    with pytest.raises(DatasetError, match="0 samples"):
        converter.convert()


def test_no_dataset_is_an_error_that_says_what_to_do(source):
    with pytest.raises(UsageError, match="needs calibration data"):
        Converter.from_onnx(source).convert()


def test_a_function_that_fails_is_named_with_its_error(converter):
    def broken():
        yield from by_name()
        raise KeyError("label")

    converter.representative_dataset = broken
    with pytest.raises(DatasetError, match=r"broken\(\): raised KeyError"):
        converter.convert()


def test_a_function_that_yields_nothing_is_refused(converter):
    converter.representative_dataset = lambda: iter(())
    with pytest.raises(DatasetError, match="0 samples"):
        converter.convert()


def test_an_unknown_mode_is_refused_with_near_names(converter):
    converter.mode = "int8_only"
    with pytest.raises(UsageError, match=r"did you mean 'int8-only'"):
        converter.convert()


@pytest.mark.parametrize("side", ["inference_input_type", "inference_output_type"])
@pytest.mark.parametrize("wanted", ["int4", "INT8", 3])
def test_an_unknown_type_of_the_boundary_is_refused(converter, side, wanted):
    setattr(converter, side, wanted)
    with pytest.raises(QuantError, match=r"float32.*int8.*uint8"):
        converter.convert()


def test_a_misspelt_attribute_is_an_error(source):
    with pytest.raises(AttributeError):
        Converter.from_onnx(source).representative_data = by_name


def test_a_model_that_does_not_exist_is_refused(tmp_path):
    made = Converter.from_onnx(tmp_path / "no.onnx")
    made.representative_dataset = by_name
    with pytest.raises(ModelError, match="does not exist"):
        made.convert()


def test_the_bundled_sample_converts_like_that_too(tmp_path):
    images = np.load(SAMPLE / "calibration.npz")["image"]
    made = Converter.from_onnx(str(SAMPLE / "digits.onnx"))
    made.representative_dataset = lambda: ([i[None]] for i in images[:10])
    assert types(made.convert()) == [TensorProto.INT8] * 2
