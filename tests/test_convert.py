"""The main job, end to end: a float model and real samples become a verified integer model with its documents."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import conversion
import models
import numpy as np
import onnx
import pytest
from integer_reference import Grid, dequantize_linear, quantize_linear
from onnx import TensorProto, helper, numpy_helper

import quantcli
from quantcli import api, cli, modes, recipe_reader, reconstruction
from quantcli.cli import boundary
from quantcli.data import InputSpec, open_dataset
from quantcli.errors import QualityError, QuantError, UnsupportedError, UsageError
from quantcli.metrics import Comparison
from quantcli.passes.bias_correction import BiasCorrection
from quantcli.passes.gptq import Gptq
from quantcli.recipe import Recipe

SAMPLE = modes.sample_folder()
MODES = ("int8-only", "full-integer")
IO_TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
PLAIN = tuple(
    f"passes.{s.name}=off"
    for s in modes.resolve("int8-only").passes
    if s.name in ("equalize", "gptq", "bias_correction")  # what remains is min-max ranges and nearest rounding
)
POINTS = 0.005  # what int8-only may lose of the held-out top-1
ACTIVATIONS = {
    "image", "stem.relu6", "depthwise.relu6", "pointwise.norm", "residual.relu", "residual.pool", "features.relu",
    "features.mean", "features.flat", "classifier", "probabilities",
}  # fmt: skip
WEIGHTS = {
    "stem.conv.weight",
    "depthwise.conv.weight",
    "pointwise.conv.weight",
    "features.conv.weight",
    "classifier.weight",
}
ENCODED = {  # but for biases: Softmax stays float in full-integer
    "int8-only": ACTIVATIONS | WEIGHTS,
    "full-integer": (ACTIVATIONS - {"probabilities"}) | WEIGHTS,
}


# ---- how the tool is called ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    folder: Path

    @property
    def files(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir())

    def model(self, name: str) -> onnx.ModelProto:
        return onnx.load(self.folder / name)

    def json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text("utf-8"))


def quant(folder: Path, *arguments: object) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = boundary.run(cli.quant, [str(a) for a in arguments])
    return Outcome(code, out.getvalue(), err.getvalue(), folder)


@pytest.fixture(scope="module", params=MODES)
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def converted(mode, tmp_path_factory) -> Outcome:
    """The bundled sample, converted by the command line with default options in an empty folder."""
    return quant(tmp_path_factory.mktemp(mode), "convert", "--mode", mode)


@pytest.fixture(scope="module")
def model(converted, mode) -> onnx.ModelProto:
    return converted.model(f"digits.{mode}.onnx")


@pytest.fixture(scope="module")
def encodings(converted, mode) -> dict:
    return converted.json(f"digits.{mode}.encodings.json")


@pytest.fixture(scope="module")
def report(converted, mode) -> dict:
    return converted.json(f"digits.{mode}.report.json")


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {p.key: p.value for p in model.metadata_props}


def io_of(model: onnx.ModelProto) -> dict[str, int]:
    return {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def grids_of(encodings: dict) -> dict[str, Grid]:
    return {
        e["name"]: Grid(np.asarray(e["y_scale"], np.float32), np.asarray(e["y_zero_point"], e["output_dtype"]))
        for e in encodings["encodings"]
    }


def convert(folder: Path, *settings: str, mode: str = "int8-only", output: str = "o.onnx", **options: object):
    """Convert the bundled sample through Python on one thread."""
    options.setdefault("threads", 1)
    asked = api.Options(settings=settings, **options)
    return quantcli.convert(mode=mode, output=folder / output, options=asked)


# ---- the bundled sample --------------------------------------------------------------------------------------------


def test_the_model_its_encodings_and_its_report_are_written_and_nothing_else(converted, mode):
    stem = f"digits.{mode}"
    assert (converted.code, converted.files) == (0, [f"{stem}.encodings.json", f"{stem}.onnx", f"{stem}.report.json"])


def test_the_output_is_a_valid_model(model):
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    if all(n.domain == "" for n in model.graph.node):
        onnx.checker.check_model(plain, full_check=True)
    else:
        onnx.checker.check_model(plain)


def test_every_name_is_unique(model):
    nodes = [n.name for n in model.graph.node]
    tensors = [o for n in model.graph.node for o in n.output] + [v.name for v in model.graph.input]
    constants = [t.name for t in model.graph.initializer]
    assert all(nodes)
    assert len(set(nodes)) == len(nodes)
    assert len({*tensors, *constants}) == len(tensors) + len(constants)


def test_the_boundary_has_the_types_of_the_mode(model, mode):
    wanted = IO_TYPES[modes.resolve(mode).inputs]
    assert io_of(model) == {"image": wanted, "probabilities": wanted}


@pytest.mark.parametrize("mode", ["int8-only"], indirect=True)
def test_no_float_tensor_flows_anywhere(model):
    assert conversion.float_tensors(model) == set()


@pytest.mark.parametrize("mode", ["int8-only"], indirect=True)
def test_the_only_float_constants_are_scales(model):
    scales = {n.input[i] for n in model.graph.node for i, v in enumerate(n.input) if v and "scale" in v}
    floats = {t.name for t in model.graph.initializer if t.data_type in FLOATS}
    assert floats <= scales


def test_weights_are_stored_once_and_as_integers(model):
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    original = onnx.load(SAMPLE / "digits.onnx").graph.initializer
    wanted = sorted(int(np.prod(t.dims)) for t in original if t.name in WEIGHTS)
    assert sorted(a.size for a in constants.values() if a.dtype == np.int8 and a.ndim > 1) == wanted
    assert max(a.size for a in constants.values() if a.dtype == np.float32) == 40  # scales of the widest operator


def test_held_out_top1_is_within_half_a_point_of_float(model, encodings):
    heldout = np.load(SAMPLE / "heldout.npz")
    images, labels = heldout["image"], heldout["label"]
    (expected,) = conversion.run(onnx.load(SAMPLE / "digits.onnx"), {"image": images}).values()
    grid = grids_of(encodings)["image"]
    fed = images if io_of(model)["image"] == TensorProto.FLOAT else quantize_linear(images, grid)
    (found,) = conversion.run(model, {"image": fed}).values()
    before, after = (float(np.mean(scores.argmax(axis=1) == labels)) for scores in (expected, found))
    assert before >= 0.97
    assert after >= before - POINTS


def test_optimized_and_plain_execution_agree(model, encodings):
    images = np.load(SAMPLE / "heldout.npz")["image"][:50]
    fed = (
        images if io_of(model)["image"] == TensorProto.FLOAT else quantize_linear(images, grids_of(encodings)["image"])
    )
    (a,), (b,) = (conversion.run(model, {"image": fed}, optimize=o).values() for o in (True, False))
    step = 1 if a.dtype.kind in "iu" else 1 / 255
    assert np.sqrt(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64)))) < step


def test_a_file_whose_weights_dominate_takes_at_most_three_tenths(tmp_path, mode):
    source = models.text(
        "(float[N, 256] x) => (float[N, 256] y) { h = Gemm(x, a, b)  r = Relu(h)  y = MatMul(r, c) }",
        a=models.weight(256, 512), b=models.weight(512), c=models.weight(512, 256),
    )  # fmt: skip
    conversion.Bench(tmp_path).convert(source, mode, feeds=models.samples(source, 3, N=2), nearest=False)
    before, after = ((tmp_path / f"{n}.onnx").stat().st_size for n in ("float", "quantized"))
    assert after <= 0.30 * before


# ---- the user's own: names, order, shapes, words -------------------------------------------------------------------


def signed_model(opset: int = 17) -> onnx.ModelProto:
    """Two inputs and two outputs in no alphabetical order, symbolic dimensions, and words wherever ONNX takes them."""
    model = models.text(
        """(float[batch, 3] right, float[batch, 3] left) => (float[batch, 4] second, float[batch, 4] first) {
             a = MatMul(left, one)  first = Relu(a)  b = MatMul(right, two)  second = Add(b, first)
           }""",
        opset=opset, one=models.weight(3, 4), two=models.weight(3, 4, seed=1),
    )  # fmt: skip
    model.producer_name, model.producer_version, model.domain, model.model_version = "theirs", "7.1", "org.them", 42
    model.doc_string, model.graph.name, model.graph.doc_string = "what it is", "their net", "how it works"
    helper.set_model_props(model, {"author": "them", "labels": '["a", "b"]', "größe": "ja"})
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = f"about {value.name}"
    return model


@pytest.fixture(scope="module", params=[(m, o) for m in MODES for o in (13, 17, 21)], ids=lambda p: f"{p[0]}-{p[1]}")
def signed(request, tmp_path_factory):
    """A model full of the user's own words, and what becomes of it."""
    chosen, opset = request.param
    source = signed_model(opset)
    return conversion.Bench(tmp_path_factory.mktemp("signed")).convert(
        source, chosen, feeds=models.samples(source, batch=2)
    )


