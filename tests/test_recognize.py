"""Spellings: however an exporter writes an operator, every mode treats it like the operator itself."""

from __future__ import annotations

import math
import re

import models
import numpy as np
import onnx_ir as ir
import pytest
from conversion import optimized
from models import weight
from onnx import numpy_helper

from quantcli import graph, runtime
from quantcli.spellings import kept_together, meanings

ALIKE_DB = 1.0
F32 = np.float32
NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "six": 6, "half": 0.5, "sixth": F32(1 / 6), "minus_half": -0.5,
    "root": F32(math.sqrt(2)), "inverse_root": F32(math.sqrt(0.5)), "tanh_factor": F32(math.sqrt(2 / math.pi)),
    "cubic": 0.044715, "tiny": 1e-12, "eps": 1e-5, "last": models.ints(-1), "plane": models.ints(2, 3),
}  # fmt: skip

LAYER = """m = ReduceMean<axes = [-1]>(h) d = Sub(h, m) q = Pow(d, two) v = ReduceMean<axes = [-1]>(q)
           e = Add(v, eps) s = Sqrt(e) n = Div(d, s) w = Mul(n, g) r = Add(w, b)"""
RMS = "q = Pow(h, two) v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) s = Sqrt(e) n = Div(h, s) r = Mul(n, g)"
PLANES = LAYER.replace("axes = [-1]", "axes = [2, 3]").replace("g)", "gc)").replace("b)", "bc)")
SHIFTED = "a = Add(h, three) c = Clip(a, zero, six) "

SPELLINGS = {
    "LayerNormalization": ("r = LayerNormalization<axis = -1, epsilon = 0.00001>(h, g, b)", {
        "division": LAYER,
        "square as product": LAYER.replace("Pow(d, two)", "Mul(d, d)"),
        "reciprocal": LAYER.replace("n = Div(d, s)", "i = Reciprocal(s) n = Mul(d, i)"),
        "one over": LAYER.replace("n = Div(d, s)", "i = Div(one, s) n = Mul(i, d)"),
        "power of minus a half": LAYER.replace("s = Sqrt(e) n = Div(d, s)", "i = Pow(e, minus_half) n = Mul(d, i)"),
        "gain before": LAYER.replace("n = Div(d, s) w = Mul(n, g)", "i = Reciprocal(s) t = Mul(g, i) w = Mul(d, t)"),
        "TensorFlow": """m = ReduceMean<axes = [-1]>(h) d = Sub(h, m) q = Mul(d, d) v = ReduceMean<axes = [-1]>(q)
            e = Add(v, eps) s = Sqrt(e) i = Reciprocal(s) t = Mul(i, g) u = Mul(h, t) w = Mul(m, t) z = Sub(b, w)
            r = Add(u, z)""",
        "mean of squares": """m = ReduceMean<axes = [-1]>(h) p = Mul(h, h) o = ReduceMean<axes = [-1]>(p) k = Mul(m, m)
            v = Sub(o, k) d = Sub(h, m) e = Add(v, eps) s = Sqrt(e) n = Div(d, s) w = Mul(n, g) r = Add(w, b)""",
    }),
    "RMSNormalization": ("r = RMSNormalization<axis = -1, epsilon = 0.00001>(h, g)", {
        "division": RMS,
        "square as product": RMS.replace("Pow(h, two)", "Mul(h, h)"),
        "one over": RMS.replace("n = Div(h, s)", "i = Div(one, s) n = Mul(h, i)"),
        "reciprocal": RMS.replace("n = Div(h, s)", "i = Reciprocal(s) n = Mul(i, h)"),
    }),
    "InstanceNormalization": ("r = InstanceNormalization<epsilon = 0.00001>(h, gv, bv)", {
        "division": PLANES,
        "reciprocal": PLANES.replace("n = Div(d, s)", "i = Reciprocal(s) n = Mul(d, i)"),
    }),
    "Gelu": ("r = Gelu(h)", {
        "half last": "a = Div(h, root) e = Erf(a) p = Add(e, one) m = Mul(h, p) r = Mul(m, half)",
        "half first": "a = Mul(h, inverse_root) e = Erf(a) p = Add(one, e) m = Mul(h, half) r = Mul(p, m)",
        "half inside": "a = Div(h, root) e = Erf(a) p = Mul(e, half) m = Add(p, half) r = Mul(m, h)",
    }),
    "Gelu by tanh": ('r = Gelu<approximate = "tanh">(h)', {
        "power": """q = Pow(h, three) c = Mul(q, cubic) s = Add(h, c) u = Mul(s, tanh_factor) t = Tanh(u)
            p = Add(t, one) m = Mul(h, half) r = Mul(m, p)""",
        "products": """o = Mul(h, h) q = Mul(o, h) c = Mul(cubic, q) s = Add(c, h) u = Mul(s, tanh_factor) t = Tanh(u)
            p = Add(one, t) m = Mul(h, p) r = Mul(half, m)""",
    }),
    "HardSwish": ("r = HardSwish(h)", {
        "product then division": SHIFTED + "m = Mul(h, c) r = Div(m, six)",
        "division then product": SHIFTED + "d = Div(c, six) r = Mul(d, h)",
        "HardSigmoid": "c = HardSigmoid<alpha = 0.16666667>(h) r = Mul(h, c)",
        "Relu6": "a = Add(three, h) t = Relu(a) c = Min(t, six) d = Mul(c, sixth) r = Mul(h, d)",
    }),
    "Softmax": ("r = Softmax<axis = -1>(h)", {
        "plain": "e = Exp(h) s = ReduceSum(e, last) r = Div(e, s)",
        "less the maximum": """m = ReduceMax<axes = [-1]>(h) d = Sub(h, m) e = Exp(d) s = ReduceSum(e, last)
            r = Div(e, s)""",
    }),
    "Mish": ("r = Mish(h)", {"Softplus": "s = Softplus(h) t = Tanh(s) r = Mul(h, t)"}),
}  # fmt: skip
CASES = [(name, spelling) for name, (_, spellings) in SPELLINGS.items() for spelling in spellings]
OF_PLANES = ("InstanceNormalization", "HardSwish", "Mish")
MODES = ("full-integer", "int8-only", "16x8", "dynamic-range", "16x8 --fallback")
FLOAT = ("LayerNormalization", "RMSNormalization", "InstanceNormalization")  # have no integer form as one operator


