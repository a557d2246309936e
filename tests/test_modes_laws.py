"""What every mode promises: the same bytes again, true encodings, the user's own kept, all or nothing."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from conversion import Bench, run
from onnx import TensorProto, helper
from stored_reference import constants

from quantcli import api, cli, modes
from quantcli.cli import boundary as boundary_of_cli
from quantcli.errors import OutputError, QualityError, QuantError, UnsupportedError, UsageError

FORMS = {
    "none": ("none",),
    "dynamic-range": ("dynamic-range",),
    "float16": ("float16",),
    "float16-computed": ("float16", "passes.emit_float16.compute=float16"),
    "weight-only-int8": ("weight-only-int8",),
    "weight-only-int4": ("weight-only-int4",),
    "full-integer": ("full-integer",),
    "int8-only": ("int8-only",),
    "16x8": ("16x8",),
    "16x8-as-qdq": ("16x8", "format=qdq"),
}
CALIBRATED = ("full-integer", "int8-only", "16x8", "16x8-as-qdq")
REFUSING = ("int8-only", "16x8", "16x8-as-qdq")  # what stays float is an error, even if asked for
MOST_BYTES = {  # of the float file, where weights dominate
    "none": 1.05, "dynamic-range": 0.28, "float16": 0.52, "float16-computed": 0.52, "weight-only-int8": 0.31,
    "weight-only-int4": 0.18, "full-integer": 0.30, "int8-only": 0.30, "16x8": 0.32, "16x8-as-qdq": 0.30,
}  # fmt: skip

every_form = pytest.mark.parametrize("form", FORMS)


def net():
    """A model that every mode takes whole, with the user's own words everywhere."""
    body = """
      [conv] c = Conv<pads = [1, 1, 1, 1]>(image, w, b)  [relu] r = Relu(c)  [flat] f = Flatten(r)
      [gemm] h = Gemm(f, g, gb)  [add] s = Add(h, side)  [end] second = Relu(s)  [matmul] first = MatMul(second, v)
    """
    model = models.text(
        "(float[batch,4,8,8] image, float[batch,256] side) => (float[batch,256] second, float[batch,10] first) "
        f"{{ {body} }}",
        opset=17, w=models.weight(4, 4, 3, 3), b=models.weight(4), g=models.weight(256, 256, spread=0.1),
        gb=models.weight(256), v=models.weight(256, 10, spread=0.1),
    )  # fmt: skip
    model.producer_name, model.producer_version, model.domain, model.model_version = "theirs", "7.1", "org.them", 42
    model.doc_string, model.graph.name, model.graph.doc_string = "what it is", "their net", "how it works"
    helper.set_model_props(model, {"author": "them", "größe": "ja"})
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = f"about {value.name}"
    return model


def samples(model):
    return models.samples(model, 4, batch=2)


def converted(folder, form, *settings, feeds=None, **options):
    model = net()
    return Bench(folder).convert(
        model, FORMS[form][0], *FORMS[form][1:], *settings, feeds=feeds or samples(model), **options
    )