def test_names_and_order_of_the_boundary_are_kept(signed):
    for side in ("input", "output"):
        before, after = ([v.name for v in getattr(m.graph, side)] for m in (signed.float_model, signed.model))
        assert before == after


def test_symbolic_dimensions_are_kept(signed):
    for side in ("input", "output"):
        before, after = ([shape_of(v) for v in getattr(m.graph, side)] for m in (signed.float_model, signed.model))
        assert before == after


def test_doc_strings_of_the_boundary_are_kept(signed):
    values = (*signed.model.graph.input, *signed.model.graph.output)
    assert [v.doc_string for v in values] == [f"about {v.name}" for v in values]


def test_words_about_the_model_are_kept(signed):
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(signed.model, field) == getattr(signed.float_model, field)
    assert (signed.model.graph.name, signed.model.graph.doc_string) == ("their net", "how it works")


def test_metadata_of_the_user_are_kept_and_ours_added(signed):
    before, after = metadata(signed.float_model), metadata(signed.model)
    assert before.items() <= after.items()
    assert {k for k in after if k not in before} == {
        f"quantcli.{k}" for k in ("version", "mode", "recipe", "random_data", "io")
    }


def without_words(wanted):
    return replace(wanted, summary="", about=Recipe("").about)


def test_metadata_say_version_mode_and_recipe(model, mode):
    said = metadata(model)
    assert (said["quantcli.version"], said["quantcli.mode"]) == (quantcli.__version__, mode)
    assert recipe_reader.parse(said["quantcli.recipe"], where="metadata") == without_words(modes.resolve(mode))


def test_the_io_card_is_in_the_metadata(model, encodings):
    grids, kinds = grids_of(encodings), io_of(model)
    integer = sorted(n for n, t in kinds.items() if t not in FLOATS)
    card = {
        n: {
            "dtype": grids[n].zero_point.dtype.name,
            "scale": float(grids[n].scale),
            "zero_point": int(grids[n].zero_point),
        }
        for n in integer
    }
    assert json.loads(metadata(model)["quantcli.io"]) == card


def test_two_inputs_are_matched_by_name_and_not_by_position(tmp_path):
    source = signed_model()
    feeds = models.samples(
        source, ranges={"left": models.Fed((2, 3), 0, 100), "right": models.Fed((2, 3), -1, 1)}, batch=2
    )
    backwards = [dict(reversed(f.items())) for f in feeds]
    grids = conversion.Bench(tmp_path).convert(source, feeds=backwards).grids
    assert grids["left"].scale > 30 * grids["right"].scale


# ---- encodings -----------------------------------------------------------------------------------------------------


def test_every_tensor_of_an_integer_operator_has_an_encoding_and_no_other(encodings, mode):
    assert {e["name"] for e in encodings["encodings"] if e["output_dtype"] != "int32"} == ENCODED[mode]


