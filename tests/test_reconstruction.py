"""What was reconstructed layer by layer stays only where the outputs of the model gain."""

from __future__ import annotations

from dataclasses import replace

import models
import numpy as np
import pytest

from quantcli import graph, proof


@pytest.fixture
def state(bench):
    model = models.text(
        "(float[1,4,8,8] x) => (float y) { a = Conv(x, w, b) r = Relu(a) y = Conv(r, v, c) }",
        w=models.weight(6, 4, 1, 1), b=models.weight(6), v=models.weight(3, 6, 1, 1, seed=1), c=models.weight(3),
    )  # fmt: skip
    return bench.convert(model, "full-integer").result.state


def with_biases_moved(state, steps):
    """The quantized model with every bias this many integers off."""
    changed = proof.copied(state.quantized)
    for name in set(changed.biases.values()):
        value = changed.model.graph.initializers[name]
        graph.set_initializer(value, graph.constant(value) + np.int32(steps))
    return changed


def test_what_moves_the_outputs_away_from_float_is_taken_back(state):
    assert proof.kept_if_better(state, with_biases_moved(state, 3000), 8) is None


def test_what_brings_them_closer_stays(state):
    broken = replace(state, quantized=with_biases_moved(state, 3000))
    assert proof.kept_if_better(broken, state.quantized, 8)[0] is state.quantized


def test_what_changes_next_to_nothing_stays(state):
    same = with_biases_moved(state, 0)
    assert proof.kept_if_better(state, same, 8)[0] is same


@pytest.mark.parametrize("step", ["gptq", "adaround", "bias_correction"])
def test_a_pass_that_does_not_pay_says_so(bench, step, monkeypatch):
    monkeypatch.setattr(proof, "kept_if_better", lambda *_: None)
    model = models.text(
        "(float[1,4,8,8] x) => (float y) { y = Conv(x, w, b) }", w=models.weight(3, 4, 1, 1), b=models.weight(3)
    )
    made = bench.convert(model, "full-integer", f"passes.{step}=on", nearest=False).result
    assert any(step.replace("_", " ") in n and "taken back" in n for n in made.report["notes"])


def test_only_the_layers_from_the_first_bad_one_on_are_taken_back(state):
    """The first layer is repaired, the second one broken: the first keeps its repair."""
    first, second = state.quantized.biases.values()
    broken = with_bias(state.quantized, first, 500)
    changed = with_bias(state.quantized, second, 30000)
    kept, layers = proof.kept_if_better(replace(state, quantized=broken), changed, 8)
    assert layers == 1
    assert constant(kept, first).tolist() == constant(state.quantized, first).tolist()
    assert constant(kept, second).tolist() == constant(state.quantized, second).tolist()


def test_the_note_says_behind_which_layer_changes_were_taken_back(state):
    first, second = state.quantized.biases.values()
    broken = replace(state, quantized=with_bias(state.quantized, first, 500))
    made = proof.proven(broken, with_bias(state.quantized, second, 30000), 8, "done")
    assert made.report.notes[-1] == "done; taken back behind the first 1: the outputs were closer to float without"


def with_bias(quantized, name, steps):
    """The model with one bias this many integers off."""
    changed = proof.copied(quantized)
    value = changed.model.graph.initializers[name]
    graph.set_initializer(value, graph.constant(value) + np.int32(steps))
    return changed


def constant(quantized, name):
    return graph.constant(quantized.model.graph.initializers[name])
