"""Every row of the op table, in both formats: it runs, computes what its encodings imply, and is what the ledger says.

An operator of `op_cases` is converted alone (int8-only), and between linear operators (both formats, float allowed).
"""

from __future__ import annotations

import re

import models
import pytest
from checks import ROUNDED_ALONG_A_CHAIN, ROUNDED_ONCE, check_faithful, check_integer, check_steps
from conversion import FORMATS, computed_in_float, float_tensors, optimized
from models import weight
from op_cases import CASES, IMAGES, REGIONS, embedded, near_identity

from quantcli.errors import UnsupportedError
from quantcli.kernels import KERNELS, NO_KERNEL, POINTWISE
from quantcli.oprules import OP_RULES, Role

# ---- the laws --------------------------------------------------------------------------------------------------------


def test_every_rule_has_a_case():
    assert OP_RULES.keys() - {c.op for c in CASES.values()} == set()


def test_every_kernel_has_a_rule():
    assert KERNELS.keys() - OP_RULES.keys() == set()


def test_every_float_cell_says_why():
    cells = [row.cell(f) for row in (*KERNELS.values(), POINTWISE, NO_KERNEL) for f in FORMATS]
    assert all(cell.reason for cell in cells if not cell.integer)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.refusal("integer") is None])
def test_alone_it_is_an_integer_operator(bench, name):
    model = CASES[name].model()
    converted = bench.convert(model, feeds=CASES[name].feeds(model))
    assert converted.fates() <= {"integer", "absorbed", "folded"}
    assert float_tensors(converted.model) == set()
    check_steps(converted, ROUNDED_ONCE)
    check_faithful(converted)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.refusal("integer") is not None])
def test_alone_it_is_refused_with_its_reason(bench, name):
    model = CASES[name].model()
    with pytest.raises(UnsupportedError) as error:
        bench.convert(model, feeds=CASES[name].feeds(model))
    assert error.value.exit_code == 4
    assert any(CASES[name].refusal("integer") in reason for reason in error.value.reasons), error.value.reasons
    assert not (bench.folder / "quantized.onnx").exists()


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("name", CASES)
def test_between_linear_operators_it_is_what_the_ledger_says(bench, name, output_format):
    case = CASES[name]
    model = embedded(case)
    converted = bench.as_format(
        model, output_format, feeds=case.feeds(model), calibrator="minmax"
    )  # nothing is cut off
    check_fate(converted, case, output_format, optimized(converted.model, bench.folder))
    check_steps(converted, ROUNDED_ALONG_A_CHAIN)
    check_faithful(converted)
    if converted.fates() <= {"integer", "absorbed", "folded"}:
        check_integer(converted, bench, output_format)


# ---- functions of one variable ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGIONS)
def test_a_pointwise_region_is_one_table(bench, name):
    source, constants = REGIONS[name]
    model = models.text(source, **constants)
    converted = bench.convert(model, feeds=models.samples(model, ranges=None, N=2))
    assert [e.kernel for e in converted.ledger.values() if e.fate == "integer"] == ["Reshape"]
    assert len(converted.nodes("GatherElements")) == 1
    assert float_tensors(converted.model) == set()
    check_steps(converted, ROUNDED_ONCE)
    check_faithful(converted)


@pytest.mark.parametrize("second", ["Exp(f)", "Mul(f, k)", "Add(f, x)"])
@pytest.mark.parametrize("first", ["Tanh(f)", "Min(f, k)", "Exp(x)"])
def test_a_function_that_two_others_read_is_computed_once(bench, first, second):
    model = models.text(
        f"(float[1,8,6,6] x) => (float y, float z) {{ f = LeakyRelu(x) y = {first} z = {second} }}",
        **({"k": 0.5} if "k" in first + second else {}),
    )
    converted = bench.convert(model)
    assert float_tensors(converted.model) == set()
    check_steps(converted, ROUNDED_ONCE)


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("name", [n for n, (source, _) in REGIONS.items() if IMAGES in source and n != "hard-sigmoid"])
def test_nothing_inside_a_pointwise_region_is_rounded(bench, name, output_format):
    source, constants = REGIONS[name]
    body = source.partition("{")[2].rpartition("}")[0]
    inner = re.sub(r"\bx\b", "begin", re.sub(r"\by\b", "end", body))
    model = models.text(
        f"({IMAGES} {{ begin = MatMul(x, before) {inner} y = MatMul(end, after) }}",
        before=near_identity(6), after=near_identity(6), **constants,
    )  # fmt: skip
    converted = bench.as_format(model, output_format)
    computed = {o for node in converted.prepared.graph.node for o in node.output}
    rounded = {"end", "y"} if output_format == "qdq" else {"begin", "end", "y"}  # between Q and DQ the region is float
    assert converted.grids.keys() & computed == rounded
    check_steps(converted, ROUNDED_ALONG_A_CHAIN)
    check_faithful(converted)