def model(name, body, opset=23):
    """The operator between two products, or between two convolutions."""
    if opset >= 18:
        for op_type in ("ReduceMean", "ReduceMax"):
            for axes, constant in (("[-1]", "last"), ("[2, 3]", "plane")):
                for operand in "hqp":
                    old = f"{op_type}<axes = {axes}>({operand})"
                    body = body.replace(old, f"{op_type}({operand}, {constant})")
    gain, shift = (0.2 * weight(16, seed=s) + centre for s, centre in ((1, 1), (2, 0.5)))
    arrays = {
        "g": gain,
        "b": shift,
        "gv": gain,
        "bv": shift,
        "gc": gain.reshape(-1, 1, 1),
        "bc": shift.reshape(-1, 1, 1),
    }
    if name in OF_PLANES:
        source = f"(float[1,8,12,12] x) => (float y) {{ h = Conv<pads = [1, 1, 1, 1]>(x, w1) {body} y = Conv(r, w2) }}"
        weights = {"w1": weight(16, 8, 3, 3), "w2": weight(8, 16, 1, 1, seed=3)}
    else:
        source = f"(float[2,6,32] x) => (float y) {{ h = MatMul(x, w1) {body} y = MatMul(r, w2) }}"
        weights = {"w1": weight(32, 16), "w2": weight(16, 8, seed=3)}
    known = {**NUMBERS, **arrays}
    read = {word.strip("(),") for word in body.replace("(", " ( ").split()}
    return models.text(source, opset=opset, **weights, **{k: v for k, v in known.items() if k in read})


def convert(bench, made, mode):
    asked, _, fallback = mode.partition(" --")
    return bench.convert(made, asked, **({"fallback": "float"} if fallback else {}))


def sqnr(converted):
    (quality,) = converted.result.report["verification"]["outputs"].values()
    return min(quality["sqnr_db"], 100.0)  # beyond that it is rounding in float32


def arithmetic(converted, folder):
    """The operators that onnxruntime runs."""
    return sorted(n.op_type for n in optimized(converted.model, folder).graph.node)


@pytest.mark.parametrize(
    ("name", "spelling", "mode"),
    [(n, s, m) for n, s in CASES for m in MODES if n not in FLOAT or m not in ("int8-only", "16x8")],
)
def test_a_spelling_is_treated_like_its_operator(name, spelling, mode, bench):
    operator, spellings = SPELLINGS[name]
    fused, spelled = (convert(bench, model(name, b), mode) for b in (operator, spellings[spelling]))
    assert abs(sqnr(fused) - sqnr(spelled)) < ALIKE_DB
    assert fused.fates() - {"absorbed"} == spelled.fates() - {"folded", "absorbed"}
    assert arithmetic(spelled, bench.folder) == arithmetic(fused, bench.folder)


@pytest.mark.parametrize("mode", ["int8-only", "16x8"])
def test_where_no_float_is_allowed_a_normalization_keeps_the_spelling_that_has_an_integer_form(mode, bench):
    converted = convert(bench, model("LayerNormalization", SPELLINGS["LayerNormalization"][1]["reciprocal"]), mode)
    assert "float" not in converted.fates()
    assert sqnr(converted) > 25


@pytest.mark.parametrize(("name", "spelling"), [c for c in CASES if c[0] not in ("Gelu by tanh", "Mish")])
@pytest.mark.parametrize("opset", [14, 17])
def test_below_the_opset_of_the_operator_the_runtime_fuses_what_is_written(name, spelling, opset, bench):
    spelled = convert(bench, model(name, SPELLINGS[name][1][spelling], opset), "dynamic-range")
    ran = arithmetic(spelled, bench.folder)
    assert not {"Erf", "Sqrt", "Exp", "ReduceMean", "Clip"} & set(ran), ran


