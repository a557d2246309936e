"""A change of a chain is tried on samples: kept where its results come closer to float, else left out."""

from __future__ import annotations

import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli import affine, chain_trial, graph, runtime
from quantcli.chain_trial import SAME_DB, ChainTrials, Proposal, Verdict
from quantcli.chains import find_chains
from quantcli.channels import observe_channels
from quantcli.metrics import Comparison
from quantcli.passes.equalize import Equalize

TWO = """(float[1,4,8,8] x) => (float[1,3,8,8] y) {
  a = Conv(x, w) r = Relu(a) b = Conv<pads = [1, 1, 1, 1], group = 6>(r, k) s = Relu(b) y = Conv(s, v)
}"""
SPREAD = np.array([1, 2, 5, 10, 20, 40], np.float32).reshape(6, 1, 1, 1)


def network(first=SPREAD, second=SPREAD):
    """Two chains whose channels differ by the given factors."""
    return models.text(
        TWO, w=models.weight(6, 4, 1, 1) * first, k=models.weight(6, 1, 3, 3) / first * second,
        v=models.weight(3, 6, 1, 1) / second.reshape(1, 6, 1, 1),
    )  # fmt: skip


@pytest.fixture
def state(bench):
    return bench.as_format(network(), "qdq", "passes.equalize=off", "passes.smooth=off").result.state


def ranges_of(state, chain):
    session = runtime.load(state.model, outputs=[graph.name_of(t) for t in chain.tensors])
    found = {}
    for feed in state.data:
        for name, array in session.run(feed).items():
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, float(array.min())), max(high, float(array.max())))
    return found


def verdict(state, change, widened=1.0):
    chain = find_chains(state.model)[0]
    before = ranges_of(state, chain)
    after = {n: (low * widened, high * widened) for n, (low, high) in before.items()}
    return ChainTrials.of(state, [chain], state.data).verdict(Proposal(chain, change, before, after))


def test_no_change_is_no_change(state):
    found = verdict(state, lambda _model, _chain: None)
    assert found.accepted
    assert found.after == found.before > 0


def test_the_noise_is_that_of_the_grids(state):
    """Four times the step is sixteen times the noise, but for that of the weights."""
    found = verdict(state, lambda _model, _chain: None, widened=4.0)
    assert not found.accepted
    assert found.before * 4 < found.after < found.before * 17


def test_another_function_is_not_accepted(state):
    def change(model, chain):
        node = chain.readers[0]
        graph.set_own_constant(node, 1, graph.real_constant(node.inputs[1]) * np.float32(1.001), graph.Names(model))

    found = verdict(state, change)
    assert found.same_db == pytest.approx(60, abs=1)
    assert not found.accepted


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Verdict(SAME_DB, 1.0, 1.0), True),
        (Verdict(SAME_DB - 1, 1.0, 0.5), False),
        (Verdict(np.inf, 1.0, 1.001), False),
        (Verdict(-np.inf, 0.0, 0.0), False),
    ],
)
def test_what_is_accepted(found, expected):
    assert found.accepted is expected


@pytest.mark.parametrize(("room", "kept"), [(0, 1), (4 * 8 * 8, 2), (1 << 20, 12)])
def test_large_models_are_tried_on_fewer_samples(state, monkeypatch, room, kept):
    monkeypatch.setattr(chain_trial, "ROOM", room)
    chain = find_chains(state.model)[0]
    assert len(ChainTrials.of(state, [chain], state.data).samples) == min(kept, len(state.data))


def test_chains_are_undone_one_by_one(state, monkeypatch):
    """A chain whose trial fails keeps its weights; the other is equalized all the same."""
    both = Equalize()(state, lambda _done, _total: None)

    def verdict_of(_trials, proposal):
        return Verdict(np.inf, 1.0, 2.0 if graph.name_of(proposal.chain.tensors[0]) == "r" else 0.5)

    monkeypatch.setattr(chain_trial.ChainTrials, "verdict", verdict_of)
    one = Equalize()(state, lambda _done, _total: None)
    assert {"r", "s"} <= set(both.report.equalized)
    assert "s" in one.report.equalized
    assert "r" not in one.report.equalized
    first = [graph.constant(m.graph.node(0).inputs[1]) for m in (state.model, both.model, one.model)]
    np.testing.assert_array_equal(first[0], first[2])
    assert not np.array_equal(first[0], first[1])


def test_each_accepted_chain_lowers_its_noise(state):
    """What the pass keeps is less noise in every reader, measured apart from how the pass decides."""
    found = Equalize()(state, lambda _done, _total: None)
    chains = [c for c in find_chains(state.model) if graph.name_of(c.tensors[0]) in found.report.equalized]
    assert chains
    stats = observe_channels(found, find_chains(found.model), 100, lambda _done, _total: None)
    for chain in chains:
        name = graph.name_of(chain.tensors[0])
        step = stats[name].high.max() / 255
        noise = [rounded_noise(s, name, t) for s, t in ((state, ranges_of(state, chain)[name][1] / 255), (found, step))]
        assert noise[1] <= noise[0] * 1.001


def rounded_noise(state, name, step):
    """Return the relative error of the output when one tensor alone is rounded to steps."""
    model = state.model.clone()
    value = graph.named_values(model.graph)[name]
    chain_trial.insert_rounding(
        model.graph, value, affine.choose_params(0.0, step * 255, affine.EIGHT_BIT), graph.Names(model)
    )
    before, after = runtime.load(state.model), runtime.load(model)
    total = Comparison()
    for feed in state.data:
        total = total.add(before.run(feed)["y"], after.run(feed)["y"])
    return total.noise / total.signal


def test_a_reader_inside_a_body_makes_no_chain():
    model = models.text(
        """(float[1,4] x, bool take) => (float[1,3] y) {
          a = MatMul(x, w)
          y = If(take) <then_branch = t() => (float[1,3] p) { p = MatMul(a, v) },
                        else_branch = e() => (float[1,3] q) { q = MatMul(a, u) }>
        }""",
        w=models.weight(4, 6), v=models.weight(6, 3), u=models.weight(6, 3),
    )  # fmt: skip
    assert find_chains(ir.from_proto(model)) == []