def test_every_bias_has_an_encoding(encodings):
    assert sum(e["output_dtype"] == "int32" for e in encodings["encodings"]) == len(WEIGHTS)


def test_every_encoded_name_is_one_of_the_users(encodings):
    """The bias that folding a BatchNormalization makes has the user's name of the offset that it came from."""
    original = onnx.load(SAMPLE / "digits.onnx").graph
    theirs = {v.name for v in (*original.input, *original.initializer)} | {o for n in original.node for o in n.output}
    assert [e["name"] for e in encodings["encodings"] if e["name"] not in theirs] == []


def test_encodings_are_of_schema_2(encodings):
    assert encodings["version"] == "2.0.0"
    for entry in encodings["encodings"]:
        assert {"name", "output_dtype", "y_scale", "y_zero_point"} <= entry.keys()
        assert entry.keys() <= {"name", "output_dtype", "y_scale", "y_zero_point", "axis", "block_size"}
        assert ("axis" in entry) == isinstance(entry["y_scale"], list)
        assert np.shape(entry["y_scale"]) == np.shape(entry["y_zero_point"])


def test_every_scale_is_a_normal_positive_number(encodings):
    for entry in encodings["encodings"]:
        scale = np.asarray(entry["y_scale"])
        assert np.all(np.isfinite(scale))
        assert np.all(scale >= np.finfo(np.float32).tiny)


def test_every_name_is_encoded_once(encodings):
    names = [e["name"] for e in encodings["encodings"]]
    assert names == sorted(set(names))


def test_encodings_say_where_they_come_from(encodings, report, mode):
    said = encodings["quantcli"]
    source = (SAMPLE / "digits.onnx").read_bytes()
    assert (said["version"], said["mode"], said["random_data"]) == (quantcli.__version__, mode, False)
    assert said["model_sha256"] == hashlib.sha256(source).hexdigest()
    assert said["recipe_sha256"] == hashlib.sha256(modes.resolve(mode).compact().encode()).hexdigest()
    assert len(said["data_sha256"]) == 64
    assert said["coverage"] == report["coverage"]


# Where each operator has (tensor, scale, zero point) among its inputs; outputs stand as the number of the pair.
_READS = {
    "QLinearConv": ((0, 1, 2), (3, 4, 5)),
    "QGemm": ((0, 1, 2), (3, 4, 5)),
    "QLinearMatMul": ((0, 1, 2), (3, 4, 5)),
    "QLinearAdd": ((0, 1, 2), (3, 4, 5)),
    "QLinearGlobalAveragePool": ((0, 1, 2),),
    "QLinearSoftmax": ((0, 1, 2),),
    "DequantizeLinear": ((0, 1, 2),),
}
_WRITES = {
    "QLinearConv": (6, 7),
    "QGemm": (7, 8),
    "QLinearMatMul": (6, 7),
    "QLinearAdd": (6, 7),
    "QLinearGlobalAveragePool": (3, 4),
    "QLinearSoftmax": (3, 4),
    "QuantizeLinear": (1, 2),
}
_KEEPS = {"MaxPool", "Flatten", "Reshape"}  # the integers stay on the grid that they are on


