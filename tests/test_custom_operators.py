"""Operators that ONNX does not define: those of onnxruntime and those of libraries. They pass through in float."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models import text, weight

from quantcli import api, cli, custom_ops, runtime, submodel
from quantcli.cli import boundary
from quantcli.errors import ModelError, UnsupportedError
from quantcli.report import FLOAT, INTEGER, STORED

COMPILER = shutil.which("cc")
MICROSOFT = ["com.microsoft"]
W = [weight(64, 64) / 8 for _ in range(4)]
FLOATING = ("none", "float16", "dynamic-range", "weight-only-int8", "weight-only-int4", "full-integer")
STRICT = ("int8-only", "16x8")

CONTRIBUTED = {
    "gelu": text(
        """(float[2,8,64] x) => (float[2,8,64] y) { a = MatMul(x, w0) b = com.microsoft.BiasGelu(a, v)
           c = com.microsoft.FastGelu(b) d = com.microsoft.Gelu(c) e = com.microsoft.QuickGelu(d)
           y = MatMul(e, w1) }""",
        domains=MICROSOFT, w0=W[0], w1=W[1], v=weight(64),
    ),
    "FusedGemm": text(
        """(float[2,64] x) => (float[2,64] y) {
             a = com.microsoft.FusedGemm<activation="Relu">(x, w0, v) y = MatMul(a, w1) }""",
        domains=MICROSOFT, w0=W[0], w1=W[1], v=weight(64),
    ),
    "FusedMatMul": text(
        """(float[2,64] x) => (float[2,64] y) {
             a = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(x, w0) y = MatMul(a, w1) }""",
        domains=MICROSOFT, w0=W[0], w1=W[1],
    ),
    "FusedConv": text(
        """(float[1,8,8,8] x) => (float[1,8,8,8] y) {
             a = com.microsoft.FusedConv<activation="Relu", pads=[1,1,1,1]>(x, w) f = Conv<pads=[1,1,1,1]>(a, w)
             s = Shape(x) r = Reshape(f, t) g = MatMul(r, m) y = Reshape(g, s) }""",
        domains=MICROSOFT, w=weight(8, 8, 3, 3) / 8, t=np.array([8, 64]), m=W[0],
    ),
    "SkipLayerNormalization": text(
        """(float[2,8,64] x) => (float[2,8,64] y) { a = MatMul(x, w0)
           b = com.microsoft.SkipLayerNormalization<epsilon=0.00001>(a, x, g, v) y = MatMul(b, w1) }""",
        domains=MICROSOFT, w0=W[0], w1=W[1], g=1 + weight(64) / 8, v=weight(64) / 8,
    ),
    "Attention": text(
        """(float[2,8,64] x) => (float[2,8,64] y) {
             a = com.microsoft.Attention<num_heads=4>(x, q, v) y = MatMul(a, w1) }""",
        domains=MICROSOFT, q=weight(64, 192) / 8, v=weight(192) / 8, w1=W[1],
    ),
    "MultiHeadAttention": text(
        """(float[2,8,64] x) => (float[2,8,64] y) { q = MatMul(x, w0) k = MatMul(x, w1) v = MatMul(x, w2)
             a = com.microsoft.MultiHeadAttention<num_heads=4>(q, k, v) y = MatMul(a, w3) }""",
        domains=MICROSOFT, w0=W[0], w1=W[1], w2=W[2], w3=W[3],
    ),
    "RotaryEmbedding": text(
        """(float[2,8,64] x) => (float[2,8,64] y) { p = Identity(i) a = MatMul(x, w0)
             b = com.microsoft.RotaryEmbedding<num_heads=4>(a, p, c, s) y = MatMul(b, w1) }""",
        domains=MICROSOFT, w0=W[0], w1=W[1], i=np.tile(np.arange(8), (2, 1)),
        c=np.cos(weight(16, 8)), s=np.sin(weight(16, 8)),
    ),
    "EmbedLayerNormalization": text(
        """(int32[2,8] ids) => (float[2,8,64] y) {
             a, m = com.microsoft.EmbedLayerNormalization(ids, , e, p, , g, v) y = MatMul(a, w1) }""",
        domains=MICROSOFT, e=weight(100, 64), p=weight(16, 64), g=1 + weight(64) / 8, v=weight(64), w1=W[1],
    ),
}  # fmt: skip
UNKNOWN = text(
    "(float[1,3] x) => (float[1,3] y) { a = Relu(x) b = some.where.Banana(a) y = Neg(b) }", domains=["some.where"]
)
each_model = pytest.mark.parametrize("name", CONTRIBUTED)


def foreign(result):
    """Return the entries of the operators that ONNX does not define."""
    return [e for e in result.state.report.ledger.values() if ":" in e.op_type]


def saved(folder, proto):
    onnx.save(proto, folder / "m.onnx")
    return folder / "m.onnx"


def quant(*arguments):
    """Run the command line; return its exit code and what it says of the error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = boundary.run(cli.quant, [str(a) for a in arguments])
    return code, err.getvalue()


