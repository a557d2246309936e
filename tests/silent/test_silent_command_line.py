"""What was asked for on the command line."""

from __future__ import annotations

import contextlib
import io
import json

import click
import models
import numpy as np
import onnx
import pytest
from conversion import computed_in_float, optimized, run
from laws import IMAGE, ROWS, error, in_both_formats
from models import weight
from onnx import TensorProto

from quantcli import cli, modes, plugins
from quantcli.cli import boundary
from quantcli.errors import UsageError


@in_both_formats
def test_s10_a_name_to_keep_float_is_the_users_own(bench, output_format):
    model = models.text(ROWS + "{ a = Gemm(x, w, b) r = Relu(a) y = Gemm(r, w, b) }", w=weight(6, 6), b=weight(6))
    for node, name in zip(model.graph.node, ("/Gemm", "/Relu", "/Gemm_1"), strict=True):
        node.name = name
    converted = bench.as_format(model, output_format, keep_float=("/Gemm",))
    assert converted.ledger["/Gemm"].fate == "float"
    assert converted.ledger["/Gemm_1"].fate == "integer"
    assert [n.op_type for n in converted.model.graph.node if n.name == "/Gemm"] == ["Gemm"]
    with pytest.raises(UsageError) as refusal:
        bench.as_format(model, output_format, keep_float=("nope",))
    assert refusal.value.exit_code == 2


def test_s10_a_name_that_preparation_folds_away_may_be_given(bench):
    model = models.text(IMAGE + "{ [c] a = Conv(x, w) [s] y = Mul(a, k) }", w=weight(4, 3, 3, 3), k=2.0)
    assert bench.convert(model, "full-integer", keep_float=("s",)).ledger["s"].fate == "folded"


@pytest.mark.parametrize("op", ["Add(a, b)", "MatMul(a, b)", "Concat<axis = 0>(a, b)"])
def test_s10_what_is_kept_float_is_computed_in_float(bench, op):
    model = models.text(
        f"(float[6,6] x) => (float y) {{ a = MatMul(x, w) b = MatMul(x, v) [kept] c = {op} y = MatMul(c, w) }}",
        w=weight(6, 6), v=weight(6, 6, seed=1),
    )  # fmt: skip
    converted = bench.convert(model, "full-integer", keep_float=("kept",))
    assert op.partition("(")[0].partition("<")[0] in computed_in_float(optimized(converted.model, bench.folder))


IO = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}
BOUNDARIES = {
    "linear": "{ y = MatMul(x, w) }",
    "float-first": "{ [f] a = LogSoftmax(x) y = MatMul(a, w) }",
    "float-last": "{ a = MatMul(x, w) [f] y = LogSoftmax(a) }",
    "float-only": "{ [f] a = LogSoftmax(x) b = Shape(w) y = Add(a, a) }",
    "passed-on": "{ y = Identity(x) a = MatMul(x, w) }",
}


@pytest.mark.parametrize("case", BOUNDARIES)
@pytest.mark.parametrize("mode", ["full-integer", "int8-only"])
@pytest.mark.parametrize("inputs", IO)
@pytest.mark.parametrize("outputs", IO)
def test_s40_the_boundary_has_the_types_that_were_asked_for(bench, case, mode, inputs, outputs):
    model = models.text("(float[4,6] x) => (float[4,6] y) " + BOUNDARIES[case], w=weight(6, 6))
    converted = bench.convert(model, mode, "fallback=float", input_type=inputs, output_type=outputs)
    assert [i.type.tensor_type.elem_type for i in converted.model.graph.input] == [IO[inputs]]
    assert [o.type.tensor_type.elem_type for o in converted.model.graph.output] == [IO[outputs]]
    assert error(converted)["y"] < 0.05 * np.ptp(run(model, converted.feeds[0])["y"])


def said(folder, *arguments):
    """Run the command line in a folder; return its exit code and what it said on stderr."""
    err = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = boundary.run(cli.quant, [str(a) for a in arguments])
    return code, err.getvalue()


