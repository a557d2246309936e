"""Chains of channels are found in float32 models only; half precision is left as it is."""

from __future__ import annotations

import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli.chains import find_chains

SOURCE = "(float[1,2,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w) r = Relu(a) y = Conv(r, v) }"
JOINED = """(float[1,2,4,4] x) => (float[1,2,4,4] y) {
  a = Conv(x, w) r = Relu(a) b = Conv(x, u) s = Relu(b) c = Concat<axis = 1>(r, s) y = Conv(c, v)
}"""


def chains_of(source: str, **weights: np.ndarray) -> list[tuple[list[str], list[str]]]:
    model = ir.from_proto(models.text(source, **weights))
    return [([m.node.outputs[0].name for m in c.makers], [t.name for t in c.tensors]) for c in find_chains(model)]


def test_a_chain_runs_from_its_maker_to_its_reader():
    found = chains_of(SOURCE, w=models.weight(2, 2, 1, 1), v=models.weight(2, 2, 1, 1))
    assert found == [(["a"], ["r"])]


def test_the_operands_of_a_concat_are_one_chain():
    found = chains_of(JOINED, w=models.weight(3, 2, 1, 1), u=models.weight(2, 2, 1, 1), v=models.weight(2, 5, 1, 1))
    assert (["a", "b"], ["c"]) in found


@pytest.mark.parametrize("tail", ["y = Sigmoid(r)", "y = Add(r, x)", "y = Relu(r)"])
def test_what_no_linear_operator_reads_is_no_chain(tail):
    source = "(float[1,2,4,4] x) => (float[1,2,4,4] y) { a = Conv(x, w) r = Relu(a) " + tail + " }"
    assert chains_of(source, w=models.weight(2, 2, 1, 1)) == []


def test_half_precision_is_left_alone():
    source = SOURCE.replace("float[", "float16[")
    half = models.weight(2, 2, 1, 1).astype(np.float16)
    assert chains_of(source, w=half, v=half) == []


@pytest.mark.parametrize(("maker", "reader"), [((2, 3), (1, 1, 3, 3)), ((1, 2, 3), (3, 3)), ((2, 2, 3), (2, 3, 3))])
def test_stacked_matrices_have_channels_of_their_own(maker, reader):
    source = "(float[1,2,4,2] x) => (y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, v) }"
    assert chains_of(source, w=models.weight(*maker), v=models.weight(*reader)) == []
    assert chains_of(source, w=models.weight(2, 3), v=models.weight(3, 3)) == [(["a"], ["r"])]