@pytest.fixture
def library(tmp_path):
    """A file that exists; nobody loads it where ``registered`` listens."""
    path = tmp_path / "ops.so"
    path.write_bytes(b"not a library")
    return path


@pytest.fixture
def registered(monkeypatch):
    """List the libraries of each session as it begins, instead of loading them."""
    sessions, of_options, real = [], {}, runtime.ort.InferenceSession

    def begin(model, options, **keywords):
        sessions.append(tuple(of_options.pop(id(options), ())))
        return real(model, options, **keywords)

    monkeypatch.setattr(runtime, "_register", lambda options, path: of_options.setdefault(id(options), []).append(path))
    monkeypatch.setattr(runtime.ort, "InferenceSession", begin)
    monkeypatch.setattr(runtime, "saturates", lambda: False)  # asks about the CPU, with a model of its own
    return sessions


# ---- operators of onnxruntime ----------------------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("mode", FLOATING)
def test_a_contributed_operator_stays_float_with_a_reason(bench, name, mode):
    made = bench.convert(CONTRIBUTED[name], mode)
    assert foreign(made.result)
    for entry in foreign(made.result):
        assert entry.fate == FLOAT or (entry.fate, mode) == (STORED, "float16")
        assert entry.reason or entry.fate == STORED
        assert entry.kernel in ("", "float16 weights, computed in float32")
    assert min(q.sqnr_db for q in made.result.state.report.verification.outputs.values()) > 14


@each_model
@pytest.mark.parametrize("mode", STRICT)
def test_a_mode_of_integers_refuses_a_contributed_operator_and_names_it(bench, name, mode):
    with pytest.raises(UnsupportedError) as caught:
        bench.convert(CONTRIBUTED[name], mode)
    assert any("com.microsoft:" in reason and "has no rule" in reason for reason in caught.value.reasons)


@each_model
def test_what_surrounds_a_contributed_operator_becomes_integer(bench, name):
    made = bench.convert(CONTRIBUTED[name], "full-integer")
    assert made.fates("MatMul") == {INTEGER}


@each_model
def test_the_weights_of_a_contributed_operator_stay_float(bench, name):
    made = bench.convert(CONTRIBUTED[name], "dynamic-range", "passes.plan_weights.smallest=1")
    read = {v for n in made.model.graph.node if n.domain == "com.microsoft" and not n.op_type.startswith("Dynamic")
            for v in n.input}  # fmt: skip
    assert {a.dtype.kind for n, a in made.constants.items() if n in read} <= {"f", "i"}
    assert not any(a.dtype == np.int8 for n, a in made.constants.items() if n in read)


def test_advice_is_given_for_a_model_with_contributed_operators(tmp_path):
    advice = api.advise(saved(tmp_path, CONTRIBUTED["MultiHeadAttention"]))
    assert "com.microsoft:MultiHeadAttention" in advice.facts.operators


# ---- operators that nobody knows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [*FLOATING, *STRICT])
def test_an_unknown_operator_is_refused_with_what_to_do(tmp_path, mode):
    with pytest.raises(ModelError) as caught:
        api.convert(saved(tmp_path, UNKNOWN), mode=mode, options=api.Options(random_data=1), output=tmp_path / "q.onnx")
    assert "node 'Banana_1' is a Banana of domain 'some.where'" in caught.value.message
    assert "--custom-op-lib" in caught.value.hint
    assert caught.value.exit_code == 3


def test_an_unknown_operator_of_a_body_is_named(tmp_path):
    proto = text(
        """(float[1,3] x, bool c) => (float[1,3] y) { y = If (c) <
             then_branch = t () => (float[1,3] p) { p = some.where.Banana(x) },
             else_branch = e () => (float[1,3] q) { q = Neg(x) }> }""",
        domains=["some.where"],
    )
    with pytest.raises(ModelError, match=r"a Banana of domain 'some\.where'"):
        api.convert(saved(tmp_path, proto), mode="none", output=tmp_path / "q.onnx")


def test_a_library_that_lacks_the_operator_is_named(tmp_path, library, registered):
    with pytest.raises(ModelError) as caught:
        api.convert(saved(tmp_path, UNKNOWN), mode="none", options=api.Options(custom_op_libs=(library,)))
    assert str(library) in caught.value.hint