def grids_in(model: onnx.ModelProto) -> dict[str, set[tuple]]:
    """Return every (scales, zero points) with which each integer tensor of a model is read or written."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found: dict[str, set[tuple]] = {}

    def note(tensor: str, scale: str, zero: str) -> None:
        s, z = constants[scale], constants[zero]
        found.setdefault(tensor, set()).add((tuple(s.ravel().tolist()), tuple(z.ravel().tolist()), s.ndim))

    for node in model.graph.node:
        for tensor, scale, zero in _READS.get(node.op_type, ()):
            note(node.input[tensor], node.input[scale], node.input[zero])
        if node.op_type in _WRITES:
            scale, zero = _WRITES[node.op_type]
            note(node.output[0], node.input[scale], node.input[zero])
    for node in model.graph.node:
        if node.op_type in _KEEPS:
            found.setdefault(node.output[0], set()).update(found.get(node.input[0], set()))
    return found


@pytest.fixture(scope="module")
def result(mode, tmp_path_factory) -> api.Result:
    return convert(tmp_path_factory.mktemp("python"), mode=mode)


def test_encodings_are_the_numbers_of_the_file_exactly(result, mode):
    written = onnx.load(result.output)
    entries = {e["name"]: e for e in result.encodings["encodings"]}
    there = grids_in(written)
    quantized, units = result.state.quantized, {u.node: u for u in result.state.plan.linear_units()}
    names = dict(quantized.tensors)
    names |= {units[n].weight: w for n, w in quantized.weights.items()}
    compared = 0
    for user, integer in names.items():
        if user not in entries or user in quantized.boundary:
            continue
        scale, zero = np.asarray(entries[user]["y_scale"]), np.asarray(entries[user]["y_zero_point"])
        assert there[integer] == {(tuple(scale.ravel().tolist()), tuple(zero.ravel().tolist()), scale.ndim)}, user
        compared += 1
    assert compared >= len(ACTIVATIONS) + len(WEIGHTS) - 2


def test_a_bias_is_encoded_as_the_product_of_the_scales_in_the_file(result):
    grids = grids_of(result.encodings)
    for unit in result.state.plan.linear_units():
        source, weight = grids[unit.inputs[0][1]], grids[unit.weight]
        np.testing.assert_array_equal(grids[unit.bias].scale, source.scale * weight.scale)
        assert not grids[unit.bias].zero_point.any()


def test_the_encodings_document_is_what_python_returns(result):
    assert json.loads(result.output.with_suffix(".encodings.json").read_text()) == result.encodings


# ---- report --------------------------------------------------------------------------------------------------------


def test_the_report_knows_the_sizes_of_the_files(converted, report, mode):
    before, after = (SAMPLE / "digits.onnx").stat().st_size, (converted.folder / f"digits.{mode}.onnx").stat().st_size
    assert report["sizes"] == {"float_bytes": before, "quantized_bytes": after, "ratio": after / before}


def test_the_ledger_has_every_node_of_the_user_once(report):
    original = [n.name for n in onnx.load(SAMPLE / "digits.onnx").graph.node]
    assert sorted(e["node"] for e in report["ledger"]) == sorted(original)


def test_the_ledger_gives_a_kernel_or_a_reason_for_every_node(report):
    for entry in report["ledger"]:
        assert entry["fate"] in ("integer", "absorbed", "folded", "float", "untouched")
        assert bool(entry["kernel"]) == (entry["fate"] == "integer"), entry
        assert bool(entry["reason"]) == (entry["fate"] != "integer"), entry


def test_the_ledger_names_the_operators_that_the_runtime_runs(report, mode):
    if mode == "int8-only":
        named = {e["kernel"] for e in report["ledger"] if e["kernel"]} - {"MaxPool"}
        assert named <= report["verification"]["kernels"].keys()


def test_what_the_ledger_calls_float_runs_in_float(report):
    floats = sum(e["fate"] == "float" for e in report["ledger"])
    integer = ("QLinear", "Nhwc", "QGemm", "QuantizeLinear", "DequantizeLinear", "Transpose", "Cast", "Add", "Flatten")
    real = [k for k, n in report["verification"]["kernels"].items() for _ in range(n) if not k.startswith(integer)]
    assert len(real) == floats


def test_coverage_counts_the_ledger(report):
    fates = [e["fate"] for e in report["ledger"]]
    assert report["coverage"] == {f: fates.count(f) for f in dict.fromkeys(fates)}


def test_the_report_says_what_was_fed(report):
    images = np.load(SAMPLE / "calibration.npz")["image"]
    said = report["inputs"]["image"]
    assert (said["values"], said["min"], said["max"]) == (images.size, images.min(), images.max())
    assert said["mean"] == pytest.approx(images.mean(dtype=np.float64))
    assert said["std"] == pytest.approx(images.std(dtype=np.float64))


def test_the_report_has_the_range_of_every_encoded_activation(report, encodings):
    activations = {e["name"] for e in encodings["encodings"] if e["output_dtype"] == "uint8" or "axis" not in e}
    assert activations <= report["ranges"].keys()
    assert all(low <= high for low, high in report["ranges"].values())


def test_the_report_verifies_every_output(report):
    seen = report["verification"]
    assert seen["outputs"].keys() == {"probabilities"}
    quality = seen["outputs"]["probabilities"]
    assert quality["sqnr_db"] > 40
    assert quality["cosine"] > 0.999
    assert quality["top1_agreement"] == 1.0
    assert seen["optimized_against_plain_rms_steps"] <= 1
    assert report["parity_db"] > 100


def test_reported_quality_is_what_the_file_gives(converted, mode, report):
    fed_with = [InputSpec("image", np.dtype(np.float32), ("n", 1, 8, 8))]
    picked = [feed["image"][0] for feed in open_dataset(SAMPLE / "dataset.yaml", fed_with).take(20)]
    grids = grids_of(converted.json(f"digits.{mode}.encodings.json"))
    written, original = converted.model(f"digits.{mode}.onnx"), onnx.load(SAMPLE / "digits.onnx")
    integer = io_of(written)["image"] != TensorProto.FLOAT
    sums = Comparison()
    for image in picked:
        (expected,) = conversion.run(original, {"image": image[None]}).values()
        fed = quantize_linear(image[None], grids["image"]) if integer else image[None]
        (found,) = conversion.run(written, {"image": fed}).values()
        sums = sums.add(expected, dequantize_linear(found, grids["probabilities"]) if integer else found)
    assert report["verification"]["outputs"]["probabilities"]["sqnr_db"] == pytest.approx(sums.sqnr_db, abs=1e-3)


def test_documents_are_json_that_any_parser_reads(converted, mode):
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    for kind in ("encodings", "report"):
        json.loads((converted.folder / f"digits.{mode}.{kind}.json").read_text("utf-8"), parse_constant=no_constant)


# ---- the same conversion gives the same bytes ----------------------------------------------------------------------


def contents(folder: Path, stem: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob(f"{stem}.*")}


def test_two_runs_give_the_same_bytes(converted, mode, tmp_path):
    assert quant(tmp_path, "convert", "--mode", mode).code == 0
    assert contents(tmp_path, "digits") == contents(converted.folder, "digits")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_a_byte(converted, mode, tmp_path, threads):
    assert quant(tmp_path, "convert", "--mode", mode, "--threads", threads).code == 0
    assert contents(tmp_path, "digits") == contents(converted.folder, "digits")


def test_hash_seed_locale_and_threads_of_numpy_do_not_change_a_byte(converted, mode, tmp_path):
    command = [sys.executable, "-m", "quantcli", "convert", "--mode", mode, "--quiet"]
    others = {
        "PYTHONHASHSEED": "1234",
        "LC_ALL": "C",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TZ": "Asia/Tokyo",
    }
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **others}, check=True, timeout=60)  # noqa: S603 - ours
    assert contents(tmp_path, "digits") == contents(converted.folder, "digits")


def test_the_folder_does_not_change_a_byte(tmp_path):
    found = []
    for name in ("here", "there"):
        (tmp_path / name / "deep").mkdir(parents=True)
        for file in ("digits.onnx", "calibration.npz", "dataset.yaml"):
            (tmp_path / name / file).write_bytes((SAMPLE / file).read_bytes())
        done = quant(
            tmp_path / name / "deep", "convert", "../digits.onnx", "--representative-dataset", "../dataset.yaml",
            "-o", tmp_path / name / "deep" / "o.onnx", "--quiet",
        )  # fmt: skip
        assert done.code == 0
        found.append(contents(tmp_path / name / "deep", "o"))
    assert found[0] == found[1]


def test_the_order_of_the_samples_does_not_change_a_minmax_model(tmp_path, mode):
    images = np.load(SAMPLE / "calibration.npz")["image"]
    written, encoded = [], []
    for order in (np.arange(len(images)), np.random.default_rng(0).permutation(len(images))):
        feeds = [{"image": i[None]} for i in images[order]]
        result = quantcli.convert(
            SAMPLE / "digits.onnx", mode=mode, representative_dataset=feeds, output=tmp_path / "o.onnx",
            options=api.Options(settings=PLAIN, threads=1),
        )  # fmt: skip
        written.append(result.output.read_bytes())
        encoded.append(result.encodings["encodings"])
    assert written[0] == written[1]
    assert encoded[0] == encoded[1]


def test_the_batch_of_the_samples_does_not_change_a_minmax_model(tmp_path, mode):
    images = np.load(SAMPLE / "calibration.npz")["image"][:24]
    written = set()
    for size in (1, 2, 8, 24):
        feeds = [{"image": images[i : i + size]} for i in range(0, len(images), size)]
        result = quantcli.convert(
            SAMPLE / "digits.onnx", mode=mode, representative_dataset=feeds, output=tmp_path / "o.onnx",
            options=api.Options(settings=PLAIN, threads=1),
        )  # fmt: skip
        written.add(result.output.read_bytes())
    assert len(written) == 1


# ---- types of the boundary -----------------------------------------------------------------------------------------


@functools.cache
def boundary_run(mode: str, inputs: str, outputs: str, form: str | None = None) -> tuple[dict[str, int], np.ndarray]:
    """Convert a classifier without Softmax with this boundary; return its types, and its results as floats."""
    source = models.text(
        """(float[N, 2, 4, 4] image) => (float[N, 3] scores) {
             conv = Conv<pads = [1, 1, 1, 1]>(image, kernel, shift)  relu = Relu(conv)  flat = Flatten(relu)
             scores = Gemm(flat, head, last)
           }""",
        kernel=models.weight(3, 2, 3, 3), shift=models.weight(3),
        head=models.weight(48, 3), last=models.weight(3, seed=1),
    )  # fmt: skip
    feeds = models.samples(source, N=1)
    with TemporaryDirectory() as folder:
        made = conversion.Bench(Path(folder)).convert(
            source, mode, feeds=feeds, nearest=False, input_type=inputs, output_type=outputs, format=form
        )
        return io_of(made.model), np.concatenate([made.run(f)["scores"] for f in feeds])


ASKED = [(m, i, o) for m in MODES for i in IO_TYPES for o in IO_TYPES]


@pytest.mark.parametrize(("mode", "inputs", "outputs"), ASKED)
def test_the_boundary_has_the_types_that_were_asked_for(mode, inputs, outputs):
    types, _ = boundary_run(mode, inputs, outputs)
    assert types == {"image": IO_TYPES[inputs], "scores": IO_TYPES[outputs]}


@pytest.mark.parametrize(("mode", "inputs", "outputs"), ASKED)
def test_an_integer_boundary_gives_the_numbers_of_a_float_one_bit_for_bit(mode, inputs, outputs):
    _, expected = boundary_run(mode, "float32", "float32")
    _, found = boundary_run(mode, inputs, outputs)
    np.testing.assert_array_equal(found, expected)


def test_both_formats_compute_the_same_but_for_rounding():
    _, integer = boundary_run("full-integer", "int8", "int8", "integer")
    _, qdq = boundary_run("full-integer", "int8", "int8", "qdq")
    step = np.diff(np.unique(np.concatenate([integer, qdq])))
    assert np.abs(integer - qdq).max() <= 1.01 * step[step > 1e-6].min()


def test_an_int8_model_has_no_quantizer_at_its_edges(tmp_path):
    source = signed_model()
    made = conversion.Bench(tmp_path).convert(source, feeds=models.samples(source, batch=2))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {n.op_type for n in made.model.graph.node}


@pytest.mark.parametrize("side", ["input", "output"])
def test_an_integer_boundary_on_a_float_operator_is_honoured_or_refused(tmp_path, side):
    """full-integer keeps Softmax float, and here the first Conv: the request must not be dropped without a word."""
    name = {"input": "image", "output": "probabilities"}[side]
    options = {f"{side}_type": "int8", "keep_float": ("stem.conv",)}
    with contextlib.suppress(UnsupportedError, UsageError):
        result = convert(tmp_path, mode="full-integer", samples=4, **options)
        assert io_of(onnx.load(result.output))[name] == TensorProto.INT8


def test_a_float_boundary_in_int8_only_leaves_no_float_inside(tmp_path):
    result = convert(tmp_path, samples=8, input_type="float32", output_type="float32")
    assert conversion.float_tensors(onnx.load(result.output)) == {"image", "probabilities"}


def test_the_api_and_the_command_line_write_the_same(tmp_path, converted, mode):
    with contextlib.chdir(tmp_path):
        quantcli.convert(mode=mode)
    assert contents(tmp_path, "digits") == contents(converted.folder, "digits")


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_type": "int16"}, {"output_type": "float16"}, {"format": "tflite"}, {"samples": 0}, {"samples": -1},
        {"random_data": 0}, {"threads": -1}, {"calibrator": "minmx"}, {"min_sqnr": float("nan")},
    ],
    ids=lambda wrong: " ".join(f"{k}={v}" for k, v in wrong.items()),
)  # fmt: skip
def test_a_wrong_option_is_an_error_of_ours_in_python_too(tmp_path, wrong):
    with pytest.raises(QuantError) as caught:
        convert(tmp_path, **{"samples": 2, **wrong})
    assert caught.value.exit_code in (2, 3)
    assert list(tmp_path.iterdir()) == []


# ---- formats -------------------------------------------------------------------------------------------------------


def test_format_integer_writes_integer_operators_in_full_integer(tmp_path):
    done = quant(tmp_path, "convert", "--mode", "full-integer", "--format", "integer", "-o", "o.onnx", "--quiet")
    types = {n.op_type for n in done.model("o.onnx").graph.node}
    assert {"QLinearConv", "QGemm", "QLinearAdd"} <= types
    assert not {"Conv", "Gemm"} & types


def test_format_qdq_in_int8_only_writes_standard_operators_between_dq_and_q(tmp_path):
    done = quant(tmp_path, "convert", "--mode", "int8-only", "--format", "qdq", "-o", "o.onnx", "--quiet")
    model = done.model("o.onnx")
    makers = {o: n.op_type for n in model.graph.node for o in n.output}
    assert {n.domain for n in model.graph.node} == {""}
    assert set(io_of(model).values()) == {TensorProto.INT8}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "GlobalAveragePool", "MaxPool", "Flatten", "Softmax"):
            assert {makers[i] for i in node.input} == {"DequantizeLinear"}, node.name


# ---- passes that improve -------------------------------------------------------------------------------------------


def test_a_pass_that_is_switched_off_does_not_run(tmp_path):
    state = convert(tmp_path, "passes.bias_correction=off", samples=8).state
    assert "bias_correction" not in state.report.timings
    assert not any("bias correction" in n for n in state.report.notes)


def test_bias_correction_changes_biases_only(tmp_path):
    arrays = []
    for setting in ("passes.bias_correction=off", "passes.bias_correction=on"):
        result = convert(tmp_path, *PLAIN, setting, output=f"{setting[-3:]}.onnx")
        graph_of = onnx.load(result.output).graph
        arrays.append({t.name: numpy_helper.to_array(t) for t in graph_of.initializer})
    off, on = arrays
    assert off.keys() == on.keys()
    changed = {n for n in off if not np.array_equal(off[n], on[n])}
    assert changed
    assert {off[n].dtype for n in changed} == {np.dtype(np.int32)}


def layer_errors(state, quantized) -> dict[str, np.ndarray]:
    """Return the squared error of every channel of every layer, each on the inputs that its own model gives it."""
    count = reconstruction.sample_count(state, 32)
    layers = reconstruction.reconstruct(state, quantized, count, lambda _done, _total: None)
    return {layer.unit.node: layer.errors().square for layer in layers}


@pytest.fixture(scope="module")
def emitted_only(mode, tmp_path_factory):
    """The state after emission: nearest rounding, no correction."""
    folder = tmp_path_factory.mktemp("plain")
    return convert(folder, *PLAIN, mode=mode, output="o.onnx").state


@pytest.mark.parametrize("improve", [Gptq(), BiasCorrection()], ids=["gptq", "bias_correction"])
def test_improving_never_raises_the_error_of_a_channel_of_the_first_layer(emitted_only, improve):
    """The inputs of the first layer are the same before and after, so that the comparison is exact."""
    before = layer_errors(emitted_only, emitted_only.quantized)
    after = layer_errors(emitted_only, improve(emitted_only, lambda _done, _total: None).quantized)
    assert np.all(after["stem.conv"] <= before["stem.conv"])
    assert np.any(after["stem.conv"] < before["stem.conv"])


@pytest.mark.parametrize("improve", [Gptq(), BiasCorrection()], ids=["gptq", "bias_correction"])
def test_improving_never_raises_the_error_of_a_layer(emitted_only, improve):
    before = layer_errors(emitted_only, emitted_only.quantized)
    after = layer_errors(emitted_only, improve(emitted_only, lambda _done, _total: None).quantized)
    assert {n: e.sum() for n, e in after.items() if e.sum() > before[n].sum()} == {}


def test_improving_pays_on_data_that_was_not_seen(tmp_path, mode):
    images = np.load(SAMPLE / "heldout.npz")["image"][:200]
    (expected,) = conversion.run(onnx.load(SAMPLE / "digits.onnx"), {"image": images}).values()
    quality = []
    for name, settings in (("nearest", PLAIN), ("improved", ())):
        result = convert(
            tmp_path, *settings, mode=mode, output=f"{name}.onnx", input_type="float32", output_type="float32"
        )
        (found,) = conversion.run(onnx.load(result.output), {"image": images}).values()
        quality.append(Comparison().add(expected, found).sqnr_db)
    assert quality[1] > quality[0]


# ---- thresholds ----------------------------------------------------------------------------------------------------


def test_too_low_a_quality_is_1_and_writes_nothing(tmp_path):
    done = quant(tmp_path, "convert", "--min-sqnr", "90", "--quiet")
    assert (done.code, done.files) == (1, [])
    assert "nothing was written" in done.err


def test_keep_writes_all_three_and_is_still_1(tmp_path):
    done = quant(tmp_path, "convert", "--min-sqnr", "90", "--keep", "--quiet")
    assert (done.code, len(done.files)) == (1, 3)
    onnx.checker.check_model(done.model("digits.int8-only.onnx"))


def test_a_quality_that_is_high_enough_is_0(tmp_path):
    done = quant(tmp_path, "convert", "--min-sqnr", "30", "--quiet")
    assert (done.code, len(done.files)) == (0, 3)


def test_the_worst_output_counts(tmp_path):
    source = models.text(
        """(float[N, 4] x) => (float[N, 4] good, float[N, 4] bad) {
             h = MatMul(x, w)  good = Relu(h)  bad = MatMul(good, v)
           }""",
        w=models.weight(4, 4), v=models.weight(4, 4, seed=1),
    )  # fmt: skip
    bench = conversion.Bench(tmp_path)
    feeds = models.samples(source, N=3)
    found = bench.convert(source, feeds=feeds).result.report["verification"]["outputs"]
    low, high = sorted(q["sqnr_db"] for q in found.values())
    with pytest.raises(QualityError, match="worst output"):
        bench.convert(source, feeds=feeds, min_sqnr=(low + high) / 2)


def test_strict_refuses_a_float_operator_with_its_name_and_reason(tmp_path):
    done = quant(tmp_path, "convert", "--mode", "full-integer", "--strict", "--quiet")
    assert (done.code, done.files) == (4, [])
    assert "Softmax 'probabilities': " in done.err


def test_strict_passes_where_everything_is_integer(tmp_path):
    assert quant(tmp_path, "convert", "--mode", "int8-only", "--strict", "--quiet").code == 0


# ---- plans, trials, patterns ---------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_runs_no_calibration(tmp_path, mode):
    with contextlib.chdir(tmp_path):
        result = quantcli.convert(mode=mode, options=api.Options(dry_run=True))
    assert list(tmp_path.iterdir()) == []
    assert result.output is None
    assert {"equalize", "calibrate", "emit", "verify"}.isdisjoint(result.state.report.timings)


def test_a_dry_run_has_the_ledger_of_the_run(converted, mode, report):
    del converted
    planned = quantcli.convert(mode=mode, options=api.Options(dry_run=True)).report
    assert {e["node"]: e["fate"] for e in planned["ledger"]} == {e["node"]: e["fate"] for e in report["ledger"]}


def test_a_dry_run_refuses_what_the_run_refuses(tmp_path):
    asked = ("--random-data", "2", "--representative-dataset", SAMPLE / "dataset.yaml", "--quiet")
    codes = [quant(tmp_path, "convert", SAMPLE / "digits.onnx", *asked, *dry).code for dry in ((), ("--dry-run",))]
    assert codes == [2, 2]


def test_random_data_are_stamped_everywhere(tmp_path):
    done = quant(tmp_path, "convert", SAMPLE / "digits.onnx", "--random-data", "3", "-o", "o.onnx")
    assert done.code == 0
    assert metadata(done.model("o.onnx"))["quantcli.random_data"] == "true"
    assert done.json("o.encodings.json")["quantcli"]["random_data"] is True
    assert done.json("o.report.json")["random_data"] is True
    assert any("random data" in w for w in done.json("o.report.json")["warnings"])
    assert "accuracy means nothing" in done.out


def test_real_data_are_stamped_as_real(model, report):
    assert metadata(model)["quantcli.random_data"] == "false"
    assert (report["random_data"], report["warnings"]) == (False, [])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("op:Gemm", {"classifier"}),
        ("pointwise.conv", {"pointwise.conv"}),
        ("*.conv", {"stem.conv", "depthwise.conv", "pointwise.conv", "features.conv"}),
        ("re:^(stem|features).conv$", {"stem.conv", "features.conv"}),
        ("tensor:residual.add", {"residual.add"}),
        ("tensor:image", {"stem.conv"}),
    ],
)
def test_patterns_keep_float_what_they_name_and_say_how_many(tmp_path, pattern, expected):
    settings = (*PLAIN, "fallback=float")
    result = convert(tmp_path, *settings, keep_float=(pattern,), samples=4, input_type="float32", output_type="float32")
    asked = {e["node"] for e in result.report["ledger"] if e["reason"] == "kept float as asked"}
    assert asked == expected
    assert f"--float {pattern}: {len(expected)} nodes" in result.report["notes"]
    assert {"Conv", "Gemm", "Add"} & {n.op_type for n in onnx.load(result.output).graph.node}


def test_a_pattern_that_matches_nothing_is_an_error_with_near_names(tmp_path):
    with pytest.raises(UsageError, match=r"matches nothing.*did you mean.*'pointwise\.conv'"):
        convert(tmp_path, keep_float=("pointwis.conv",))


def test_a_pattern_in_int8_only_is_refused_with_its_reason(tmp_path):
    with pytest.raises(UnsupportedError) as caught:
        convert(tmp_path, keep_float=("op:Gemm",))
    assert caught.value.reasons == ("Gemm 'classifier': kept float as asked",)


# ---- intermediate models, and the input ----------------------------------------------------------------------------


def test_save_temps_writes_a_model_that_loads_after_each_pass(tmp_path):
    convert(tmp_path, samples=4, save_temps=tmp_path / "steps")
    names = [p.name for p in sorted((tmp_path / "steps").iterdir())]
    enabled = [s.name for s in modes.resolve("int8-only").passes if s.enabled]
    assert names == [f"{i:02d}-{name}.onnx" for i, name in enumerate(enabled, 1)]
    for name in names:
        conversion.session(onnx.load(tmp_path / "steps" / name))


@pytest.mark.parametrize(
    "arguments", [(), ("--min-sqnr", "200"), ("--dry-run",), ("--float", "op:Softmax"), ("--mode", "full-integer")]
)
def test_the_input_is_never_touched(tmp_path, arguments):
    for file in ("digits.onnx", "calibration.npz", "dataset.yaml"):
        (tmp_path / file).write_bytes((SAMPLE / file).read_bytes())
    before = {p.name: (hashlib.sha256(p.read_bytes()).digest(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    quant(tmp_path, "convert", "digits.onnx", "--representative-dataset", "dataset.yaml", "-o", "o.onnx", *arguments)
    after = {
        n: (hashlib.sha256((tmp_path / n).read_bytes()).digest(), (tmp_path / n).stat().st_mtime_ns) for n in before
    }
    assert after == before


def test_a_model_with_external_data_becomes_the_same_as_one_without(tmp_path):
    source = models.text(
        "(float[N, 64] x) => (float[N, 32] y) { h = MatMul(x, a)  r = Relu(h)  y = MatMul(r, b) }",
        a=models.weight(64, 64), b=models.weight(64, 32),
    )  # fmt: skip
    onnx.save(source, tmp_path / "whole.onnx")
    onnx.save(source, tmp_path / "apart.onnx", save_as_external_data=True, location="apart.bin", size_threshold=0)
    feeds, found = models.samples(source, N=2), []
    for name in ("whole", "apart"):
        result = quantcli.convert(
            tmp_path / f"{name}.onnx", representative_dataset=feeds, output=tmp_path / f"{name}.q.onnx",
            options=api.Options(threads=1),
        )  # fmt: skip
        found.append(result.output.read_bytes())
    assert found[0] == found[1]


# ---- any length, any number of samples -----------------------------------------------------------------------------


def test_samples_of_different_lengths_calibrate_together(tmp_path, mode):
    source = models.text(
        """(float[N, 3, length] x) => (float[N, 4, length] y) {
             c = Conv<pads = [1, 1], kernel_shape = [3]>(x, w, b)  r = Relu(c)  y = Conv<kernel_shape = [1]>(r, v)
           }""",
        w=models.weight(4, 3, 3), b=models.weight(4), v=models.weight(4, 4, 1),
    )  # fmt: skip
    feeds = [f for n in (7, 33, 128) for f in models.samples(source, 3, N=1, length=n)]
    made = conversion.Bench(tmp_path).convert(source, mode, feeds=feeds, nearest=False)
    assert shape_of(made.model.graph.output[0]) == ["N", 4, "length"]
    for feed in feeds[::3]:
        expected, found = conversion.run(source, feed)["y"], made.run(feed)["y"]
        assert Comparison().add(expected, found).sqnr_db > 25


MEASURED = """
import resource, sys
import numpy as np
from quantcli import api, convert