@pytest.fixture
def folder(tmp_path):
    """A folder with a model, and with samples for it."""
    model = models.text("(float[40,96] x) => (float y) { [first] a = MatMul(x, w) [last] y = MatMul(a, w) }",
                        w=weight(96, 96, spread=0.1))  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(0, 1, (4, 40, 96)).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("mode", modes.names())
def test_s10_an_unknown_name_is_refused_in_every_mode_with_the_names_near_it(folder, mode):
    before = sorted(folder.iterdir())
    code, err = said(folder, "convert", "m.onnx", "--mode", mode, "--random-data", "2", "--float", "frst")
    assert code == 2
    assert "'frst' matches nothing" in err
    assert "'first'" in err
    assert sorted(folder.iterdir()) == before


NEEDING = [m for m in modes.names() if modes.resolve(m).needs_data]
WRONG = {  # settings that no recipe may have
    "no-number": "passes.gptq.samples=many", "a-fraction": "passes.gptq.samples=1.5",
    "a-truth": "passes.gptq.samples=true", "a-word-for-a-number": "passes.convert_opset.minimum='14'",
    "no-truth": "scheme.activations.symmetric='1'", "a-number-for-a-truth": "scheme.weights.narrow_range=1",
    "a-number-for-a-choice": "scheme.weights.granularity=1", "no-choice": "scheme.weights.granularity=per-axis",
    "no-type": "scheme.weights.dtype=int7", "no-list": "exclude=3", "no-pass": "passes.gtpq=off",
    "no-option": "passes.gptq.sample=3", "no-switch": "passes.gptq=maybe", "no-key": "scheme.weight.dtype=int8",
    "no-samples": "passes.gptq.samples=0", "negative-samples": "passes.bias_correction.samples=-4",
    "no-verification": "passes.verify.samples=0", "a-negative-opset": "passes.convert_opset.minimum=-1",
    "no-value": "passes.gptq", "no-calibrator": "passes.calibrate.calibrator=minmx",
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_s37_a_setting_has_the_type_and_the_name_of_its_place(folder, case):
    code, err = said(folder, "convert", "m.onnx", "--mode", "full-integer", "--random-data", "2", "--set", WRONG[case])
    assert code == 2
    assert "--set" in err
    assert not list(folder.glob("*.full-integer.*"))


@pytest.mark.parametrize("mean", ["-1", ".inf", "-.inf", ".nan"])
def test_s37_a_factor_is_a_finite_number(folder, mean):
    setting = f"passes.emit_weights.mean={mean}"
    code, err = said(folder, "convert", "m.onnx", "--mode", "dynamic-range", "--set", setting)
    assert code == 2
    assert "--set" in err


@pytest.mark.parametrize("size", [0, -32, 33, 512, 2**40])
def test_s37_a_block_size_is_in_the_range_of_the_kernels(folder, size):
    setting = f"scheme.weights.block_size={size}"
    code, err = said(folder, "convert", "m.onnx", "--mode", "weight-only-int8", "--set", setting)
    assert code in (2, 4)
    assert "expected 16 | 32 | 64 | 128 | 256" in err


@pytest.mark.parametrize("mode", NEEDING)
def test_s38_without_data_nothing_is_calibrated(folder, mode):
    code, err = said(folder, "convert", "m.onnx", "--mode", mode)
    assert code == 2
    assert "needs calibration data" in err
    assert "--random-data" in err


@pytest.mark.parametrize("mode", NEEDING)
def test_s38_random_data_is_stamped_into_what_is_written(folder, mode):
    code, _ = said(folder, "convert", "m.onnx", "--mode", mode, "--random-data", "3", "-o", "q.onnx")
    assert code == 0
    report = json.loads((folder / "q.report.json").read_text())
    assert any("random data (3 samples)" in w for w in report["warnings"])
    assert "random" in json.dumps({p.key: p.value for p in onnx.load(folder / "q.onnx").metadata_props} | report)


def test_s38_real_and_random_data_exclude_each_other(folder):
    code, err = said(folder, "convert", "m.onnx", "--representative-dataset", "data.npz", "--random-data", "3")
    assert code == 2
    assert "exclude each other" in err


PAIRS = [
    ("--representative-dataset data.npz", "--samples 2"), ("--representative-dataset data.npz", "--calibrator minmax"),
    ("--random-data 2", "--samples 2"), ("--random-data 2", "--set passes.gptq=off"),
    ("--representative-dataset data.npz", "--io int8"), ("--random-data 2", "--quiet --json"),
    ("--representative-dataset data.npz", "--min-sqnr 1 --keep"), ("--random-data 2", "--threads 1 --dry-run"),
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_s38_flags_that_make_sense_together_are_allowed(folder, pair):
    code, err = said(folder, "convert", "m.onnx", "--mode", "full-integer", *" ".join(pair).split())
    assert (code, err.count("error:")) == (0, 0)


def enumerated():
    """Every option that takes one of a few words, with the words; and those whose words are known otherwise."""
    for name in ("convert", "advise"):
        command = cli.quant.get_command(click.Context(cli.quant), name)
        for parameter in command.params:
            if isinstance(parameter.type, click.Choice):
                yield name, parameter.opts[0], tuple(parameter.type.choices)
    yield "convert", "--mode", tuple(modes.names())
    yield "convert", "--calibrator", tuple(plugins.CALIBRATORS)


def typos(words):
    """Misspellings of each word that are no word themselves."""
    made = {t for w in words for t in (w.upper(), w[:-1], w + w[-1], f"{w} ", f"-{w}", w.replace("8", "9"), "")}
    return sorted(t for t in made if t not in words)


ENUMERATED = list(enumerated())


def test_s39_the_options_that_take_words_are_found():
    assert {o for _, o, _ in ENUMERATED} >= {"--mode", "--io", "--format", "--fallback", "--calibrator", "--target"}


@pytest.mark.parametrize(("command", "option", "words"), ENUMERATED, ids=[" ".join(e[:2]) for e in ENUMERATED])
def test_s39_a_misspelled_word_is_refused_before_anything_happens(folder, command, option, words):
    before = sorted(folder.iterdir())
    more = ("--random-data", "2") if command == "convert" else ()
    for typo in typos(words):
        code, err = said(folder, command, "m.onnx", *more, f"{option}={typo}")
        assert (code, typo) == (2, typo), err
        assert "error:" in err
    assert sorted(folder.iterdir()) == before


UNKNOWN = ["--modes=none", "--formt=qdq", "--inputtype=int8", "--Mode=none", "--io-type=int8", "-x"]


@pytest.mark.parametrize("flag", UNKNOWN)
def test_s39_an_option_that_does_not_exist_is_refused(folder, flag):
    assert said(folder, "convert", "m.onnx", "--random-data", "2", flag)[0] == 2


OUT_OF_RANGE = ["--random-data=0", "--random-data=-1", "--random-data=x", "--samples=0", "--threads=0", "--threads=1.5",
                "--min-sqnr=-1", "--min-sqnr=nan", "--min-sqnr=x"]  # fmt: skip


@pytest.mark.parametrize("flag", OUT_OF_RANGE)
def test_s39_a_number_out_of_range_is_refused(folder, flag):
    assert said(folder, "convert", "m.onnx", "--representative-dataset", "data.npz", flag)[0] == 2


TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8,
         "uint8": TensorProto.UINT8, "int16": TensorProto.INT16}  # fmt: skip


@pytest.mark.parametrize("side", ["io", "input_type", "output_type"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("mode", modes.names())
def test_s40_the_written_file_has_the_type_or_there_is_no_file(folder, mode, kind, side):
    option = f"--{side.replace('_', '-')}"
    code, err = said(folder, "convert", "m.onnx", "--mode", mode, "--random-data", "2", "-o", "q.onnx", option, kind)
    if kind not in modes.resolve(mode).io_types:
        assert code == 2
        assert f"{kind} is not possible in mode {mode!r}" in err
        assert not (folder / "q.onnx").exists()
    elif code == 0:
        written = onnx.load(folder / "q.onnx").graph
        sides = {"io": (*written.input, *written.output), "input_type": written.input, "output_type": written.output}
        assert {v.type.tensor_type.elem_type for v in sides[side]} == {TYPES[kind]}
    else:
        assert code in (2, 4)
        assert kind in err