@pytest.mark.parametrize("refusal", ["Incompatible dimensions", "node Gelu_0 of com.microsoft: wrong type", ""])
def test_another_refusal_is_no_missing_operator(refusal):
    assert custom_ops.missing(ir.from_proto(CONTRIBUTED["gelu"]), refusal) is None


# ---- libraries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("convert", "--mode", "none"), ("convert", "--mode", "all"), ("advise",)])
def test_a_library_that_is_missing_is_a_usage_error(tmp_path, command):
    gone = tmp_path / "gone.so"
    code, said = quant(*command, saved(tmp_path, CONTRIBUTED["gelu"]), "--custom-op-lib", gone)
    assert (code, said.splitlines()[0]) == (
        2,
        f"error: {gone}: does not exist; expected a library of custom operators",
    )


@pytest.mark.parametrize("command", [("convert", "--mode", "none"), ("convert", "--mode", "all"), ("advise",)])
def test_a_file_that_is_no_library_is_an_input_error(tmp_path, library, command):
    code, said = quant(*command, saved(tmp_path, CONTRIBUTED["gelu"]), "--custom-op-lib", library)
    assert code == 3
    assert said.startswith(f"error: {library}: onnxruntime cannot register this library of custom operators: ")
    assert len(said.splitlines()) == 2  # and a hint


@pytest.mark.parametrize("mode", [*FLOATING, "all", "advise", "signatures"])
def test_every_session_registers_every_library(tmp_path, library, registered, mode):
    source, second = saved(tmp_path, CONTRIBUTED["gelu"]), tmp_path / "second.so"
    second.touch()
    asked = api.Options(custom_op_libs=(library, second), random_data=4, threads=1)
    if mode == "all":
        api.latencies(api.convert_all(source, output=tmp_path, options=asked))
    elif mode == "advise":
        assert f"--custom-op-lib {library}" in api.advise(source, custom_op_libs=asked.custom_op_libs).command
    elif mode == "signatures":
        (tmp_path / "s.yaml").write_text("signatures: {main: {model: m.onnx}}\n")
        api.convert_signatures(tmp_path / "s.yaml", mode="none", output=tmp_path, options=asked)
    else:
        api.convert(source, mode=mode, output=tmp_path / "q.onnx", options=asked)
    assert set(registered) == {(str(library), str(second))}


@pytest.mark.parametrize("opset", [11, 21])
def test_a_library_goes_with_bodies_and_older_models(tmp_path, library, registered, opset):
    proto = text(
        """(float[2,64] x, bool c) => (float[2,64] y) { a = MatMul(x, w) b = If (c) <
             then_branch = t () => (float[2,64] p) { d = com.microsoft.Gelu(a) p = MatMul(d, w) },
             else_branch = e () => (float[2,64] q) { q = Neg(a) }> y = MatMul(b, w) }""",
        domains=MICROSOFT, opset=opset, w=W[0],
    )  # fmt: skip
    asked = api.Options(custom_op_libs=(library,), random_data=4, threads=1)
    api.convert(saved(tmp_path, proto), mode="full-integer", output=tmp_path / "q.onnx", options=asked)
    assert set(registered) == {(str(library),)}


def test_a_library_is_found_from_any_folder(tmp_path, library, registered, monkeypatch):
    source = saved(tmp_path, CONTRIBUTED["gelu"])
    monkeypatch.chdir(tmp_path)
    api.convert(source, mode="none", output="q.onnx", options=api.Options(custom_op_libs=(Path("ops.so"),), threads=1))
    assert set(registered) == {(str(library),)}


def test_parts_of_a_model_carry_its_libraries(library):
    model = ir.from_proto(CONTRIBUTED["gelu"])
    custom_ops.attach(model, [library, library])
    parts = (model.clone(), submodel.with_outputs(model, ["b"]), submodel.sub_model(model, list(model.graph)[:1],
             {"x": ir.TypeAndShape(ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 8, 64]))}, ["a"]))  # fmt: skip
    assert {custom_ops.libraries(part) for part in parts} == {(str(library),)}


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler, to build a library that registers nothing")
@pytest.mark.parametrize("arguments", [("convert", "--mode", "dynamic-range"), ("advise",)])
def test_a_real_library_is_registered(tmp_path, monkeypatch, arguments):
    source = tmp_path / "ops.c"  # of (OrtSessionOptions*, const OrtApiBase*); a null OrtStatus is success
    source.write_text("void *RegisterCustomOps(void *options, const void *api) { return 0; }\n")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", tmp_path / "ops.so", source], check=True)  # noqa: S603
    monkeypatch.chdir(tmp_path)
    code, said = quant(*arguments, saved(tmp_path, CONTRIBUTED["gelu"]), "--custom-op-lib", "ops.so")
    assert code == 0, said
