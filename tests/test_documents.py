"""What a conversion says of itself in JSON and in the model's metadata."""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import quantcli
from quantcli import affine, documents, dtypes, encodings, graph, modes, recipe_reader
from quantcli.data import InputSpec, from_arrays, random_dataset
from quantcli.quant import PerAxis, QuantParams, QuantSpec
from quantcli.recipe import About
from quantcli.report import FLOAT, INTEGER, Entry, FeedStats, OutputQuality, Report, Verification
from quantcli.state import Quantized, State

NARROW = QuantSpec(dtypes.INT8, symmetric=False)
GRID = affine.choose_params(-1.0, 2.0, QuantSpec(dtypes.UINT8, symmetric=False))
CARD = QuantParams(NARROW, np.float32(0.1), np.int8(-3))


def float_ir() -> ir.Model:
    proto = models.text("(float[N, 2] x) => (float[N, 2] y) { y = MatMul(x, w) }", w=models.weight(2, 2))
    proto.doc_string, proto.producer_name, proto.graph.name = "what it is", "theirs", "their net"
    onnx.helper.set_model_props(proto, {"author": "them", "quantcli.mode": "an older one"})
    model = ir.from_proto(proto)
    graph.name_everything(model)
    return model


def state(**fields: object) -> State:
    model = float_ir()
    return State(original=model, model=model, recipe=modes.resolve("int8-only"), **fields)


def emitted() -> Quantized:
    return Quantized(model=float_ir(), params={"x": GRID, "y": CARD}, boundary={"y": CARD})


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "m.onnx").write_bytes(b"a model")
    return tmp_path / "m.onnx"


# ---- names of files ----------------------------------------------------------------------------------------------


def test_sidecars_stand_beside_the_model():
    assert documents.sidecars(Path("a/b.onnx")) == (Path("a/b.encodings.json"), Path("a/b.report.json"))


def test_a_dot_in_the_name_is_part_of_the_name():
    assert documents.sidecars(Path("net_0.25.onnx"))[0].name == "net_0.25.encodings.json"


# ---- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_a_number_that_json_cannot_say_is_null(number):
    said = json.loads(documents.text({"a": number, "b": [number, 1.0], "c": {"d": number}}))
    assert said == {"a": None, "b": [None, 1.0], "c": {"d": None}}


def test_text_ends_with_one_newline():
    text = documents.text({"a": 1})
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")


def test_names_keep_their_letters():
    assert "größe/日本" in documents.text({"größe/日本": 1})


def test_the_order_of_keys_is_kept():
    assert list(json.loads(documents.text({"b": 1, "a": 2}))) == ["b", "a"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), json_values))
def test_text_is_json_of_the_same_values(document):
    assert json.loads(documents.text(document)) == document


# ---- encodings ---------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 5), elements=st.floats(2.0**-60, 2.0**60, width=32)))
def test_scales_survive_json_bit_for_bit(scales):
    spec = QuantSpec(dtypes.INT8, symmetric=True, granularity=PerAxis(0), narrow_range=True)
    params = QuantParams(spec, scales, np.zeros(scales.shape, np.int8))
    document = documents.encodings(state(quantized=Quantized(model=float_ir(), params={"w": params})), {})
    (entry,) = json.loads(documents.text(document))["encodings"]
    np.testing.assert_array_equal(np.asarray(entry["y_scale"], np.float32), scales)


def test_encodings_are_sorted_by_name():
    names = [e["name"] for e in documents.encodings(state(quantized=emitted()), {})["encodings"]]
    assert names == ["x", "y"]


def test_nothing_emitted_has_no_encodings():
    assert documents.encodings(state(), {})["encodings"] == []


def test_per_tensor_entries_are_numbers_and_per_axis_entries_are_lists():
    spec = QuantSpec(dtypes.INT8, symmetric=True, granularity=PerAxis(1))
    axis = QuantParams(spec, np.float32([1, 2]), np.int8([0, 0]))
    made = Quantized(model=float_ir(), params={"t": GRID, "w": axis})
    tensor, weight = documents.encodings(state(quantized=made), {})["encodings"]
    assert (type(tensor["y_scale"]), type(tensor["y_zero_point"]), "axis" in tensor) == (float, int, False)
    assert (weight["y_scale"], weight["y_zero_point"], weight["axis"]) == ([1.0, 2.0], [0, 0], 1)


# ---- provenance --------------------------------------------------------------------------------------------------


def test_provenance_says_what_decides_the_result(file):
    said = documents.provenance(state(), file)
    assert said["version"] == quantcli.__version__
    assert (said["mode"], said["format"]) == ("int8-only", "integer")
    assert said["model_sha256"] == hashlib.sha256(b"a model").hexdigest()
    assert said["recipe_sha256"] == hashlib.sha256(modes.resolve("int8-only").compact().encode()).hexdigest()


def test_provenance_without_data_says_so(file):
    said = documents.provenance(state(), file)
    assert (said["data"], said["data_sha256"], said["random_data"]) == (None, None, False)


def test_provenance_marks_random_data(file):
    data = random_dataset([InputSpec("x", np.dtype(np.float32), (1, 2))], 2)
    assert documents.provenance(state(data=data), file)["random_data"] is True


def test_other_data_have_another_digest(file):
    spec = [InputSpec("x", np.dtype(np.float32), (1, 2))]
    digests = {
        documents.provenance(state(data=from_arrays([{"x": np.full((1, 2), v, np.float32)}], spec)), file)[
            "data_sha256"
        ]
        for v in (0, 1)
    }
    assert len(digests) == 2


