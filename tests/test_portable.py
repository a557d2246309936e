"""``--portable``: integer products that give the same numbers where the CPU adds two of them in 16 bits.

The worst activations of every weight are put through numpy's emulation of that arithmetic, whole models through ONNX's
reference evaluator, and one through onnxruntime on an emulated CPU where qemu is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import conversion
import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from saturating import exact_dots, outputs, saturating_dots

from quantcli import api, options, portability, runtime, saturation
from quantcli.errors import InternalError, UsageError
from quantcli.plan import Plan
from quantcli.report import Product
from quantcli.state import Quantized

PORTABLE = "portable=true"


def dense(*shape, seed=0):
    """Weights that are all large: next to any of them is one of the same sign."""
    spread = np.random.default_rng(seed).uniform(0.6, 1, shape)
    return np.asarray(spread * np.random.default_rng([seed, 1]).choice([-1, 1, 1], shape), np.float32)


STATIC = {
    "conv": models.text(
        "(float[1, 4, 6, 6] x) => (float[1, 6, 6, 6] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w, b) }",
        w=dense(6, 4, 3, 3), b=models.weight(6),
    ),
    "grouped conv": models.text(
        "(float[1, 8, 6, 6] x) => (float[1, 6, 6, 6] y) { y = Conv<pads = [1, 1, 1, 1], group = 2>(x, w) }",
        w=dense(6, 4, 3, 3),
    ),
    "conv of one axis": models.text(
        "(float[1, 4, 20] x) => (float[1, 6, 20] y) { y = Conv<pads = [1, 1]>(x, w) }", w=dense(6, 4, 3)
    ),
    "depthwise with two outputs": models.text(
        "(float[1, 4, 6, 6] x) => (float[1, 8, 6, 6] y) { y = Conv<pads = [1, 1, 1, 1], group = 4>(x, w) }",
        w=dense(8, 1, 3, 3),
    ),
    "gemm": models.text(
        "(float[4, 64] x) => (float[4, 80] y) { y = Gemm(x, w, b) }", w=dense(64, 80), b=models.weight(80)
    ),
    "transposed gemm": models.text(
        "(float[4, 64] x) => (float[4, 80] y) { y = Gemm<transB = 1>(x, w) }", w=dense(80, 64)
    ),
    "matmul": models.text("(float[2, 3, 64] x) => (float[2, 3, 80] y) { y = MatMul(x, w) }", w=dense(64, 80)),
}  # fmt: skip
IN_FLOAT = ("grouped conv", "depthwise with two outputs")  # with 16-bit activations, where float32 sums them exactly
DYNAMIC = {
    "matmul": models.text("(float[32, 128] x) => (float[32, 96] y) { y = MatMul(x, w) }", w=dense(128, 96)),
    "transposed gemm": models.text(
        "(float[32, 128] x) => (float[32, 96] y) { y = Gemm<transB = 1>(x, w) }", w=dense(96, 128)
    ),
    "lstm": models.text(
        """(float[4, 1, 128] x) => (float[4, 2, 1, 128] y) {
             y = LSTM<hidden_size = 128, direction = "bidirectional">(x, w, r)
           }""",
        w=dense(2, 512, 128) / 8, r=dense(2, 512, 128, seed=2) / 8,
    ),
    "tied embedding": models.text(
        """(int64[1, 32] ids) => (float[1, 32, 96] y) {
             h = Gather(table, ids)
             y = MatMul(h, turned)
           }""",
        table=dense(96, 128), turned=dense(96, 128).T.copy(),
    ),
}  # fmt: skip
FORMS = [
    *[(name, model, mode) for name, model in STATIC.items() for mode in ("int8-only", "full-integer")],
    *[(name, model, "16x8") for name, model in STATIC.items() if name not in IN_FLOAT],
    *[(name, model, "dynamic-range") for name, model in DYNAMIC.items()],
]
cases = pytest.mark.parametrize(("name", "model", "mode"), FORMS, ids=lambda v: v if isinstance(v, str) else "")


def products(converted):
    return converted.result.report["portability"]["weights"]


# ---- the arithmetic, weight by weight --------------------------------------------------------------------------------


def factors(model):
    """Yield the stored weight of every integer product, as the right operand (K, N), and the type of the left one.

    Independent of the tool's own reading: what is multiplied is taken from onnxruntime's view of the emitted graph.
    """
    graph = model.graph
    inferred = ir.from_proto(model)
    types = {n: i.dtype for n, i in runtime.describe(inferred).items()}
    constants = {t.name for t in graph.initializer}
    places = {"QLinearConv": (0, 3), "QGemm": (0, 3), "MatMulInteger": (0, 1), "ConvInteger": (0, 1), "Conv": (0, 1),
              "Gemm": (0, 1), "MatMul": (0, 1), "DynamicQuantizeLSTM": (0, 1)}  # fmt: skip
    makers = {o: n for n in graph.node for o in n.output}
    for node in graph.node:
        if node.op_type not in places:
            continue
        indices = [places[node.op_type]] + ([(0, 2)] if node.op_type == "DynamicQuantizeLSTM" else [])
        for data, weight in indices:
            x, w = (_dequantized(node.input[i], makers) for i in (data, weight))
            if types[w] not in (np.int8, np.uint8):
                continue
            stored = values_of(model, w, constants)
            left = np.dtype(np.uint8) if node.op_type == "DynamicQuantizeLSTM" else types[x]
            yield node, left, stored


def _dequantized(name, makers):
    maker = makers.get(name)
    return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else name


def values_of(model, name, constants):
    """Let onnxruntime compute a tensor that depends on constants alone."""
    known, steps = set(constants), []
    for node in model.graph.node:
        if node.input and known.issuperset(node.input):
            known.update(node.output)
            steps.append(node)
    assert name in known
    wanted = [onnx.helper.make_empty_tensor_value_info("found")]
    last = onnx.helper.make_node("Identity", [name], ["found"])
    graph = onnx.helper.make_graph([*steps, last], "constants", [], wanted, model.graph.initializer)
    whole = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return conversion.run(whole, {})["found"]


def rows_of(node, weight):
    """Return (channels, K)."""
    if "Conv" in node.op_type:
        return weight.reshape(len(weight), -1)
    turned = next((a.i for a in node.attribute if a.name == "transB"), 0)
    return (weight if turned else np.moveaxis(weight, -2, -1)).reshape(-1, weight.shape[-1 if turned else -2])


def agrees(node, left, weight):
    """Tell whether the worst activations of each channel give the same sums in pairs of 16 bits as exactly."""
    rows = rows_of(node, weight)
    if node.op_type == "ConvInteger":  # whose left operand is the weight
        pairs = [(rows, np.full(rows.shape, end, left)) for end in (np.iinfo(left).min, np.iinfo(left).max)]
    else:
        worst = [np.where(rows > 0, 255, 0), np.where(rows < 0, 255, 0)]
        pairs = [(np.asarray(x, left), rows) for x in worst]
    rng = np.random.default_rng(0)
    orders = [np.arange(rows.shape[1]), *(rng.permutation(rows.shape[1]) for _ in range(3))]
    return all(
        np.array_equal(saturating_dots(x[:, order], w[:, order]), exact_dots(x, w))
        for x, w in pairs
        for order in orders
    )


@cases
def test_portable_products_are_exact_in_any_packing(bench, name, model, mode):
    found = bench.convert(model, mode, PORTABLE, nearest=False)
    judged = [agrees(*each) for each in factors(found.model)]
    assert judged
    assert all(judged)


@cases
def test_default_products_are_not(bench, name, model, mode):
    found = bench.convert(model, mode)
    multiplied = [f for f in factors(found.model) if not is_depthwise(f[0], f[2])]
    assert not all(agrees(*each) for each in multiplied)


def is_depthwise(node, weight):
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    return node.op_type in ("QLinearConv", "Conv") and weight.shape[:2] == (group, 1)


@cases
def test_the_report_says_which_products_are_exact(bench, name, model, mode):
    default, portable = (bench.convert(model, mode, *s).result.report for s in ((), (PORTABLE,)))
    assert default["portability"]["may_saturate_without_vnni"] == default["portability"]["products"] > 0
    assert portable["portability"]["may_saturate_without_vnni"] == 0
    assert portable["portability"]["products"] == default["portability"]["products"]
    assert portable["portability"]["portable"]
    assert all(p["reason"] for p in (*default["portability"]["weights"], *portable["portability"]["weights"]))


# ---- whole models ----------------------------------------------------------------------------------------------------

NET = models.text(
    """(float[1, 4, 8, 8] x) => (float[1, 10] y) {
         a = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)
         b = Relu(a)
         c = Conv<pads = [1, 1, 1, 1], group = 6>(b, w1)
         d = Conv<strides = [2, 2]>(c, w2)
         f = Flatten(d)
         y = Gemm<transB = 1>(f, w3, b3)
       }""",
    w0=dense(6, 4, 3, 3), b0=models.weight(6), w1=dense(6, 1, 3, 3, seed=1), w2=dense(8, 6, 1, 1, seed=2),
    w3=dense(10, 128, seed=3), b3=models.weight(10),
)  # fmt: skip


@pytest.mark.parametrize("settings", [(), (PORTABLE,)], ids=["default", "portable"])
def test_a_model_computes_the_same_with_saturating_products_only_if_portable(bench, settings):
    found = bench.convert(NET, "int8-only", "outputs=float32", "inputs=float32", *settings, nearest=False)
    same = []
    for feed in found.feeds:
        exact, saturated = (outputs(found.model, feed, saturating=s) for s in (False, True))
        same.append(all(np.array_equal(a, b) for a, b in zip(exact, saturated, strict=True)))
    assert all(same) == bool(settings)


def test_the_emulation_is_what_onnxruntime_computes(bench):
    found = bench.convert(NET, "int8-only", "outputs=float32", "inputs=float32", PORTABLE, nearest=False)
    for feed in found.feeds:
        (expected,) = outputs(found.model, feed, saturating=False)
        assert np.abs(found.run(feed)["y"] - expected).max() <= found.grids["y"].scale * 1.01


def test_portable_16_bit_results_are_the_same_bits(bench):
    for model in (STATIC["conv"], STATIC["matmul"]):
        default, portable = (bench.convert(model, "16x8", *s, nearest=False) for s in ((), (PORTABLE,)))
        for feed in default.feeds:
            exact = default.run(feed, optimize=False) if not runtime.saturates() else portable.run(feed)
            assert np.array_equal(portable.run(feed)["y"], exact["y"])


def test_depthwise_weights_keep_all_their_bits(bench):
    model = models.text(
        "(float[1, 6, 6, 6] x) => (float[1, 6, 6, 6] y) { y = Conv<pads = [1, 1, 1, 1], group = 6>(x, w) }",
        w=dense(6, 1, 3, 3),
    )
    default, portable = (bench.convert(model, "int8-only", *s) for s in ((), (PORTABLE,)))
    assert products(portable) == products(default)
    assert products(portable)[0]["reason"].startswith("depthwise")
    assert np.array_equal(portable.constants["w_quantized"], default.constants["w_quantized"])


def test_a_scale_for_the_whole_weight_is_small_enough_too(bench):
    found = bench.convert(STATIC["conv"], "int8-only", "scheme.weights.granularity=per-tensor", PORTABLE, nearest=False)
    assert products(found)[0]["exact"]


@pytest.mark.parametrize("mode", ["int8-only", "full-integer"])
def test_portable_weights_lose_less_than_one_bit(bench, mode):
    default, portable = (bench.convert(NET, mode, *s, nearest=False).result.report for s in ((), (PORTABLE,)))
    worst = [r["verification"]["outputs"]["y"]["sqnr_db"] for r in (default, portable)]
    assert worst[1] > worst[0] - 6.1


def test_the_same_conversion_gives_the_same_bytes(bench):
    first = bench.convert(NET, "int8-only", PORTABLE, nearest=False).result.output.read_bytes()
    assert bench.convert(NET, "int8-only", PORTABLE, nearest=False).result.output.read_bytes() == first


# ---- reports and refusals --------------------------------------------------------------------------------------------


def test_one_note_counts_what_may_saturate(bench):
    report = bench.convert(NET, "int8-only").result.report
    said = [n for n in (*report["notes"], *report["warnings"]) if "--portable" in n]
    assert len(said) == 1
    assert "3 of 4 integer products may saturate on x86 CPUs without VNNI" in said[0]
    assert not [n for n in bench.convert(NET, "int8-only", PORTABLE).result.report["notes"] if "VNNI" in n]


def test_only_a_cpu_that_saturates_is_warned_of(bench, monkeypatch):
    for here in (True, False):
        monkeypatch.setattr(runtime, "saturates", lambda here=here: here)
        report = bench.convert(STATIC["conv"]).result.report
        assert any("this CPU" in w for w in report["warnings"]) == here


def test_a_weight_that_saturates_is_named_where_none_may():
    found = [Product("a", "QGemm", "u", exact=True), Product("b", "QGemm", "w", exact=False, largest_pair=40000)]
    with pytest.raises(InternalError, match=r"'b' \(QGemm\).*'w'.*40000"):
        portability.check_portable(found)


def test_a_computed_weight_may_hold_whatever_its_type_does():
    model = models.text(
        "(uint8[2, 8] x, int8[8, 3] w, uint8 xz, int8 wz) => (int32[2, 3] y) { y = MatMulInteger(x, w, xz, wz) }"
    )
    (product,) = portability.products(Quantized(ir.from_proto(model)), Plan())
    assert (product.exact, product.largest_pair) == (False, 2 * 255 * 128)


def test_products_in_bodies_count_too():
    model = models.text(
        """(bool c, uint8[2, 8] x) => (int32[2, 3] y) {
             y = If(c) <then_branch = g1 () => (int32[2, 3] a) { a = MatMulInteger(x, w) },
                        else_branch = g2 () => (int32[2, 3] b) { b = MatMulInteger(x, w) }>
           }""",
        w=np.full((8, 3), 127, np.int8),
    )
    made = ir.from_proto(model)
    found = portability.products(Quantized(made), Plan())
    assert {p.exact for p in found} == {False}


def test_passes_must_keep_to_the_bound(bench, monkeypatch):
    everything = lambda integers: (np.full(integers.shape, -127), np.full(integers.shape, 127))  # noqa: E731
    monkeypatch.setattr(saturation, "exact_scale", lambda _weight, _spec: np.zeros((), np.float32))
    monkeypatch.setattr(saturation, "limits", everything)
    with pytest.raises(InternalError, match="beyond 16 bits"):
        bench.convert(STATIC["conv"], "int8-only", PORTABLE)


@pytest.mark.parametrize("mode", ["none", "float16", "weight-only-int8", "weight-only-int4"])
def test_modes_that_multiply_no_integers_refuse_it(mode):
    with pytest.raises(UsageError, match=f"--portable means nothing in mode '{mode}'"):
        options.resolved(mode, options.Options(portable=True))


def test_all_modes_together_leave_it_out_where_it_means_nothing(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(STATIC["gemm"], path)
    asked = api.Options(portable=True, threads=1)
    found = api.convert_all(path, representative_dataset=models.samples(STATIC["gemm"]), output=tmp_path, options=asked)
    done = {mode: r.report for mode, r in found.items() if isinstance(r, api.Result)}
    assert done["int8-only"]["portability"]["may_saturate_without_vnni"] == 0
    assert "--portable means nothing in this mode and was left out" in done["none"]["notes"]


def test_a_recipe_says_it_and_remembers_it(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("extends: int8-only\nname: exact\nportable: true\n")
    resolved = options.resolved("int8-only", options.Options(recipe=recipe))
    assert resolved.portable
    assert "portable: true" in resolved.compact()
    assert "portable" not in replace(resolved, portable=False).compact()


# ---- an emulated CPU -------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
import numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = np.load(sys.argv[2])
print(json.dumps([session.run(None, {"x": x})[0].tolist() for x in feeds["x"]]))
"""
QEMU = next((q for q in map(shutil.which, ("qemu-x86_64", "qemu-x86_64-static")) if q), None)


@pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64 on PATH: nothing here can run onnxruntime without VNNI")
@pytest.mark.parametrize("mode", ["int8-only", "full-integer", "16x8"])
def test_a_cpu_without_vnni_agrees_only_with_portable_models(bench, tmp_path, mode):
    for settings in ((), (PORTABLE,)):
        found = bench.convert(NET, mode, "inputs=float32", "outputs=float32", *settings, nearest=False)
        np.savez(tmp_path / "feeds.npz", x=np.stack([f["x"] for f in found.feeds[:3]]))
        path = str(found.result.output)
        run = [sys.executable, "-c", SCRIPT, path, str(tmp_path / "feeds.npz")]
        here, there = (
            np.array(json.loads(subprocess.run([*cpu, *run], check=True, capture_output=True, text=True).stdout))  # noqa: S603 - our own script
            for cpu in ([], [QEMU, "-cpu", "Haswell"])
        )
        assert np.array_equal(here, there) == bool(settings)


def test_a_weight_that_a_long_graph_computes_is_looked_at_once():
    sums = "".join(f"s{i + 1} = Add(s{i}, s{i}) " for i in range(60))  # 2^60 paths lead back to its beginning
    model = models.text(f"(uint8[4,4] x, int8[4,4] s0) => (int32[4,4] y) {{ {sums} y = MatMulInteger(x, s60) }}")
    (found,) = portability.products(Quantized(ir.from_proto(model)), Plan())
    assert not found.exact