def test_a_sum_and_its_clamp_before_a_region_are_absorbed(bench):
    body = "begin = MatMul(x, before) a = Add(begin, three) c = Clip(a, zero, five) y = Div(c, six)"  # no HardSigmoid
    model = models.text(f"({IMAGES} {{ {body} }}", before=near_identity(6), three=3, zero=0, five=5, six=6)
    converted = bench.convert(model)
    assert converted.grids.keys() >= {"c", "y"}
    assert not converted.grids.keys() & {"begin", "a"}
    check_steps(converted, ROUNDED_ALONG_A_CHAIN)


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_a_tensor_with_itself_is_rounded_once(bench, op):
    converted = bench.convert(models.text(f"({IMAGES} {{ y = {op}(x, x) }}"))
    check_steps(converted, ROUNDED_ONCE)
    check_faithful(converted)


FUSED_IF_ALLOWED = ["softmax", "softmax-single-value", "average-pool", "average-pool-dilated", "resize-linear"]


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("name", FUSED_IF_ALLOWED)
def test_what_the_ledger_calls_float_is_computed_in_float(bench, name, output_format):
    model = embedded(CASES[name])
    converted = bench.as_format(model, output_format, feeds=CASES[name].feeds(model), keep_float=("tested",))
    assert converted.ledger["tested"].fate == "float"
    assert CASES[name].op in computed_in_float(optimized(converted.model, bench.folder))


MATMUL_BIAS = {
    "2d": "(float[3,6] x) => (float[3,5] y) { m = MatMul(x, w) y = Add(m, b) }",
    "2d-bias-first": "(float[3,6] x) => (float[3,5] y) { m = MatMul(x, w) y = Add(b, m) }",
    "3d": "(float[2,3,6] x) => (float[2,3,5] y) { m = MatMul(x, w) y = Add(m, b) }",
    "4d": "(float[2,2,3,6] x) => (float[2,2,3,5] y) { m = MatMul(x, w) y = Add(m, b) }",
    "free-rows": "(float[N,6] x) => (float[N,5] y) { m = MatMul(x, w) y = Add(m, b) }",
    "3d-relu": "(float[2,3,6] x) => (float[2,3,5] y) { m = MatMul(x, w) a = Add(m, b) y = Relu(a) }",
}


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("bias", [weight(5), weight(1), weight(), weight(1, 5)], ids=["row", "one", "scalar", "1xN"])
@pytest.mark.parametrize("rank", MATMUL_BIAS)
def test_a_bias_behind_a_matmul_is_absorbed(bench, rank, bias, output_format):
    model = models.text(MATMUL_BIAS[rank], w=weight(6, 5, scaled=1), b=bias)
    converted = bench.as_format(model, output_format, feeds=models.samples(model, N=3))
    assert converted.fates("Add", "Relu") == {"absorbed"}
    check_steps(converted, ROUNDED_ONCE)
    check_faithful(converted)
    check_integer(converted, bench, output_format)


def test_an_add_that_is_no_bias_is_an_addition(bench):
    model = models.text(
        "(float[3,6] x) => (float[3,5] y) { m = MatMul(x, w) y = Add(m, b) }", w=weight(6, 5), b=weight(3, 1)
    )
    converted = bench.convert(model)
    assert converted.fates("Add") == {"integer"}
    check_steps(converted, 1.1)


# ---- checks ----------------------------------------------------------------------------------------------------------


def check_fate(converted, case, output_format, runs):
    """The fate in the ledger is that of the row, and what the runtime makes of a float operator stays float."""
    entry, refusal = converted.ledger["tested"], case.refusal(output_format)
    if refusal is None:
        reading = {"untouched"} if OP_RULES[case.op].role is Role.OPAQUE else set()
        assert entry.fate in {"integer", "absorbed", "folded"} | reading, entry
    elif OP_RULES[case.op].bounds is None or entry.fate != "absorbed":
        assert (entry.fate, refusal in entry.reason) == ("float", True), entry
        assert f"QLinear{case.op}" not in {n.op_type for n in runs.graph.node}