# ---- metadata ----------------------------------------------------------------------------------------------------


def stamped(**fields: object) -> ir.Model:
    made = state(quantized=emitted(), **fields)
    return documents.stamped(made, {"version": "9.9", "random_data": False})


def test_the_users_metadata_stay_and_ours_are_of_this_run():
    said = stamped().metadata_props
    assert (said["author"], said["quantcli.mode"], said["quantcli.version"]) == ("them", "int8-only", "9.9")


def test_the_users_words_stay():
    model = stamped()
    assert (model.doc_string, model.producer_name, model.graph.name) == ("what it is", "theirs", "their net")


def test_the_recipe_in_the_metadata_parses_to_the_recipe():
    wanted = replace(modes.resolve("int8-only"), summary="", about=About())  # words decide nothing
    assert recipe_reader.parse(stamped().metadata_props["quantcli.recipe"], where="m") == wanted


def test_the_card_has_the_boundary_only():
    card = json.loads(stamped().metadata_props["quantcli.io"])
    assert card == {"y": {"dtype": "int8", "scale": float(np.float32(0.1)), "zero_point": -3}}


def test_stamping_leaves_the_emitted_model_alone():
    made = state(quantized=emitted())
    before = dict(made.quantized.model.metadata_props)
    documents.stamped(made, {"version": "9.9", "random_data": False})
    assert dict(made.quantized.model.metadata_props) == before


def test_nothing_can_be_stamped_before_it_was_emitted():
    with pytest.raises(ValueError, match="nothing was emitted"):
        documents.stamped(state(), {"version": "9.9", "random_data": False})


# ---- the report --------------------------------------------------------------------------------------------------

QUALITY = OutputQuality(sqnr_db=math.inf, cosine=1.0, max_error=0.0, top1_agreement=None)
REPORT = Report(
    ledger={"a": Entry("a", "Conv", INTEGER, "QLinearConv"), "b": Entry("b", "Exp", FLOAT, reason="no form")},
    feeds={"x": FeedStats(10, -1.0, 2.0, 0.5, 0.25)},
    ranges={"y": (0.0, 1.0), "x": (-1.0, 2.0)},
    parity_db=130.0,
    verification=Verification(7, {"y": QUALITY}, 0.5, {"QLinearConv": 1}),
    timings={"emit": 1.25},
    warnings=("careful",),
    notes=("by the way",),
)


def test_the_report_of_a_plan_has_no_sizes_no_card_and_no_verification():
    said = documents.report(state(report=Report(ledger=REPORT.ledger)), Path("x/m.onnx"), None)
    assert not {"sizes", "io", "verification"} & said.keys()
    assert [e["node"] for e in said["ledger"]] == ["a", "b"]


def test_the_report_of_a_conversion_has_everything():
    said = documents.report(state(report=REPORT, quantized=emitted()), Path("x/m.onnx"), (1000, 250))
    assert said["model"] == "m.onnx"
    assert said["coverage"] == {"integer": 1, "float": 1}
    assert said["ledger"][1] == {"node": "b", "op_type": "Exp", "fate": "float", "kernel": "", "reason": "no form"}
    assert said["inputs"]["x"] == {"min": -1.0, "max": 2.0, "mean": 0.5, "std": 0.25, "values": 10}
    assert list(said["ranges"]) == ["x", "y"]
    assert (said["warnings"], said["notes"], said["parity_db"]) == (["careful"], ["by the way"], 130.0)
    assert said["sizes"] == {"float_bytes": 1000, "quantized_bytes": 250, "ratio": 0.25}
    assert said["io"].keys() == {"y"}
    assert said["verification"]["samples"] == 7
    assert said["verification"]["outputs"]["y"]["cosine"] == 1.0


def test_the_report_has_no_times_because_they_differ_from_run_to_run():
    said = documents.text(documents.report(state(report=REPORT), Path("m.onnx"), (1, 1)))
    assert "1.25" not in said


def test_the_report_of_an_exact_output_is_json():
    said = documents.text(documents.report(state(report=REPORT), Path("m.onnx"), (1, 1)))
    assert json.loads(said)["verification"]["outputs"]["y"]["sqnr_db"] is None


def test_an_empty_model_file_divides_nothing():
    assert documents.report(state(), Path("m.onnx"), (0, 5))["sizes"]["ratio"] == 5


def test_the_place_of_the_model_is_not_said_so_that_bytes_do_not_depend_on_it(tmp_path):
    said = documents.text(documents.report(state(report=REPORT), tmp_path / "m.onnx", (1, 1)))
    assert str(tmp_path) not in said


def test_external_weights_count(tmp_path):
    proto = models.text("(float[N, 8] x) => (float[N, 8] y) { y = MatMul(x, w) }", w=models.weight(8, 8))
    onnx.save(proto, tmp_path / "whole.onnx")
    onnx.save(proto, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.data", size_threshold=0)
    assert documents.external_bytes(ir.load(tmp_path / "apart.onnx")) == 8 * 8 * 4
    assert documents.external_bytes(ir.load(tmp_path / "whole.onnx")) == 0


@pytest.mark.parametrize("names", [(), ("a",), ("ä\n", "null", "b")])
def test_a_document_written_entry_by_entry_is_its_text(names):
    params = dict.fromkeys(names, GRID)
    document, empty = (encodings.to_json(p, {"mode": "none", "data": None}) for p in (params, {}))
    stream = io.BytesIO()
    documents.Text(empty, params).write_to(stream)
    assert stream.getvalue().decode() == documents.text(document)
