"""What stays float in a mode of integers still shrinks: recurrent nets compute with their integers."""

from __future__ import annotations

import conversion
import models
import numpy as np
import pytest
from models import Fed

from quantcli import metrics

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def net(op_type, *, hidden=128, inputs=64, turns=6, directions=1):
    """A recurrent layer between dense ones, its first state fed."""
    rows = GATES[op_type] * hidden
    x, h = models.Fed((turns, 1, inputs)), models.Fed((directions, 1, hidden), -1, 1)
    state = "h, c" if op_type == "LSTM" else "h"
    direction = "bidirectional" if directions == 2 else "forward"
    text = (
        f"(float[{turns},1,{inputs}] x, float[{directions},1,{hidden}] h"
        + (f", float[{directions},1,{hidden}] c" if op_type == "LSTM" else "")
        + ") => (float y, float last) {"
        f' d = MatMul(x, first) a, last = {op_type}<hidden_size = {hidden}, direction = "{direction}">'
        f' (d, w, r, b, "", {state})'
        " y = Tanh(a) }"
    )
    return models.text(
        text,
        first=models.weight(inputs, inputs, seed=9, spread=0.2),
        w=models.weight(directions, rows, inputs, seed=1, spread=0.2),
        r=models.weight(directions, rows, hidden, seed=2, spread=0.1),
        b=models.weight(directions, 2 * rows, seed=3, spread=0.1),
    ), {"x": x, "h": h, **({"c": h} if op_type == "LSTM" else {})}


def converted(bench, op_type, mode="full-integer", *settings, **shape):
    model, ranges = net(op_type, **shape)
    return bench.convert(model, mode, *settings, feeds=models.samples(model, 4, ranges=ranges))


@pytest.mark.parametrize("op_type", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_a_recurrent_layer_has_integer_weights_and_computes_well(bench, op_type, directions):
    made = converted(bench, op_type, directions=directions)
    assert made.ledger[next(n for n, e in made.ledger.items() if e.op_type == op_type)].fate in {"stored", "integer"}
    assert made.result.report["sizes"]["ratio"] < 0.32
    for feed in made.feeds:
        expected = conversion.run(made.float_model, feed)
        for optimize in (False, True):
            found = made.run(feed, optimize=optimize)
            assert min(metrics.sqnr_db(expected[n], found[n]) for n in expected) > 28


def test_a_large_lstm_computes_in_integers(bench):
    made = converted(bench, "LSTM")
    (entry,) = [e for e in made.ledger.values() if e.op_type == "LSTM"]
    assert (entry.fate, entry.kernel.partition(":")[0]) == ("integer", "DynamicQuantizeLSTM")
    assert len(made.nodes("DynamicQuantizeLSTM")) == 1


def test_with_16_bit_activations_a_recurrent_layer_keeps_float_gates(bench):
    made = converted(bench, "LSTM", "16x8", "fallback=float")
    (entry,) = [e for e in made.ledger.values() if e.op_type == "LSTM"]
    assert (entry.fate, entry.kernel.partition(";")[0]) == ("stored", "float32")
    assert {made.constants[n].dtype for n in "wr"} == {np.dtype(np.int8)}


def test_what_is_kept_float_as_asked_keeps_its_weights(bench):
    model, ranges = net("LSTM")
    feeds = models.samples(model, 4, ranges=ranges)
    made = bench.convert(model, "full-integer", feeds=feeds, keep_float=("op:LSTM",))
    (entry,) = [e for e in made.ledger.values() if e.op_type == "LSTM"]
    assert (entry.fate, entry.reason) == ("float", "kept float as asked")
    assert made.constants["w"].dtype == np.float32


def test_stored_weights_have_encodings(bench):
    made = converted(bench, "GRU")
    assert made.grids["w"].scale.size == 3 * 128
    assert made.constants["w"].dtype == np.int8


def test_a_model_whose_weights_are_all_integer_stays_as_it_is(bench):
    model = models.text("(float[4,64] x) => (float y) { y = Gemm(x, w) }", w=models.weight(64, 64))
    made = bench.convert(model, "full-integer", feeds=models.samples(model, ranges={"x": Fed((4, 64))}))
    assert made.fates("Gemm") == {"integer"}
    without = bench.convert(model, "full-integer", "passes.store_weights=off", feeds=made.feeds)
    assert [n.op_type for n in made.model.graph.node] == [n.op_type for n in without.model.graph.node]