# ---- what is recognised ----------------------------------------------------------------------------------------------


def found(source, **arrays):
    made = ir.from_proto(models.text(source, opset=17, **arrays))
    graph.name_everything(made)
    runtime.annotate(made)
    return meanings(list(made.graph))


def test_epsilon_axes_and_parameters_are_those_of_the_graph():
    body = LAYER.replace("axes = [-1]", "axes = [2, 3]").replace("(h", "(x").replace("r =", "y =")
    source = f"(float[2,3,4,5] x) => (float y) {{ {body} }}"
    (only,) = found(source, two=2, eps=1e-3, g=weight(4, 5), b=weight(4, 1, seed=1))
    assert only.row.operator == "LayerNormalization"
    assert (only.axes, only.attributes["axis"]) == ((2, 3), -2)
    assert only.attributes["epsilon"] == float(F32(1e-3))
    np.testing.assert_allclose(only.scale.squeeze((0, 1)), weight(4, 5), rtol=1e-6)
    np.testing.assert_allclose(only.bias.squeeze((0, 1)), np.broadcast_to(weight(4, 1, seed=1), (4, 5)), rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        (
            "a = Div(x, k) e = Erf(a) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)",
            {"k": 1.4142, "one": 1, "half": 0.5},
        ),
        ("a = Add(x, k) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)", {"k": 2.9, "zero": 0, "six": 6}),
        ("c = Clip(x, zero, six) y = Div(c, six)", {"zero": 0, "six": 6}),
        ("s = Sigmoid(x) y = Mul(x, s)", {}),
        ("e = Exp(x) s = ReduceSum(e, axis) y = Div(x, s)", {"axis": models.ints(-1)}),
    ],
)
def test_what_computes_something_else_is_left(body, constants):
    assert not found(f"(float[2,6] x) => (float y) {{ {body} }}", **constants)


def test_a_guard_against_zero_is_no_epsilon():
    body = "q = Mul(x, x) s = ReduceSum(q, axis) r = Sqrt(s) c = Max(r, tiny) y = Div(x, c)"
    (only,) = found(f"(float[2,6] x) => (float y) {{ {body} }}", axis=models.ints(-1), tiny=1e-12)
    assert only.row.operator == "LpNormalization"


def test_a_mean_over_channels_that_are_not_last_is_one_piece_in_float():
    body = LAYER.replace("axes = [-1]", "axes = [1]").replace("(h", "(x").replace("r =", "y =")
    made = ir.from_proto(
        models.text(
            f"(float[2,3,4,5] x) => (float y) {{ {body} }}", opset=17, two=2, eps=1e-5, g=weight(3, 1, 1), b=0.5
        )
    )
    graph.name_everything(made)
    runtime.annotate(made)
    assert kept_together(list(made.graph)).keys() == {graph.node_name(n) for n in made.graph}


def test_the_spelling_of_a_group_normalization_is_one_piece_in_float():
    body = """a = Reshape(x, groups) n = InstanceNormalization(a, ones, zeros) u = Reshape(n, whole) w = Mul(u, g)
              r = Add(w, b) y = Relu(r)"""
    arrays = {
        "groups": models.ints(0, 2, -1),
        "whole": models.ints(2, 4, 5, 5),
        "g": weight(4, 1, 1),
        "b": weight(4, 1, 1),
    }
    source = f"(float[2,4,5,5] x) => (float y) {{ {body} }}"
    made = ir.from_proto(models.text(source, ones=np.ones(2, F32), zeros=np.zeros(2, F32), **arrays))
    graph.name_everything(made)
    kept = kept_together(list(made.graph))
    assert {name.partition("_")[0] for name in kept} == {"Reshape", "InstanceNormalization", "Mul", "Add"}


def test_a_shared_gain_stays_shared(bench):
    again = re.sub(r"\b([mdqvesnw])\b", r"\g<1>_again", LAYER).replace("(h", "(o")
    body = f"{LAYER.replace('r =', 'o =')} {again}"
    converted = bench.convert(model("LayerNormalization", body, 17), "dynamic-range")
    gains = [n.input[1] for n in converted.prepared.graph.node if n.op_type == "LayerNormalization"]
    assert len(gains) == 2
    assert len(set(gains)) == 1
    constants = {t.name: numpy_helper.to_array(t) for t in converted.prepared.graph.initializer}
    assert constants[gains[0]].shape == (16,)


def test_the_ledger_says_what_a_spelling_was_part_of(bench):
    converted = bench.convert(model("HardSwish", SPELLINGS["HardSwish"][1]["product then division"]), "full-integer")
    (whole,) = [e for e in converted.ledger.values() if e.op_type == "HardSwish"]
    parts = {e.op_type: e.reason for e in converted.ledger.values() if e.fate == "folded"}
    assert parts == dict.fromkeys(("Add", "Clip", "Mul"), f"part of HardSwish {whole.node!r}")