@functools.cache
def usual(form):
    """Return the converted model, and the files by their ending."""
    with tempfile.TemporaryDirectory() as folder:
        made = converted(Path(folder), form)
        return made, {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_every_mode_is_here():
    assert {arguments[0] for arguments in FORMS.values()} == set(modes.names())


# ---- the same again --------------------------------------------------------------------------------------------------


@every_form
def test_the_same_conversion_gives_the_same_bytes_anywhere(tmp_path, form):
    elsewhere = tmp_path / "another folder" / "größer"
    elsewhere.mkdir(parents=True)
    converted(elsewhere, form)
    for name in ("quantized.onnx", "quantized.encodings.json"):
        assert (elsewhere / name).read_bytes() == usual(form)[1][name]


@every_form
def test_threads_make_no_difference(tmp_path, form):
    found = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        source, target = folder / "float.onnx", folder / "quantized.onnx"
        onnx.save(net(), source)

        asked = api.Options(settings=FORMS[form][1:], threads=threads)
        api.convert(source, mode=FORMS[form][0], representative_dataset=samples(net()), output=target, options=asked)
        found.append(target.read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("form", CALIBRATED)
def test_the_order_of_samples_makes_no_difference(tmp_path, form):
    converted(tmp_path, form, feeds=samples(net())[::-1])
    assert (tmp_path / "quantized.onnx").read_bytes() == usual(form)[1]["quantized.onnx"]


@pytest.mark.parametrize("form", [f for f in FORMS if f not in CALIBRATED])
def test_samples_make_no_difference_where_none_are_needed(tmp_path, form):
    other = [{n: x * 3 + 1 for n, x in feed.items()} for feed in samples(net())]
    converted(tmp_path, form, feeds=other)
    assert (tmp_path / "quantized.onnx").read_bytes() == usual(form)[1]["quantized.onnx"]


# ---- what is written -------------------------------------------------------------------------------------------------


@every_form
def test_documents_are_strict_json(form):
    for name, content in usual(form)[1].items():
        if name.endswith(".json"):
            json.loads(content, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@every_form
def test_every_encoding_is_of_a_tensor_and_sound(form):
    made, written = usual(form)
    entries = json.loads(written["quantized.encodings.json"])["encodings"]
    shapes = {n: a.shape for n, a in constants(made.prepared).items()}
    names = {
        *shapes,
        *(v.name for v in made.prepared.graph.input),
        *(o for n in made.prepared.graph.node for o in n.output),
    }
    assert len({e["name"] for e in entries}) == len(entries)
    for entry in entries:
        scale = np.asarray(entry["y_scale"], np.float32)
        assert np.isfinite(scale).all()
        assert (scale >= np.finfo(np.float32).tiny).all()
        assert np.shape(entry.get("y_zero_point", np.zeros(scale.shape))) == scale.shape
        assert entry["name"] in names or entry["name"].endswith("_bias"), entry["name"]
        if "block_size" in entry:
            shape = shapes[entry["name"]]
            blocks = [-(-n // entry["block_size"]) if a == entry["axis"] else n for a, n in enumerate(shape)]
            assert list(scale.shape) == blocks


@every_form
def test_the_scales_of_the_encodings_are_those_of_the_file(form):
    made, _ = usual(form)
    known = [a for a in constants(made.model).values() if a.dtype == np.float32]
    for entry in made.result.encodings["encodings"]:
        scale = np.asarray(entry["y_scale"], np.float32)
        if entry["output_dtype"] == "int32" or form == "16x8":
            continue  # products of two others; `wide_units` computes with them
        assert any(a.size == scale.size and np.array_equal(a.ravel(), scale.ravel()) for a in known), entry["name"]


@every_form
def test_weights_are_stored_in_the_type_of_the_encodings(form):
    made, _ = usual(form)
    written = constants(made.model)
    weights = {n: a for n, a in constants(made.prepared).items() if a.ndim == 2 and a.dtype == np.float32}
    entries = {e["name"]: e["output_dtype"] for e in made.result.encodings["encodings"]}
    for name, array in weights.items():
        kinds = [
            a.dtype.name
            for n, a in written.items()
            if a.size == array.size and (a.shape in (array.shape, array.T.shape))
        ]
        if form.startswith(("none", "float16")):
            assert name not in entries
            assert kinds == ["float32" if form == "none" else "float16"]
        else:
            assert entries[name] in kinds
            assert "float32" not in kinds


@every_form
def test_a_file_whose_weights_dominate_shrinks(form):
    _, written = usual(form)
    assert len(written["quantized.onnx"]) <= MOST_BYTES[form] * len(written["float.onnx"])


# ---- the user's own --------------------------------------------------------------------------------------------------


def boundary(model, side):
    values = getattr(model.graph, side)
    return [(v.name, v.doc_string, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]


@every_form
def test_names_shapes_and_words_of_the_boundary_are_kept(form):
    made, _ = usual(form)
    for side in ("input", "output"):
        assert boundary(made.model, side) == boundary(made.float_model, side)


@every_form
def test_the_boundary_has_the_type_of_the_mode(form):
    made, _ = usual(form)
    kinds = {v.type.tensor_type.elem_type for v in (*made.model.graph.input, *made.model.graph.output)}
    assert kinds == {TensorProto.INT8 if form == "int8-only" else TensorProto.FLOAT}


@every_form
def test_words_about_the_model_are_kept(form):
    made, _ = usual(form)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(made.model, field) == getattr(made.float_model, field)
    assert (made.model.graph.name, made.model.graph.doc_string) == ("their net", "how it works")
    before, after = ({p.key: p.value for p in m.metadata_props} for m in (made.float_model, made.model))
    assert before.items() <= after.items()
    assert all(key.startswith("quantcli.") for key in after.keys() - before.keys())


@every_form
def test_operators_that_remain_keep_their_names(form):
    made, _ = usual(form)
    users = {n.name: n.op_type for n in made.float_model.graph.node}
    assert {n.name: n.op_type for n in made.model.graph.node if n.name in users}.items() <= users.items() | {
        ("gemm", "MatMul"), ("gemm", "MatMulInteger"), ("matmul", "MatMulInteger"),
        ("add", "Sum"),
    }  # fmt: skip


# ---- all or nothing --------------------------------------------------------------------------------------------------

FAILURES = {
    "quality": (QualityError, {"min_sqnr": 1e5}),
    "pattern": (UsageError, {"keep_float": ("nothing-is-called-this",)}),
    "strict": (UnsupportedError, {"strict": True, "keep_float": ("gemm",)}),
    "type": (UsageError, {"input_type": "float64"}),
}


@every_form
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_writes_nothing(tmp_path, form, failure):
    kind, options = FAILURES[failure]
    if (form, failure) == ("none", "quality"):
        return  # nothing is lost there; that no pattern is looked up there is reported
    with pytest.raises(kind) as error:
        converted(tmp_path, form, **options)
    assert 1 <= error.value.exit_code <= 4
    assert list(files(tmp_path)) == ["float.onnx"]


@every_form
def test_a_failure_leaves_the_file_that_was_there(tmp_path, form):
    for name in ("quantized.onnx", "quantized.report.json"):
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(QuantError):
        converted(tmp_path, form, strict=True, keep_float=("gemm",))
    assert files(tmp_path)["quantized.onnx"] == files(tmp_path)["quantized.report.json"] == b"mine"


@every_form
def test_a_folder_that_does_not_exist_is_an_error(tmp_path, form):

    onnx.save(net(), tmp_path / "float.onnx")
    asked = api.Options(settings=FORMS[form][1:], threads=1)
    with pytest.raises(OutputError):
        api.convert(
            tmp_path / "float.onnx", mode=FORMS[form][0], representative_dataset=samples(net()),
            output=tmp_path / "nowhere" / "quantized.onnx", options=asked,
        )  # fmt: skip
    assert list(files(tmp_path)) == ["float.onnx"]


@pytest.mark.parametrize("form", [f for f in FORMS if f != "none"])
def test_what_is_below_the_threshold_is_kept_where_asked(tmp_path, form):
    with pytest.raises(QualityError, match="dB"):
        converted(tmp_path, form, min_sqnr=1e5, keep=True)
    assert {"quantized.onnx", "quantized.report.json", "quantized.encodings.json"} <= files(tmp_path).keys()


@every_form
def test_a_dry_run_writes_nothing_and_says_the_same(tmp_path, form):

    onnx.save(net(), tmp_path / "float.onnx")
    asked = api.Options(settings=FORMS[form][1:], threads=1, dry_run=True)
    result = api.convert(
        tmp_path / "float.onnx", mode=FORMS[form][0], representative_dataset=samples(net()), options=asked
    )
    assert result.output is None
    assert list(files(tmp_path)) == ["float.onnx"]
    planned = {n: (e.fate, e.reason) for n, e in result.state.report.ledger.items()}
    assert planned == {n: (e.fate, e.reason) for n, e in usual(form)[0].ledger.items()}


# ---- what is to stay float -------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("pattern", ["gemm", "op:Gemm", "tensor:h"])
def test_what_is_to_stay_float_does(tmp_path, form, pattern):
    if form in REFUSING:
        with pytest.raises(UnsupportedError) as refusal:
            converted(tmp_path, form, keep_float=(pattern,))
        assert any("'gemm'" in reason for reason in refusal.value.reasons)
        made = converted(tmp_path, form, "fallback=float", keep_float=(pattern,))
    else:
        made = converted(tmp_path, form, keep_float=(pattern,))
    assert made.ledger["gemm"].fate == "float"
    assert form == "none" or "as asked" in made.ledger["gemm"].reason
    (weight,) = [a for a in constants(made.model).values() if a.shape == (256, 256)]
    assert weight.dtype == np.float32
    assert "g" not in {e["name"] for e in made.result.encodings["encodings"]}


@every_form
def test_strict_names_the_operator_that_stays_float(tmp_path, form):
    with pytest.raises(UnsupportedError) as refusal:
        converted(tmp_path, form, strict=True, keep_float=("gemm",))
    assert refusal.value.exit_code == 4
    assert any("'gemm'" in reason for reason in refusal.value.reasons)


@pytest.mark.parametrize("form", [*REFUSING, "float16-computed"])
def test_strict_accepts_what_is_converted_whole(tmp_path, form):
    assert converted(tmp_path, form, strict=True).floats() == {}


# ---- the bundled sample, by the command line -------------------------------------------------------------------------

POINTS = 0.005  # what a mode may lose of the held-out top-1
WHOLE = ("none", "dynamic-range", "float16", "16x8")


def quant(folder, *arguments):
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = boundary_of_cli.run(cli.quant, [str(a) for a in arguments])
    return code, out.getvalue()


@pytest.mark.parametrize("mode", WHOLE)
def test_the_bundled_sample_keeps_its_accuracy(tmp_path, mode):
    code, said = quant(tmp_path, "convert", "--mode", mode)
    assert code == 0, said
    endings = ("encodings.json", "onnx", "report.json")
    assert sorted(files(tmp_path)) == [f"digits.{mode}.{e}" for e in endings]
    heldout = np.load(modes.sample_folder() / "heldout.npz")
    tops = []
    for path in (modes.sample_folder() / "digits.onnx", tmp_path / f"digits.{mode}.onnx"):
        (scores,) = run(onnx.load(path), {"image": heldout["image"]}).values()
        tops.append(float(np.mean(scores.argmax(axis=1) == heldout["label"])))
    assert tops[1] >= tops[0] - POINTS


@pytest.mark.parametrize("mode", ["weight-only-int8", "weight-only-int4"])
def test_a_model_without_large_products_is_refused_with_the_way_out(tmp_path, mode):
    code, said = quant(tmp_path, "convert", "--mode", mode)
    assert code == 4
    assert "dynamic-range" in said
    assert files(tmp_path) == {}