def images():
    rng = np.random.default_rng(0)
    for _ in range(int(sys.argv[1])):
        yield {"image": rng.random((1, 3, 64, 64), dtype=np.float32)}

convert("m.onnx", representative_dataset=images, output=sys.argv[1] + ".onnx", options=api.Options(threads=1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_depend_on_the_number_of_samples(tmp_path):
    source = models.text(
        """(float[1, 3, 64, 64] image) => (float[1, 4] y) {
             a = Conv<pads = [1, 1, 1, 1]>(image, w1)  b = Relu(a)  c = Conv<pads = [1, 1, 1, 1], group = 32>(b, w2)
             d = Relu(c)  e = Conv<strides = [8, 8]>(d, w3)  g = GlobalAveragePool(e)  f = Flatten(g)  y = Gemm(f, w4)
           }""",
        w1=models.weight(32, 3, 3, 3), w2=models.weight(32, 1, 3, 3),
        w3=models.weight(4, 32, 1, 1), w4=models.weight(4, 4),
    )  # fmt: skip
    onnx.save(source, tmp_path / "m.onnx")
    few, many = (
        int(
            subprocess.run(  # noqa: S603 - ours
                [sys.executable, "-c", MEASURED, count],
                cwd=tmp_path,
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            ).stdout
        )
        for count in ("10", "400")
    )
    assert many < 1.05 * few, f"{few} kB for 10 samples, {many} kB for 400"


# ---- other precisions ------------------------------------------------------------------------------------------------


def test_a_half_precision_model_converts_and_keeps_its_boundary(tmp_path):
    source = models.text(
        """(float16[1, 3, 8, 8] x) => (float16[1, 4, 8, 8] y) {
             a = Conv<pads = [1, 1, 1, 1]>(x, w, b)  r = Relu(a)  c = Conv<pads = [1, 1, 1, 1]>(r, v)  y = Relu(c)
           }""",
        w=models.weight(6, 3, 3, 3).astype(np.float16), b=models.weight(6).astype(np.float16),
        v=models.weight(4, 6, 3, 3, scaled=1).astype(np.float16),
    )  # fmt: skip
    made = conversion.Bench(tmp_path).convert(source, "full-integer", nearest=False)
    assert set(io_of(made.model).values()) == {TensorProto.FLOAT16}
    sqnr = made.result.report["verification"]["outputs"]["y"]["sqnr_db"]
    assert sqnr is None or sqnr > 20


# ---- small things that go wrong in practice ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), [("net_0.25", "net_0.5"), ("net_0.25.onnx", "net_0.5.onnx"), ("a", "a.onnx.2")]
)
def test_two_outputs_never_share_a_sidecar(tmp_path, one, other):
    for name in (one, other):
        convert(tmp_path, *PLAIN, samples=2, output=name)
    assert len(list(tmp_path.iterdir())) == 6


def test_settings_reach_the_written_recipe(tmp_path):
    result = convert(tmp_path, "scheme.weights.granularity=per-tensor", *PLAIN, samples=2)
    written = recipe_reader.parse(metadata(onnx.load(result.output))["quantcli.recipe"], where="metadata")
    assert written.scheme.weights.granularity == "per-tensor"
    assert not written.enabled("gptq")
    assert all("axis" not in e for e in result.encodings["encodings"] if e["output_dtype"] == "int8")


def test_a_recipe_file_is_a_mode_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: int8-only\nname: mine\ninputs: uint8\n")
    done = quant(tmp_path, "convert", "--recipe", "mine.yaml", "--samples", "2", "--quiet")
    assert done.code == 0
    assert io_of(done.model("digits.mine.onnx")) == {"image": TensorProto.UINT8, "probabilities": TensorProto.INT8}


def test_every_step_of_the_grid_survives_an_int8_boundary(tmp_path):
    """Cast and Add(128) must carry all 256 integers."""
    source = models.text("(float[N, 1] x) => (float[N, 1] y) { y = MatMul(x, w) }", w=np.ones((1, 1), np.float32))
    feeds = [{"x": np.array([[-1.0], [1.0]], np.float32)}]
    results = {}
    for kind in ("uint8", "int8"):
        made = conversion.Bench(tmp_path).convert(source, feeds=feeds, input_type=kind, output_type=kind)
        every = np.arange(256).astype(np.uint8)[:, None]
        fed = every if kind == "uint8" else (every.astype(np.int16) - 128).astype(np.int8)
        results[kind] = conversion.run(made.model, {"x": fed})["y"].astype(np.int16) + (128 if kind == "int8" else 0)
    np.testing.assert_array_equal(results["int8"], results["uint8"])
    assert all(a <= b for a, b in pairwise(results["uint8"].ravel()))


def test_names_are_public_through_the_package():
    assert quantcli.convert is api.convert
    assert all(getattr(quantcli, name) is not None for name in quantcli.__all__)
